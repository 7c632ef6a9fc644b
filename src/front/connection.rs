//! One client's connection from handshake to goodbye, on its own thread: the keep-alive loop. Decides how long a client
//! may take; never what it is answered, but for requests that are no HTTP.

use std::any::Any;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::counters::Counters;
use super::exchange::{Exchange, Onward, Turn};
use super::head::{self, MAX_HEAD, Refusal, Scanner, Terms};
use super::place::Place;
use super::stop::Stop;
use super::tls::Tls;
use super::wire::{HandshakeError, Patience, Received, Wire, after};
use super::{BodyLength, Handler, Peer, RequestHead};

/// How long a connection keeps its buffers after an answer: a busy one does not pay for new ones with every request, an
/// idle one costs no more than its TLS session.
const WARM: Duration = Duration::from_secs(1);
/// The longest that each step of a connection past the limit may take before it is told so.
const REFUSING: Duration = Duration::from_secs(3);

/// What all connections share.
pub(super) struct Service {
    pub(super) handler: Arc<dyn Handler>,
    pub(super) tls: Arc<Tls>,
    pub(super) counters: Arc<Counters>,
    pub(super) stop: Arc<Stop>,
    pub(super) spans: Spans,
    /// The most long-running requests at a time.
    pub(super) most_lasting: usize,
}

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spans {
    pub(super) handshake: Duration,
    pub(super) head: Duration,
    pub(super) idle: Duration,
    pub(super) stall: Duration,
}

/// What a connection is let in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Welcome {
    /// To be served.
    Serve,
    /// To be told that there are too many.
    Refuse,
}

/// Runs a connection to its end.
pub(super) fn run(service: &Service, socket: Arc<TcpStream>, address: SocketAddr, welcome: Welcome, place: Arc<Place>) {
    let spans = match welcome {
        Welcome::Serve => service.spans,
        Welcome::Refuse => service.spans.at_most(REFUSING),
    };
    let config = service.tls.current();
    let stop = Arc::clone(&service.stop);
    let wire = match Wire::accept(config, socket, stop, place, after(spans.handshake), spans.stall) {
        Ok(wire) => wire,
        Err(HandshakeError::Stopping) => return,
        Err(error) => {
            service.counters.tls_failures.fetch_add(1, Relaxed);
            log::debug!("{address}: TLS handshake failed: {error}");
            return;
        }
    };
    let peer = Peer { address, certificate: wire.client_certificate().map(<[u8]>::to_vec) };
    let mut turn = Turn::new(wire);
    let mut head = blank_head();
    loop {
        match next_head(&mut turn, &mut head, spans) {
            Ok(Next::Head(terms)) => turn.begin(&head, terms),
            Ok(Next::Refused(refusal)) => {
                service.counters.bad_requests.fetch_add(1, Relaxed);
                log::debug!("{address}: request refused: {refusal:?}");
                turn.refuse(refusal);
                return;
            }
            Ok(Next::Close) => {
                turn.wire.close(false);
                return;
            }
            Err(error) => {
                log::debug!("{address}: connection lost: {error}");
                return;
            }
        }
        if welcome == Welcome::Refuse {
            turn.refuse(Refusal::TooManyConnections);
            return;
        }
        if !turn.wire.place().work() {
            log::debug!("{address}: shed, others came");
            return;
        }
        if exchange(service, &mut turn, &head, &peer) != Onward::Next {
            return;
        }
    }
}

/// Has one request answered.
fn exchange(service: &Service, turn: &mut Turn, head: &RequestHead, peer: &Peer) -> Onward {
    let counters = &service.counters;
    counters.requests.fetch_add(1, Relaxed);
    let handled = catch_unwind(AssertUnwindSafe(|| service.handler.handle(Exchange { head, peer, service, turn })));
    turn.wire.place().rest();
    let onward = match handled {
        Ok(result) => {
            let onward = turn.conclude();
            if let Err(error) = result {
                log::debug!("{}: {} {}: {error}", peer.address, head.method, head.target);
            }
            onward
        }
        Err(panic) => {
            counters.panics.fetch_add(1, Relaxed);
            let cause = message_of(&*panic);
            log::error!("{}: panic in {} {}: {cause}", peer.address, head.method, head.target);
            turn.cut();
            Onward::Torn
        }
    };
    match onward {
        Onward::Torn => counters.torn.fetch_add(1, Relaxed),
        Onward::Refused => counters.bad_requests.fetch_add(1, Relaxed),
        Onward::Next | Onward::Closed => 0,
    };
    onward
}

fn message_of(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&'static str>(), panic.downcast_ref::<String>()) {
        (Some(message), _) => message,
        (None, Some(message)) => message,
        (None, None) => "no message",
    }
}

/// What the wait for a request ended with.
#[derive(Debug)]
enum Next {
    Head(Terms),
    Refused(Refusal),
    /// Nothing more is asked, or may be.
    Close,
}

fn next_head(turn: &mut Turn, head: &mut RequestHead, spans: Spans) -> io::Result<Next> {
    if turn.wire.plaintext().is_empty() && !await_request(turn, head, spans.idle)? {
        return Ok(Next::Close);
    }
    let deadline = after(spans.head);
    let mut scanner = Scanner::default();
    // Only a head that comes in pieces is held; most are parsed where they were decrypted.
    let mut held = Vec::new();
    loop {
        let piece = turn.wire.plaintext();
        let end = match scanner.scan(piece) {
            Ok(end) => end,
            Err(refusal) => return Ok(Next::Refused(refusal)),
        };
        let count = end.unwrap_or(piece.len());
        if held.len() + count > MAX_HEAD {
            return Ok(Next::Refused(scanner.too_large()));
        }
        if end.is_some() && held.is_empty() {
            let parsed = head::parse(&piece[..count], head);
            turn.wire.consume(count);
            return Ok(parsed.map_or_else(Next::Refused, Next::Head));
        }
        held.extend_from_slice(&piece[..count]);
        turn.wire.consume(count);
        if end.is_some() {
            return Ok(head::parse(&held, head).map_or_else(Next::Refused, Next::Head));
        }
        if turn.wire.plaintext().is_empty() {
            match turn.wire.receive(Patience::Until(deadline))? {
                Received::Data => {}
                Received::End | Received::Stopping => return Err(io::ErrorKind::UnexpectedEof.into()),
                Received::TimedOut => return Ok(Next::Refused(Refusal::HeadTooSlow)),
            }
        }
    }
}

/// Waits for the first byte of a request; `false`: none will come.
fn await_request(turn: &mut Turn, head: &mut RequestHead, idle: Duration) -> io::Result<bool> {
    let deadline = after(idle);
    let warm = after(WARM).min(deadline);
    let mut received = turn.wire.receive(Patience::Idle(warm))?;
    if received == Received::TimedOut && Instant::now() < deadline {
        turn.release();
        *head = blank_head();
        received = turn.wire.receive(Patience::Idle(deadline))?;
    }
    Ok(received == Received::Data)
}

fn blank_head() -> RequestHead {
    RequestHead { method: String::new(), target: String::new(), headers: Vec::new(), body: BodyLength::None }
}

impl Spans {
    fn at_most(self, most: Duration) -> Self {
        Self {
            handshake: self.handshake.min(most),
            head: self.head.min(most),
            idle: self.idle.min(most),
            stall: self.stall.min(most),
        }
    }
}
