//! One end of a tunnel: a TLS session over a socket that does not block, what of it is in hand, and how far each of its
//! two directions is. Never waits.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use rustix::event::PollFlags;
use rustls::ConnectionCommon;

use super::INBOX;

/// One end.
pub struct End<'a, D> {
    tls: &'a mut ConnectionCommon<D>,
    pub(super) socket: &'a TcpStream,
    /// Ciphertext that has been read: `inbox[first..last]`. No buffer while there is none and none is expected.
    inbox: Vec<u8>,
    first: usize,
    last: usize,
    /// The socket may have something to be read.
    readable: bool,
    /// The peer has said goodbye: nothing more comes from it.
    ended: bool,
    /// The peer has gone without one.
    torn: Option<io::Error>,
    /// Goodbye has been said: nothing more is for it.
    told: bool,
    /// It takes nothing any more, and what is for it is dropped.
    deaf: bool,
    /// The kernel has nothing more to tell of the socket but what can still be read.
    hung: bool,
    /// The socket would take nothing when it was last written.
    full: bool,
    moved: bool,
    heard: bool,
}

impl<'a, D> End<'a, D> {
    /// `socket` does not block; the session's handshake is done. Plaintext that the session holds already comes first.
    pub fn new(tls: &'a mut ConnectionCommon<D>, socket: &'a TcpStream) -> Self {
        let (ended, torn) = match tls.process_new_packets() {
            Ok(state) => (state.peer_has_closed(), None),
            Err(e) => (false, Some(io::Error::new(io::ErrorKind::InvalidData, e))),
        };
        Self {
            tls,
            socket,
            inbox: Vec::new(),
            first: 0,
            last: 0,
            readable: true,
            ended,
            torn,
            told: false,
            deaf: false,
            hung: false,
            full: false,
            moved: false,
            heard: false,
        }
    }

    /// Plaintext that has come: some of it, in order; empty: there is none now.
    pub(super) fn plaintext(&mut self) -> &[u8] {
        self.tls.reader().into_first_chunk().unwrap_or_default()
    }

    pub(super) fn consume(&mut self, count: usize) {
        io::BufRead::consume(&mut self.tls.reader(), count);
    }

    /// Takes in more, to be called when there is no plaintext. `false`: nothing more is there now.
    pub(super) fn receive(&mut self) -> bool {
        if self.ended || self.torn.is_some() {
            return false;
        }
        if self.first == self.last && (!self.readable || !self.fill()) {
            return false;
        }
        let mut rest = &self.inbox[self.first..self.last];
        let before = rest.len();
        let taken = self.tls.read_tls(&mut rest);
        self.first += before - rest.len();
        let state = match taken {
            Ok(_) => self.tls.process_new_packets().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e)),
            Err(e) => Err(e),
        };
        match state {
            Ok(state) if state.peer_has_closed() => {
                self.ended = true;
                self.first = self.last;
            }
            Ok(_) => {}
            Err(e) => {
                self.torn = Some(e);
                self.first = self.last;
            }
        }
        true
    }

    fn fill(&mut self) -> bool {
        if self.inbox.is_empty() {
            self.inbox = vec![0; INBOX];
        }
        loop {
            match (&mut &*self.socket).read(&mut self.inbox) {
                Ok(0) => {
                    self.torn = Some(io::ErrorKind::UnexpectedEof.into());
                    return false;
                }
                Ok(count) => {
                    (self.first, self.last) = (0, count);
                    (self.moved, self.heard) = (true, true);
                    // A socket that is not empty says so again.
                    self.readable = count == INBOX || self.hung;
                    return true;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return false;
                }
                Err(e) => {
                    self.torn = Some(e);
                    return false;
                }
            }
        }
    }

    /// Whether it has taken all that was for it, and may be given more.
    pub(super) fn takes(&self) -> bool {
        !self.deaf && !self.tls.wants_write()
    }

    /// Encrypts what is for it; how much of it.
    pub(super) fn write(&mut self, plaintext: &[u8]) -> usize {
        let taken = self.tls.writer().write(plaintext).unwrap_or_default();
        // Never, unless the session's own buffer is full; else nothing would move for ever.
        self.deaf |= taken == 0 && !self.tls.wants_write();
        taken
    }

    /// Sends what is encrypted, as far as the socket takes it.
    pub(super) fn flush(&mut self) {
        while !self.deaf && self.tls.wants_write() {
            match self.tls.write_tls(&mut &*self.socket) {
                Ok(0) => self.deaf = true,
                Ok(_) => {
                    self.moved = true;
                    // That the kernel takes something says nothing of the peer, until it had to wait for it.
                    self.heard |= std::mem::take(&mut self.full);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.full = true;
                    return;
                }
                // What it has sent before may still be there to be read; reading tells how it ended.
                Err(_) => self.deaf = true,
            }
        }
    }

    pub(super) fn say_goodbye(&mut self) {
        if !self.told {
            self.told = true;
            self.tls.send_close_notify();
            self.flush();
        }
    }

    /// Nothing more comes from it, and all that came has been handed on.
    pub(super) fn has_ended(&mut self) -> bool {
        self.ended && self.plaintext().is_empty()
    }

    /// Whether something can be done at once for `other`.
    pub(super) fn has_more_for<E>(&mut self, other: &End<'_, E>) -> bool {
        let more = self.readable || self.first < self.last;
        other.takes() && (!self.plaintext().is_empty() || more && !self.ended && self.torn.is_none())
    }

    /// Nothing is for it any more that it will still take.
    pub(super) fn is_settled(&self) -> bool {
        self.deaf || self.torn.is_some() || !self.tls.wants_write()
    }

    /// It has taken all, goodbye included.
    pub(super) fn is_told(&self) -> bool {
        self.told && !self.tls.wants_write()
    }

    pub(super) fn is_deaf(&self) -> bool {
        self.deaf
    }

    /// Nobody is there any more; what was sent before may still be there.
    pub(super) fn is_gone(&self) -> bool {
        self.torn.is_some() || self.hung
    }

    pub(super) fn torn(&mut self) -> Option<io::Error> {
        self.torn.take()
    }

    pub(super) fn deafen(&mut self) {
        self.deaf = true;
    }

    /// Whether anything was read or written since this was last asked.
    pub(super) fn has_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Whether the peer has given a sign of life since this was last asked: bytes, or room for more.
    pub(super) fn is_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// Gives the buffer back if nothing is in it.
    pub(super) fn release(&mut self) {
        if self.first == self.last {
            (self.first, self.last) = (0, 0);
            self.inbox = Vec::new();
        }
    }

    /// What the socket is to be asked for; `None`: nothing. `wanted`: the other end takes what this one has.
    pub(super) fn interest(&self, wanted: bool) -> Option<PollFlags> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, wanted && !self.ended && self.torn.is_none() && !self.readable);
        flags.set(PollFlags::OUT, !self.takes() && !self.deaf);
        (!self.hung && self.torn.is_none()).then_some(flags)
    }

    /// Takes note of what the socket shows.
    pub(super) fn saw(&mut self, flags: PollFlags) {
        if flags.contains(PollFlags::IN) {
            self.readable = true;
        }
        if flags.intersects(PollFlags::HUP | PollFlags::ERR) {
            // Polled again it would say the same at once, also while what it has sent may not be read yet.
            self.hung = true;
            self.readable = true;
            self.deaf |= self.ended;
        }
    }
}
