//! TLS over a non-blocking socket: plaintext in, plaintext out. Owns the descriptor and every wait on it; each wait is a
//! `poll(2)` with a deadline. Knows nothing of HTTP. Holds no buffers of its own: decrypted records wait inside rustls
//! until they are consumed, and nothing is left there while a connection is idle.

use std::fmt;
use std::io::{self, BufRead as _, IoSlice, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::{ServerConfig, ServerConnection};

use super::answer::PLAIN_HTTP;
use super::exchange::Ends;
use super::place::{Place, Wait};
use super::stop::Stop;

/// The longest that a socket is drained after the last answer, so that the client can read it before it meets a reset
/// (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(2);
/// The most bytes drained so.
const LINGER_BYTES: usize = 1024 * 1024;

/// What a wait ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    /// The descriptor is ready, or broken: reading or writing will tell.
    Ready,
    /// The stop signal was raised.
    Stopping,
    /// The deadline passed.
    TimedOut,
}

/// How long [`Wire::receive`] waits.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    /// Until then; given up at once when the server stops.
    Idle(Instant),
    /// Until then, whatever comes.
    Until(Instant),
    /// As long as something comes within the stall timeout.
    Stall,
}

/// What [`Wire::receive`] ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// There is plaintext.
    Data,
    /// The client has closed its side, with or without TLS' goodbye: nothing more will come.
    End,
    /// The server is stopping (only with [`Patience::Idle`]).
    Stopping,
    /// Patience is at its end.
    TimedOut,
}

/// Why there is no TLS session.
#[derive(Debug)]
pub(super) enum HandshakeError {
    /// The client speaks plain HTTP; it has been told so.
    PlainHttp,
    /// The handshake's time is over.
    TimedOut,
    /// The server is stopping.
    Stopping,
    /// rustls refused; the client has been sent the alert.
    Tls(rustls::Error),
    /// The connection broke.
    Io(io::Error),
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PlainHttp => f.write_str("the client speaks plain HTTP"),
            Self::TimedOut => f.write_str("not finished in time"),
            Self::Stopping => f.write_str("the server is stopping"),
            Self::Tls(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
        }
    }
}

/// One client's connection after its handshake.
pub(super) struct Wire {
    tls: ServerConnection,
    socket: Arc<TcpStream>,
    stop: Arc<Stop>,
    place: Arc<Place>,
    stall: Duration,
    /// TCP's or TLS' end has been seen.
    ended: bool,
}

impl Wire {
    /// Shakes hands. `socket` must be non-blocking. `stall`: the longest that reading or writing goes without progress.
    pub(super) fn accept(
        config: Arc<ServerConfig>,
        socket: Arc<TcpStream>,
        stop: Arc<Stop>,
        place: Arc<Place>,
        deadline: Instant,
        stall: Duration,
    ) -> Result<Self, HandshakeError> {
        match wait(socket.as_fd(), PollFlags::IN, Some(stop.as_fd()), deadline).map_err(HandshakeError::Io)? {
            Woken::Ready => {}
            Woken::Stopping => return Err(HandshakeError::Stopping),
            Woken::TimedOut => return Err(HandshakeError::TimedOut),
        }
        let mut first = [0];
        let seen = socket.peek(&mut first).map_err(HandshakeError::Io)?;
        // A TLS connection begins with a handshake record, type 22; Go looks for method names in the same place.
        if seen == 1 && first[0].is_ascii_uppercase() {
            refuse_plain_http(&socket, stop.as_fd());
            return Err(HandshakeError::PlainHttp);
        }
        let mut tls = ServerConnection::new(config).map_err(HandshakeError::Tls)?;
        // What is handed in is sent before the call returns; a limit would only split it.
        tls.set_buffer_limit(None);
        let mut wire = Self { tls, socket, stop, place, stall, ended: false };
        wire.shake_hands(deadline)?;
        Ok(wire)
    }

    fn shake_hands(&mut self, deadline: Instant) -> Result<(), HandshakeError> {
        while self.tls.is_handshaking() || self.tls.wants_write() {
            let (events, done) = if self.tls.wants_write() {
                (PollFlags::OUT, self.tls.write_tls(&mut &*self.socket))
            } else {
                (PollFlags::IN, self.tls.read_tls(&mut &*self.socket))
            };
            match done {
                Ok(0) => return Err(HandshakeError::Io(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) if events == PollFlags::OUT => {}
                Ok(_) => {
                    if let Err(error) = self.tls.process_new_packets() {
                        // The alert, as far as it goes in one write.
                        let _ = self.tls.write_tls(&mut &*self.socket);
                        self.linger();
                        return Err(HandshakeError::Tls(error));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match wait(self.socket.as_fd(), events, Some(self.stop.as_fd()), deadline)
                        .map_err(HandshakeError::Io)?
                    {
                        Woken::Ready => {}
                        Woken::Stopping => return Err(HandshakeError::Stopping),
                        Woken::TimedOut => return Err(HandshakeError::TimedOut),
                    }
                }
                Err(error) => return Err(HandshakeError::Io(error)),
            }
        }
        Ok(())
    }

    /// DER of the client's own certificate.
    pub(super) fn client_certificate(&self) -> Option<&[u8]> {
        self.tls.peer_certificates()?.first().map(AsRef::as_ref)
    }

    pub(super) fn ends(&self) -> Ends {
        Ends { socket: Arc::clone(&self.socket), stop: Arc::clone(&self.stop) }
    }

    /// For who takes the connection over.
    pub(super) fn parts(&mut self) -> (&mut ServerConnection, &TcpStream) {
        (&mut self.tls, &self.socket)
    }

    pub(super) fn place(&self) -> &Arc<Place> {
        &self.place
    }

    pub(super) fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Plaintext that has been received and not consumed: some of it, in order; empty: there is none now.
    pub(super) fn plaintext(&mut self) -> &[u8] {
        self.tls.reader().into_first_chunk().unwrap_or_default()
    }

    /// Forgets the first `count` bytes of [`Wire::plaintext`].
    pub(super) fn consume(&mut self, count: usize) {
        self.tls.reader().consume(count);
    }

    /// Waits for more plaintext; to be called when there is none.
    pub(super) fn receive(&mut self, patience: Patience) -> io::Result<Received> {
        // Between requests nothing is there yet, most of the time; within one, most of the time it is.
        let mut look_first = !matches!(patience, Patience::Idle(_));
        while !self.ended {
            if look_first && self.read()? {
                if !self.plaintext().is_empty() {
                    return Ok(Received::Data);
                }
                continue;
            }
            let (deadline, stop) = match patience {
                Patience::Idle(deadline) => (deadline, Some(self.stop.as_fd())),
                Patience::Until(deadline) => (deadline, None),
                Patience::Stall => (after(self.stall), None),
            };
            match wait(self.socket.as_fd(), PollFlags::IN, stop, deadline)? {
                Woken::Ready => look_first = true,
                Woken::Stopping => return Ok(Received::Stopping),
                Woken::TimedOut => return Ok(Received::TimedOut),
            }
        }
        Ok(Received::End)
    }

    /// One read. `false`: nothing was there.
    fn read(&mut self) -> io::Result<bool> {
        match self.tls.read_tls(&mut &*self.socket) {
            Ok(0) => self.ended = true,
            Ok(_) => match self.tls.process_new_packets() {
                // A key update wants an answer.
                Ok(state) if state.tls_bytes_to_write() > 0 => self.push()?,
                Ok(_) => {}
                Err(error) => {
                    let _ = self.tls.write_tls(&mut &*self.socket);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A client that closes before it has read all, a session ticket say, ends like this.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.ended = true,
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Encrypts the parts, one after the other, into as few records as they fit, and sends them.
    pub(super) fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length == 0 {
            return Ok(());
        }
        if self.tls.writer().write_vectored(parts)? != length {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.push()
    }

    /// Sends all that rustls has encrypted.
    fn push(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut &*self.socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let taken = || wait(self.socket.as_fd(), PollFlags::OUT, None, after(self.stall));
                    if self.place.during(Wait::Taking, Instant::now(), taken)? == Woken::TimedOut {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends the connection cleanly: TLS' goodbye, then TCP's. `linger`: the client may still be sending.
    pub(super) fn close(&mut self, linger: bool) {
        self.tls.send_close_notify();
        let _ = self.tls.write_tls(&mut &*self.socket);
        let _ = self.socket.shutdown(Shutdown::Write);
        if linger {
            self.linger();
        }
    }

    fn linger(&self) {
        linger(&self.socket, self.stop.as_fd());
    }

    /// Ends the connection so that the client takes what it got for torn. Without TLS' goodbye an HTTP client sees the
    /// end in the middle of a body that has a length or chunks, and what was sent before still reaches it. Where the
    /// connection's end would be the body's (`reset`), only a TCP reset tells, since Go takes an end without a goodbye
    /// at a record's border for a clean one (`crypto/tls` conn.go, `readRecordOrCCS`).
    pub(super) fn cut(&mut self, reset: bool) {
        if reset {
            // The reset goes out when the descriptor is closed.
            let _ = rustix::net::sockopt::set_socket_linger(&*self.socket, Some(Duration::ZERO));
        } else {
            let _ = self.socket.shutdown(Shutdown::Both);
        }
        self.ended = true;
    }
}

/// Tells a plain HTTP client what it did, as far as that goes in one write.
fn refuse_plain_http(socket: &TcpStream, stop: BorrowedFd<'_>) {
    let _ = (&mut &*socket).write(PLAIN_HTTP);
    linger(socket, stop);
}

/// Closes the sending side and reads what still comes, for a while: closing a socket with unread bytes resets the
/// connection, and the reset may overtake the answer in the client's kernel.
fn linger(socket: &TcpStream, stop: BorrowedFd<'_>) {
    let _ = socket.shutdown(Shutdown::Write);
    let deadline = after(LINGER);
    let mut left = LINGER_BYTES;
    let mut waste = [0; 4096];
    while left > 0 {
        match io::Read::read(&mut &*socket, &mut waste) {
            Ok(0) => return,
            Ok(count) => left = left.saturating_sub(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !matches!(wait(socket.as_fd(), PollFlags::IN, Some(stop), deadline), Ok(Woken::Ready)) {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
        if Instant::now() >= deadline {
            return;
        }
    }
}

/// Now and `span`; a span too long for the clock is a year.
pub(super) fn after(span: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(span).unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 3600))
}

/// Waits for `events` on `fd` or for `stop`; being ready comes before stopping.
pub(super) fn wait(
    fd: BorrowedFd<'_>,
    events: PollFlags,
    stop: Option<BorrowedFd<'_>>,
    deadline: Instant,
) -> io::Result<Woken> {
    let mut watched = [PollFd::from_borrowed_fd(fd, events), PollFd::from_borrowed_fd(fd, PollFlags::empty())];
    let count = match stop {
        Some(stop) => {
            watched[1] = PollFd::from_borrowed_fd(stop, PollFlags::IN);
            2
        }
        None => 1,
    };
    loop {
        match poll_until(&mut watched[..count], deadline) {
            Ok(0) => return Ok(Woken::TimedOut),
            Ok(_) if !watched[0].revents().is_empty() => return Ok(Woken::Ready),
            Ok(_) => return Ok(Woken::Stopping),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// `poll(2)` with a deadline.
pub(super) fn poll_until(watched: &mut [PollFd<'_>], deadline: Instant) -> rustix::io::Result<usize> {
    let span = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(span).unwrap_or(Timespec { tv_sec: i64::from(i32::MAX), tv_nsec: 0 });
    poll(watched, Some(&timeout))
}
