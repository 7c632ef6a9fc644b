//! The signal that the server is stopping. Owns one descriptor that every waiting thread polls beside its own socket;
//! decides nothing about who stops when.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};

/// Raised once, never lowered.
#[derive(Debug)]
pub(super) struct Stop {
    /// An eventfd that is never read, so that once written it stays readable for everybody.
    event: OwnedFd,
    /// Set when raised: when requests still in flight are to be cut.
    cut_at: OnceLock<Instant>,
}

impl Stop {
    pub(super) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event, cut_at: OnceLock::new() })
    }

    /// Raises the signal; the first call's time stands.
    pub(super) fn raise(&self, cut_at: Instant) {
        if self.cut_at.set(cut_at).is_ok() {
            ring(self.event.as_fd());
        }
    }

    /// When requests in flight are to be cut; `None`: the signal is not raised.
    pub(super) fn cut_at(&self) -> Option<Instant> {
        self.cut_at.get().copied()
    }

    pub(super) fn is_raised(&self) -> bool {
        self.cut_at.get().is_some()
    }

    /// Readable once the signal is raised.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Makes an eventfd readable. Its counter cannot overflow by ones, so there is no error worth handling.
pub(super) fn ring(event: BorrowedFd<'_>) {
    if let Err(error) = rustix::io::write(event, &1_u64.to_ne_bytes()) {
        log::error!("an eventfd cannot be written: {error}");
    }
}
