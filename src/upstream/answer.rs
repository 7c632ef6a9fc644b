//! An answer's body as it streams. ureq's reader never blocks here (its transport says `WouldBlock`), so this reader
//! waits: for the upstream, for the client to hang up, for the link to be found down. No time limit: a watch is silent
//! for as long as nothing happens.

use std::io::{self, Read};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::event::PollFlags;
use ureq::BodyReader;

use super::fault::Fault;
use super::link::Event;
use super::monitor::{Link, Stream};
use super::wait::{Epoch, Interrupted, Waits};

/// What a body's reads watch.
pub(super) struct Streaming<'a> {
    /// The connection's socket; `None` only where nothing was sent, and so nothing can be read.
    pub(super) socket: Option<Arc<TcpStream>>,
    pub(super) client: Option<BorrowedFd<'a>>,
    pub(super) down: Arc<Epoch>,
    pub(super) stop: Option<BorrowedFd<'a>>,
    pub(super) link: &'a Link,
    /// Counted as long as this lives.
    #[expect(dead_code, reason = "held for its Drop")]
    pub(super) stream: Stream,
}

impl<'a> Streaming<'a> {
    /// The reader over `inner`.
    pub(super) fn body(self, inner: BodyReader<'static>) -> StreamedBody<'a> {
        StreamedBody { inner, streaming: Some(self) }
    }
}

/// See [`super::Answer::body`] for what its errors mean.
pub(super) struct StreamedBody<'a> {
    inner: BodyReader<'static>,
    /// `None` once the body has ended: nothing is waited for any more.
    streaming: Option<Streaming<'a>>,
}

impl StreamedBody<'_> {
    fn wait(&self) -> io::Result<()> {
        let Some(Streaming { socket: Some(socket), client, down, stop, .. }) = &self.streaming else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        match (Waits { client: *client, until: down, stop: *stop }).on(socket.as_fd(), PollFlags::IN, None) {
            Ok(_) | Err(Interrupted::Deadline) => Ok(()),
            Err(Interrupted::ClientGone) => Err(io::Error::new(io::ErrorKind::BrokenPipe, Fault::ClientGone)),
            Err(Interrupted::Ended) => Err(io::Error::new(io::ErrorKind::NetworkDown, Fault::LinkDown)),
            Err(Interrupted::Poll(e)) => Err(e),
        }
    }

    /// A failure that is not the client's or the link's is the upstream's: the body is torn.
    fn torn(&self, e: &io::Error) -> io::Error {
        let why = e.to_string();
        if let Some(streaming) = &self.streaming {
            streaming.link.report(Event::Broken, &why);
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
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                Err(e) => return Err(self.torn(&e)),
            }
        }
    }
}
