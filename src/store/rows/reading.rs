//! What is read from a view: one state of it, in the moment that was taken for it.

use std::io::{self, Read};
use std::sync::Arc;

use super::super::index::Index;
use super::super::{Collection, ObjectRef, ViewInfo};
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
    fn read(&self, place: Place, out: &mut Vec<u8>) -> io::Result<()> {
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
            self.source.read(Place { batch: self.batch, seq }, &mut self.piece)?;
        }
        let rest = &self.piece[self.at..];
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        self.at += n;
        Ok(n)
    }
}

/// A collection at one moment.
pub(super) struct Snapshot {
    source: Source,
    info: ViewInfo,
    index: Arc<Index<Place>>,
}

impl Snapshot {
    /// `None` if what is held is a document.
    pub(super) fn new(view: &Arc<View>, shared: &Arc<Shared>, held: Held) -> Option<Self> {
        let source = Source::new(view, shared, &held);
        Some(Self { source, info: held.row.info(&view.key), index: held.index? })
    }
}

impl Collection for Snapshot {
    fn info(&self) -> &ViewInfo {
        &self.info
    }

    fn envelope(&self) -> Vec<u8> {
        self.index.envelope.to_vec()
    }

    fn version(&self) -> Option<u64> {
        self.index.version
    }

    fn unchanged_since(&self) -> Option<u64> {
        self.index.unchanged_since
    }

    fn len(&self) -> usize {
        self.index.len()
    }

    fn each(&self, visit: &mut dyn FnMut(&ObjectRef, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut object = ObjectRef::default();
        let mut bytes = Vec::new();
        for entry in self.index.iter() {
            self.source.read(entry.at, &mut bytes)?;
            entry.describe(&mut object);
            visit(&object, &bytes)?;
        }
        Ok(())
    }

    fn lengths(&self, visit: &mut dyn FnMut(u32, u64)) {
        self.index.iter().for_each(|entry| visit(entry.flags, u64::from(entry.size)));
    }

    fn index(&self, visit: &mut dyn FnMut(&ObjectRef, u64)) {
        let mut object = ObjectRef::default();
        for entry in self.index.iter() {
            entry.describe(&mut object);
            visit(&object, u64::from(entry.size));
        }
    }

    fn find(&self, object_key: &str) -> Option<ObjectRef> {
        let mut object = ObjectRef::default();
        self.index.get(object_key)?.describe(&mut object);
        Some(object)
    }

    fn get(&self, object_key: &str) -> Option<(ObjectRef, Vec<u8>)> {
        let entry = self.index.get(object_key)?;
        let mut bytes = Vec::new();
        self.source.read(entry.at, &mut bytes).ok()?;
        let mut object = ObjectRef::default();
        entry.describe(&mut object);
        Some((object, bytes))
    }
}
