//! An HTTP proxy on the way to a server: it is asked to CONNECT (RFC 9110 section 9.3.6), and from then on passes bytes.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::PollFlags;

use super::fault::{Fault, io_words};
use super::wait::Waits;
use crate::config::ServerConfig;

/// The head of its answer may be so long, in bytes.
const HEAD: usize = 8 << 10;

/// What is asked of a proxy.
pub(super) struct Proxy {
    /// The request, credentials included.
    request: String,
    /// `host:port` of the proxy, for people.
    name: String,
}

impl Proxy {
    /// The proxy of a server; `None`: it has none.
    pub(super) fn of(server: &ServerConfig) -> Option<Self> {
        let proxy = server.proxy.as_ref()?;
        let target = server.authority();
        let credentials = proxy.authorization.as_ref().map(|value| format!("Proxy-Authorization: {value}\r\n"));
        let user_agent = concat!("lite-apiserver/", env!("CARGO_PKG_VERSION"));
        let request = format!(
            "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: {user_agent}\r\n{}\r\n",
            credentials.unwrap_or_default()
        );
        Some(Self { request, name: proxy.authority() })
    }

    /// Has the proxy connect `socket` to the server. `by`: not later than that.
    pub(super) fn pass(&self, mut socket: &TcpStream, waits: &Waits<'_>, by: Instant) -> Result<(), Fault> {
        let broke = |e: &io::Error| Fault::Connect(format!("proxy {}: {}", self.name, io_words(e)));
        let wait = |flags| {
            let late = || Fault::Late(format!("proxy {}: no answer in time", self.name));
            waits.on(socket.as_fd(), flags, Some(by)).map_err(|interrupted| Fault::from_wait(interrupted, late))
        };
        let mut rest = self.request.as_bytes();
        while !rest.is_empty() {
            match socket.write(rest) {
                Ok(taken) => rest = &rest[taken..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => drop(wait(PollFlags::OUT)?),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(broke(&e)),
            }
        }
        // The server speaks TLS, and its client speaks first: nothing can follow the head.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut piece = [0; 512];
            match socket.read(&mut piece) {
                Ok(0) => return Err(Fault::Connect(format!("proxy {}: connection closed", self.name))),
                Ok(amount) => head.extend_from_slice(&piece[..amount]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => drop(wait(PollFlags::IN)?),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(broke(&e)),
            }
            // A refusal's body is not waited for.
            if let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") {
                head.truncate(end + 4);
            } else if head.len() > HEAD {
                return Err(Fault::Connect(format!("proxy {}: the answer is not HTTP", self.name)));
            }
        }
        match status(&head) {
            Some((200..=299, _)) => Ok(()),
            Some((code, reason)) => Err(Fault::Connect(format!("proxy {}: answered {code} {reason}", self.name))),
            None => Err(Fault::Connect(format!("proxy {}: the answer is not HTTP", self.name))),
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Status and reason of an answer's head.
fn status(head: &[u8]) -> Option<(u16, String)> {
    let line = head.split(|&byte| byte == b'\r').next()?.strip_prefix(b"HTTP/1.")?;
    let code = std::str::from_utf8(line.get(2..5)?).ok()?.parse().ok()?;
    let reason = String::from_utf8_lossy(line.get(6..).unwrap_or_default());
    Some((code, reason.chars().filter(|c| !c.is_control()).take(80).collect()))
}
