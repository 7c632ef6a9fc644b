//! The cable between the proxy and kube-apiserver: passes bytes on in user space, and can be cut in two ways. Refused:
//! connections are reset, new ones find nobody. Black hole: nothing closes and nothing moves, new connections are made
//! and never answered, as when packets are dropped. A mended black hole lets what is still there go on, as TCP would.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_linger;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What the cable does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cable {
    Whole,
    BlackHole,
    Refused,
}

/// The running relay; connections are closed when it is dropped.
pub struct Relay {
    port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    target: u16,
    cable: Mutex<Cable>,
    /// Whether somebody listens on the port now.
    listening: AtomicBool,
    ended: AtomicBool,
}

/// How soon a change is noticed.
const TICK: Duration = Duration::from_millis(10);

impl Relay {
    /// Starts a whole cable to a port of this machine.
    pub fn start(target: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            target,
            cable: Mutex::new(Cable::Whole),
            listening: AtomicBool::new(true),
            ended: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        let accepting = Some(std::thread::spawn(move || own.accept(listener, port)));
        Relay { port, shared, accepting }
    }

    /// Where the proxy connects to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts or mends the cable; done when it returns.
    pub fn set(&self, cable: Cable) {
        *self.shared.cable.lock().expect("cable") = cable;
        crate::support::eventually("the cable is as it shall be", || {
            self.shared.listening.load(Ordering::SeqCst) == (cable != Cable::Refused)
        });
        // Each connection has seen it by then.
        std::thread::sleep(TICK * 5);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

impl Shared {
    fn cable(&self) -> Cable {
        if self.ended.load(Ordering::SeqCst) {
            return Cable::Refused;
        }
        *self.cable.lock().expect("cable")
    }

    /// Owns the listener, and each connection's thread.
    fn accept(self: &Arc<Self>, listener: TcpListener, port: u16) {
        let mut listener = Some(listener);
        let mut connections = Vec::new();
        while !self.ended.load(Ordering::SeqCst) {
            match (self.cable(), &listener) {
                (Cable::Refused, _) => listener = None,
                (_, None) => listener = TcpListener::bind(("127.0.0.1", port)).ok(),
                (_, Some(open)) => {
                    open.set_nonblocking(true).expect("non-blocking");
                    while let Ok((socket, _)) = open.accept() {
                        let own = Arc::clone(self);
                        connections.push(std::thread::spawn(move || own.carry(&socket)));
                    }
                }
            }
            self.listening.store(listener.is_some(), Ordering::SeqCst);
            std::thread::sleep(TICK);
        }
        for connection in connections {
            let _ = connection.join();
        }
    }

    /// One connection, from its making to its end. How it ends is told by closing both sides.
    fn carry(&self, near: &TcpStream) {
        while self.cable() == Cable::BlackHole {
            std::thread::sleep(TICK);
        }
        if let Ok(far) = TcpStream::connect(("127.0.0.1", self.target)) {
            let _ = self.pump(near, &far);
            if self.cable() == Cable::Refused {
                // Closing becomes a reset.
                let _ = set_socket_linger(near, Some(Duration::ZERO));
                let _ = set_socket_linger(&far, Some(Duration::ZERO));
            }
        }
    }

    fn pump(&self, near: &TcpStream, far: &TcpStream) -> io::Result<()> {
        near.set_nonblocking(false)?;
        for socket in [near, far] {
            socket.set_nodelay(true)?;
            socket.set_write_timeout(Some(Duration::from_secs(10)))?;
        }
        let mut piece = vec![0; 64 * 1024];
        let tick = Timespec { tv_sec: 0, tv_nsec: TICK.as_nanos() as i64 };
        loop {
            match self.cable() {
                Cable::Refused => return Ok(()),
                Cable::BlackHole => {
                    std::thread::sleep(TICK);
                    continue;
                }
                Cable::Whole => {}
            }
            let mut ready = [PollFd::new(near, PollFlags::IN), PollFd::new(far, PollFlags::IN)];
            poll(&mut ready, Some(&tick))?;
            let [from_near, from_far] = [0, 1].map(|i| !ready[i].revents().is_empty());
            // What arrived in the tick in which the cable was cut is not passed on any more.
            if self.cable() != Cable::Whole {
                continue;
            }
            for (ready, mut from, mut to) in [(from_near, near, far), (from_far, far, near)] {
                if ready {
                    let n = from.read(&mut piece)?;
                    if n == 0 {
                        return Ok(());
                    }
                    to.write_all(&piece[..n])?;
                }
            }
        }
    }
}
