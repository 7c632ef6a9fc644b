//! A door for `tests/fuzz` to how answers are read: ureq as it is set up here, over our buffers, on a connection that is
//! there in memory. There only while fuzzing.

use std::io::Read as _;
use std::sync::Arc;

use ureq::Agent;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

use super::buffers::TidalBuffers;
use super::connector::NoResolver;

/// An answer as it was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    /// Three digits.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Without its framing; `Err`: what came before it turned out to be torn.
    pub body: Result<Vec<u8>, Vec<u8>>,
}

/// The answer to a GET or, with `head`, to a HEAD, that comes `piece` bytes at a time. `None`: it is none.
pub fn answer(bytes: &[u8], piece: usize, head: bool) -> Option<Read> {
    let connector = Memory(Arc::new(bytes.chunks(piece).map(<[u8]>::to_vec).collect()));
    let agent = Agent::with_parts(super::settings(), connector, NoResolver);
    let request = if head { agent.head("https://h/") } else { agent.get("https://h/") };
    let (parts, body) = request.call().ok()?.into_parts();
    if super::fetch::misframed(&parts).is_some() {
        return None;
    }
    let headers = parts.headers.iter().map(|(n, v)| (n.as_str().to_owned(), v.as_bytes().to_vec())).collect();
    let mut read = Vec::new();
    let outcome = body.into_reader().read_to_end(&mut read);
    let body = if outcome.is_ok() { Ok(read) } else { Err(read) };
    Some(Read { status: parts.status.as_u16(), headers, body })
}

#[derive(Debug)]
struct Memory(Arc<Vec<Vec<u8>>>);

impl Connector for Memory {
    type Out = Wire;

    fn connect(&self, _: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Wire>, ureq::Error> {
        Ok(Some(Wire { pieces: Arc::clone(&self.0), next: (0, 0), buffers: TidalBuffers::default() }))
    }
}

struct Wire {
    pieces: Arc<Vec<Vec<u8>>>,
    /// Piece, and where in it.
    next: (usize, usize),
    buffers: TidalBuffers,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wire")
    }
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, _: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        self.buffers.release();
        let (piece, start) = self.next;
        let Some(bytes) = self.pieces.get(piece) else { return Ok(false) };
        let room = self.buffers.input_append_buf();
        let amount = room.len().min(bytes.len() - start);
        room[..amount].copy_from_slice(&bytes[start..start + amount]);
        self.buffers.input_appended(amount);
        self.next = if start + amount == bytes.len() { (piece + 1, 0) } else { (piece, start + amount) };
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        false
    }

    fn is_tls(&self) -> bool {
        true
    }
}
