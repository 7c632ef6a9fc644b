//! Makes connections: addresses in turn, non-blocking TCP, TLS handshake; each wait also watches the client and the link.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{ConnectionDetails, Connector, NextTimeout};

use super::attempt;
use super::fault::{Fault, io_words};
use super::monitor::Pulse;
use super::resolver::Addresses;
use super::transport::Wire;
use super::wait::Waits;

/// Longest time for name and TCP together, over all addresses.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest time for name, TCP and TLS together.
const CONNECT_AND_HANDSHAKE: Duration = Duration::from_secs(3);
/// A peer that acknowledges nothing for so long is gone, whatever the retransmission timers say (`TCP_USER_TIMEOUT`). One
/// that keeps its window closed for so long counts as gone too, and so does one that answers no keep-alive.
pub(super) const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// TCP keep-alive: first probe after so much silence, then every [`KEEPALIVE_INTERVAL`].
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Stack of a thread that dials; debug builds need more.
const STACK: usize = if cfg!(debug_assertions) { 256 * 1024 } else { 128 * 1024 };

/// Makes connections to the upstream that show one certificate, or none.
#[derive(Clone)]
pub(super) struct Dial {
    pub(super) addresses: Arc<Addresses>,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
    pub(super) pulse: Arc<Pulse>,
}

impl Dial {
    /// A connection with its handshake done, non-blocking. `budget`: not longer than this, and never longer than the
    /// limits above.
    pub(super) fn dial(&self, waits: &Waits<'_>, budget: Duration) -> Result<(TcpStream, ClientConnection), Fault> {
        let start = Instant::now();
        let socket = self.connect_tcp(waits, start + budget.min(CONNECT))?;
        let tls = self.handshake(&socket, waits, start + budget.min(CONNECT_AND_HANDSHAKE))?;
        Ok((socket, tls))
    }

    /// Dials on a thread of its own, which ends with it: verifying certificates needs a deep stack, and on top of ureq's own
    /// frames each connection's thread would keep those pages for as long as its client stays, 19 KB for every idle watch.
    pub(super) fn dial_aside(&self, waits: &Waits<'_>) -> Result<(TcpStream, ClientConnection), Fault> {
        thread::scope(|scope| {
            let dial = || self.dial(waits, CONNECT_AND_HANDSHAKE);
            match thread::Builder::new().name("dial".to_owned()).stack_size(STACK).spawn_scoped(scope, dial) {
                Ok(thread) => thread.join().unwrap_or_else(|_| Err(Fault::Connect("dialling panicked".into()))),
                // No thread is to be had: the stack at hand is deep enough.
                Err(_) => dial(),
            }
        })
    }

    fn connect_tcp(&self, waits: &Waits<'_>, by: Instant) -> Result<TcpStream, Fault> {
        let addresses = self.addresses.get(waits, by)?;
        let mut last = Fault::Connect("connect timed out".into());
        for (tried, address) in addresses.iter().enumerate() {
            let left = by.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // Each address but the last gets half of what is left: a dead first one must not starve the others.
            let share = if tried + 1 == addresses.len() { left } else { left / 2 };
            match connect_one(*address, waits, Instant::now() + share) {
                Ok(socket) => {
                    self.addresses.worked(*address);
                    return Ok(socket);
                }
                Err(fault @ Fault::Connect(_)) => last = fault,
                Err(fault) => return Err(fault),
            }
        }
        self.addresses.failed();
        Err(last)
    }

    fn handshake(&self, socket: &TcpStream, waits: &Waits<'_>, by: Instant) -> Result<ClientConnection, Fault> {
        let mut tls =
            ClientConnection::new(Arc::clone(&self.tls), self.name.clone()).map_err(|e| Fault::from_tls(&e, true))?;
        let wait = |flags| {
            let late = || Fault::Connect("TLS handshake timed out".into());
            waits.on(socket.as_fd(), flags, Some(by)).map_err(|interrupted| Fault::from_wait(interrupted, late))
        };
        let broke = |e: &io::Error| Fault::Connect(format!("{} during the TLS handshake", io_words(e)));
        while tls.is_handshaking() || tls.wants_write() {
            let writing = tls.wants_write();
            let moved = if writing { tls.write_tls(&mut &*socket) } else { tls.read_tls(&mut &*socket) };
            match moved {
                Ok(0) if !writing => {
                    return Err(Fault::Connect("connection closed during the TLS handshake".into()));
                }
                Ok(_) if writing => {}
                Ok(_) => {
                    if let Err(e) = tls.process_new_packets() {
                        // So that the upstream's log can say why: the alert that rustls has queued.
                        let _ = tls.write_tls(&mut &*socket);
                        return Err(Fault::from_tls(&e, true));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    wait(if writing { PollFlags::OUT } else { PollFlags::IN })?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(broke(&e)),
            }
        }
        Ok(tls)
    }
}

fn connect_one(address: SocketAddr, waits: &Waits<'_>, by: Instant) -> Result<TcpStream, Fault> {
    let failed = |e: io::Error| Fault::Connect(format!("{} ({address})", io_words(&e)));
    let socket = new_socket(address).map_err(failed)?;
    match connect(&socket, &address) {
        Ok(()) => {}
        Err(Errno::INPROGRESS) => {
            let late = || Fault::Connect(format!("connect timed out ({address})"));
            waits
                .on(socket.as_fd(), PollFlags::OUT, Some(by))
                .map_err(|interrupted| Fault::from_wait(interrupted, late))?;
            sockopt::socket_error(&socket).and_then(|outcome| outcome).map_err(|e| failed(e.into()))?;
        }
        Err(e) => return Err(failed(e.into())),
    }
    Ok(TcpStream::from(socket))
}

fn new_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_user_timeout(&socket, UNACKNOWLEDGED.as_millis() as u32)?;
    Ok(socket)
}

impl Connector for Dial {
    type Out = Wire;

    fn connect(&self, _: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Wire>, ureq::Error> {
        attempt::current(|attempt| {
            let attempt = attempt.ok_or(ureq::Error::ConnectionFailed)?;
            attempt.fresh = true;
            // From here on other connections of the pool are as good as any.
            attempt.only_fresh = false;
            let dialled = self.dial_aside(&attempt.waits());
            let (socket, tls) = dialled.map_err(|fault| ureq::Error::Io(fault.into_io()))?;
            Ok(Some(Wire::new(socket, tls, Arc::clone(&self.pulse))))
        })
    }
}

impl std::fmt::Debug for Dial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dial").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// ureq resolves for each request, also where it then takes a pooled connection. Here [`Dial`] does it, when it connects.
#[derive(Debug)]
pub(super) struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(
        &self,
        _: &ureq::http::Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        Ok(self.empty())
    }
}
