//! Flags and files become one immutable [`Config`] of real types; bad input dies here, before anything is bound.

mod accounts;
mod by_kubeconfig;
mod certificates;
mod error;
mod files;
mod flag_file;
mod flags;
mod inspect;
mod kubeconfig;
mod load;
mod pki;
mod pods;
mod units;
mod upstream;
mod watch;

#[cfg(test)]
mod tests;

pub(crate) use by_kubeconfig::server_for_clients;
pub(crate) use certificates::{client_name, verifies_client};
pub(crate) use files::{read as read_file, write as write_file};
pub(crate) use flag_file::values as flags_in;
pub(crate) use kubeconfig::{Kubeconfig, Source, parse as parse_kubeconfig};
pub(crate) use pki::{FILES as SERVING_FILES, serving as make_serving};

pub use certificates::{Certificates, Pair, Roots, VerificationClock};
pub use error::{ConfigError, Exit};
pub use inspect::{Inspected, Inspection, inspect};
pub use load::{Wanted, load};
pub use pods::DummyInterface;
pub use upstream::{Balance, ProxyConfig, ServerConfig, UpstreamConfig};
pub use watch::{CertificateFiles, Tally, Watch};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The README's table of flags, as Markdown.
pub fn reference() -> String {
    flags::reference()
}

/// Everything the program was told, as what it means. Built once, never changed.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect (`--address` x `--port`).
    pub listen: Vec<SocketAddr>,
    /// Interfaces to be made for some of these addresses (`--dummy-interface`).
    pub dummy_interfaces: Vec<DummyInterface>,
    /// Where the Service `kubernetes` is to lead (`--rewrite-kubernetes-service`); `None`: where it does.
    pub kubernetes_service: Option<SocketAddr>,
    /// Whether endpoints are served as kubelets tell of them while the link is down (`--heal-endpoints`).
    pub heal_endpoints: bool,
    /// The admin endpoint (`--admin-address`); `None` when it was given empty.
    pub admin: Option<SocketAddr>,
    /// What clients are shown and must show, and what the upstream is.
    pub certificates: Certificates,
    /// Where they were read, to be read again.
    pub certificate_files: CertificateFiles,
    /// The cloud kube-apiserver.
    pub upstream: UpstreamConfig,
    /// Where the record lives.
    pub store: StoreConfig,
    /// Limits and time spans.
    pub limits: Limits,
    /// The log's level.
    pub log_level: log::LevelFilter,
    /// Whom to go on as once everything is bound (`--user`, `--group`); `None`: whoever started the process.
    pub run_as: Option<RunAs>,
    /// `--oom-score-adj`: from -1000 to 1000; `None`: as whoever started it.
    pub oom_score_adj: Option<i16>,
    /// Where `--kubeconfig` keeps what it makes.
    pub data_dir: Option<PathBuf>,
    /// The kubeconfig written for clients (`--kubeconfig` mode), to be named at start.
    pub client_kubeconfig: Option<PathBuf>,
}

/// A user and a group, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAs {
    /// `None`: the user stays.
    pub uid: Option<u32>,
    /// The only group.
    pub gid: u32,
}

/// Which engine keeps the record, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreConfig {
    /// A hashed directory tree below this folder.
    File(PathBuf),
    /// A redb database in this file.
    #[cfg(feature = "redb")]
    Redb(PathBuf),
    /// A fjall database below this folder.
    #[cfg(feature = "fjall")]
    Fjall(PathBuf),
    /// Nothing survives the process.
    Memory,
}

/// Limits and time spans, each from the flag of its name.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `--timeout`: to the first byte, where a record could be served instead.
    pub timeout: Duration,
    /// `--slow-timeout`: to the first byte, where nothing else could be served.
    pub slow_timeout: Duration,
    /// `--max-connections`
    pub max_connections: usize,
    /// `--max-object-size`, bytes: a larger object is forwarded but not recorded.
    pub max_object_size: usize,
    /// `--cache-max-size`, bytes; 0: any number.
    pub cache_max_size: u64,
    /// `--cache-max-age`: how long what nobody uses is kept while the link is up; zero: for ever.
    pub cache_max_age: Duration,
    /// `--shutdown-grace`
    pub shutdown_grace: Duration,
    /// `--flush-interval`: how much of the record a power cut may cost.
    pub flush_interval: Duration,
    /// `--offline-grace`: how long recorded data may be served after the link was last up.
    pub offline_grace: Duration,
    /// `--review-ttl`: how long a recorded review may be replayed offline.
    pub review_ttl: Duration,
    /// `--handshake-timeout`, `--head-timeout`, `--idle-timeout` of client connections.
    pub handshake_timeout: Duration,
    /// See `handshake_timeout`.
    pub head_timeout: Duration,
    /// See `handshake_timeout`.
    pub idle_timeout: Duration,
}
