//! Waiting: every wait of this room is one `poll(2)` on three things at once: what is awaited, the client's socket, and
//! an [`Epoch`] that ends when nothing is worth waiting for any more. Knows nothing of HTTP or TLS.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

/// A span of time that ends once: a file descriptor that stays readable from then on, for everyone who holds it.
///
/// An eventfd that is written once and never read, so that any number of threads in `poll(2)` wake together.
#[derive(Debug)]
pub struct Epoch {
    event: OwnedFd,
    ended: AtomicBool,
}

impl Epoch {
    /// An epoch that has not ended. Fails where the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?, ended: AtomicBool::new(false) })
    }

    /// Ends it: the descriptor is readable from now on. Ending it twice does nothing.
    pub fn end(&self) {
        if !self.ended.swap(true, Ordering::AcqRel) {
            // An eventfd at 0 takes this write whatever else happens, so there is no failure to handle.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

impl AsFd for Epoch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// What ends a wait early.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waits<'a> {
    /// The client's socket: a hang-up there, whole or half, ends the wait. (A half-closed client is taken for gone, as
    /// Go's `net/http` server does; no Kubernetes client half-closes.)
    pub(super) client: Option<BorrowedFd<'a>>,
    /// Ends the wait when it has ended.
    pub(super) until: &'a Epoch,
    /// Ends the wait when it is readable, like the epoch's end.
    pub(super) stop: Option<BorrowedFd<'a>>,
}

/// Why a wait ended without what was awaited.
#[derive(Debug)]
pub(super) enum Interrupted {
    /// The client hung up.
    ClientGone,
    /// The epoch ended.
    Ended,
    /// The deadline passed.
    Deadline,
    /// `poll(2)` itself failed (out of memory).
    Poll(io::Error),
}

impl Waits<'_> {
    /// Blocks until `fd` shows one of `flags` (or an error or a hang-up, which reading or writing will then tell), and
    /// returns what it shows. `by`: not longer than that; `None`: for ever.
    pub(super) fn on(
        &self,
        fd: BorrowedFd<'_>,
        flags: PollFlags,
        by: Option<Instant>,
    ) -> Result<PollFlags, Interrupted> {
        loop {
            let timeout = by.map(|by| by.saturating_duration_since(Instant::now()));
            let timeout = timeout
                .map(|left| Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() });
            // Without a client its place is taken by the awaited descriptor with nothing asked of it.
            let (client, gone) = match self.client {
                Some(client) => (client, PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR),
                None => (fd, PollFlags::empty()),
            };
            let mut fds = [
                PollFd::from_borrowed_fd(fd, flags),
                PollFd::from_borrowed_fd(self.until.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(client, gone),
                // Likewise without a stop.
                PollFd::from_borrowed_fd(
                    self.stop.unwrap_or(fd),
                    if self.stop.is_some() { PollFlags::IN } else { PollFlags::empty() },
                ),
            ];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) => return Err(Interrupted::Deadline),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(e) => return Err(Interrupted::Poll(e.into())),
            }
            if self.client.is_some() && !fds[2].revents().is_empty() {
                return Err(Interrupted::ClientGone);
            }
            if !fds[1].revents().is_empty() || (self.stop.is_some() && !fds[3].revents().is_empty()) {
                return Err(Interrupted::Ended);
            }
            if !fds[0].revents().is_empty() {
                return Ok(fds[0].revents());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    #[test]
    fn a_wait_ends_at_its_deadline_or_when_the_client_or_the_epoch_does() {
        let (awaited, _peer) = UnixStream::pair().unwrap();
        let (client, other_end) = UnixStream::pair().unwrap();
        let until = Epoch::new().unwrap();
        let waits = Waits { client: Some(client.as_fd()), until: &until, stop: None };
        assert!(matches!(waits.on(awaited.as_fd(), PollFlags::IN, Some(soon())), Err(Interrupted::Deadline)));
        assert!(waits.on(awaited.as_fd(), PollFlags::OUT, Some(soon())).unwrap().contains(PollFlags::OUT));
        until.end();
        assert!(matches!(waits.on(awaited.as_fd(), PollFlags::OUT, None), Err(Interrupted::Ended)));
        other_end.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(matches!(waits.on(awaited.as_fd(), PollFlags::OUT, None), Err(Interrupted::ClientGone)));
    }

    #[test]
    fn an_epoch_wakes_everyone_who_waits_for_it_and_stays_ended() {
        let until = Arc::new(Epoch::new().unwrap());
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let until = Arc::clone(&until);
                std::thread::spawn(move || {
                    let (awaited, _peer) = UnixStream::pair().unwrap();
                    Waits { client: None, until: &until, stop: None }.on(awaited.as_fd(), PollFlags::IN, None)
                })
            })
            .collect();
        until.end();
        until.end();
        assert!(until.has_ended());
        for waiter in waiters {
            assert!(matches!(waiter.join().unwrap(), Err(Interrupted::Ended)));
        }
    }
}
