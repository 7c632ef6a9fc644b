//! One TLS connection to the upstream as ureq's `Transport`: a non-blocking socket under a rustls client connection.
//! While a request's head and body go up and its answer's head is waited for, waits happen here, with what
//! `attempt.rs` says; afterwards "nothing yet" is `WouldBlock`, and the body's reader waits (`answer.rs`).

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustls::ClientConnection;
use ureq::unversioned::transport::{Buffers, NextTimeout, Transport};

use super::attempt::{self, Attempt};
use super::buffers::TidalBuffers;
use super::fault::{Fault, io_words};
use super::monitor::Pulse;
use super::wait::Waits;

/// A body that goes up may take for ever, but not stand still for so long (the kernel may lose patience sooner, see
/// `wakefulness.rs`).
const STALL: Duration = Duration::from_secs(60);

/// A connection to the upstream.
pub(super) struct Wire {
    socket: Arc<TcpStream>,
    tls: ClientConnection,
    pub(super) buffers: TidalBuffers,
    pulse: Arc<Pulse>,
    /// The upstream answered before the request's body was through, or closed that direction: what is still written is
    /// dropped (so that the answer can be read), and the connection is not used again.
    deaf: bool,
    /// It was read or written since it was last asked whether it is open: it was, then.
    used: bool,
}

/// What a look at the connection showed.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// Plaintext is ready.
    Plaintext,
    /// The upstream said that nothing follows.
    Closed,
    /// Nothing yet.
    Nothing,
}

impl Wire {
    /// `socket` is non-blocking, the handshake is done.
    pub(super) fn new(socket: TcpStream, tls: ClientConnection, pulse: Arc<Pulse>) -> Self {
        Self { socket: Arc::new(socket), tls, buffers: TidalBuffers::default(), pulse, deaf: false, used: false }
    }

    /// For who speaks another protocol from now on.
    pub(super) fn parts(&mut self) -> (&mut ClientConnection, &TcpStream) {
        (&mut self.tls, &self.socket)
    }

    /// The request has been sent and the beginning of its answer is here: ureq may send the one and read the other as if
    /// neither were so. Not used again.
    pub(super) fn replay(&mut self) {
        self.deaf = true;
        self.buffers.read_again();
    }

    pub(super) fn is_deaf(&self) -> bool {
        self.deaf
    }

    /// Takes in what has arrived, until there is plaintext or nothing more. Never waits. An end without `close_notify` is
    /// a tear: anyone on the path can make one (RFC 8446 section 6.1).
    fn look(&mut self) -> Result<Seen, Fault> {
        loop {
            let state = self.tls.process_new_packets();
            if self.tls.wants_write() {
                // Alerts and key updates; whatever does not fit the socket now goes with the next request.
                let _ = self.tls.write_tls(&mut &*self.socket);
            }
            let state = state.map_err(|e| Fault::from_tls(&e, false))?;
            if state.plaintext_bytes_to_read() > 0 {
                return Ok(Seen::Plaintext);
            }
            if state.peer_has_closed() {
                return Ok(Seen::Closed);
            }
            match self.tls.read_tls(&mut &*self.socket) {
                Ok(0) => return Err(Fault::Torn("connection closed".into())),
                Ok(_) => self.pulse.beat(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Seen::Nothing),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Fault::Torn(io_words(&e))),
            }
        }
    }

    /// `Ok(None)`: nothing yet, and this thread is not to wait here.
    pub(super) fn receive(&mut self, mut attempt: Option<&mut Attempt>) -> Result<Option<bool>, Fault> {
        self.used = true;
        let begins = attempt.as_ref().is_some_and(|attempt| attempt.answer_by.is_none());
        // The head's first byte is a round trip away: waiting comes before looking.
        let mut seen = if begins && self.tls.wants_read() { Seen::Nothing } else { self.look()? };
        loop {
            match seen {
                Seen::Plaintext => {
                    let amount = self
                        .tls
                        .reader()
                        .read(self.buffers.input_append_buf())
                        .map_err(|e| Fault::Torn(io_words(&e)))?;
                    self.buffers.input_appended(amount);
                    return Ok(Some(amount > 0));
                }
                Seen::Closed => return Ok(Some(false)),
                Seen::Nothing => {}
            }
            self.buffers.release();
            let Some(attempt) = attempt.as_deref_mut() else {
                return Ok(None);
            };
            let by = *attempt
                .answer_by
                .get_or_insert_with(|| attempt.begun.unwrap_or_else(Instant::now) + attempt.first_byte);
            attempt
                .waits()
                .on(self.socket.as_fd(), PollFlags::IN, Some(by))
                .map_err(|interrupted| Fault::from_wait(interrupted, || Fault::FirstByte))?;
            seen = self.look()?;
        }
    }

    pub(super) fn send_all(&mut self, bytes: &[u8], attempt: &mut Attempt) -> Result<(), Fault> {
        for piece in bytes.chunks(super::buffers::SIZE) {
            self.buffers.output()[..piece.len()].copy_from_slice(piece);
            self.send(piece.len(), attempt)?;
        }
        Ok(())
    }

    fn send(&mut self, amount: usize, attempt: &mut Attempt) -> Result<(), Fault> {
        let mut rest = self.buffers.written(amount);
        while !rest.is_empty() && !self.deaf {
            // rustls takes at most its buffer's limit (64 KiB) before it must be written out.
            let taken = self.tls.writer().write(rest).map_err(|e| Fault::Torn(io_words(&e)))?;
            rest = &rest[taken..];
            let consumed = amount - rest.len();
            self.flush(attempt)?;
            rest = &self.buffers.written(amount)[consumed..];
        }
        Ok(())
    }

    fn flush(&mut self, attempt: &mut Attempt) -> Result<(), Fault> {
        let mut by = Instant::now() + STALL;
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut &*self.socket) {
                Ok(taken) => {
                    attempt.sent += taken as u64;
                    by = Instant::now() + STALL;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.answered_early(&attempt.waits(), by)? {
                        self.deaf = true;
                        return Ok(());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // An upstream that refuses a body (413, 401) answers, then closes: the answer may be here already.
                Err(_) if attempt.sent > 0 && matches!(self.look(), Ok(Seen::Plaintext)) => {
                    self.deaf = true;
                    return Ok(());
                }
                Err(e) => return Err(Fault::Torn(io_words(&e))),
            }
        }
        Ok(())
    }

    /// Waits until the socket takes more (`false`) or an answer begins (`true`).
    fn answered_early(&mut self, waits: &Waits<'_>, by: Instant) -> Result<bool, Fault> {
        let stalled = || Fault::Torn(format!("the upstream took nothing for {} s", STALL.as_secs()));
        loop {
            let seen = waits
                .on(self.socket.as_fd(), PollFlags::OUT | PollFlags::IN, Some(by))
                .map_err(|interrupted| Fault::from_wait(interrupted, stalled))?;
            if seen.contains(PollFlags::OUT) {
                return Ok(false);
            }
            match self.look()? {
                Seen::Plaintext => return Ok(true),
                Seen::Closed => return Err(Fault::Torn("connection closed".into())),
                Seen::Nothing => {}
            }
        }
    }
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        attempt::current(|attempt| {
            let attempt = attempt.ok_or(ureq::Error::ConnectionFailed)?;
            attempt.socket.get_or_insert_with(|| Arc::clone(&self.socket));
            self.send(amount, attempt).map_err(|fault| ureq::Error::Io(fault.into_io()))
        })
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        match attempt::current(|attempt| self.receive(attempt)) {
            Ok(Some(progress)) => Ok(progress),
            Ok(None) => Err(ureq::Error::Io(io::ErrorKind::WouldBlock.into())),
            Err(fault) => Err(ureq::Error::Io(fault.into_io())),
        }
    }

    /// Asked when a connection goes into the pool and when it is to come out. Late session tickets (RFC 8446 section
    /// 4.6.1) are taken in; an end, an alert or an answer to nothing close it. Before it goes in, it was read a moment ago:
    /// what rustls has taken in is all that is looked at.
    fn is_open(&mut self) -> bool {
        if std::mem::take(&mut self.used) {
            return !self.deaf && self.tls.wants_read() && !self.tls.wants_write();
        }
        let only_fresh = attempt::current(|attempt| attempt.is_some_and(|attempt| attempt.only_fresh));
        !only_fresh && !self.deaf && matches!(self.look(), Ok(Seen::Nothing))
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl Drop for Wire {
    /// Says goodbye, if the socket takes it at once.
    fn drop(&mut self) {
        self.tls.send_close_notify();
        let _ = self.tls.write_tls(&mut &*self.socket);
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("socket", &self.socket).finish_non_exhaustive()
    }
}
