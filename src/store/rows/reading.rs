//! What is read from a view: one state of it, in the moment that was taken for it.

use std::io::{self, Read};
use std::sync::Arc;

use super::super::Collection;
use super::super::index::Entry;
use super::super::snapshot::{Contents, Snapshot};
use super::Moment;
use super::format::{Body, Place};
use super::shared::Shared;
use super::view::{Held, View, read_bytes};

/// The moment that a state is read in.
struct Source {
    view: Arc<View>,
    shared: Arc<Shared>,
    moment: Arc<dyn Moment>,
    tx: u64,
}

impl Source {
    fn new(view: &Arc<View>, shared: &Arc<Shared>, held: &Held) -> Self {
        let (view, shared, moment) = (Arc::clone(view), Arc::clone(shared), Arc::clone(&held.moment));
        Self { view, shared, moment, tx: held.row.tx }
    }

    /// Reads bytes; damaged ones are reported, and their view dropped.
    fn read_bytes(&self, place: Place, out: &mut Vec<u8>) -> io::Result<()> {
        read_bytes(&*self.moment, place, out).inspect_err(|error| {
            if error.kind() == io::ErrorKind::InvalidData {
                self.view.is_damaged(&self.shared, self.tx);
            } else {
                self.shared.failed("read", io::Error::new(error.kind(), error.to_string()));
            }
        })
    }
}

/// A document's body.
pub(super) struct BodyReader {
    source: Source,
    batch: u64,
    pieces: std::ops::Range<u32>,
    piece: Vec<u8>,
    /// How much of the piece has been read.
    at: usize,
}

impl BodyReader {
    pub(super) fn new(view: &Arc<View>, shared: &Arc<Shared>, held: &Held, body: &Body) -> Self {
        let source = Source::new(view, shared, held);
        Self { source, batch: body.batch, pieces: 0..body.pieces, piece: Vec::new(), at: 0 }
    }
}

impl Read for BodyReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            let Some(seq) = self.pieces.next() else {
                return Ok(0);
            };
            self.at = 0;
            self.source.read_bytes(Place { batch: self.batch, seq }, &mut self.piece)?;
        }
        let rest = &self.piece[self.at..];
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        self.at += n;
        Ok(n)
    }
}

/// The collection that is `held`, at this moment. `None` if what is held is a document.
pub(super) fn snapshot(view: &Arc<View>, shared: &Arc<Shared>, held: Held) -> Option<impl Collection + use<>> {
    let contents = Source::new(view, shared, &held);
    Some(Snapshot { info: held.row.info(&view.key), index: held.index?, contents })
}

impl Contents<Place> for Source {
    type Buffer = Vec<u8>;

    fn read<'a>(&'a self, entry: &'a Entry<Place>, buffer: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        self.read_bytes(entry.at, buffer)?;
        Ok(buffer)
    }
}
