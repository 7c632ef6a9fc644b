//! The composition root: opens, binds, serves, drains, in this order. Nothing else in the crate knows more than its
//! own room.

mod dummy;
mod notify;
mod oom;
mod privileges;
mod rotation;
mod signals;

use crate::admin::{Admin, Exposition, Pages};
use crate::config::{Config, ServerConfig, StoreConfig, VerificationClock};
use crate::failed::{Failed, failed};
use crate::front::{Bound, Counters, Handler, Server, ServerOptions, Tls};
use crate::record::Destination;
use crate::serve::{self, Clock, Healing, Service, ServiceOptions};
#[cfg(any(feature = "redb", feature = "fjall"))]
use crate::store::DatabaseOptions;
#[cfg(feature = "fjall")]
use crate::store::open_fjall;
#[cfg(feature = "redb")]
use crate::store::open_redb;
use crate::store::{Bounds, FileOptions, FileStore, MemoryStore, Store, StoreError};
use crate::upstream::Upstream;
use notify::Notify;
use rotation::Rotation;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};
use signals::{Signals, Woken};
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often what must outlive the process is looked after.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// How long a client may take nothing of its answer, or send nothing of its body.
const STALL: Duration = Duration::from_secs(60);

/// How often a record that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// What may be kept in memory at most where the record cannot be opened.
const STAND_IN: u64 = 32 << 20;

/// How a life of the daemon ended.
enum Ended {
    /// By a signal.
    Asked,
    /// The record, which could not be opened when it began, can be now.
    Mended,
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// A record that cannot be opened for the sake of its disk does not keep it from proxying: memory stands in, and once the
/// record can be opened the daemon begins a new life with it, as if it had been started again.
///
/// # Errors
/// The record's directory, an address or a certificate cannot be used. Exit codes: 69 (unavailable), 70 (internal), 71
/// (system), 73 (cannot create), 74 (I/O), 77 (not permitted), 78 (the parts do not fit together).
pub fn run(config: &Config) -> Result<(), Failed> {
    let signals = Signals::catch().map_err(|e| failed(71, format!("signals cannot be caught: {e}")))?;
    allow_open_files(config.limits.max_connections);
    let mut notify = Notify::from_environment(&|name| std::env::var(name).ok());
    let mut bound = bind(config)?;
    oom::tell(config.oom_score_adj)?;
    // No thread has been started yet.
    privileges::lower(config)?;
    loop {
        let (store, stands_in) = open_or_stand_in(config)?;
        // Only where there may be another life: who comes to a daemon that ends is refused, and need not wait.
        let spare = stands_in.then(|| bound.try_clone()).transpose();
        let spare = spare.map_err(|e| failed(71, format!("the sockets cannot be copied: {e}")))?;
        match (live(config, &signals, &mut notify, bound, &store, stands_in)?, spare) {
            (Ended::Mended, Some(again)) => bound = again,
            _ => return Ok(()),
        }
    }
}

fn live(
    config: &Config,
    signals: &Signals,
    notify: &mut Notify,
    bound: Listening,
    store: &Arc<dyn Store>,
    stands_in: bool,
) -> Result<Ended, Failed> {
    let clock = Arc::new(serve::clock(&**store));
    let upstream = open_upstream(config, &clock, serve::was_dark(&**store))?;
    let service = Arc::new(Service::new(options(config, stands_in), Arc::clone(&upstream), Arc::clone(store), clock));
    if let Some(roots) = &config.certificates.upstream_roots {
        service.trust(&roots.fingerprints());
    }
    let healing = Healing::start(&service).map_err(|e| failed(71, format!("no thread can be started: {e}")))?;
    let tls = tls(config, &service)?;
    let rotation = Arc::new(Rotation::new(config, Arc::clone(&tls), Arc::clone(&upstream), Arc::clone(&service)));
    let handler: Arc<dyn Handler> = Arc::<Service>::clone(&service);
    let server = bound.clients.serve(tls, handler).map_err(|e| failed(71, e.to_string()))?;
    let admin = start_admin(bound.admin, &service, &rotation, server.counters())?;
    announce(config, &server, admin.as_ref());
    notify.ready();

    let mut next_look = Instant::now();
    let mut next_try = Instant::now() + RETRY;
    let ended = loop {
        match signals.wait(HOUSEKEEPING) {
            Woken::End => break Ended::Asked,
            Woken::Reload => {
                log::info!("SIGHUP: certificates and keys are read again");
                rotation.look(true);
            }
            Woken::Time => rotation.look_when_due(&mut next_look),
        }
        // It takes the locks of the record and of the link: who comes back from it is well.
        service.keep_house();
        notify.well(&service.status());
        if stands_in && Instant::now() >= next_try {
            if open_store(config).is_ok() {
                log::warn!("record: it can be opened; what was kept in memory meanwhile is forgotten");
                break Ended::Mended;
            }
            next_try = Instant::now() + RETRY;
        }
    };

    if matches!(ended, Ended::Asked) {
        notify.stopping();
    }
    log::info!("stopping: what is in flight may take {:?}", config.limits.shutdown_grace);
    server.stop(config.limits.shutdown_grace);
    upstream.shutdown();
    healing.stop();
    service.close_house();
    store.flush().map_err(|e| failed(74, format!("the record could not be made durable: {e}")))?;
    drop(admin);
    log::info!("stopped");
    Ok(ended)
}

/// What is bound, and not served yet.
struct Listening {
    clients: Bound,
    admin: Option<TcpListener>,
}

impl Listening {
    fn try_clone(&self) -> io::Result<Listening> {
        let admin = self.admin.as_ref().map(TcpListener::try_clone).transpose()?;
        Ok(Listening { clients: self.clients.try_clone()?, admin })
    }
}

fn bind(config: &Config) -> Result<Listening, Failed> {
    config.dummy_interfaces.iter().try_for_each(dummy::see_to)?;
    let options = ServerOptions {
        addresses: config.listen.clone(),
        max_connections: config.limits.max_connections,
        handshake_timeout: config.limits.handshake_timeout,
        head_timeout: config.limits.head_timeout,
        idle_timeout: config.limits.idle_timeout,
        stall_timeout: STALL,
    };
    let clients = Server::bind(options).map_err(|e| failed(69, e.to_string()))?;
    let bind = |address| {
        TcpListener::bind(address).map_err(|e| failed(69, format!("--admin-address {address} cannot be bound: {e}")))
    };
    Ok(Listening { clients, admin: config.admin.map(bind).transpose()? })
}

/// Open files for one client connection: its socket and its copy, the upstream's socket, what wakes a watch.
const FILES_PER_CONNECTION: u64 = 5;

/// Raises the limit of open files as far as it may be: many systems start daemons with 1,024.
fn allow_open_files(connections: usize) {
    let wanted = connections as u64 * FILES_PER_CONNECTION + 128;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|now| now >= wanted) {
        return;
    }
    limit.current = Some(limit.maximum.map_or(wanted, |most| most.min(wanted)));
    let raised = setrlimit(Resource::Nofile, limit).is_ok();
    let now = getrlimit(Resource::Nofile).current.unwrap_or(wanted);
    if !raised || now < wanted {
        log::warn!(
            "{now} files may be open, and --max-connections {connections} may need {wanted}; raise the limit (ulimit -n, LimitNOFILE=) or lower --max-connections"
        );
    }
}

/// Opens the record, or what stands in for it; says which.
fn open_or_stand_in(config: &Config) -> Result<(Arc<dyn Store>, bool), Failed> {
    match open_store(config) {
        Ok(store) => Ok((store, false)),
        Err(Unopened { failed, by_the_disk: true }) => {
            log::error!(
                "{}; nothing that is recorded lasts, or can be served, until this ends (looked at every {RETRY:?})",
                failed.message
            );
            Ok((Arc::new(MemoryStore::standing_in()), true))
        }
        Err(Unopened { failed, .. }) => Err(failed),
    }
}

/// Why the record cannot be opened.
struct Unopened {
    failed: Failed,
    by_the_disk: bool,
}

/// Whether a disk may say this that was good yesterday. What a mistyped path leads to is none of it.
fn is_of_the_disk(errno: Errno) -> bool {
    matches!(errno, Errno::IO | Errno::ROFS | Errno::NOSPC | Errno::DQUOT | Errno::NXIO | Errno::NODEV | Errno::STALE)
}

fn open_store(config: &Config) -> Result<Arc<dyn Store>, Unopened> {
    let flush_interval = config.limits.flush_interval;
    let unopened = |flag: &str, path: &Path, e: &StoreError| {
        let exit = if matches!(e, StoreError::Locked { .. }) { 69 } else { 73 };
        let failed = failed(exit, format!("--{flag} {}: {e}", path.display()));
        let errno = match e {
            StoreError::Io { error, .. } => error.raw_os_error().map(Errno::from_raw_os_error),
            _ => None,
        };
        Unopened { failed, by_the_disk: errno.is_some_and(is_of_the_disk) }
    };
    Ok(match &config.store {
        StoreConfig::Memory => Arc::new(MemoryStore::new()),
        StoreConfig::File(root) => {
            let options = FileOptions { root: root.clone(), flush_interval };
            Arc::new(FileStore::open(options).map_err(|e| unopened("file-cache-path", root, &e))?)
        }
        #[cfg(feature = "redb")]
        StoreConfig::Redb(path) => {
            let options = DatabaseOptions { path: path.clone(), flush_interval };
            Arc::new(open_redb(&options).map_err(|e| unopened("bolt-cache-file", path, &e))?)
        }
        #[cfg(feature = "fjall")]
        StoreConfig::Fjall(path) => {
            let options = DatabaseOptions { path: path.clone(), flush_interval };
            Arc::new(open_fjall(&options).map_err(|e| unopened("badger-cache-path", path, &e))?)
        }
    })
}

fn open_upstream(config: &Config, clock: &Arc<Clock>, dark: bool) -> Result<Arc<Upstream>, Failed> {
    let judge = Arc::clone(clock);
    let clock = VerificationClock::new(move || judge.now());
    let new = if dark { Upstream::in_the_dark } else { Upstream::new };
    let upstream = new(&config.upstream, &config.certificates, clock);
    upstream.map(Arc::new).map_err(|e| failed(78, e.to_string()))
}

fn options(config: &Config, stands_in: bool) -> ServiceOptions {
    let most = config.limits.cache_max_size;
    let max_size = if stands_in && (most == 0 || most > STAND_IN) { STAND_IN } else { most };
    ServiceOptions {
        timeout: config.limits.timeout,
        slow_timeout: config.limits.slow_timeout,
        offline_grace: config.limits.offline_grace,
        review_ttl: config.limits.review_ttl,
        max_object_size: config.limits.max_object_size,
        bounds: Bounds { max_size, max_age: config.limits.cache_max_age },
        kubernetes_service: config
            .kubernetes_service
            .map(|to| Destination { address: to.ip().to_string(), port: to.port() }),
        heal_endpoints: config.heal_endpoints,
    }
}

fn tls(config: &Config, service: &Arc<Service>) -> Result<Arc<Tls>, Failed> {
    let judge = Arc::clone(service);
    let clock = VerificationClock::new(move || judge.verification_time());
    Tls::new(&config.certificates, clock).map(Arc::new).map_err(|e| failed(78, e.to_string()))
}

fn start_admin(
    listener: Option<TcpListener>,
    service: &Arc<Service>,
    rotation: &Arc<Rotation>,
    front: Arc<Counters>,
) -> Result<Option<Admin>, Failed> {
    let Some(listener) = listener else { return Ok(None) };
    let (shown, ready, rotation) = (Arc::clone(service), Arc::clone(service), Arc::clone(rotation));
    let metrics = move || {
        let mut page = Exposition::default();
        shown.expose(&mut page);
        rotation.expose(&mut page);
        expose_front(&front, &mut page);
        page.finish()
    };
    let pages = Pages { metrics: Box::new(metrics), ready: Box::new(move || ready.readiness()) };
    Admin::start(listener, pages).map(Some).map_err(|e| failed(71, format!("the admin endpoint cannot start: {e}")))
}

fn expose_front(front: &Counters, page: &mut Exposition) {
    for (name, kind, help, value) in [
        ("lite_apiserver_connections", "gauge", "Client connections open now.", &front.open),
        ("lite_apiserver_threads", "gauge", "Threads of the front.", &front.threads),
        ("lite_apiserver_connections_accepted_total", "counter", "Client connections accepted.", &front.accepted),
        (
            "lite_apiserver_connections_refused_total",
            "counter",
            "Client connections past --max-connections.",
            &front.refused,
        ),
        (
            "lite_apiserver_connections_shed_total",
            "counter",
            "Slow or idle connections closed because others came.",
            &front.shed,
        ),
        ("lite_apiserver_long_requests", "gauge", "Long-running requests now: watches, logs, exec.", &front.lasting),
        (
            "lite_apiserver_long_requests_refused_total",
            "counter",
            "Long-running requests past their share of --max-connections.",
            &front.lasting_refused,
        ),
        ("lite_apiserver_handshakes_failed_total", "counter", "TLS handshakes that failed.", &front.tls_failures),
        ("lite_apiserver_bad_requests_total", "counter", "Requests refused for their form.", &front.bad_requests),
        ("lite_apiserver_answers_torn_total", "counter", "Answers cut before their end.", &front.torn),
        ("lite_apiserver_panics_total", "counter", "Panics survived while answering.", &front.panics),
    ] {
        page.single(name, kind, help, value.load(Ordering::Relaxed) as u64);
    }
}

fn announce(config: &Config, server: &Server, admin: Option<&Admin>) {
    let url = |server: &ServerConfig| format!("https://{}{}", server.authority(), server.base_path);
    let base = config.upstream.servers.iter().map(url).collect::<Vec<_>>().join(", ");
    for address in server.local_addrs() {
        log::info!("serving https://{address} for {base}");
    }
    if let Some(to) = config.kubernetes_service {
        log::info!("clients are told that the Service kubernetes leads to {to}");
    }
    if let Some(address) = admin.and_then(Admin::address) {
        log::info!("health and metrics on http://{address}");
    }
    if let Some(path) = &config.client_kubeconfig {
        log::info!("clients may use --kubeconfig {}", path.display());
    }
}
