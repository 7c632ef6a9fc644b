//! What the daemon would be started with, looked at part by part: one that cannot be used hides no other. Makes and changes
//! nothing, where starting makes what `--kubeconfig` lacks.

use super::certificates::{Named, Pair, PairFiles, Roots};
use super::error::ConfigError;
use super::flags::{self, Asked, Given};
use super::kubeconfig::{self, Source};
use super::load::{self, with_file};
use super::{DummyInterface, RunAs, StoreConfig, UpstreamConfig, accounts, by_kubeconfig, files, pki};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One part, as it was found.
#[derive(Debug)]
pub struct Inspected<T> {
    /// The flag and the file, for people.
    pub place: String,
    /// What is there; `None`: the daemon makes it when it starts.
    pub read: Result<Option<Arc<T>>, ConfigError>,
}

impl<T> Inspected<T> {
    /// What is there and can be used.
    pub fn good(&self) -> Option<&Arc<T>> {
        self.read.as_ref().ok().and_then(Option::as_ref)
    }
}

/// What the daemon would be started with.
#[derive(Debug)]
pub struct Inspection {
    /// Where clients connect.
    pub listen: Vec<SocketAddr>,
    /// Interfaces that are made for some of these addresses.
    pub dummy_interfaces: Vec<DummyInterface>,
    /// The admin endpoint.
    pub admin: Option<SocketAddr>,
    /// The cloud kube-apiserver.
    pub upstream: UpstreamConfig,
    /// Where the record lives, and how large it may be in bytes; 0: any size.
    pub store: (StoreConfig, u64),
    /// Whom the daemon goes on as.
    pub run_as: Option<RunAs>,
    /// What clients are shown.
    pub serving: Inspected<Pair>,
    /// The CA that clients trust, where it is known: beside the serving certificate, if it was made here.
    pub serving_ca: Option<Inspected<Roots>>,
    /// The CAs of client certificates.
    pub client_roots: Option<Inspected<Roots>>,
    /// The CAs of the upstream's certificate.
    pub upstream_roots: Option<Inspected<Roots>>,
    /// What may be shown to the upstream.
    pub pairs: Vec<Inspected<Pair>>,
    /// Why `--tls-config-file` names none.
    pub no_list: Option<ConfigError>,
}

/// Looks at what a command line of the daemon names.
///
/// # Errors
/// The command line itself, or the file that all else is in, cannot be used.
pub fn inspect(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Inspection, ConfigError> {
    let given = match flags::parse(arguments)? {
        Asked::Run(given) => with_file(given)?,
        _ => return Err(ConfigError::usage("the flags of a daemon that runs are needed")),
    };
    look(&given, environment).map_err(|e| given.placed(e))
}

fn look(given: &Given, environment: &dyn Fn(&str) -> Option<String>) -> Result<Inspection, ConfigError> {
    let (listen, dummy_interfaces, _) = load::places(given)?;
    let parts = match given.get("kubeconfig") {
        Some(path) => of_kubeconfig(given, Path::new(path), environment)?,
        None => of_flags(given, environment)?,
    };
    let (pairs, no_list) = match given.get("tls-config-file").map(|path| files::pairs(Path::new(path))).transpose() {
        Ok(listed) => (listed.unwrap_or_default(), None),
        Err(e) => (Vec::new(), Some(e)),
    };
    let pairs = parts.own.into_iter().chain(pairs.iter().map(pair)).collect();
    let beside = parts.serving_files.cert.parent().map(|folder| folder.join("ca.crt")).filter(|ca| ca.exists());
    Ok(Inspection {
        listen,
        dummy_interfaces,
        admin: load::admin(given)?,
        upstream: parts.upstream,
        store: (load::store(given, parts.data.as_deref())?, load::limits(given)?.cache_max_size),
        run_as: accounts::run_as(given)?,
        serving: if parts.is_made_at_start {
            Inspected { place: place(&parts.serving_files), read: Ok(None) }
        } else {
            pair(&parts.serving_files)
        },
        serving_ca: beside.map(|path| roots("the CA beside it", &path)),
        client_roots: parts.client_roots,
        upstream_roots: parts.upstream_roots,
        pairs,
        no_list,
    })
}

/// What the two ways to start differ in.
struct Parts {
    upstream: UpstreamConfig,
    data: Option<PathBuf>,
    serving_files: PairFiles,
    is_made_at_start: bool,
    client_roots: Option<Inspected<Roots>>,
    upstream_roots: Option<Inspected<Roots>>,
    own: Option<Inspected<Pair>>,
}

fn place(files: &PairFiles) -> String {
    format!("{} {}", files.cert_what, files.cert.display())
}

fn pair(files: &PairFiles) -> Inspected<Pair> {
    Inspected { place: place(files), read: Pair::read(files).map(|pair| Some(Arc::new(pair))) }
}

fn roots(what: &'static str, path: &Path) -> Inspected<Roots> {
    let named = Named { what, path: path.to_owned() };
    Inspected {
        place: format!("{what} {}", path.display()),
        read: Roots::read(&named).map(|roots| Some(Arc::new(roots))),
    }
}

fn of_flags(given: &Given, environment: &dyn Fn(&str) -> Option<String>) -> Result<Parts, ConfigError> {
    let start = load::from_flags(given, environment)?;
    let named = |file: &Named| roots(file.what, &file.path);
    Ok(Parts {
        upstream: start.upstream,
        data: None,
        client_roots: start.files.client_roots.as_ref().map(named),
        upstream_roots: start.files.upstream_roots.as_ref().map(named),
        serving_files: start.files.serving,
        is_made_at_start: false,
        own: None,
    })
}

fn of_kubeconfig(
    given: &Given,
    path: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Parts, ConfigError> {
    const WHAT: &str = "--kubeconfig";
    let read = kubeconfig::read(path, given.get("context"))?;
    let data = by_kubeconfig::data_dir(given, environment)?;
    let made = pki::in_data_dir(&data);
    let is_made_at_start = given.get("tls-cert-file").is_none() && !made.cert.exists();
    let serving_files = PairFiles {
        cert_what: "--tls-cert-file",
        cert: given.get("tls-cert-file").map_or(made.cert, PathBuf::from),
        key_what: "--tls-private-key-file",
        key: given.get("tls-private-key-file").map_or(made.key, PathBuf::from),
    };
    let inline = Named { what: WHAT, path: path.to_owned() };
    let cluster_roots = || match &read.certificate_authority {
        Some(Source::File(path)) => Some(roots(WHAT, path)),
        Some(Source::Inline(text)) => Some(Inspected {
            place: format!("{WHAT} {}", path.display()),
            read: Roots::from_pem(&inline, text).map(|roots| Some(Arc::new(roots))),
        }),
        None => None,
    };
    let named = |flag: &'static str, what: &'static str| given.get(flag).map(|path| roots(what, Path::new(path)));
    let text = |source: &Source| match source {
        Source::File(path) => files::read(WHAT, path),
        Source::Inline(text) => Ok(text.clone()),
    };
    let own = read.pair.as_ref().map(|(cert, key)| {
        let files = match (cert, key) {
            (Source::File(cert), Source::File(key)) => PairFiles::of(WHAT, cert.clone(), key.clone()),
            _ => PairFiles::of(WHAT, path.to_owned(), path.to_owned()),
        };
        let read = || Pair::from_pem(&files, &text(cert)?, &text(key)?);
        Inspected { place: place(&files), read: read().map(|pair| Some(Arc::new(pair))) }
    });
    Ok(Parts {
        upstream: by_kubeconfig::named_upstream(given, path, &read, environment)?,
        client_roots: named("ca-file", "--ca-file").or_else(cluster_roots),
        upstream_roots: named("apiserver-ca-file", "--apiserver-ca-file").or_else(cluster_roots),
        data: Some(data),
        serving_files,
        is_made_at_start,
        own,
    })
}
