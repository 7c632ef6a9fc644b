//! Towards the clients: listener and threads, TLS, HTTP/1.1. Knows nothing of Kubernetes but the shape of a
//! `metav1.Status`, in which it words its own refusals; hands each request to a [`Handler`] as a plain value and writes
//! what the handler answers.
//!
//! ```text
//! listener   bind, accept, the bound on connections; owns every thread and joins it
//!   place        whose connection is closed when all places are taken and somebody new comes
//!   connection   one thread: handshake, then head -> handler -> rest of the body, over and over
//!     head *       bytes -> RequestHead, or a named refusal
//!     body *       framing of request bodies: bytes -> bytes
//!     exchange     one request's state: the reader of its body, the writer of its answer
//!       answer *     status line, header fields, Status bodies, chunk sizes -> bytes
//!     wire         TLS over a non-blocking socket; every wait has a deadline
//! tls, stop, counters: what all threads share
//! ```
//! `*` = pure: no sockets, no clock.
//!
//! Absent on purpose: HTTP/2 (client-go is content with HTTP/1.1, and a thread a connection is what the whole program is
//! built on), request trailers (dropped), `Date` and any other header field of an answer but framing and `Connection`.

mod answer;
mod body;
mod connection;
mod counters;
mod exchange;
#[cfg(fuzzing)]
pub mod fuzzing;
mod head;
mod listener;
mod place;
mod stop;
#[cfg(test)]
mod tests;
mod tls;
mod wire;

use std::io;
use std::net::SocketAddr;

pub use counters::Counters;
pub use exchange::{BodyWriter, Ends, Exchange, Lasting, Switched};
pub use listener::{Bound, Server, ServerOptions};
pub use tls::{Tls, TlsError};

/// What the front calls for every well-formed request, on the connection's own thread.
pub trait Handler: Send + Sync + 'static {
    /// Answers through [`Exchange::respond`]. Returning without having answered, or with an answer that was begun but
    /// not finished, cuts the connection without a clean end, so that the client knows the body to be torn. One
    /// exception: where the request's body was malformed or came too slowly, and nothing has been answered, the front
    /// answers 400 or 408 itself.
    fn handle(&self, exchange: Exchange<'_>) -> io::Result<()>;
}

/// Who is at the other end, as far as the connection itself tells.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The client's address.
    pub address: SocketAddr,
    /// DER of the client's end-entity certificate, verified against the client CA when the TLS session was first made
    /// (a resumed session is not verified again, so its validity may have ended since); `None`: none was given.
    pub certificate: Option<Vec<u8>>,
}

/// The head of one request, as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// Method, e.g. `GET`: a token, case kept.
    pub method: String,
    /// Request target in origin form (`/path?query`), bytes as sent, ASCII; absolute form is reduced to it.
    /// `*` with `OPTIONS` only.
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
