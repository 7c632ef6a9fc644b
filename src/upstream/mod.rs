//! Towards the cloud: one ureq agent per upstream identity and server, the connector under it, the link's state and its probe.
//! Knows HTTP and TLS; knows nothing of Kubernetes' resources and nothing of the record.
//!
//! ```text
//!  fetch ---> ureq::Agent ---> Wire (transport.rs) <--- Dial (connector.rs) <--- Addresses (resolver.rs)
//!    |            ^                  |                     |  Exits (race.rs), Proxy (proxy.rs)
//!    |            | reads            | waits in poll(2) with what attempt.rs says, up to the answer's head
//!    |            |                  v
//!    +---> StreamedBody (answer.rs): waits itself, for as long as the body streams
//!    |
//!    +---> Link (whole.rs) of one Monitor (monitor.rs) a server: State (link.rs) <--- probe.rs
//!
//!  upgrade --> Wire --> 101: a Tunnel, whose bytes are the caller's to pass; else ureq reads the answer
//! ```
//!
//! Several servers may stand for the cluster, each with an agent of its own per identity, a state and a thread that probes.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::TcpStream;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use rustls::ClientConnection;
use ureq::Agent;
use ureq::config::AutoHeaderValue;
use ureq::http::uri::Authority;

use crate::config::{Balance, Certificates, Pair, Roots, ServerConfig, UpstreamConfig, VerificationClock};

mod answer;
mod attempt;
mod buffers;
mod connector;
mod fault;
mod fetch;
#[cfg(fuzzing)]
pub mod fuzzing;
mod link;
mod monitor;
mod probe;
mod proxy;
mod race;
mod resolver;
mod tls;
mod transport;
mod upgrade;
mod wait;
mod wakefulness;
mod whole;

#[cfg(test)]
mod tests;

pub use link::Event;
pub use tls::UpstreamError;
pub use upgrade::{Line, Tunnel};
pub use wait::Epoch;
pub use whole::{Link, Outage};

use connector::{Dial, NoResolver, Place};
use fetch::{Failed, Head, Sending, Target};
use monitor::Signals;
use proxy::Proxy;
use race::Exits;
use resolver::Addresses;
use tls::Trust;
use transport::Wire;
use wait::Waits;

/// Largest head of an answer, in bytes; the front takes requests of the same size.
const MAX_RESPONSE_HEAD: usize = 64 * 1024;
/// Idle connections kept per credentials.
const IDLE_CONNECTIONS: usize = 64;
/// An idle connection is not used after this: Go servers, kube-apiserver among them, close theirs after 90 s, and one
/// that is just being closed costs a write that cannot be repeated.
const IDLE_AGE: Duration = Duration::from_secs(60);
/// How long the end of the process waits for a look-up of the upstream's name.
const RESOLVER_GRACE: Duration = Duration::from_millis(200);

/// Whose credentials a request goes up with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// The key pair of `--tls-config-file` whose certificate has this CN.
    Certificate(String),
    /// No certificate; an `Authorization` header, if any, travels among the request's headers.
    None,
}

/// One request as it is to be sent. `Host` and framing are added; nothing else is.
pub struct Outgoing<'r, 'c> {
    /// Method token.
    pub method: &'r str,
    /// Origin-form target, sent below the configured base path.
    pub target: &'r str,
    /// Header fields, hop-by-hop ones already removed.
    pub headers: &'r [(String, Vec<u8>)],
    /// The body, streamed; `None`: no body.
    pub body: Option<OutgoingBody<'r>>,
    /// Longest wait for the first byte of the answer: from the beginning, or from the end of the body where one goes up.
    pub first_byte: Duration,
    /// The client's socket: when it hangs up, whatever is being waited for is given up. `None`: nobody can hang up.
    pub client: Option<BorrowedFd<'c>>,
    /// When this is readable, the answer's body is given up as if the link went down; for bodies without an end.
    /// `None`: nothing but the link and the client ends it.
    pub stop: Option<BorrowedFd<'c>>,
}

/// A request body on its way up.
pub struct OutgoingBody<'a> {
    /// Where it is read from.
    pub reader: &'a mut dyn io::Read,
    /// Its length where known, else it goes chunked.
    pub length: Option<u64>,
}

/// The upstream's answer; the body streams.
pub struct Answer<'a> {
    /// HTTP status.
    pub status: u16,
    /// Header fields, as the upstream sent them (names lower case).
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body's bytes. Ends with `Ok(0)` only where the upstream ended it whole; a torn body is an error
    /// ([`io::ErrorKind::UnexpectedEof`]), a client that hung up [`io::ErrorKind::BrokenPipe`], a link found down
    /// [`io::ErrorKind::NetworkDown`].
    pub body: Box<dyn io::Read + 'a>,
}

/// What came of asking for another protocol.
pub enum Upgraded<'a> {
    /// The upstream agrees (101): what follows is no HTTP.
    Tunnel(Box<Tunnel<'a>>),
    /// It says something else.
    Answer(Answer<'a>),
}

/// Why there is no answer.
#[derive(Debug)]
pub enum FetchError {
    /// No connection: refused, unreachable, name unknown, TLS failed, connect timed out; or the link went down while
    /// the first byte was waited for.
    Unreachable(String),
    /// Connected, but no first byte within `first_byte`.
    TimedOut,
    /// The connection broke before an answer came; the request may or may not have been carried out.
    Broken(String),
    /// The client hung up first.
    ClientGone,
    /// The client's body could not be read.
    ClientBody(io::Error),
    /// The target or a header cannot be sent.
    Unsendable(String),
}

/// Whether the upstream, or one of its servers, can be reached now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Requests are sent.
    Up,
    /// Nothing but probes is sent.
    Down {
        /// When the link was found down.
        since: SystemTime,
    },
}

impl FetchError {
    /// Whether another server might do better.
    fn is_of_the_server(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::TimedOut | Self::Broken(_))
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "unreachable: {why}"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Broken(why) => write!(f, "the connection broke: {why}"),
            Self::ClientGone => f.write_str("the client hung up"),
            Self::ClientBody(e) => write!(f, "the request's body could not be read: {e}"),
            Self::Unsendable(why) => write!(f, "the request cannot be sent: {why}"),
        }
    }
}

impl std::error::Error for FetchError {}

/// The upstream.
pub struct Upstream {
    known: Arc<RwLock<Arc<Known>>>,
    servers: Vec<Server>,
    balance: Balance,
    /// Which server is next, where each has its turn.
    turn: AtomicUsize,
    link: Link,
    making: Making,
}

/// One of the addresses that stand for the cluster.
struct Server {
    target: Target,
    /// The `Host` of what is not sent through an agent.
    host: String,
}

/// A connection of its own ([`Upstream::dial`]): non-blocking, its handshake done. Nothing watches it.
struct Dialled {
    /// Of the server, among all.
    place: usize,
    signals: Signals,
    socket: TcpStream,
    tls: ClientConnection,
}

/// Who is known to the upstream at one moment: whose key pairs there are. A request is identified and sent by one and the
/// same of these, so that no pair is gone in between.
pub struct Known {
    identities: BTreeMap<String, Identity>,
    anonymous: Identity,
    roots: Option<Arc<Roots>>,
}

impl Known {
    /// Whether there is a key pair for this CN.
    pub fn has_pair(&self, common_name: &str) -> bool {
        self.identities.contains_key(common_name)
    }

    fn identity(&self, who: &Credentials) -> Result<&Identity, FetchError> {
        match who {
            Credentials::None => Ok(&self.anonymous),
            Credentials::Certificate(name) => {
                self.identities.get(name).ok_or_else(|| FetchError::Unsendable(format!("no key pair for {who:?}")))
            }
        }
    }
}

/// What requests with one kind of credentials go through.
#[derive(Clone)]
struct Identity {
    /// To each server, in their order.
    routes: Vec<Route>,
    pair: Option<Arc<Pair>>,
}

#[derive(Clone)]
struct Route {
    agent: Agent,
    dial: Dial,
}

impl Upstream {
    /// Makes an agent for each key pair and server, and starts the threads that watch the link, which probe at once. Agents
    /// are made here, not on first use: they cost nothing before they have a connection.
    pub fn new(
        config: &UpstreamConfig,
        certificates: &Certificates,
        clock: VerificationClock,
    ) -> Result<Self, UpstreamError> {
        Self::begin(config, shown(certificates), clock, false)
    }

    /// The same where the link was down when the process last ran: nobody waits to find that out again, and the first good
    /// probe, a moment from now if the link is back, brings it up.
    pub fn in_the_dark(
        config: &UpstreamConfig,
        certificates: &Certificates,
        clock: VerificationClock,
    ) -> Result<Self, UpstreamError> {
        Self::begin(config, shown(certificates), clock, true)
    }

    /// The same to find out whether it can be reached: with these pairs and no other certificate.
    pub fn to_try(
        config: &UpstreamConfig,
        roots: Option<Arc<Roots>>,
        pairs: &BTreeMap<String, Arc<Pair>>,
        clock: VerificationClock,
    ) -> Result<Self, UpstreamError> {
        Self::begin(config, (roots, pairs), clock, false)
    }

    fn begin(
        config: &UpstreamConfig,
        (roots, pairs): Shown<'_>,
        clock: VerificationClock,
        dark: bool,
    ) -> Result<Self, UpstreamError> {
        let link = Link::new(config.servers.iter().map(ServerConfig::authority)).map_err(UpstreamError::System)?;
        let (mut servers, mut places) = (Vec::new(), Vec::new());
        for (server, monitor) in config.servers.iter().zip(link.monitors()) {
            if config.insecure {
                log::warn!(
                    "INSECURE: the certificate of {} is not verified; whoever answers there gets every token and secret",
                    server.host
                );
            }
            let name = tls::server_name(config, server)?;
            let authority =
                Authority::try_from(server.authority()).map_err(|_| UpstreamError::Name(server.host.clone()))?;
            let host = if server.port == 443 { authority.host().to_owned() } else { authority.to_string() };
            servers.push(Server { target: Target { authority, base_path: server.base_path.clone() }, host });
            let (host, port) = server.proxy.as_ref().map_or((&server.host, server.port), |p| (&p.host, p.port));
            places.push(Arc::new(Place {
                addresses: Addresses::new(host, port),
                exits: Exits::new(&config.interfaces, config.source),
                proxy: Proxy::of(server),
                name,
                pulse: Arc::clone(monitor.pulse()),
            }));
        }
        let making = Making { insecure: config.insecure, clock, places };
        let known = Arc::new(RwLock::new(Arc::new(making.known((roots, pairs), None)?)));
        for (place, (server, monitor)) in servers.iter().zip(link.monitors()).enumerate() {
            if dark {
                monitor.report(link::Event::ConnectFailed, "not reached since the start");
            }
            let (host, base_path, probed) = (server.host.clone(), server.target.base_path.clone(), Arc::clone(&known));
            let probe = move |stop: &Epoch, is_down| {
                probe::probe(&current(&probed).anonymous.routes[place].dial, &host, &base_path, stop, is_down)
            };
            monitor.start(probe).map_err(UpstreamError::System)?;
        }
        Ok(Self { known, servers, balance: config.balance, turn: AtomicUsize::new(0), link, making })
    }

    /// From now on these certificates are used, by all that begins: requests under way, watches among them, go on as they
    /// began. Idle connections that were made with others are not used again. On an error all is as before.
    pub fn replace(&self, certificates: &Certificates) -> Result<(), UpstreamError> {
        let next = Arc::new(self.making.known(shown(certificates), Some(&self.known()))?);
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// Who is known now.
    pub fn known(&self) -> Arc<Known> {
        current(&self.known)
    }

    /// The servers to ask, by their places: those that are not known to be down, the best first. Where none is left the
    /// error says why.
    fn order(&self) -> Result<Vec<usize>, FetchError> {
        let servers = self.servers.len();
        if servers == 1 {
            return Ok(vec![0]);
        }
        let first = match self.balance {
            Balance::Priority => 0,
            Balance::RoundRobin => self.turn.fetch_add(1, Ordering::Relaxed) % servers,
        };
        let in_turn = (first..servers).chain(0..first);
        let order: Vec<_> = in_turn.filter(|&place| self.link.monitors()[place].state() == LinkState::Up).collect();
        if order.is_empty() { Err(FetchError::Unreachable(self.link.reason())) } else { Ok(order) }
    }

    /// Sends one request and waits for the head of its answer. Returns at once where the link is down; what is learned
    /// of the link is told to it. Blocks only in `poll(2)` (and in the reader of the request's body).
    ///
    /// A server that fails, or stands before one that does (502, 503, 504), is followed by the next where no harm is done
    /// by asking twice; all together get `first_byte`, each but the last half of what is left of it.
    pub fn fetch<'c>(
        &'c self,
        known: &Known,
        who: &Credentials,
        out: Outgoing<'_, 'c>,
    ) -> Result<Answer<'c>, FetchError> {
        let routes = &known.identity(who)?.routes;
        let order = self.order()?;
        let (begun, patience) = (Instant::now(), out.first_byte);
        let mut sending = Sending::new(out);
        let mut refused = None;
        let mut failure = FetchError::Broken("no server".into());
        for (tried, &place) in order.iter().enumerate() {
            let is_last = tried + 1 == order.len();
            let left = patience.saturating_sub(begun.elapsed()).max(patience / 4);
            let first_byte = if is_last { left } else { left / 2 };
            let (target, monitor) = (&self.servers[place].target, &self.link.monitors()[place]);
            match fetch::ask(&routes[place].agent, target, monitor, &mut sending, first_byte) {
                Ok(answer) if !is_last && sending.is_harmless() && matches!(answer.status, 502..=504) => {
                    refused.get_or_insert(answer);
                }
                Ok(answer) => return Ok(answer),
                Err(Failed { error, elsewhere }) => {
                    failure = error;
                    if !elsewhere {
                        break;
                    }
                }
            }
        }
        match (refused, failure) {
            (Some(answer), failure) if failure.is_of_the_server() => Ok(answer),
            (None, FetchError::Unreachable(_)) if self.link.state() != LinkState::Up => {
                Err(FetchError::Unreachable(self.link.reason()))
            }
            (_, failure) => Err(failure),
        }
    }

    /// Sends one request that asks for another protocol, on a connection of its own, and waits for the head of its answer,
    /// as [`Upstream::fetch`] does. `Connection: Upgrade` is added; `Upgrade` is among the headers. It goes to the first
    /// server that can be reached.
    pub fn upgrade<'c>(
        &'c self,
        known: &Known,
        who: &Credentials,
        out: Outgoing<'_, 'c>,
    ) -> Result<Upgraded<'c>, FetchError> {
        let Dialled { place, signals, socket, tls } = self.dial(known, who, out.client)?;
        let (server, monitor, sending) = (&self.servers[place], &self.link.monitors()[place], Sending::new(out));
        let head = Head::new(&server.target, &sending)?;
        let wire = Wire::new(socket, tls, Arc::clone(monitor.pulse()));
        upgrade::upgrade(wire, &head, &server.host, (monitor, signals), sending)
    }

    /// A connection of its own, to the first server that can be reached.
    fn dial(&self, known: &Known, who: &Credentials, client: Option<BorrowedFd<'_>>) -> Result<Dialled, FetchError> {
        let routes = &known.identity(who)?.routes;
        let mut failed = None;
        for place in self.order()? {
            let monitor = &self.link.monitors()[place];
            let Ok(signals) = monitor.open() else { continue };
            let dialled = routes[place].dial.dial_aside(&Waits { client, until: &signals.down, stop: None });
            match dialled.map_err(|fault| fetch::dial_failure(fault, client, monitor)) {
                Ok((socket, tls)) => return Ok(Dialled { place, signals, socket, tls }),
                Err(error @ FetchError::Unreachable(_)) => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(failed.unwrap_or_else(|| FetchError::Unreachable(self.link.reason())))
    }

    /// The link's state, and who to tell about it.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Ends whatever waits for the upstream as if the link went down, and joins the threads.
    pub fn shutdown(&self) {
        self.link.shutdown();
        for place in &self.making.places {
            place.addresses.shutdown(RESOLVER_GRACE);
        }
    }
}

fn current(known: &RwLock<Arc<Known>>) -> Arc<Known> {
    Arc::clone(&known.read().unwrap_or_else(PoisonError::into_inner))
}

/// The CAs of the upstream's certificate, and the pairs that it may be shown.
type Shown<'a> = (Option<Arc<Roots>>, &'a BTreeMap<String, Arc<Pair>>);

fn shown(of: &Certificates) -> Shown<'_> {
    (of.upstream_roots.clone(), &of.pairs)
}

/// What it takes to make identities.
struct Making {
    insecure: bool,
    clock: VerificationClock,
    /// Of each server, in their order.
    places: Vec<Arc<Place>>,
}

impl Making {
    /// An identity for each pair; those of `old` whose certificates are the same stay, with their connections.
    fn known(&self, (roots, pairs): Shown<'_>, old: Option<&Known>) -> Result<Known, UpstreamError> {
        let same = |a: &Option<Arc<Roots>>| match (a, &roots) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        let old = old.filter(|old| same(&old.roots));
        let trust = Trust::new(self.insecure, roots.as_deref(), &self.clock)?;
        let identity = |pair: Option<&Arc<Pair>>, old: Option<&Identity>| {
            let as_before = old.filter(|old| match (&old.pair, pair) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (a, b) => a.is_none() && b.is_none(),
            });
            if let Some(identity) = as_before {
                return Ok(identity.clone());
            }
            let tls = trust.client(pair.map(Arc::as_ref))?;
            let route = |place: &Arc<Place>| Route::new(Dial { place: Arc::clone(place), tls: Arc::clone(&tls) });
            Ok(Identity { routes: self.places.iter().map(route).collect(), pair: pair.cloned() })
        };
        let anonymous = identity(None, old.map(|old| &old.anonymous))?;
        let mut identities = BTreeMap::new();
        for (name, pair) in pairs {
            let old = old.and_then(|old| old.identities.get(name));
            identities.insert(name.clone(), identity(Some(pair), old)?);
        }
        Ok(Known { identities, anonymous, roots })
    }
}

impl Route {
    fn new(dial: Dial) -> Self {
        Self { agent: Agent::with_parts(settings(), dial.clone(), NoResolver), dial }
    }
}

/// What ureq is to leave to us, and its limits.
fn settings() -> ureq::config::Config {
    Agent::config_builder()
        .http_status_as_error(false)
        .https_only(true)
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(AutoHeaderValue::None)
        .accept(AutoHeaderValue::None)
        .accept_encoding(AutoHeaderValue::None)
        .allow_non_standard_methods(true)
        .timeout_await_100(None)
        .max_response_header_size(MAX_RESPONSE_HEAD)
        .max_idle_connections(IDLE_CONNECTIONS)
        .max_idle_connections_per_host(IDLE_CONNECTIONS)
        .max_idle_age(IDLE_AGE)
        .build()
}
