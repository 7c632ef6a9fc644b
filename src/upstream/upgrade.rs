//! A request that asks for another protocol (`Connection: Upgrade`), on a connection of its own: ureq keeps to itself what
//! follows a 101. So the request is written here and the answer's head looked at; anything but a 101 is given to ureq to
//! read, on the same connection, as if it had asked.

use std::io::Read as _;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConnection;
use ureq::Agent;
use ureq::http::header::CONTENT_LENGTH;
use ureq::unversioned::transport::{Buffers as _, ConnectionDetails, Connector};

use super::answer::Streaming;
use super::attempt::{self, Attempt};
use super::buffers;
use super::connector::NoResolver;
use super::fault::Fault;
use super::fetch::{self, Head, Sending, Upload};
use super::link::Event;
use super::monitor::{Monitor, Signals, Stream};
use super::transport::Wire;
use super::wait::Epoch;
use super::{FetchError, MAX_RESPONSE_HEAD, Upgraded, wakefulness};

/// What the answer begins with where the upstream agrees.
const AGREED: &[u8] = b"HTTP/1.1 101";
/// The most fields of its head.
const MAX_FIELDS: usize = 128;

/// The far end of a tunnel: from now on it speaks another protocol. Dropped, it says goodbye, unless it was cut.
pub struct Tunnel<'a> {
    wire: Wire,
    line: Line<'a>,
    /// Counted as long as this lives.
    #[expect(dead_code, reason = "held for its Drop")]
    stream: Stream,
}

/// What is known of the way to a tunnel's far end.
pub struct Line<'a> {
    monitor: &'a Monitor,
    down: Arc<Epoch>,
}

impl<'a> Tunnel<'a> {
    /// The head of the 101 and what came right behind it, as the upstream sent them. Empty from then on.
    pub fn take_head(&mut self) -> Vec<u8> {
        let head = self.wire.buffers.input().to_vec();
        self.wire.buffers.input_consume(head.len());
        self.wire.buffers.release();
        head
    }

    /// The TLS session, its socket, which does not block, and the way there.
    pub fn parts(&mut self) -> (&mut ClientConnection, &TcpStream, &mut Line<'a>) {
        let (tls, socket) = self.wire.parts();
        (tls, socket, &mut self.line)
    }

    /// Ends it without a goodbye, so that the upstream takes what it got for torn.
    pub fn cut(mut self) {
        let _ = self.wire.parts().1.shutdown(std::net::Shutdown::Both);
    }
}

impl Line<'_> {
    /// Readable when the link is found down.
    pub fn alarm(&self) -> BorrowedFd<'_> {
        self.down.as_fd()
    }

    /// Whether it is down still; if not, [`Line::alarm`] is for the next time.
    pub fn is_down(&mut self) -> bool {
        match self.monitor.open() {
            Ok(signals) => self.down = signals.down,
            Err(_) => return true,
        }
        false
    }

    /// The upstream was heard now.
    pub fn heard(&self) {
        self.monitor.pulse().beat();
    }

    /// It broke off, for this reason.
    pub fn broke(&self, why: &str) {
        self.monitor.report(Event::Broken, why);
    }
}

/// Asks for another protocol on `wire`, a fresh connection; `host` as the field has it.
pub(super) fn upgrade<'a>(
    mut wire: Wire,
    head: &Head,
    host: &str,
    (monitor, signals): (&'a Monitor, Signals),
    mut sending: Sending<'_, 'a>,
) -> Result<Upgraded<'a>, FetchError> {
    let stream = monitor.stream();
    let patience = (None, sending.out.first_byte);
    let mut attempt = head.attempt(&sending.out, &signals.down, patience, true)?;
    let mut body = sending.body.take();
    match ask(&mut wire, &head.bytes(host, body.as_ref()), body.as_mut(), &mut attempt) {
        Ok(true) => {
            monitor.report(Event::Connected, "");
            // Its peer may close its window for as long as it likes; whether it is there, keep-alive tells.
            if let Err(e) = wakefulness::of_a_stream(wire.parts().1) {
                log::warn!("a tunnel's socket may be closed early: {e}");
            }
            let line = Line { monitor, down: signals.down };
            return Ok(Upgraded::Tunnel(Box::new(Tunnel { wire, line, stream })));
        }
        Ok(false) => {}
        Err(fault) => {
            if let Some(error) = body.and_then(|body| body.failed) {
                return Err(FetchError::ClientBody(error));
            }
            return Err(fetch::failure(&ureq::Error::Io(fault.into_io()), &attempt, monitor));
        }
    }
    wire.replay();
    let agent = Agent::with_parts(super::settings(), Once(Mutex::new(Some(wire))), NoResolver);
    let mut request = head.request(());
    request.headers_mut().insert(CONTENT_LENGTH, 0.into());
    let (result, attempt) = attempt::during(attempt, || agent.run(request));
    let Some(attempt) = attempt else {
        return Err(FetchError::Broken("no attempt".into()));
    };
    let response = result.map_err(|error| fetch::failure(&error, &attempt, monitor))?;
    monitor.report(Event::Connected, "");
    let (client, stop) = (sending.out.client, sending.out.stop);
    let streaming = Streaming::new(attempt.socket, client, signals, stop, monitor, stream);
    fetch::answer(response, streaming).map(Upgraded::Answer)
}

/// Sends the request, and reads the beginning of its answer: whether the upstream agrees; then the whole head is there.
fn ask(wire: &mut Wire, head: &[u8], body: Option<&mut Upload<'_>>, attempt: &mut Attempt) -> Result<bool, Fault> {
    wire.send_all(head, attempt)?;
    if let Some(body) = body {
        send_body(wire, body, attempt)?;
    }
    loop {
        if wire.receive(Some(attempt))? != Some(true) {
            return Err(Fault::Torn("connection closed".into()));
        }
        let seen = wire.buffers.input();
        let common = seen.len().min(AGREED.len());
        if seen[..common] != AGREED[..common] {
            return Ok(false);
        }
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut answer = httparse::Response::new(&mut fields);
        match answer.parse(seen) {
            Ok(httparse::Status::Complete(length)) if length <= MAX_RESPONSE_HEAD => {
                // It does not wait for the body that is still going up: nobody can tell where the new protocol begins.
                return if wire.is_deaf() { Err(Fault::Torn("101 came before its time".into())) } else { Ok(true) };
            }
            Ok(_) if seen.len() > MAX_RESPONSE_HEAD => {
                return Err(Fault::Torn(format!("the answer's head is larger than {MAX_RESPONSE_HEAD} bytes")));
            }
            Ok(_) => {}
            Err(e) => return Err(Fault::Torn(format!("the answer is not HTTP: {e}"))),
        }
    }
}

fn send_body(wire: &mut Wire, body: &mut Upload<'_>, attempt: &mut Attempt) -> Result<(), Fault> {
    let chunked = body.left.is_none();
    let mut piece = vec![0; buffers::SIZE];
    while body.left != Some(0) {
        let count = body.read(&mut piece).map_err(|e| Fault::Torn(e.to_string()))?;
        if chunked {
            wire.send_all(format!("{count:x}\r\n").as_bytes(), attempt)?;
            wire.send_all(&piece[..count], attempt)?;
            wire.send_all(b"\r\n", attempt)?;
        } else {
            wire.send_all(&piece[..count], attempt)?;
        }
        if count == 0 {
            break;
        }
    }
    Ok(())
}

/// Hands out one connection.
#[derive(Debug)]
struct Once(Mutex<Option<Wire>>);

impl Connector for Once {
    type Out = Wire;

    fn connect(&self, _: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Wire>, ureq::Error> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).take())
    }
}

impl Head {
    /// The bytes of a request that asks for another protocol.
    fn bytes(&self, host: &str, body: Option<&Upload<'_>>) -> Vec<u8> {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut bytes =
            format!("{} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n", self.method).into_bytes();
        for (name, value) in &self.fields {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        if body.is_some_and(|body| body.left.is_none()) {
            bytes.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }
}
