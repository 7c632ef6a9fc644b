//! An answer's body as it streams. ureq's reader never blocks here (its transport says `WouldBlock`), so this reader
//! waits: for the upstream, for the client to hang up, for the link to be found down. No time limit: a watch is silent
//! for as long as nothing happens.

use std::io::{self, Read};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use ureq::BodyReader;

use super::fault::Fault;
use super::link::Event;
use super::monitor::{Monitor, Signals, Stream};
use super::wait::{Epoch, Interrupted, Waits};
use super::wakefulness;

/// An answer that has brought bytes within this goes on though its server was found down, for as long as they keep coming
/// so: a server that shuts down in order takes no new connections and ends what it has begun.
const FLOWING: Duration = Duration::from_secs(2);

/// An answer that is silent for so long is a stream.
const SETTLING: Duration = Duration::from_secs(5);

/// What a body's reads watch.
pub(super) struct Streaming<'a> {
    /// The connection's socket; `None` only where nothing was sent, and so nothing can be read.
    socket: Option<Arc<TcpStream>>,
    client: Option<BorrowedFd<'a>>,
    down: Arc<Epoch>,
    stop: Option<BorrowedFd<'a>>,
    monitor: &'a Monitor,
    /// When bytes last came.
    heard: Instant,
    /// Ends when the connection's silence is to be doubted.
    alarm: Arc<Epoch>,
    vigilance: Vigilance,
    /// Counted as long as this lives.
    #[expect(dead_code, reason = "held for its Drop")]
    stream: Stream,
}

/// How hard the kernel looks after the connection.
#[derive(Clone, Copy)]
enum Vigilance {
    /// As after a request.
    Request,
    /// As is right for an answer that has been silent for a while.
    Stream,
    /// Something is wrong with other connections; until then.
    Doubt(Instant),
}

impl<'a> Streaming<'a> {
    /// Of an answer whose head has just come.
    pub(super) fn new(
        socket: Option<Arc<TcpStream>>,
        client: Option<BorrowedFd<'a>>,
        signals: Signals,
        stop: Option<BorrowedFd<'a>>,
        monitor: &'a Monitor,
        stream: Stream,
    ) -> Self {
        let (Signals { down, alarm }, heard, vigilance) = (signals, Instant::now(), Vigilance::Request);
        Self { socket, client, down, stop, monitor, heard, alarm, vigilance, stream }
    }

    /// The reader over `inner`.
    pub(super) fn body(self, inner: BodyReader<'static>) -> StreamedBody<'a> {
        StreamedBody { inner, streaming: Some(self) }
    }

    /// Waits until there is something to read.
    fn wait(&mut self) -> io::Result<()> {
        let Some(socket) = self.socket.clone() else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        loop {
            let waits = Waits { client: self.client, until: &self.down, stop: self.stop };
            let by = match self.vigilance {
                Vigilance::Request => Some(self.heard + SETTLING),
                Vigilance::Stream => None,
                Vigilance::Doubt(until) => Some(until),
            };
            match waits.on_either([socket.as_fd(), self.alarm.as_fd()], PollFlags::IN, by) {
                Ok([true, _]) => return Ok(()),
                Ok([false, _]) => {
                    self.alarm = self.monitor.alarm();
                    self.vigilance = Vigilance::Doubt(Instant::now() + wakefulness::ALERT);
                    wakefulness::of_a_doubtful_stream(&*socket)?;
                }
                Err(Interrupted::Deadline) => {
                    self.vigilance = Vigilance::Stream;
                    wakefulness::of_a_stream(&*socket)?;
                }
                Err(Interrupted::Ended) if self.down.has_ended() && self.heard.elapsed() < FLOWING => {
                    let waits = Waits { until: self.monitor.stop(), ..waits };
                    return ended(waits.on(socket.as_fd(), PollFlags::IN, Some(self.heard + FLOWING)).map(drop));
                }
                Err(interrupted) => return ended(Err(interrupted)),
            }
        }
    }
}

/// How a wait ended, as a read's outcome.
fn ended(waited: Result<(), Interrupted>) -> io::Result<()> {
    waited.map_err(|interrupted| match interrupted {
        Interrupted::ClientGone => io::Error::new(io::ErrorKind::BrokenPipe, Fault::ClientGone),
        Interrupted::Ended | Interrupted::Deadline => io::Error::new(io::ErrorKind::NetworkDown, Fault::LinkDown),
        Interrupted::Poll(e) => e,
    })
}

/// See [`super::Answer::body`] for what its errors mean.
pub(super) struct StreamedBody<'a> {
    inner: BodyReader<'static>,
    /// `None` once the body has ended: nothing is waited for any more.
    streaming: Option<Streaming<'a>>,
}

impl StreamedBody<'_> {
    /// A failure that is not the client's or the link's is the upstream's: the body is torn.
    fn torn(&self, e: &io::Error) -> io::Error {
        let why = e.to_string();
        if let Some(streaming) = &self.streaming {
            streaming.monitor.report(Event::Broken, &why);
        }
        let stalled = e.get_ref().and_then(|e| e.downcast_ref()).is_some_and(|e| matches!(e, ureq::Error::BodyStalled));
        if e.kind() == io::ErrorKind::UnexpectedEof || stalled || Fault::in_io(e).is_some() {
            io::Error::new(io::ErrorKind::UnexpectedEof, why)
        } else {
            io::Error::new(io::ErrorKind::InvalidData, why)
        }
    }
}

impl Read for StreamedBody<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.inner.read(buf) {
                Ok(0) if !buf.is_empty() => {
                    self.streaming = None;
                    return Ok(0);
                }
                Ok(amount) => return Ok(amount),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(streaming) = &mut self.streaming {
                        streaming.wait()?;
                        streaming.heard = Instant::now();
                    }
                }
                Err(e) => return Err(self.torn(&e)),
            }
        }
    }
}
