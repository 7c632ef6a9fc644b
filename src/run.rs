//! The composition root: opens, binds, serves, drains, in this order. Nothing else in the crate knows more than its
//! own room.

use crate::admin::{Admin, Exposition, Pages};
use crate::config::{Config, StoreConfig};
use crate::front::{Counters, Handler, Server, ServerOptions, Tls, VerificationClock};
use crate::serve::{Healing, Service, ServiceOptions};
use crate::store::{FileOptions, FileStore, MemoryStore, Store, StoreError};
use crate::upstream::Upstream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Why the daemon could not start or run. The exit code is one of sysexits.h.
#[derive(Debug)]
pub struct Failed {
    /// Process exit code: 69 (unavailable), 70 (internal), 71 (system), 73 (cannot create), 74 (I/O).
    pub exit: u8,
    /// One line that names the thing and the cure.
    pub message: String,
}

fn failed(exit: u8, message: impl Into<String>) -> Failed {
    Failed { exit, message: message.into() }
}

/// How often what must outlive the process is looked after.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// How long a client may take nothing of its answer, or send nothing of its body.
const STALL: Duration = Duration::from_secs(60);

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// The record's directory, an address or a certificate cannot be used.
pub fn run(config: &Config) -> Result<(), Failed> {
    let signals = Signals::catch().map_err(|e| failed(71, format!("signals cannot be caught: {e}")))?;
    allow_open_files(config.limits.max_connections);
    let store = open_store(config)?;
    let upstream = Upstream::new(&config.upstream).map_err(|e| failed(78, e.to_string()))?;
    let upstream = Arc::new(upstream);
    let service = Arc::new(Service::new(options(config), Arc::clone(&upstream), Arc::clone(&store)));
    let healing = Healing::start(&service).map_err(|e| failed(71, format!("no thread can be started: {e}")))?;
    let server = bind(config, &service)?;
    let admin = start_admin(config, &service, server.counters())?;
    announce(config, &server, admin.as_ref());

    while signals.wait(HOUSEKEEPING) {
        service.keep_house();
    }

    log::info!("stopping: what is in flight may take {:?}", config.limits.shutdown_grace);
    server.stop(config.limits.shutdown_grace);
    upstream.shutdown();
    healing.stop();
    service.keep_house();
    store.flush().map_err(|e| failed(74, format!("the record could not be made durable: {e}")))?;
    drop(admin);
    log::info!("stopped");
    Ok(())
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

fn open_store(config: &Config) -> Result<Arc<dyn Store>, Failed> {
    match &config.store {
        StoreConfig::Memory => Ok(Arc::new(MemoryStore::new())),
        StoreConfig::File(root) => {
            let options = FileOptions { root: root.clone(), flush_interval: config.limits.flush_interval };
            let store = FileStore::open(options).map_err(|e| {
                let exit = if matches!(e, StoreError::Locked { .. }) { 69 } else { 73 };
                failed(exit, format!("--file-cache-path {}: {e}", root.display()))
            })?;
            Ok(Arc::new(store))
        }
    }
}

fn options(config: &Config) -> ServiceOptions {
    ServiceOptions {
        pairs: config.upstream.pairs.iter().map(|p| p.common_name.clone()).collect(),
        timeout: config.limits.timeout,
        slow_timeout: config.limits.slow_timeout,
        offline_grace: config.limits.offline_grace,
        review_ttl: config.limits.review_ttl,
        max_object_size: config.limits.max_object_size,
    }
}

fn bind(config: &Config, service: &Arc<Service>) -> Result<Server, Failed> {
    let options = ServerOptions {
        addresses: config.listen.clone(),
        max_connections: config.limits.max_connections,
        handshake_timeout: config.limits.handshake_timeout,
        head_timeout: config.limits.head_timeout,
        idle_timeout: config.limits.idle_timeout,
        stall_timeout: STALL,
    };
    let judge = Arc::clone(service);
    let clock: VerificationClock = Arc::new(move || judge.verification_time());
    let tls = Tls::load(&config.serving, clock).map_err(|e| failed(78, e.to_string()))?;
    let handler: Arc<dyn Handler> = Arc::<Service>::clone(service);
    Server::bind(&options, Arc::new(tls), handler).map_err(|e| failed(69, e.to_string()))
}

fn start_admin(config: &Config, service: &Arc<Service>, front: Arc<Counters>) -> Result<Option<Admin>, Failed> {
    let Some(address) = config.admin else { return Ok(None) };
    let (shown, ready) = (Arc::clone(service), Arc::clone(service));
    let metrics = move || {
        let mut page = Exposition::default();
        shown.expose(&mut page);
        expose_front(&front, &mut page);
        page.finish()
    };
    let pages = Pages { metrics: Box::new(metrics), ready: Box::new(move || ready.readiness()) };
    let admin = Admin::start(address, pages)
        .map_err(|e| failed(69, format!("--admin-address {address} cannot be bound: {e}")))?;
    Ok(Some(admin))
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
    let base = format!("https://{}:{}{}", config.upstream.host, config.upstream.port, config.upstream.base_path);
    for address in server.local_addrs() {
        log::info!("serving https://{address} for {base}");
    }
    if let Some(address) = admin.and_then(Admin::address) {
        log::info!("health and metrics on http://{address}");
    }
    if let Some(path) = &config.client_kubeconfig {
        log::info!("clients may use --kubeconfig {}", path.display());
    }
}

/// SIGTERM and SIGINT end the daemon; SIGHUP is caught so that it does not.
struct Signals {
    end: UnixStream,
    hup: UnixStream,
}

impl Signals {
    fn catch() -> io::Result<Signals> {
        let (end, end_writer) = UnixStream::pair()?;
        let (hup, hup_writer) = UnixStream::pair()?;
        hup.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGTERM, end_writer.try_clone()?)?;
        signal_hook::low_level::pipe::register(SIGINT, end_writer)?;
        signal_hook::low_level::pipe::register(SIGHUP, hup_writer)?;
        Ok(Signals { end, hup })
    }

    /// Waits for `at_most`; false when the daemon is to end.
    fn wait(&self, at_most: Duration) -> bool {
        let mut fds = [PollFd::new(&self.end, PollFlags::IN), PollFd::new(&self.hup, PollFlags::IN)];
        let timeout = Timespec { tv_sec: at_most.as_secs().cast_signed(), tv_nsec: at_most.subsec_nanos().into() };
        if let Err(e) = poll(&mut fds, Some(&timeout))
            && e != rustix::io::Errno::INTR
        {
            log::error!("waiting for signals failed: {e}");
            std::thread::sleep(at_most);
        }
        if !fds[1].revents().is_empty() && (&self.hup).read(&mut [0; 64]).is_ok() {
            log::info!("SIGHUP: nothing to read anew yet; restart to change certificates");
        }
        fds[0].revents().is_empty()
    }
}
