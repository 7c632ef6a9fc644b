//! One request's two streams: the reader of its body and the writer of its answer, over the connection's wire. Decides
//! what an answer's framing is and whether the connection can be used again; never what is answered.

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use rustls::ServerConnection;

use super::answer::{self, Framing, Persistence};
use super::body::Incoming;
use super::connection::Service;
use super::counters::Counters;
use super::head::{Refusal, Terms};
use super::place::Wait;
use super::stop::Stop;
use super::wire::{Patience, Received, Wire};
use super::{BodyLength, Peer, RequestHead};

/// The most plaintext of one TLS record (RFC 8446 section 5.1).
const RECORD: usize = 16 * 1024;
/// The most records encrypted before they are sent.
const RECORDS_AT_ONCE: usize = 4;
/// What a chunk adds to its data: up to four digits, and twice CR LF.
const CHUNK_FRAME: usize = 8;
/// An answer's buffer over this size is given back whenever it is flushed in the middle of a body: a watch may then be
/// silent for hours.
const QUIET_BUFFER: usize = 4 * 1024;
/// The most bytes of a request's body that are read and dropped to save a connection whose handler did not read them;
/// Go's `maxPostHandlerReadBytes`.
const MAX_DRAIN: u64 = 256 * 1024;

/// One request and the means to answer it.
pub struct Exchange<'a> {
    /// The request's head.
    pub head: &'a RequestHead,
    /// The connection's other end.
    pub peer: &'a Peer,
    pub(super) service: &'a Service,
    pub(super) turn: &'a mut Turn,
}

/// A long-running request's place, given back when dropped.
#[derive(Debug)]
pub struct Lasting<'a>(&'a Counters);

impl Drop for Lasting<'_> {
    fn drop(&mut self) {
        self.0.lasting.fetch_sub(1, Relaxed);
    }
}

impl<'a> Exchange<'a> {
    /// The request's body (dechunked); the first read sends `100 Continue` if the client waits for it. Errors:
    /// [`io::ErrorKind::InvalidData`] malformed framing, [`io::ErrorKind::UnexpectedEof`] the client went away in the
    /// middle, [`io::ErrorKind::TimedOut`] it stalled.
    pub fn body(&mut self) -> &mut dyn Read {
        self.turn
    }

    /// Asks for one of the places of requests that may take for ever; to be held until it is answered. `None`: they are
    /// taken; the rest is for short ones, and the client is to be told to come again.
    pub fn lasts(&self) -> Option<Lasting<'a>> {
        let (counters, most) = (&*self.service.counters, self.service.most_lasting);
        let taken = counters.lasting.fetch_update(Relaxed, Relaxed, |count| (count < most).then_some(count + 1));
        if taken.is_err() {
            counters.lasting_refused.fetch_add(1, Relaxed);
        }
        taken.ok().map(|_| Lasting(counters))
    }

    /// What ends the exchange from outside, to be polled while something else is waited for.
    pub fn ends(&self) -> Ends {
        self.turn.wire.ends()
    }

    /// Prepares the head; it leaves with the body's first bytes. `headers` must not contain framing fields
    /// (`Content-Length`, `Transfer-Encoding`, `Connection`): they follow from `length`, where [`BodyLength::None`] is
    /// an empty body, or to HEAD one of unknown length. For HEAD requests and 204/304 the body writer swallows what is
    /// written. What is left of the request's body cannot be read any more; it is skipped.
    ///
    /// Error [`io::ErrorKind::InvalidInput`]: status or headers cannot be sent; the client has been answered 500.
    pub fn respond(self, status: u16, headers: &[(&str, &[u8])], length: BodyLength) -> io::Result<BodyWriter<'a>> {
        self.turn.start_answer(status, headers, length)?;
        Ok(BodyWriter { turn: self.turn })
    }

    /// Hands the connection over to another protocol (RFC 9110 section 15.2.2): sends `head`, which is the whole head of a
    /// 101 and what of the new protocol follows it already, as it is. What the client has sent behind its request is still
    /// to be read.
    ///
    /// Error [`io::ErrorKind::InvalidInput`]: the client speaks HTTP/1.0, which knows no 101, or its body is not read.
    pub fn switch(self, head: &[u8]) -> io::Result<Switched<'a>> {
        self.turn.switch(head)?;
        Ok(Switched { turn: self.turn })
    }
}

/// A connection that speaks HTTP no more. Dropped without [`Switched::finish`], it is cut.
pub struct Switched<'a> {
    turn: &'a mut Turn,
}

impl Switched<'_> {
    /// The TLS session and its socket, which does not block. Nothing watches it for the caller.
    pub fn parts(&mut self) -> (&mut ServerConnection, &TcpStream) {
        self.turn.wire.parts()
    }

    /// Both directions have come to their ends.
    pub fn finish(self) {
        self.turn.terms.keep_alive = false;
        self.turn.answer = Answer::Ended;
    }
}

/// What ends an exchange from outside. Outlives the exchange, so that it can be watched while the answer is written.
#[derive(Debug, Clone)]
pub struct Ends {
    pub(super) socket: Arc<TcpStream>,
    pub(super) stop: Arc<Stop>,
}

impl Ends {
    /// The client's socket, to be polled for POLLRDHUP. Never read from it.
    pub fn client(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Readable once the server is stopping: an answer that could last is then to be ended. Never read from it.
    pub fn stop(&self) -> BorrowedFd<'_> {
        self.stop.as_fd()
    }
}

/// Writes one answer's body; every `write` is buffered up to a TLS record, `flush` puts it on the wire at once.
/// Dropped without [`BodyWriter::finish`], the connection is cut.
///
/// Errors of `write`, `flush` and `finish`: [`io::ErrorKind::TimedOut`] the client took nothing for the stall timeout,
/// [`io::ErrorKind::InvalidInput`] more or less was written than was promised, else the socket's own.
pub struct BodyWriter<'a> {
    turn: &'a mut Turn,
}

impl BodyWriter<'_> {
    /// Ends the body cleanly (last chunk, or checks that the promised length was written) and flushes.
    pub fn finish(self) -> io::Result<()> {
        self.turn.end_answer()
    }
}

impl Write for BodyWriter<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.turn.write_body(data)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.turn.flush_body()
    }
}

impl Drop for BodyWriter<'_> {
    fn drop(&mut self) {
        // At once, not when the handler returns: the client should not wait for what it has to do after.
        if matches!(self.turn.answer, Answer::Open(_)) {
            self.turn.cut();
        }
    }
}

/// How far the answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Nothing has been answered.
    Due,
    /// The head is prepared or sent, the body goes on.
    Open(Framing),
    /// Another protocol is spoken.
    Switched,
    /// Sent whole.
    Ended,
    /// The front has answered in the handler's place and closed the connection.
    Refused,
    /// Cut.
    Torn,
}

/// What the connection does after a handler has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Onward {
    /// The next request.
    Next,
    /// It is closed; all answers were whole.
    Closed,
    /// It is closed; the last answer was the front's own.
    Refused,
    /// It is cut.
    Torn,
}

/// A connection's state within one request; its buffers serve the next one again.
pub(super) struct Turn {
    pub(super) wire: Wire,
    incoming: Incoming,
    /// What the request asks of the connection; `expect_continue` is lowered once that is answered, `keep_alive` once it
    /// cannot be granted.
    terms: Terms,
    head_only: bool,
    /// When the request's head was here.
    begun: Instant,
    answer: Answer,
    /// Plaintext that waits for company: the answer's head, then bytes of its body.
    out: Vec<u8>,
    /// How much of `out` is the head.
    head_length: usize,
    /// Why the request's body could not be read, where that is the client's doing.
    fault: Option<Refusal>,
}

impl Turn {
    pub(super) fn new(wire: Wire) -> Self {
        Self {
            wire,
            incoming: Incoming::new(BodyLength::None),
            terms: Terms { http10: false, keep_alive: false, expect_continue: false },
            head_only: false,
            begun: Instant::now(),
            answer: Answer::Due,
            out: Vec::new(),
            head_length: 0,
            fault: None,
        }
    }

    /// Begins with a new request.
    pub(super) fn begin(&mut self, head: &RequestHead, terms: Terms) {
        self.incoming = Incoming::new(head.body);
        self.terms = terms;
        self.head_only = head.method == "HEAD";
        self.begun = Instant::now();
        self.answer = Answer::Due;
        self.out.clear();
        self.head_length = 0;
        self.fault = None;
    }

    /// Gives all buffers back, before a long wait.
    pub(super) fn release(&mut self) {
        self.out = Vec::new();
    }

    /// Answers a request that never reached a handler, or could not be answered by it, and ends the connection.
    pub(super) fn refuse(&mut self, refusal: Refusal) {
        self.out.clear();
        answer::refuse(&mut self.out, refusal, self.head_only);
        self.answer = Answer::Refused;
        if self.wire.send(&[IoSlice::new(&self.out)]).is_ok() {
            self.wire.close(true);
        }
    }

    /// What follows from how the handler left the exchange.
    pub(super) fn conclude(&mut self) -> Onward {
        match (self.answer, self.fault) {
            (Answer::Ended, _) => {
                if self.terms.keep_alive && matches!(self.drain(), Ok(true)) {
                    // Until the next head is read nobody knows its method.
                    self.head_only = false;
                    return Onward::Next;
                }
                let may_be_sending = !self.incoming.is_done() || !self.wire.plaintext().is_empty();
                self.wire.close(may_be_sending);
                Onward::Closed
            }
            (Answer::Due, Some(refusal)) => {
                self.refuse(refusal);
                Onward::Refused
            }
            (Answer::Refused, _) => Onward::Refused,
            (Answer::Due | Answer::Open(_) | Answer::Switched | Answer::Torn, _) => {
                self.cut();
                Onward::Torn
            }
        }
    }

    /// Cuts the connection wherever it is.
    pub(super) fn cut(&mut self) {
        // Not twice: the first time knew how.
        if self.answer != Answer::Torn {
            self.wire.cut(self.answer == Answer::Open(Framing::UntilClose));
            self.answer = Answer::Torn;
        }
    }

    /// Reads and drops what the handler left of the request's body. `false`: it was too much.
    fn drain(&mut self) -> io::Result<bool> {
        let mut left = MAX_DRAIN;
        let mut waste = [0; 4096];
        while !self.incoming.is_done() {
            // The framing of a chunked body counts as little as its trailers: both are bounded where they are read.
            let count = self.read_body(&mut waste)? as u64;
            if count > left {
                return Ok(false);
            }
            left -= count;
        }
        Ok(true)
    }

    fn read_body(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while !self.incoming.is_done() {
            let plaintext = self.wire.plaintext();
            if plaintext.is_empty() {
                let place = Arc::clone(self.wire.place());
                match place.during(Wait::Body, self.begun, || self.wire.receive(Patience::Stall))? {
                    Received::Data => continue,
                    Received::End | Received::Stopping => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Received::TimedOut => {
                        self.fault = Some(Refusal::BodyTooSlow);
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
            }
            match self.incoming.decode(plaintext, buffer) {
                Ok(step) => {
                    self.wire.consume(step.consumed);
                    if step.produced > 0 {
                        return Ok(step.produced);
                    }
                }
                Err(refusal) => {
                    self.fault = Some(refusal);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "malformed chunked body"));
                }
            }
        }
        Ok(0)
    }

    fn start_answer(&mut self, status: u16, headers: &[(&str, &[u8])], length: BodyLength) -> io::Result<()> {
        // The client keeps back its body until it is asked for it, and nobody will; or there is too much to skip.
        if self.terms.expect_continue
            || self.fault.is_some()
            || self.incoming.left().is_some_and(|left| left > MAX_DRAIN)
        {
            self.terms.keep_alive = false;
        }
        let may_have_length = status != 204;
        let body_follows = !(self.head_only || status == 204 || status == 304);
        let framing = match length {
            _ if !body_follows => Framing::Swallowed,
            BodyLength::None => Framing::Exact(0),
            BodyLength::Exact(length) => Framing::Exact(length),
            BodyLength::Chunked if self.terms.http10 => Framing::UntilClose,
            BodyLength::Chunked => Framing::Chunked,
        };
        if framing == Framing::UntilClose || self.wire.stop().is_raised() {
            self.terms.keep_alive = false;
        }
        let persistence = match (self.terms.keep_alive, self.terms.http10) {
            (false, _) => Persistence::Close,
            (true, true) => Persistence::KeepAlive,
            (true, false) => Persistence::Default,
        };
        // HTTP/1.0 knows no chunks; a length that is not known is then not told.
        let told = if self.terms.http10 && length == BodyLength::Chunked { BodyLength::None } else { length };
        self.out.clear();
        let written = self.write_head(status, headers);
        if let Err(cause) = written {
            self.refuse(Refusal::UnsendableAnswer);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, cause));
        }
        let told_of_body = body_follows && framing != Framing::UntilClose;
        answer::end(&mut self.out, told, may_have_length, told_of_body, persistence);
        self.head_length = self.out.len();
        self.answer = Answer::Open(framing);
        Ok(())
    }

    fn write_head(&mut self, status: u16, headers: &[(&str, &[u8])]) -> Result<(), &'static str> {
        if !(200..1000).contains(&status) {
            return Err("a final status has three digits and does not begin with 1");
        }
        self.out.reserve(512);
        answer::start(&mut self.out, status);
        headers.iter().try_for_each(|(name, value)| answer::field(&mut self.out, name, value))
    }

    fn switch(&mut self, head: &[u8]) -> io::Result<()> {
        if self.answer != Answer::Due || self.terms.http10 || !self.incoming.is_done() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "this connection cannot be handed over"));
        }
        self.answer = Answer::Switched;
        self.release();
        self.wire.send(&[IoSlice::new(head)])
    }

    fn framing(&self) -> io::Result<Framing> {
        match self.answer {
            Answer::Open(framing) => Ok(framing),
            Answer::Due | Answer::Switched | Answer::Ended | Answer::Refused | Answer::Torn => {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
    }

    fn write_body(&mut self, mut data: &[u8]) -> io::Result<()> {
        let framing = self.framing()?;
        match framing {
            Framing::Swallowed => return Ok(()),
            Framing::Exact(left) => {
                let Some(left) = left.checked_sub(data.len() as u64) else {
                    // What was promised is not what is meant: none of it can be trusted.
                    self.cut();
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "the body is longer than was promised"));
                };
                self.answer = Answer::Open(Framing::Exact(left));
            }
            Framing::Chunked | Framing::UntilClose => {}
        }
        let frame = if framing == Framing::Chunked { CHUNK_FRAME } else { 0 };
        loop {
            let held = self.out.len() + frame;
            if held + data.len() < RECORD {
                self.out.extend_from_slice(data);
                return Ok(());
            }
            // Whole records leave, straight from the caller's bytes; the rest waits for company.
            let whole = ((held + data.len()) / RECORD).min(RECORDS_AT_ONCE) * RECORD;
            let (now, later) = data.split_at(whole.saturating_sub(held).min(data.len()));
            self.emit(framing, now, false)?;
            data = later;
        }
    }

    fn flush_body(&mut self) -> io::Result<()> {
        let framing = self.framing()?;
        if !self.out.is_empty() {
            self.emit(framing, &[], false)?;
        }
        if self.out.capacity() > QUIET_BUFFER {
            self.out = Vec::new();
        }
        Ok(())
    }

    fn end_answer(&mut self) -> io::Result<()> {
        let framing = self.framing()?;
        if matches!(framing, Framing::Exact(1..)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the body is shorter than was promised"));
        }
        self.emit(framing, &[], true)?;
        self.answer = Answer::Ended;
        Ok(())
    }

    /// Sends what is held and `data`; `last`: and the body's end.
    fn emit(&mut self, framing: Framing, data: &[u8], last: bool) -> io::Result<()> {
        let (head, held) = self.out.split_at(self.head_length);
        if framing == Framing::Chunked {
            let size = held.len() + data.len();
            let mut line = [0; 20];
            let (line, after) =
                if size == 0 { (&line[..0], &[][..]) } else { (size_line(&mut line, size), &b"\r\n"[..]) };
            let end: &[u8] = if last { b"0\r\n\r\n" } else { b"" };
            self.wire.send(&[head, line, held, data, after, end].map(IoSlice::new))?;
        } else {
            self.wire.send(&[head, held, data].map(IoSlice::new))?;
        }
        self.out.clear();
        self.head_length = 0;
        Ok(())
    }
}

impl Read for Turn {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.terms.expect_continue {
            self.terms.expect_continue = false;
            // RFC 9110 section 10.1.1 has it left out when the body comes already.
            if self.wire.plaintext().is_empty() {
                self.wire.send(&[IoSlice::new(answer::CONTINUE)])?;
            }
        }
        self.read_body(buffer)
    }
}

/// A chunk's size and CR LF.
fn size_line(line: &mut [u8; 20], size: usize) -> &[u8] {
    let mut start = line.len() - 2;
    line[start..].copy_from_slice(b"\r\n");
    let mut left = size;
    loop {
        start -= 1;
        line[start] = b"0123456789abcdef"[left & 15];
        left >>= 4;
        if left == 0 {
            return &line[start..];
        }
    }
}
