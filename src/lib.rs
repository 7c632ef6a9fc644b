//! lite-apiserver: the best small thing between a Kubernetes edge node and its far-away control plane.
//!
//! kubelet, kube-proxy, CNI agents, pods and kubectl on the node talk to it instead of to the cloud. While the link is
//! up it forwards, streams the answer back and records what was read; while it is down it answers reads from the
//! record, holds watches open and refuses writes honestly.
//!
//! # The map
//!
//! ```text
//!            clients                                                          cloud
//!               |                                                               ^
//!           front/  listener, threads, TLS, HTTP/1.1                            |
//!               |                                                               |
//!           serve.rs  one request's way, every stage on one screen              |
//!               |                                                               |
//!   +-----------+-----------+------------+-------------+-----------+            |
//!   |           |           |            |             |           |            |
//! identity/ * request/ *  decide.rs *  record/ *     store/     upstream/ ------+
//! who asks    what is     the table    bytes <->     what       agents, connector,
//!             asked       of rules     objects       lasts      link, probe
//!
//! tunnel/  bytes both ways between two TLS connections, for serve
//! config/  flags and files -> one Config        admin/  metrics and health        * = pure
//! cache/   looks into a record from outside: `lite-apiserver cache`
//! cert     asks for a serving certificate that pods trust: `lite-apiserver cert`
//! logger   where the log goes
//! setup/   puts the daemon between a node and its cluster, and takes it out again: `lite-apiserver setup`
//! check/   looks at what the daemon stands on: `lite-apiserver check`
//! moment * moments and spans as people, HTTP and Kubernetes write them
//! ```
//!
//! Arrows go one way: front -> serve -> the rooms below it; those know nothing of each other. Pure rooms have no
//! sockets, files, threads or clock. `tests/tidy.rs` reads the imports and holds them to it.
//!
//! [`run`] wires everything once, and is the only place that does.

pub mod admin;
pub mod cache;
pub mod cert;
pub mod check;
pub mod config;
pub mod decide;
mod failed;
pub mod front;
pub mod identity;
pub mod logger;
mod moment;
pub mod record;
pub mod request;
mod run;
pub mod serve;
pub mod setup;
pub mod store;
pub mod tunnel;
pub mod upstream;

pub use failed::Failed;
pub use run::run;
