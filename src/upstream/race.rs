//! TCP connections: all ways to a server (its addresses, over each interface) begun one shortly after the other, and the
//! first that is there is taken (RFC 8305, "Happy Eyeballs").

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};
use socket2::SockRef;

use super::fault::{Fault, io_words};
use super::wait::{Interrupted, Waits};
use super::wakefulness;

/// How much sooner than the next a way is begun (RFC 8305 section 5, "Connection Attempt Delay").
const HEAD_START: Duration = Duration::from_millis(250);
/// An interface that lost a race is begun last for so long, then in its place again: the preferred one may be back.
const LOSER: Duration = Duration::from_secs(60);

/// How connections leave this machine.
#[derive(Debug)]
pub(super) struct Exits {
    /// In the order of preference; one without a name where the system's routes decide.
    interfaces: Vec<Interface>,
    source: Option<IpAddr>,
}

#[derive(Debug)]
struct Interface {
    name: Option<String>,
    /// When another was there before it.
    lost: Mutex<Option<Instant>>,
}

/// One way to a server.
struct Way<'a> {
    interface: &'a Interface,
    address: SocketAddr,
}

impl Exits {
    pub(super) fn new(names: &[String], source: Option<IpAddr>) -> Self {
        let of = |name| Interface { name, lost: Mutex::new(None) };
        let named: Vec<_> = names.iter().cloned().map(Some).map(of).collect();
        Self { interfaces: if named.is_empty() { vec![of(None)] } else { named }, source }
    }

    /// Connects to whichever of `addresses` is reached first, and says to which. `by`: not later than that.
    pub(super) fn connect(
        &self,
        addresses: &[SocketAddr],
        waits: &Waits<'_>,
        by: Instant,
    ) -> Result<(TcpStream, SocketAddr), Fault> {
        let ways = self.ways(addresses);
        if ways.is_empty() {
            return Err(Fault::Connect("no address is of the family of --source-address".into()));
        }
        let mut last = None;
        let mut begun = 0;
        let mut next_begins = Instant::now();
        let mut running: Vec<(usize, OwnedFd)> = Vec::new();
        loop {
            if begun < ways.len() && (running.is_empty() || Instant::now() >= next_begins) {
                match self.begin(&ways[begun]) {
                    Ok((socket, true)) => return Ok(self.won(&ways, begun, begun, socket)),
                    Ok((socket, false)) => {
                        running.push((begun, socket));
                        next_begins = Instant::now() + HEAD_START;
                    }
                    Err(e) => last = Some(ways[begun].failed(&e)),
                }
                begun += 1;
                continue;
            }
            if running.is_empty() {
                return Err(last.unwrap_or_else(|| Fault::Late("connect timed out".into())));
            }
            let wake = if begun < ways.len() { by.min(next_begins) } else { by };
            let fds: Vec<_> = running.iter().map(|(_, socket)| socket.as_fd()).collect();
            let ready = match waits.on_any(&fds, PollFlags::OUT, Some(wake)) {
                Ok(ready) => ready,
                Err(Interrupted::Deadline) if Instant::now() < by => continue,
                Err(interrupted) => {
                    let late = || Fault::Late(format!("connect timed out ({})", ways[running[0].0].address));
                    return Err(Fault::from_wait(interrupted, || last.unwrap_or_else(late)));
                }
            };
            for place in ready.into_iter().rev() {
                let (way, socket) = running.remove(place);
                match sockopt::socket_error(&socket).and_then(|outcome| outcome) {
                    Ok(()) => return Ok(self.won(&ways, way, begun, socket)),
                    Err(e) => {
                        last = Some(ways[way].failed(&e.into()));
                        // What failed needs no head start.
                        next_begins = Instant::now();
                    }
                }
            }
        }
    }

    /// All ways, in the order in which they are begun: those of the preferred interface first, the families of addresses
    /// in turn (RFC 8305 section 4).
    fn ways(&self, addresses: &[SocketAddr]) -> Vec<Way<'_>> {
        let fits = |address: &&SocketAddr| self.source.is_none_or(|source| source.is_ipv4() == address.is_ipv4());
        let first = addresses.first().is_none_or(SocketAddr::is_ipv4);
        let of_family = |wanted: bool| addresses.iter().filter(fits).filter(move |a| a.is_ipv4() == wanted).copied();
        let (mut one, mut other) = (of_family(first), of_family(!first));
        let mut mixed: Vec<SocketAddr> = Vec::with_capacity(addresses.len());
        loop {
            let before = mixed.len();
            mixed.extend(one.next().into_iter().chain(other.next()));
            if mixed.len() == before {
                break;
            }
        }
        let mut interfaces: Vec<_> = self.interfaces.iter().collect();
        interfaces.sort_by_key(|interface| interface.has_lost());
        interfaces
            .iter()
            .flat_map(|interface| mixed.iter().map(|address| Way { interface, address: *address }))
            .collect()
    }

    /// The socket of a way, and whether it is connected already.
    fn begin(&self, way: &Way<'_>) -> io::Result<(OwnedFd, bool)> {
        let socket = new_socket(way.address)?;
        if let Some(name) = &way.interface.name {
            SockRef::from(&socket).bind_device(Some(name.as_bytes()))?;
        }
        if let Some(source) = self.source {
            bind(&socket, &SocketAddr::new(source, 0))?;
        }
        match connect(&socket, &way.address) {
            Ok(()) => Ok((socket, true)),
            Err(Errno::INPROGRESS) => Ok((socket, false)),
            Err(e) => Err(e.into()),
        }
    }

    /// Notes who won and who lost of those that were `begun`.
    fn won(&self, ways: &[Way<'_>], winner: usize, begun: usize, socket: OwnedFd) -> (TcpStream, SocketAddr) {
        let way = &ways[winner];
        if self.interfaces.len() > 1 {
            for loser in ways[..begun].iter().filter(|other| !std::ptr::eq(other.interface, way.interface)) {
                loser.interface.note(Some(Instant::now()));
            }
            way.interface.note(None);
        }
        (TcpStream::from(socket), way.address)
    }
}

impl Interface {
    fn has_lost(&self) -> bool {
        let lost = *self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.is_some_and(|at| at.elapsed() < LOSER)
    }

    fn note(&self, lost: Option<Instant>) {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = lost;
    }
}

impl Way<'_> {
    fn failed(&self, e: &io::Error) -> Fault {
        let over = self.interface.name.as_ref().map(|name| format!(" over {name}")).unwrap_or_default();
        Fault::Connect(format!("{} ({}{over})", io_words(e), self.address))
    }
}

/// A socket that is as wakeful as one with a request on it should be.
fn new_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    wakefulness::of_a_request(&socket)?;
    Ok(socket)
}

#[cfg(test)]
pub(super) mod tests;
