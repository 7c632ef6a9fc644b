//! What is read from a view: one state of it, in a file that stays open for it.

use std::io::{self, Read};
use std::sync::Arc;

use super::super::disk::DiskFile;
use super::super::index::Index;
use super::super::{Collection, ObjectRef, ViewInfo};
use super::format::{Body, Loc};
use super::scan::{Ahead, DocumentBody, read_record};
use super::shared::Shared;
use super::view::{Held, View};

/// The file that a state is in.
struct Source {
    view: Arc<View>,
    shared: Arc<Shared>,
    file: Arc<dyn DiskFile>,
    file_id: u64,
    seq: u64,
}

impl Source {
    fn new(view: &Arc<View>, shared: &Arc<Shared>, held: &Held) -> Self {
        let (view, shared, file) = (Arc::clone(view), Arc::clone(shared), Arc::clone(&held.file));
        Self { view, shared, file, file_id: held.file_id, seq: held.seq }
    }

    /// Reads the payload of a record; one that is damaged is reported, and its file set aside.
    fn read<'a>(&self, loc: Loc, record: &'a mut Vec<u8>) -> io::Result<Body<'a>> {
        read_record(&*self.file, self.file_id, loc, record).inspect_err(|error| self.report(error))
    }

    /// The same for records that are read one after the other.
    fn read_on<'a>(&self, loc: Loc, ahead: &'a mut Ahead) -> io::Result<Body<'a>> {
        ahead.read(&*self.file, self.file_id, loc).inspect_err(|error| self.report(error))
    }

    fn report(&self, error: &io::Error) {
        let _ = self.shared.failed("read", &self.view.path(self.seq), io::Error::new(error.kind(), error.to_string()));
        self.view.damaged(&self.shared, self.seq);
    }
}

/// A document's body.
pub(super) struct BodyReader {
    source: Source,
    body: Arc<DocumentBody>,
    next: usize,
    record: Vec<u8>,
    /// What of the chunk in `record` has not been read yet.
    rest: std::ops::Range<usize>,
}

impl BodyReader {
    pub(super) fn new(view: &Arc<View>, shared: &Arc<Shared>, held: &Held, body: Arc<DocumentBody>) -> Self {
        Self { source: Source::new(view, shared, held), body, next: 0, record: Vec::new(), rest: 0..0 }
    }
}

impl Read for BodyReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            let Some(&loc) = self.body.chunks.get(self.next) else {
                return Ok(0);
            };
            let length = self.source.read(loc, &mut self.record)?.rest.len();
            self.next += 1;
            self.rest = super::format::HEAD..super::format::HEAD + length;
        }
        let n = self.rest.len().min(out.len());
        out[..n].copy_from_slice(&self.record[self.rest.start..self.rest.start + n]);
        self.rest.start += n;
        Ok(n)
    }
}

/// A collection at one moment.
pub(super) struct Snapshot {
    source: Source,
    info: ViewInfo,
    index: Arc<Index<Loc>>,
}

impl Snapshot {
    pub(super) fn new(view: &Arc<View>, shared: &Arc<Shared>, held: Held, index: Arc<Index<Loc>>) -> Self {
        Self { source: Source::new(view, shared, &held), info: held.info, index }
    }
}

fn object_bytes<'a>(body: &Body<'a>) -> io::Result<&'a [u8]> {
    body.object_bytes().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
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
        let mut ahead = Ahead::default();
        for entry in self.index.iter() {
            let bytes = object_bytes(&self.source.read_on(entry.at, &mut ahead)?)?;
            entry.describe(&mut object);
            visit(&object, bytes)?;
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
        let mut record = Vec::new();
        let bytes = object_bytes(&self.source.read(entry.at, &mut record).ok()?).ok()?.to_vec();
        let mut object = ObjectRef::default();
        entry.describe(&mut object);
        Some((object, bytes))
    }
}
