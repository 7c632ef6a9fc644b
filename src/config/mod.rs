//! Flags and files become one immutable [`Config`] of real types; bad input dies here, before anything is bound.

mod error;
mod files;
mod flags;
mod kubeconfig;
mod load;
mod pki;
mod units;

pub use error::{ConfigError, Exit};
pub use load::{Wanted, load};

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
    /// The admin endpoint (`--admin-address`); `None` when it was given empty.
    pub admin: Option<SocketAddr>,
    /// What the front shows and asks for.
    pub serving: Serving,
    /// The cloud kube-apiserver.
    pub upstream: UpstreamConfig,
    /// Where the record lives.
    pub store: StoreConfig,
    /// Limits and time spans.
    pub limits: Limits,
    /// The log's level.
    pub log_level: log::LevelFilter,
    /// The kubeconfig written for clients (`--kubeconfig` mode), to be named at start.
    pub client_kubeconfig: Option<PathBuf>,
}

/// Paths of the serving certificate and of the CA that client certificates must chain to.
#[derive(Debug, Clone)]
pub struct Serving {
    /// PEM file: the serving certificate chain.
    pub cert_file: PathBuf,
    /// PEM file: its private key.
    pub key_file: PathBuf,
    /// PEM file: CAs of client certificates. `None`: no client certificate is asked for.
    pub client_ca_file: Option<PathBuf>,
}

/// The upstream and the certificates that may be used towards it.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// A path in front of every request's path, without a trailing slash; mostly empty (kubeconfig `server: https://h/p`).
    pub base_path: String,
    /// The name the upstream's certificate must carry when it is not `host` (kubeconfig `tls-server-name`).
    pub tls_server_name: Option<String>,
    /// PEM file: CAs of the upstream's certificate. `None` with `insecure`.
    pub ca_file: Option<PathBuf>,
    /// `--insecure`: the upstream's certificate is not verified.
    pub insecure: bool,
    /// Key pairs by the CN of their certificate (`--tls-config-file`, or the kubeconfig's own).
    pub pairs: Vec<KeyPairFiles>,
}

/// One certificate and its key, PEM, as files.
#[derive(Debug, Clone)]
pub struct KeyPairFiles {
    /// The subject CN of the certificate in `cert`.
    pub common_name: String,
    /// PEM file: the certificate chain.
    pub cert: PathBuf,
    /// PEM file: the key.
    pub key: PathBuf,
}

/// Which engine keeps the record, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreConfig {
    /// A hashed directory tree below this folder.
    File(PathBuf),
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
