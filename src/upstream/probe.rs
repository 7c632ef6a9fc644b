//! One look at the upstream: a fresh connection, verified TLS, no credentials, `GET /readyz`.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustls::ClientConnection;

use super::connector::Dial;
use super::fault::{Fault, io_words};
use super::link::Event;
use super::monitor::Probed;
use super::wait::{Epoch, Waits};

/// Longest time for the whole of it, while the server is taken for up: its clients wait for the outcome.
const BUDGET: Duration = Duration::from_secs(2);
/// The same while it is down, when nobody waits: three round trips by satellite, and a lost packet.
const PATIENCE: Duration = Duration::from_secs(5);
/// Enough for any status line.
const HEAD: usize = 512;

/// Looks once. `authority` is the `Host`; `base_path` as in the configuration. Gives up when `stop` ends,
/// and sooner while the server is taken for up than when it `is_down`.
pub(super) fn probe(dial: &Dial, authority: &str, base_path: &str, stop: &Epoch, is_down: bool) -> Probed {
    let budget = if is_down { PATIENCE } else { BUDGET };
    let waits = Waits { client: None, until: stop, stop: None };
    let begun = Instant::now();
    let ask = |(socket, tls)| ask(&socket, tls, authority, base_path, &waits, (begun, budget));
    let status = dial.dial(&waits, budget).and_then(ask);
    let (event, reason) = match status {
        Ok(status) => (judge(status), format!("/readyz answered {status}")),
        // Something that wants a certificate is there; those who have one will tell.
        Err(Fault::Refused(why)) => (Event::ProbeOk, why),
        Err(fault @ Fault::Late(_)) => (Event::ProbeLate, fault.to_string()),
        Err(fault) => (Event::ProbeFailed, fault.to_string()),
    };
    if !matches!(event, Event::ProbeFailed | Event::ProbeLate) {
        dial.place.pulse.beat();
    }
    (event, reason)
}

/// 502, 503 and 504 are the words of something in front of an apiserver that is not there; 500 are an apiserver's own
/// that is not ready; anything else, a 401 or 403 to the anonymous included, comes from one that works.
fn judge(status: u16) -> Event {
    match status {
        502..=504 => Event::ProbeFailed,
        500 => Event::ProbeNotReady,
        _ => Event::ProbeOk,
    }
}

fn ask(
    socket: &TcpStream,
    mut tls: ClientConnection,
    authority: &str,
    base_path: &str,
    waits: &Waits<'_>,
    (begun, budget): (Instant, Duration),
) -> Result<u16, Fault> {
    let torn = |e: io::Error| Fault::Torn(io_words(&e));
    let wait = |flags| {
        let late = || Fault::Late(format!("no answer to a probe within {} s", budget.as_secs()));
        waits.on(socket.as_fd(), flags, Some(begun + budget)).map_err(|interrupted| Fault::from_wait(interrupted, late))
    };
    let user_agent = concat!("lite-apiserver/", env!("CARGO_PKG_VERSION"), " (probe)");
    let request = format!(
        "GET {base_path}/readyz HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {user_agent}\r\nConnection: close\r\n\r\n"
    );
    tls.writer().write_all(request.as_bytes()).map_err(torn)?;
    let mut head = [0; HEAD];
    let mut filled = 0;
    loop {
        let writing = tls.wants_write();
        let moved = if writing { tls.write_tls(&mut &*socket) } else { tls.read_tls(&mut &*socket) };
        match moved {
            Ok(0) if !writing => return Err(Fault::Torn("connection closed".into())),
            Ok(_) if writing => continue,
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                wait(if writing { PollFlags::OUT } else { PollFlags::IN })?;
                continue;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(torn(e)),
        }
        tls.process_new_packets().map_err(|e| Fault::from_tls(&e, false))?;
        match tls.reader().read(&mut head[filled..]) {
            Ok(0) => return Err(Fault::Torn("connection closed".into())),
            Ok(amount) => filled += amount,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(e) => return Err(torn(e)),
        }
        if let Some(line) = head[..filled].split(|b| *b == b'\n').next().filter(|line| line.len() < filled) {
            return status(line).ok_or_else(|| Fault::Torn("the answer is not HTTP".into()));
        }
        if filled == HEAD {
            return Err(Fault::Torn("the answer is not HTTP".into()));
        }
    }
}

/// The status of `HTTP/1.x NNN …` (RFC 9112 section 4).
fn status(line: &[u8]) -> Option<u16> {
    let line = line.strip_prefix(b"HTTP/1.")?;
    let code = line.get(2..5)?;
    std::str::from_utf8(code).ok()?.parse().ok().filter(|code| (100..=599).contains(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_gateway_or_an_unready_apiserver_counts_against_the_link() {
        for (status, event) in [
            (200, Event::ProbeOk),
            (401, Event::ProbeOk),
            (403, Event::ProbeOk),
            (404, Event::ProbeOk),
            (429, Event::ProbeOk),
            (500, Event::ProbeNotReady),
            (502, Event::ProbeFailed),
            (503, Event::ProbeFailed),
            (504, Event::ProbeFailed),
        ] {
            assert_eq!(judge(status), event, "{status}");
        }
    }

    #[test]
    fn a_status_line_is_http_1_or_nothing() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r"), Some(200));
        assert_eq!(status(b"HTTP/1.0 503\r"), Some(503));
        for line in [&b"HTTP/2 200"[..], b"HTTP/1.1 20", b"HTTP/1.1 abc OK", b"SSH-2.0-x", b""] {
            assert_eq!(status(line), None);
        }
    }
}
