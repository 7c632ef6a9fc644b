//! Binds, accepts, bounds, and owns all threads of the front: one that accepts, and one a connection, which it joins.
//! Reads and writes nothing itself. When all places are taken, somebody slow or idle gives up his ([`super::place`]);
//! where there is none, the newcomer is told 429.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use rustix::net::sockopt;

use super::Handler;
use super::connection::{self, Service, Spans, Welcome};
use super::counters::Counters;
use super::place::Place;
use super::stop::{Stop, ring};
use super::tls::Tls;
use super::wire::{Woken, after, poll_until, wait};

/// Stack of a connection's thread. 44 KiB is the least that was seen to be safe in release builds, 160 KiB in debug.
const STACK: usize = if cfg!(debug_assertions) { 256 * 1024 } else { 128 * 1024 };
/// The most connections past the limit that are told so at a time; more are closed at once.
const MAX_REFUSING: usize = 16;
/// The most connections that were shed and whose threads have not ended yet; a thread that is woken needs no more than a
/// moment for that.
const MAX_LEAVING: usize = 64;
/// One place in so many is kept from long-running requests.
const SHORT_SHARE: usize = 8;
/// The most connections accepted from one listener before the others are looked at.
const BATCH: usize = 64;
/// The pause after `accept` failed for want of descriptors or memory, which do not come back at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The least grace: idle connections are to say goodbye before their sockets are shut down.
const LEAST_GRACE: Duration = Duration::from_millis(100);
/// How long threads have to notice that their sockets were shut down.
const LAST_WAIT: Duration = Duration::from_secs(2);
/// TCP keep-alive: a client that vanished is noticed after idle + interval x probes, two minutes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// Where a server listens and how much it takes.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Addresses to bind; port 0 lets the kernel choose (see [`Server::local_addrs`]).
    pub addresses: Vec<SocketAddr>,
    /// The most connections served at a time, all addresses together.
    pub max_connections: usize,
    /// From TCP's connect to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From a request head's first byte to its last.
    pub head_timeout: Duration,
    /// From the handshake or an answer to the next request's first byte.
    pub idle_timeout: Duration,
    /// The longest that a body, in or out, makes no progress at all because of the client.
    pub stall_timeout: Duration,
}

/// A running HTTPS server. Dropping it stops it without any grace.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    counters: Arc<Counters>,
    stop: Arc<Stop>,
    acceptor: Option<JoinHandle<usize>>,
}

/// Addresses that are bound: clients can connect, and wait to be served.
#[derive(Debug)]
pub struct Bound {
    options: ServerOptions,
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
}

impl Bound {
    /// The same addresses once more: who connects while nobody serves waits, and whoever serves next takes it.
    pub fn try_clone(&self) -> io::Result<Bound> {
        let listeners = self.listeners.iter().map(TcpListener::try_clone).collect::<io::Result<Vec<_>>>()?;
        Ok(Bound { options: self.options.clone(), listeners, addresses: self.addresses.clone() })
    }

    /// Begins to serve, on threads of its own. Error: the process is out of descriptors or threads.
    pub fn serve(self, tls: Arc<Tls>, handler: Arc<dyn Handler>) -> io::Result<Server> {
        let Bound { options, listeners, addresses } = self;
        let counters = Arc::new(Counters::default());
        let stop = Arc::new(Stop::new()?);
        let spans = Spans {
            handshake: options.handshake_timeout,
            head: options.head_timeout,
            idle: options.idle_timeout,
            stall: options.stall_timeout,
        };
        let most_lasting = most_lasting(options.max_connections);
        let (counted, stopping) = (Arc::clone(&counters), Arc::clone(&stop));
        let service = Service { handler, tls, counters: counted, stop: stopping, spans, most_lasting };
        let (farewell, departed) = mpsc::channel();
        let acceptor = Acceptor {
            listeners,
            service: Arc::new(service),
            max_connections: options.max_connections,
            guests: HashMap::new(),
            refusing: 0,
            leaving: 0,
            next: 0,
            door: Door { farewell, bell: Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?) },
            departed,
        };
        counters.threads.fetch_add(1, Relaxed);
        let acceptor = thread::Builder::new().name("accept".to_owned()).stack_size(STACK).spawn(|| acceptor.run())?;
        Ok(Server { addresses, counters, stop, acceptor: Some(acceptor) })
    }
}

impl Server {
    /// Binds all addresses. Error: one of them cannot be bound (its text names it).
    pub fn bind(options: ServerOptions) -> io::Result<Bound> {
        let listeners = options.addresses.iter().copied().map(listen).collect::<io::Result<Vec<_>>>()?;
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
        Ok(Bound { options, listeners, addresses })
    }

    /// The addresses that are bound, in the order of [`ServerOptions::addresses`].
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What the server counts.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Stops: nothing more is accepted, idle connections are closed at once, requests in flight may finish within
    /// `grace`, after which their sockets are shut down. Returns when all threads have been joined, with 0; or, where a
    /// handler does not return in two seconds more, with the number of threads left behind.
    pub fn stop(mut self, grace: Duration) -> usize {
        self.halt(grace)
    }

    fn halt(&mut self, grace: Duration) -> usize {
        self.stop.raise(after(grace.max(LEAST_GRACE)));
        match self.acceptor.take().map(JoinHandle::join) {
            None => 0,
            Some(Ok(left)) => left,
            Some(Err(_)) => {
                log::error!("the accepting thread panicked");
                self.counters.open.load(Relaxed)
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.halt(Duration::ZERO);
    }
}

/// How many of the places long-running requests may take; at least one.
fn most_lasting(max_connections: usize) -> usize {
    (max_connections - max_connections.div_ceil(SHORT_SHARE)).max(1)
}

/// Options are set on the listener: Linux hands them on to what is accepted (`sk_clone_lock`), which saves system calls.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        sockopt::set_tcp_nodelay(&listener, true)?;
        sockopt::set_socket_keepalive(&listener, true)?;
        sockopt::set_tcp_keepidle(&listener, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(&listener, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(&listener, KEEPALIVE_PROBES)?;
        Ok(listener)
    };
    bind().map_err(|error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}")))
}

/// How connections tell that they are over.
#[derive(Clone)]
struct Door {
    farewell: mpsc::Sender<u64>,
    /// An eventfd that wakes the acceptor.
    bell: Arc<OwnedFd>,
}

/// A connection as its owner sees it.
struct Guest {
    thread: JoinHandle<()>,
    /// To be shut down when the grace is over. Weak, so that the thread's end closes the socket.
    socket: Weak<TcpStream>,
    welcome: Welcome,
    place: Arc<Place>,
    /// Its place is another's.
    is_shed: bool,
}

/// The accepting thread's own.
struct Acceptor {
    listeners: Vec<TcpListener>,
    service: Arc<Service>,
    max_connections: usize,
    guests: HashMap<u64, Guest>,
    /// How many of the guests are only to be told that there are too many.
    refusing: usize,
    /// How many of them are shed and have not gone yet.
    leaving: usize,
    next: u64,
    door: Door,
    departed: mpsc::Receiver<u64>,
}

impl Acceptor {
    /// Accepts until the stop signal, then waits for the guests. Returns how many threads it could not join.
    fn run(mut self) -> usize {
        while !self.service.stop.is_raised() {
            for ready in self.wait_for_callers() {
                self.accept_from(ready);
            }
            self.answer_bell();
        }
        self.listeners.clear();
        let cut_at = self.service.stop.cut_at().unwrap_or_else(Instant::now);
        self.wait_for_guests(cut_at);
        for guest in self.guests.values() {
            if let Some(socket) = guest.socket.upgrade() {
                // Wakes whoever polls or reads it.
                let _ = socket.shutdown(std::net::Shutdown::Both);
            }
        }
        self.wait_for_guests(after(LAST_WAIT));
        self.service.counters.threads.fetch_sub(1, Relaxed);
        self.guests.len()
    }

    /// Indices of the listeners with somebody before them; none where something else happened.
    fn wait_for_callers(&self) -> Vec<usize> {
        let mut watched: Vec<_> = self.listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)).collect();
        watched.push(PollFd::from_borrowed_fd(self.service.stop.as_fd(), PollFlags::IN));
        watched.push(PollFd::new(&self.door.bell, PollFlags::IN));
        match poll_until(&mut watched, after(Duration::from_secs(3600))) {
            Ok(_) => (0..self.listeners.len()).filter(|&index| !watched[index].revents().is_empty()).collect(),
            Err(rustix::io::Errno::INTR) => Vec::new(),
            Err(error) => {
                log::error!("poll failed: {error}");
                thread::sleep(ACCEPT_PAUSE);
                Vec::new()
            }
        }
    }

    fn accept_from(&mut self, index: usize) {
        for _ in 0..BATCH {
            match self.listeners[index].accept() {
                Ok((socket, address)) => self.admit(socket, address),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The caller went away again, or a signal came.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {
                }
                Err(error) => {
                    log::error!("accept failed: {error}");
                    let stop = self.service.stop.as_fd();
                    let _ = wait(stop, PollFlags::IN, None, after(ACCEPT_PAUSE));
                    return;
                }
            }
        }
    }

    /// Gives a connection its thread, within the bounds.
    fn admit(&mut self, socket: TcpStream, address: SocketAddr) {
        self.join_departed();
        let serving = self.guests.len() - self.refusing - self.leaving;
        let has_place = serving < self.max_connections || self.shed_one();
        let welcome = if has_place { Welcome::Serve } else { Welcome::Refuse };
        let counters = Arc::clone(&self.service.counters);
        if welcome == Welcome::Refuse {
            counters.refused.fetch_add(1, Relaxed);
            if self.refusing >= MAX_REFUSING {
                return;
            }
        }
        if let Err(error) = socket.set_nonblocking(true) {
            log::error!("{address}: {error}");
            return;
        }
        let socket = Arc::new(socket);
        let weak = Arc::downgrade(&socket);
        let (id, service) = (self.next, Arc::clone(&self.service));
        self.next += 1;
        let place = Arc::new(Place::new());
        let own = Arc::clone(&place);
        let stay = Stay::begin(id, welcome, self.door.clone(), Arc::clone(&counters));
        // `stay` is dropped after the connection is, also when the thread cannot be had.
        let spawned = thread::Builder::new().name("client".to_owned()).stack_size(STACK).spawn(move || {
            let _stay = stay;
            connection::run(&service, socket, address, welcome, own);
        });
        match spawned {
            Ok(thread) => {
                self.refusing += usize::from(welcome == Welcome::Refuse);
                self.guests.insert(id, Guest { thread, socket: weak, welcome, place, is_shed: false });
            }
            Err(error) => log::error!("{address}: no thread for the connection: {error}"),
        }
    }

    /// Closes the connection that is given up most willingly; `false`: there is none.
    fn shed_one(&mut self) -> bool {
        if self.leaving >= MAX_LEAVING {
            return false;
        }
        let now = Instant::now();
        let served = self.guests.values_mut().filter(|guest| guest.welcome == Welcome::Serve && !guest.is_shed);
        let Some((_, guest)) = served.filter_map(|g| Some((g.place.claim(now)?, g))).min_by_key(|(claim, _)| *claim)
        else {
            return false;
        };
        // Its request may have come just now; then the newcomer has had bad luck, and comes again.
        if !guest.place.shed() {
            return false;
        }
        if let Some(socket) = guest.socket.upgrade() {
            // Wakes whoever polls or reads it.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
        guest.is_shed = true;
        self.leaving += 1;
        self.service.counters.shed.fetch_add(1, Relaxed);
        true
    }

    fn answer_bell(&mut self) {
        // Silenced before the channel is read: who departs later rings again.
        let _ = rustix::io::read(self.door.bell.as_fd(), &mut [0; 8]);
        self.join_departed();
    }

    fn join_departed(&mut self) {
        while let Ok(id) = self.departed.try_recv() {
            let Some(guest) = self.guests.remove(&id) else { continue };
            self.refusing -= usize::from(guest.welcome == Welcome::Refuse);
            self.leaving -= usize::from(guest.is_shed);
            if guest.thread.join().is_err() {
                log::error!("a connection's thread panicked");
            }
        }
    }

    fn wait_for_guests(&mut self, deadline: Instant) {
        self.answer_bell();
        while !self.guests.is_empty() {
            match wait(self.door.bell.as_fd(), PollFlags::IN, None, deadline) {
                Ok(Woken::Ready | Woken::Stopping) => self.answer_bell(),
                Ok(Woken::TimedOut) => return,
                Err(error) => {
                    log::error!("poll failed: {error}");
                    return;
                }
            }
        }
    }
}

/// A connection's place in the counts, from before its thread begins to its very end.
struct Stay {
    id: u64,
    welcome: Welcome,
    door: Door,
    counters: Arc<Counters>,
}

impl Stay {
    fn begin(id: u64, welcome: Welcome, door: Door, counters: Arc<Counters>) -> Self {
        counters.threads.fetch_add(1, Relaxed);
        if welcome == Welcome::Serve {
            counters.accepted.fetch_add(1, Relaxed);
            counters.open.fetch_add(1, Relaxed);
        }
        Self { id, welcome, door, counters }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.counters.threads.fetch_sub(1, Relaxed);
        if self.welcome == Welcome::Serve {
            self.counters.open.fetch_sub(1, Relaxed);
        }
        // The receiver outlives every thread but those left behind.
        let _ = self.door.farewell.send(self.id);
        ring(self.door.bell.as_fd());
    }
}
