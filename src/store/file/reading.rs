//! What is read from a view: one state of it, in a file that stays open for it.

use std::io::{self, Read};
use std::sync::Arc;

use super::super::Collection;
use super::super::disk::DiskFile;
use super::super::index::{Entry, Index};
use super::super::snapshot::{Contents, Snapshot};
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
    fn read_chunk<'a>(&self, loc: Loc, record: &'a mut Vec<u8>) -> io::Result<Body<'a>> {
        read_record(&*self.file, self.file_id, loc, record).inspect_err(|error| self.report(error))
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
            let length = self.source.read_chunk(loc, &mut self.record)?.rest.len();
            self.next += 1;
            self.rest = super::format::HEAD..super::format::HEAD + length;
        }
        let n = self.rest.len().min(out.len());
        out[..n].copy_from_slice(&self.record[self.rest.start..self.rest.start + n]);
        self.rest.start += n;
        Ok(n)
    }
}

/// The collection that is `held`, and whose index this is, at this moment.
pub(super) fn snapshot(
    view: &Arc<View>,
    shared: &Arc<Shared>,
    held: Held,
    index: Arc<Index<Loc>>,
) -> impl Collection + use<> {
    let contents = Source::new(view, shared, &held);
    Snapshot { info: held.info, index, contents }
}

impl Contents<Loc> for Source {
    type Buffer = Ahead;

    fn read<'a>(&'a self, entry: &'a Entry<Loc>, ahead: &'a mut Ahead) -> io::Result<&'a [u8]> {
        let body = ahead.read(&*self.file, self.file_id, entry.at).inspect_err(|error| self.report(error))?;
        body.object_bytes().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }
}
