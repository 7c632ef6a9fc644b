//! Towards the clients: listener and threads, TLS, HTTP/1.1. Knows nothing of Kubernetes; hands each request to a
//! [`Handler`] as a plain value and writes what the handler answers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

/// What the front calls for every well-formed request, on the connection's own thread.
pub trait Handler: Send + Sync + 'static {
    /// Answers through [`Exchange::respond`]. Returning without having answered, or an error after the head was sent,
    /// cuts the connection without a clean end, so that the client knows the body to be torn.
    fn handle(&self, exchange: Exchange<'_>) -> io::Result<()>;
}

/// Who is at the other end, as far as the connection itself tells.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The client's address.
    pub address: SocketAddr,
    /// DER of the client's end-entity certificate, already verified against the client CA; `None`: none was given.
    pub certificate: Option<Vec<u8>>,
}

/// The head of one request, as it was sent.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// Method, e.g. `GET`: a token, case kept.
    pub method: String,
    /// Request target in origin form (`/path?query`), bytes as sent, ASCII; absolute form is reduced to it.
    pub target: String,
    /// Header fields in order; names as sent (compare case-insensitively), values without surrounding white space.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Framing of the body that follows.
    pub body: BodyLength,
}

/// How long a body is (RFC 9112 section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// No body at all.
    None,
    /// This many bytes (`Content-Length`).
    Exact(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// One request and the means to answer it.
pub struct Exchange<'a> {
    /// The request's head.
    pub head: &'a RequestHead,
    /// The connection's other end.
    pub peer: &'a Peer,
    _private: (),
}

impl<'a> Exchange<'a> {
    /// The request's body (dechunked); the first read sends `100 Continue` if the client waits for it.
    pub fn body(&mut self) -> &mut dyn io::Read {
        unimplemented!()
    }
    /// The client's socket, to be polled for POLLRDHUP while something else is waited for. Never read from it.
    pub fn client_fd(&self) -> BorrowedFd<'_> {
        unimplemented!()
    }
    /// Sends the head. `headers` must not contain framing fields (`Content-Length`, `Transfer-Encoding`, `Connection`):
    /// they follow from `length`. For HEAD requests and 204/304 the body writer swallows what is written.
    pub fn respond(self, status: u16, headers: &[(&str, &[u8])], length: BodyLength) -> io::Result<BodyWriter<'a>> {
        let _ = (status, headers, length);
        unimplemented!()
    }
}

/// Writes one answer's body; every `write` is buffered up to a TLS record, `flush` puts it on the wire at once.
/// Dropped without [`BodyWriter::finish`], the connection is cut.
pub struct BodyWriter<'a> {
    _private: std::marker::PhantomData<&'a ()>,
}

impl BodyWriter<'_> {
    /// Ends the body cleanly (last chunk, or checks that the promised length was written) and flushes.
    pub fn finish(self) -> io::Result<()> {
        unimplemented!()
    }
    /// The client's socket (see [`Exchange::client_fd`]).
    pub fn client_fd(&self) -> BorrowedFd<'_> {
        unimplemented!()
    }
}

impl io::Write for BodyWriter<'_> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        unimplemented!()
    }
    fn flush(&mut self) -> io::Result<()> {
        unimplemented!()
    }
}
