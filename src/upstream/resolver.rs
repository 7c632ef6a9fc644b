//! The upstream's addresses: looked up once, remembered, looked up again after a connection failed. A look-up
//! (`getaddrinfo`) may block for tens of seconds and cannot be interrupted, so it has a thread of its own, one at a time,
//! and whoever needs its result waits in `poll(2)` like everywhere else.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::fault::Fault;
use super::wait::{Epoch, Interrupted, Waits};

/// How long old addresses are held back for the sake of new ones. With the link down, DNS is mostly down too.
const REFRESH_PATIENCE: Duration = Duration::from_millis(500);

/// Where the upstream is.
#[derive(Debug)]
pub(super) struct Addresses {
    host: String,
    port: u16,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// In the order in which they are tried; the one that last took a connection comes first.
    addresses: Vec<SocketAddr>,
    /// None of them took the last connection.
    stale: bool,
    lookup: Option<Lookup>,
}

/// A look-up that is under way, or done and not yet taken in.
#[derive(Debug)]
struct Lookup {
    done: Arc<Epoch>,
    thread: JoinHandle<Result<Vec<SocketAddr>, String>>,
}

impl Addresses {
    /// `host` is a DNS name, or an IP address that needs no look-up.
    pub(super) fn new(host: &str, port: u16) -> Self {
        let addresses = host.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port)).into_iter().collect();
        Self { host: host.into(), port, known: Mutex::new(Known { addresses, ..Known::default() }) }
    }

    /// The addresses to try, in order; never empty. Waits until `by` at most.
    pub(super) fn get(&self, waits: &Waits<'_>, by: Instant) -> Result<Vec<SocketAddr>, Fault> {
        let (done, mut old) = {
            let mut known = self.lock();
            self.take_in(&mut known);
            if !known.addresses.is_empty() && !known.stale {
                return Ok(known.addresses.clone());
            }
            (self.look_up(&mut known)?, known.addresses.clone())
        };
        let by = if old.is_empty() { by } else { by.min(Instant::now() + REFRESH_PATIENCE) };
        match waits.on(done.as_fd(), PollFlags::IN, Some(by)) {
            Ok(_) | Err(Interrupted::Deadline) => {}
            Err(interrupted) => return Err(Fault::from_wait(interrupted, || Fault::LinkDown)),
        }
        let mut known = self.lock();
        let failed = self.take_in(&mut known);
        if !known.addresses.is_empty() {
            old.clone_from(&known.addresses);
        }
        if old.is_empty() {
            Err(match failed {
                Some(why) => Fault::Connect(why),
                None => Fault::Late(format!("name {} not found: no answer from DNS", self.host)),
            })
        } else {
            Ok(old)
        }
    }

    /// `address` took a connection: it is the first to be tried from now on.
    pub(super) fn worked(&self, address: SocketAddr) {
        let mut known = self.lock();
        known.stale = false;
        if let Some(place) = known.addresses.iter().position(|a| *a == address) {
            known.addresses[..=place].rotate_right(1);
        }
    }

    /// None of the addresses took a connection: the name may stand for others now.
    pub(super) fn failed(&self) {
        if self.host.parse::<IpAddr>().is_err() {
            self.lock().stale = true;
        }
    }

    /// Waits for the helper thread for `patience` at most. A `getaddrinfo` that takes longer is left to the end of the
    /// process: nothing can interrupt it.
    pub(super) fn shutdown(&self, patience: Duration) {
        let Some(lookup) = self.lock().lookup.take() else {
            return;
        };
        let Ok(never) = Epoch::new() else { return };
        let waits = Waits { client: None, until: &never, stop: None };
        if waits.on(lookup.done.as_fd(), PollFlags::IN, Some(Instant::now() + patience)).is_ok() {
            let _ = lookup.thread.join();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in the result of a look-up that is done; returns why it failed, if it did. Old addresses outlive a failure.
    fn take_in(&self, known: &mut Known) -> Option<String> {
        let lookup = known.lookup.take_if(|lookup| lookup.done.has_ended())?;
        match lookup.thread.join() {
            Ok(Ok(found)) => {
                known.addresses = found;
                known.stale = false;
                None
            }
            Ok(Err(why)) => Some(format!("name {} not found: {why}", self.host)),
            Err(_) => Some(format!("name {} not found: the look-up failed", self.host)),
        }
    }

    /// Starts a look-up unless one is under way.
    fn look_up(&self, known: &mut Known) -> Result<Arc<Epoch>, Fault> {
        if let Some(lookup) = &known.lookup {
            return Ok(Arc::clone(&lookup.done));
        }
        let cannot = |e: std::io::Error| Fault::Connect(format!("name {} not looked up: {e}", self.host));
        let done = Arc::new(Epoch::new().map_err(cannot)?);
        let ended = EndAtDrop(Arc::clone(&done));
        let (host, port) = (self.host.clone(), self.port);
        let thread = std::thread::Builder::new()
            .name("resolve".into())
            .spawn(move || {
                let _ended = ended;
                match (host.as_str(), port).to_socket_addrs().map(Vec::from_iter) {
                    Ok(found) if found.is_empty() => Err("no address".to_owned()),
                    Ok(found) => Ok(found),
                    Err(e) => Err(e.to_string()),
                }
            })
            .map_err(cannot)?;
        known.lookup = Some(Lookup { done: Arc::clone(&done), thread });
        Ok(done)
    }
}

/// Ends the epoch however the thread ends.
struct EndAtDrop(Arc<Epoch>);

impl Drop for EndAtDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(addresses: &Addresses) -> Result<Vec<SocketAddr>, Fault> {
        let never = Epoch::new().unwrap();
        addresses.get(&Waits { client: None, until: &never, stop: None }, Instant::now() + Duration::from_secs(20))
    }

    #[test]
    fn an_ip_address_is_never_looked_up() {
        let addresses = Addresses::new("::1", 6443);
        addresses.failed();
        assert_eq!(get(&addresses).unwrap(), ["[::1]:6443".parse().unwrap()]);
        assert!(addresses.lock().lookup.is_none());
    }

    #[test]
    fn a_name_is_looked_up_once_and_again_after_a_failure() {
        let addresses = Addresses::new("localhost", 1);
        let first = get(&addresses).unwrap();
        assert!(first.iter().all(|a| a.ip().is_loopback() && a.port() == 1));
        // A wrong address stays as long as nothing failed: it was remembered, not looked up.
        addresses.lock().addresses = vec!["192.0.2.1:1".parse().unwrap()];
        assert_eq!(get(&addresses).unwrap(), ["192.0.2.1:1".parse().unwrap()]);
        addresses.failed();
        // Waits up to REFRESH_PATIENCE each time; the look-up of localhost is done by then at the latest.
        let end = Instant::now() + Duration::from_secs(20);
        while get(&addresses).unwrap() != first && Instant::now() < end {}
        assert_eq!(get(&addresses).unwrap(), first);
        addresses.shutdown(Duration::from_secs(5));
    }

    #[test]
    fn an_unknown_name_is_named() {
        let Fault::Connect(words) = get(&Addresses::new("no such name.invalid", 1)).unwrap_err() else { panic!() };
        assert!(words.starts_with("name no such name.invalid not found"), "{words}");
    }

    #[test]
    fn what_took_a_connection_comes_first() {
        let addresses = Addresses::new("some.invalid", 1);
        let all: Vec<SocketAddr> = ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"].map(|a| a.parse().unwrap()).into();
        addresses.lock().addresses.clone_from(&all);
        addresses.worked(all[2]);
        assert_eq!(get(&addresses).unwrap(), [all[2], all[0], all[1]]);
    }
}
