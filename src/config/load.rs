//! From the flags as they were given to one [`Config`]: files read, defaults filled in, contradictions refused.

use super::certificates::{Named, PairFiles};
use super::error::ConfigError;
use super::flags::{self, Asked, Given};
use super::upstream::{ByKubeconfig, UpstreamConfig, upstream};
use super::watch::CertificateFiles;
use super::{Config, DummyInterface, Limits, StoreConfig, accounts, by_kubeconfig, flag_file, pods, units};
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// What a command line asks for.
#[derive(Debug)]
pub enum Wanted {
    /// To run as configured.
    Run(Box<Config>),
    /// To print this and end.
    Print(String),
}

/// Reads a command line (without the program's name), the files that it names, and `environment`.
///
/// # Errors
/// Whatever is wrong with them; nothing has been bound or connected.
pub fn load(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Wanted, ConfigError> {
    let given = match flags::parse(arguments)? {
        Asked::Help => return Ok(Wanted::Print(flags::help())),
        Asked::Version => return Ok(Wanted::Print(format!("lite-apiserver {}\n", env!("CARGO_PKG_VERSION")))),
        Asked::Reference => return Ok(Wanted::Print(flags::reference())),
        Asked::Run(given) => with_file(given)?,
    };
    configure(&given, environment).map(|config| Wanted::Run(Box::new(config))).map_err(|e| given.placed(e))
}

/// Adds what `--config` says.
pub(super) fn with_file(mut given: Given) -> Result<Given, ConfigError> {
    if let Some(path) = given.get("config").map(PathBuf::from) {
        let found = flag_file::read(&path)?;
        given.add(path, found)?;
    }
    Ok(given)
}

/// Where clients connect, the interfaces made for it, and where the Service `kubernetes` is to lead.
pub(super) type Places = (Vec<SocketAddr>, Vec<DummyInterface>, Option<SocketAddr>);

pub(super) fn places(given: &Given) -> Result<Places, ConfigError> {
    refuse_what_comes_later(given)?;
    let dummy_interfaces = pods::dummy_interfaces(given)?;
    let (mut listen, port) = (listen(given)?, port(given, "port")?);
    pods::listen_too(&dummy_interfaces, port, &mut listen);
    let kubernetes_service = pods::kubernetes_service(given, &listen, port)?;
    if kubernetes_service.is_some() && given.get("tls-cert-file").is_none() {
        return Err(ConfigError::usage(
            "--rewrite-kubernetes-service needs --tls-cert-file and --tls-private-key-file: pods trust the cluster's CA only, and every one of them would be led to a server that it does not trust; `lite-apiserver cert --help` says how to have one",
        ));
    }
    Ok((listen, dummy_interfaces, kubernetes_service))
}

fn configure(given: &Given, environment: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let (listen, dummy_interfaces, kubernetes_service) = places(given)?;
    let start = match given.get("kubeconfig") {
        Some(path) => by_kubeconfig::start(given, Path::new(path), &listen, environment)?,
        None => from_flags(given, environment)?,
    };
    Ok(Config {
        listen,
        dummy_interfaces,
        kubernetes_service,
        heal_endpoints: given.switch("heal-endpoints")?,
        admin: admin(given)?,
        certificates: start.files.read()?,
        certificate_files: start.files,
        upstream: start.upstream,
        store: store(given, start.data.as_deref())?,
        limits: limits(given)?,
        log_level: log_level(given, environment)?,
        run_as: accounts::run_as(given)?,
        oom_score_adj: oom_score_adj(given)?,
        data_dir: start.data,
        client_kubeconfig: start.client_kubeconfig,
    })
}

/// What the two ways to start have to find out.
pub(super) struct Start {
    pub(super) files: CertificateFiles,
    pub(super) upstream: UpstreamConfig,
    /// The data directory, where there is one.
    pub(super) data: Option<PathBuf>,
    pub(super) client_kubeconfig: Option<PathBuf>,
}

/// Flags whose feature is not built yet are refused: ignored, they would promise what does not happen.
fn refuse_what_comes_later(given: &Given) -> Result<(), ConfigError> {
    let not_yet = |name: &str, cure: &str| ConfigError::usage(format!("--{name} is not supported yet; {cure}"));
    if given.given("url-mux-cache").is_some_and(|v| v.iter().any(|v| !v.is_empty())) {
        return Err(not_yet("url-mux-cache", "leave it out; each client has its own watches"));
    }
    if given.switch("profiling")? {
        return Err(not_yet("profiling", "leave it out; /metrics is on --admin-address"));
    }
    given.switch("modify-request-accept")?;
    Ok(())
}

pub(super) fn port(given: &Given, name: &str) -> Result<u16, ConfigError> {
    given.read(name, |text| match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{text:?} is no port; write a number from 1 to 65535")),
    })
}

fn listen(given: &Given) -> Result<Vec<SocketAddr>, ConfigError> {
    let port = port(given, "port")?;
    let addresses: Vec<&str> = match given.given("address") {
        Some(given) => given.iter().flat_map(|v| v.split(',')).map(str::trim).collect(),
        None => given.get("address").into_iter().collect(),
    };
    addresses
        .into_iter()
        .map(|text| {
            let ip: IpAddr = text.parse().map_err(|_| {
                ConfigError::usage(format!("--address: {text:?} is no IP address; write one such as 127.0.0.1 or ::1"))
            })?;
            Ok(SocketAddr::new(ip, port))
        })
        .collect()
}

pub(super) fn admin(given: &Given) -> Result<Option<SocketAddr>, ConfigError> {
    given.read("admin-address", |text| match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            format!("{text:?} is no address; write IP:PORT such as 127.0.0.1:51004, or nothing to switch it off")
        }),
    })
}

pub(super) fn store(given: &Given, data: Option<&Path>) -> Result<StoreConfig, ConfigError> {
    let place = |flag: &str, below: &str| {
        let path = match (given.given(flag), data) {
            (None, Some(data)) => data.join(below),
            _ => PathBuf::from(given.get(flag).unwrap_or_default()),
        };
        if path.as_os_str().is_empty() {
            return Err(ConfigError::usage(format!("--{flag} is empty; name a place")));
        }
        Ok(path)
    };
    match given.get("cache-type").unwrap_or_default() {
        "memory" => Ok(StoreConfig::Memory),
        "file" => place("file-cache-path", "cache").map(StoreConfig::File),
        #[cfg(feature = "redb")]
        "redb" | "bolt" => place("bolt-cache-file", "cache.redb").map(StoreConfig::Redb),
        #[cfg(not(feature = "redb"))]
        "redb" | "bolt" => Err(built_without("redb")),
        #[cfg(feature = "fjall")]
        "fjall" | "badger" => place("badger-cache-path", "cache.fjall").map(StoreConfig::Fjall),
        #[cfg(not(feature = "fjall"))]
        "fjall" | "badger" => Err(built_without("fjall")),
        "pebble" => Err(ConfigError::usage(
            "--cache-type pebble is not there; use fjall, which is as pebble is (a log-structured tree), or file",
        )),
        other => Err(ConfigError::usage(format!(
            "--cache-type: {other:?} is no cache; use file, redb (or bolt), fjall (or badger), or memory"
        ))),
    }
}

#[cfg(not(all(feature = "redb", feature = "fjall")))]
fn built_without(engine: &str) -> ConfigError {
    let message = format!(
        "--cache-type: this program was built without {engine}; use --cache-type file, or build it with --features {engine}"
    );
    ConfigError::new(super::error::Exit::Config, message)
}

pub(super) fn limits(given: &Given) -> Result<Limits, ConfigError> {
    let span = |name| given.read(name, units::span);
    let above_zero = |name| {
        given.read(name, |text| match units::span(text) {
            Ok(span) if span.is_zero() => Err("it must be longer than nothing".to_owned()),
            other => other,
        })
    };
    let max_connections = given.read("max-connections", |text| match text.parse::<usize>() {
        Ok(n) if (1..=65_536).contains(&n) => Ok(n),
        _ => Err(format!("{text:?} is not from 1 to 65536")),
    })?;
    Ok(Limits {
        timeout: above_zero("timeout")?,
        slow_timeout: above_zero("slow-timeout")?,
        max_connections,
        max_object_size: given.read("max-object-size", units::size)?,
        cache_max_size: given.read("cache-max-size", units::size)? as u64,
        cache_max_age: span("cache-max-age")?,
        shutdown_grace: span("shutdown-grace")?,
        flush_interval: above_zero("flush-interval")?,
        offline_grace: span("offline-grace")?,
        review_ttl: span("review-ttl")?,
        handshake_timeout: above_zero("handshake-timeout")?,
        head_timeout: above_zero("head-timeout")?,
        idle_timeout: above_zero("idle-timeout")?,
    })
}

fn oom_score_adj(given: &Given) -> Result<Option<i16>, ConfigError> {
    let Some(_) = given.get("oom-score-adj") else { return Ok(None) };
    given.read("oom-score-adj", |text| match text.parse::<i16>() {
        Ok(score) if (-1000..=1000).contains(&score) => Ok(Some(score)),
        _ => Err(format!("{text:?} is not from -1000 to 1000")),
    })
}

fn log_level(given: &Given, environment: &dyn Fn(&str) -> Option<String>) -> Result<log::LevelFilter, ConfigError> {
    let read = |text: &str| match text {
        "error" => Some(log::LevelFilter::Error),
        "warn" => Some(log::LevelFilter::Warn),
        "info" => Some(log::LevelFilter::Info),
        "debug" => Some(log::LevelFilter::Debug),
        "trace" => Some(log::LevelFilter::Trace),
        _ => None,
    };
    match (given.verbose, given.given("log-level")) {
        (1, _) => Ok(log::LevelFilter::Debug),
        (2.., _) => Ok(log::LevelFilter::Trace),
        (_, None) => Ok(environment("RUST_LOG").and_then(|l| read(&l)).unwrap_or(log::LevelFilter::Info)),
        (_, Some(_)) => given.read("log-level", |text| {
            read(text).ok_or_else(|| format!("{text:?} is none of error, warn, info, debug, trace"))
        }),
    }
}

pub(super) fn from_flags(given: &Given, environment: &dyn Fn(&str) -> Option<String>) -> Result<Start, ConfigError> {
    let needed = |name: &str| {
        given.get(name).map(PathBuf::from).ok_or_else(|| {
            ConfigError::usage(format!("--{name} is missing; give it, or start with --kubeconfig FILE alone"))
        })
    };
    let upstream = upstream(given, ByKubeconfig::default(), environment)?.ok_or_else(|| {
        ConfigError::usage("--kube-apiserver-url is missing; give it, or start with --kubeconfig FILE alone")
    })?;
    let client_roots = Named { what: "--ca-file", path: needed("ca-file")? };
    let upstream_roots = match given.get("apiserver-ca-file") {
        Some(path) => Named { what: "--apiserver-ca-file", path: path.into() },
        None => client_roots.clone(),
    };
    let files = CertificateFiles {
        serving: PairFiles {
            cert_what: "--tls-cert-file",
            cert: needed("tls-cert-file")?,
            key_what: "--tls-private-key-file",
            key: needed("tls-private-key-file")?,
        },
        client_roots: Some(client_roots),
        upstream_roots: Some(upstream_roots).filter(|_| !upstream.insecure),
        list: given.get("tls-config-file").map(PathBuf::from),
        own: None,
        origin: None,
    };
    Ok(Start { files, upstream, data: None, client_kubeconfig: None })
}

#[cfg(test)]
mod tests;
