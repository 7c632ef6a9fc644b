//! Makes connections to one server: TCP (`race.rs`), an HTTP proxy's CONNECT where there is one, TLS handshake; each wait
//! also watches the client and the link.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{ConnectionDetails, Connector, NextTimeout};

use super::attempt;
use super::fault::{Fault, io_words};
use super::monitor::Pulse;
use super::proxy::Proxy;
use super::race::Exits;
use super::resolver::Addresses;
use super::transport::Wire;
use super::wait::Waits;

/// Longest time for name and TCP together, over all addresses.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest time for name, TCP and TLS together.
const CONNECT_AND_HANDSHAKE: Duration = Duration::from_secs(3);
/// Stack of a thread that dials; debug builds need more.
const STACK: usize = if cfg!(debug_assertions) { 256 * 1024 } else { 128 * 1024 };

/// A server, as who connects to it must know it.
#[derive(Debug)]
pub(super) struct Place {
    /// Its addresses, or its proxy's.
    pub(super) addresses: Addresses,
    pub(super) exits: Exits,
    pub(super) proxy: Option<Proxy>,
    /// What its certificate must be made for.
    pub(super) name: ServerName<'static>,
    pub(super) pulse: Arc<Pulse>,
}

/// Makes connections to a server that show one certificate, or none.
#[derive(Clone)]
pub(super) struct Dial {
    pub(super) place: Arc<Place>,
    pub(super) tls: Arc<ClientConfig>,
}

impl Dial {
    /// A connection with its handshake done, non-blocking. `budget`: not longer than this, and never longer than the
    /// limits above.
    pub(super) fn dial(&self, waits: &Waits<'_>, budget: Duration) -> Result<(TcpStream, ClientConnection), Fault> {
        let start = Instant::now();
        let socket = self.place.connect_tcp(waits, start + budget.min(CONNECT))?;
        let by = start + budget.min(CONNECT_AND_HANDSHAKE);
        if let Some(proxy) = &self.place.proxy {
            proxy.pass(&socket, waits, by)?;
        }
        let tls = self.handshake(&socket, waits, by)?;
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

    fn handshake(&self, socket: &TcpStream, waits: &Waits<'_>, by: Instant) -> Result<ClientConnection, Fault> {
        let mut tls = ClientConnection::new(Arc::clone(&self.tls), self.place.name.clone())
            .map_err(|e| Fault::from_tls(&e, true))?;
        let wait = |flags| {
            let late = || Fault::Late("TLS handshake timed out".into());
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
                    self.place.pulse.beat();
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

impl Place {
    fn connect_tcp(&self, waits: &Waits<'_>, by: Instant) -> Result<TcpStream, Fault> {
        let addresses = self.addresses.get(waits, by)?;
        match self.exits.connect(&addresses, waits, by) {
            Ok((socket, address)) => {
                self.addresses.worked(address);
                Ok(socket)
            }
            Err(fault) => {
                if matches!(fault, Fault::Connect(_) | Fault::Late(_)) {
                    self.addresses.failed();
                }
                Err(fault)
            }
        }
    }
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
            Ok(Some(Wire::new(socket, tls, Arc::clone(&self.place.pulse))))
        })
    }
}

impl std::fmt::Debug for Dial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dial").field("place", &self.place).finish_non_exhaustive()
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
