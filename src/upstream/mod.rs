//! Towards the cloud: one ureq agent per upstream identity, the connector under it, the link's state and its probe.
//! Knows HTTP and TLS; knows nothing of Kubernetes' resources and nothing of the record.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, SystemTime};

/// Whose credentials a request goes up with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// The key pair of `--tls-config-file` whose certificate has this CN.
    Certificate(String),
    /// No certificate; an `Authorization` header, if any, travels among the request's headers.
    None,
}

/// One request as it is to be sent. `Host` and framing are added; nothing else is.
pub struct Outgoing<'a> {
    /// Method token.
    pub method: &'a str,
    /// Origin-form target, sent below the configured base path.
    pub target: &'a str,
    /// Header fields, hop-by-hop ones already removed.
    pub headers: &'a [(String, Vec<u8>)],
    /// The body, streamed; `None`: no body.
    pub body: Option<OutgoingBody<'a>>,
    /// Longest wait for the first byte of the answer.
    pub first_byte: Duration,
    /// The client's socket: when it hangs up, whatever is being waited for is given up. `None`: nobody can hang up.
    pub client: Option<BorrowedFd<'a>>,
}

/// A request body on its way up.
pub struct OutgoingBody<'a> {
    /// Where it is read from.
    pub reader: &'a mut dyn io::Read,
    /// Its length where known, else it goes chunked.
    pub length: Option<u64>,
}

/// The upstream's answer; the body streams.
pub struct Answer<'a> {
    /// HTTP status.
    pub status: u16,
    /// Header fields, as the upstream sent them (names lower case).
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body's bytes. Ends with `Ok(0)` only where the upstream ended it whole; a torn body is an error
    /// ([`io::ErrorKind::UnexpectedEof`]), a client that hung up [`io::ErrorKind::BrokenPipe`], a link found down
    /// [`io::ErrorKind::NetworkDown`].
    pub body: Box<dyn io::Read + 'a>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum FetchError {
    /// No connection: refused, unreachable, name unknown, TLS failed, connect timed out; or the link went down while
    /// the first byte was waited for.
    Unreachable(String),
    /// Connected, but no first byte within `first_byte`.
    TimedOut,
    /// The connection broke before an answer came; the request may or may not have been carried out.
    Broken(String),
    /// The client hung up first.
    ClientGone,
    /// The client's body could not be read.
    ClientBody(io::Error),
    /// The target or a header cannot be sent.
    Unsendable(String),
}

/// Whether the upstream can be reached now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Requests are sent.
    Up,
    /// Requests are sent, a probe is under way.
    Suspect,
    /// Nothing but probes is sent.
    Down {
        /// When the link was found down.
        since: SystemTime,
    },
}
