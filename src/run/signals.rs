//! Signals as things to wait for.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// What a wait ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    /// SIGTERM or SIGINT: the daemon is to end.
    End,
    /// SIGHUP: what is on disk is to be read again.
    Reload,
    /// Neither.
    Time,
}

/// The signals that are caught.
pub(super) struct Signals {
    end: UnixStream,
    hup: UnixStream,
}

impl Signals {
    pub(super) fn catch() -> io::Result<Signals> {
        let (end, end_writer) = UnixStream::pair()?;
        let (hup, hup_writer) = UnixStream::pair()?;
        hup.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGTERM, end_writer.try_clone()?)?;
        signal_hook::low_level::pipe::register(SIGINT, end_writer)?;
        signal_hook::low_level::pipe::register(SIGHUP, hup_writer)?;
        Ok(Signals { end, hup })
    }

    /// Waits for a signal, and for `at_most`.
    pub(super) fn wait(&self, at_most: Duration) -> Woken {
        let mut fds = [PollFd::new(&self.end, PollFlags::IN), PollFd::new(&self.hup, PollFlags::IN)];
        let timeout = Timespec { tv_sec: at_most.as_secs().cast_signed(), tv_nsec: at_most.subsec_nanos().into() };
        if let Err(e) = poll(&mut fds, Some(&timeout))
            && e != rustix::io::Errno::INTR
        {
            log::error!("waiting for signals failed: {e}");
            std::thread::sleep(at_most);
        }
        if !fds[0].revents().is_empty() {
            return Woken::End;
        }
        let hup = !fds[1].revents().is_empty() && (&self.hup).read(&mut [0; 64]).is_ok();
        if hup { Woken::Reload } else { Woken::Time }
    }
}
