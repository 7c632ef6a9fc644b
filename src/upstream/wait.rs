//! Waiting: every wait of this room is one `poll(2)` on three things at once: what is awaited, the client's socket, and
//! an [`Epoch`] that ends when nothing is worth waiting for any more. Knows nothing of HTTP or TLS.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
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

    /// Puts a fresh one in the place of one that has ended, for those who ask from now on. Where no file descriptor is left
    /// the old one stays, and its holders wake too early.
    pub(super) fn renew(epoch: &mut Arc<Self>) {
        if epoch.has_ended() {
            match Self::new() {
                Ok(fresh) => *epoch = Arc::new(fresh),
                Err(e) => log::error!("no file descriptor to watch the link with: {e}"),
            }
        }
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

/// How many descriptors stand before what is awaited: client, stop, until.
const ENDERS: usize = 3;

impl Waits<'_> {
    /// Blocks until `fd` shows one of `flags` (or an error or a hang-up, which reading or writing will then tell), and
    /// returns what it shows. `by`: not longer than that; `None`: for ever.
    pub(super) fn on(
        &self,
        fd: BorrowedFd<'_>,
        flags: PollFlags,
        by: Option<Instant>,
    ) -> Result<PollFlags, Interrupted> {
        // Without a client, or a stop, its place is taken by the awaited descriptor with nothing asked of it.
        let [client, stop, until] = self.enders(fd);
        let mut fds = [client, stop, until, PollFd::from_borrowed_fd(fd, flags)];
        self.poll(&mut fds, by)?;
        Ok(fds[ENDERS].revents())
    }

    /// The same for two at once: whether each of them shows one of `flags`.
    pub(super) fn on_either(
        &self,
        [a, b]: [BorrowedFd<'_>; 2],
        flags: PollFlags,
        by: Option<Instant>,
    ) -> Result<[bool; 2], Interrupted> {
        let [client, stop, until] = self.enders(a);
        let mut fds = [client, stop, until, PollFd::from_borrowed_fd(a, flags), PollFd::from_borrowed_fd(b, flags)];
        self.poll(&mut fds, by)?;
        Ok([ENDERS, ENDERS + 1].map(|place| !fds[place].revents().is_empty()))
    }

    /// The same for several at once: which of them, by their places, show one of `flags`.
    pub(super) fn on_any(
        &self,
        awaited: &[BorrowedFd<'_>],
        flags: PollFlags,
        by: Option<Instant>,
    ) -> Result<Vec<usize>, Interrupted> {
        let mut fds = Vec::with_capacity(ENDERS + awaited.len());
        fds.extend(self.enders(self.until.as_fd()));
        fds.extend(awaited.iter().map(|&fd| PollFd::from_borrowed_fd(fd, flags)));
        self.poll(&mut fds, by)?;
        Ok((0..awaited.len()).filter(|&place| !fds[ENDERS + place].revents().is_empty()).collect())
    }

    /// What ends a wait; `instead` stands for what there is none of.
    fn enders<'f>(&'f self, instead: BorrowedFd<'f>) -> [PollFd<'f>; ENDERS] {
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let or_nothing = |fd: Option<BorrowedFd<'f>>, flags| match fd {
            Some(fd) => PollFd::from_borrowed_fd(fd, flags),
            None => PollFd::from_borrowed_fd(instead, PollFlags::empty()),
        };
        let until = PollFd::from_borrowed_fd(self.until.as_fd(), PollFlags::IN);
        [or_nothing(self.client, gone), or_nothing(self.stop, PollFlags::IN), until]
    }

    /// Until something shows behind the [`ENDERS`].
    fn poll(&self, fds: &mut [PollFd<'_>], by: Option<Instant>) -> Result<(), Interrupted> {
        loop {
            let timeout = by.map(|by| by.saturating_duration_since(Instant::now()));
            let timeout = timeout
                .map(|left| Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() });
            match poll(fds, timeout.as_ref()) {
                Ok(0) => return Err(Interrupted::Deadline),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(e) => return Err(Interrupted::Poll(e.into())),
            }
            let shows = |place: usize| !fds[place].revents().is_empty();
            if self.client.is_some() && shows(0) {
                return Err(Interrupted::ClientGone);
            }
            if (self.stop.is_some() && shows(1)) || shows(2) {
                return Err(Interrupted::Ended);
            }
            if (ENDERS..fds.len()).any(shows) {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
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
    fn of_several_those_are_told_that_are_ready() {
        let pairs: Vec<_> = (0..3).map(|_| UnixStream::pair().unwrap()).collect();
        let until = Epoch::new().unwrap();
        let waits = Waits { client: None, until: &until, stop: None };
        let awaited: Vec<_> = pairs.iter().map(|(awaited, _)| awaited.as_fd()).collect();
        assert!(matches!(waits.on_any(&awaited, PollFlags::IN, Some(soon())), Err(Interrupted::Deadline)));
        for place in [2, 0] {
            std::io::Write::write_all(&mut &pairs[place].1, b"x").unwrap();
        }
        assert_eq!(waits.on_any(&awaited, PollFlags::IN, None).unwrap(), [0, 2]);
        until.end();
        assert!(matches!(waits.on_any(&awaited, PollFlags::IN, None), Err(Interrupted::Ended)));
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
