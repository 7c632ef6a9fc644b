//! What is written to a document.

use std::io::Read;
use std::sync::Arc;
use std::time::SystemTime;

use super::super::{DocumentHead, DocumentWriter, StoreError, lock};
use super::format::{Loc, Record, State};
use super::reading::BodyReader;
use super::scan::{Content, DocumentBody};
use super::shared::Shared;
use super::view::View;

/// Documents up to this length are written at once with their commit; longer ones in pieces of it.
const CHUNK: usize = 64 << 10;

/// A document under way. As long as it is the recorded one to the byte, nothing is written.
pub(super) struct FileDocument {
    view: Arc<View>,
    shared: Arc<Shared>,
    head: DocumentHead,
    removals: u64,
    same: Option<Same>,
    buffer: Vec<u8>,
    /// The transaction, once something has been written.
    tx: Option<u64>,
    chunks: Vec<Loc>,
    length: u64,
    /// A write has failed: the body has a hole.
    failed: bool,
}

/// The recorded document that the new one has been the same as, up to `matched` bytes.
struct Same {
    body: Arc<DocumentBody>,
    recorded: BodyReader,
    /// The same body from its beginning, if the rest turns out to differ.
    again: BodyReader,
    matched: u64,
}

impl FileDocument {
    pub(super) fn begin(view: Arc<View>, shared: Arc<Shared>, head: DocumentHead) -> Result<Self, StoreError> {
        let held = view.held(&shared)?;
        let same = held.and_then(|held| match &held.content {
            Content::Document(body) if body.head == head => Some(Same {
                body: Arc::clone(body),
                recorded: BodyReader::new(&view, &shared, &held, Arc::clone(body)),
                again: BodyReader::new(&view, &shared, &held, Arc::clone(body)),
                matched: 0,
            }),
            _ => None,
        });
        let removals = {
            let mut writer = lock(&view.writer);
            view.read(&shared, &mut writer)?;
            writer.removals
        };
        let (buffer, chunks) = (Vec::new(), Vec::new());
        Ok(Self { view, shared, head, removals, same, buffer, tx: None, chunks, length: 0, failed: false })
    }

    /// Writes what was the same as the recorded body so far.
    fn differs(&mut self, same: Same) -> Result<(), StoreError> {
        let mut recorded = same.again.take(same.matched);
        let mut piece = vec![0; 16 << 10];
        loop {
            match recorded.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(n) => self.add(&piece[..n])?,
                // The reader has counted it and set the file aside, and this writer with it.
                Err(_) => return Err(StoreError::Abandoned),
            }
        }
    }

    fn write_on(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if let Some(mut same) = self.same.take() {
            match same.continues(bytes) {
                Ok(true) => {
                    self.same = Some(same);
                    return Ok(());
                }
                Ok(false) => self.differs(same)?,
                Err(_) => return Err(StoreError::Abandoned),
            }
        }
        self.add(bytes)
    }

    fn add(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        self.length += bytes.len() as u64;
        while self.buffer.len() + bytes.len() > CHUNK {
            let (now, later) = bytes.split_at(CHUNK - self.buffer.len());
            self.buffer.extend_from_slice(now);
            self.spill()?;
            bytes = later;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn spill(&mut self) -> Result<(), StoreError> {
        let mut writer = lock(&self.view.writer);
        if writer.removals != self.removals {
            return Err(StoreError::Abandoned);
        }
        let tx = *self.tx.get_or_insert_with(|| {
            writer.documents += 1;
            View::next_tx(&mut writer)
        });
        let chunk = &self.buffer;
        let loc =
            self.view.append(&self.shared, &mut writer, |batch| batch.record(Record::Chunk, tx, None, &[chunk]))?;
        self.chunks.push(loc);
        self.buffer.clear();
        Ok(())
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        if let Some(same) = self.same.take() {
            let writer = lock(&self.view.writer);
            let held = lock(&self.view.shown).content.clone();
            let still = matches!(held, Some(Content::Document(body)) if Arc::ptr_eq(&body, &same.body));
            if writer.removals == self.removals && still && same.matched == same.body.length {
                self.view.confirm();
                return Ok(());
            }
            drop(writer);
            self.differs(same)?;
        }
        let mut writer = lock(&self.view.writer);
        if writer.removals != self.removals {
            return Err(StoreError::Abandoned);
        }
        let older = matches!(&lock(&self.view.shown).content,
            Some(Content::Document(held)) if self.head.is_older_than(&held.head));
        if older {
            return Ok(());
        }
        let tx = self.tx.unwrap_or_else(|| View::next_tx(&mut writer));
        let state = State {
            collection: false,
            complete: true,
            status: self.head.status,
            objects: 1,
            version: self.head.version,
            recorded_at: SystemTime::now(),
        };
        let mut chunks = std::mem::take(&mut self.chunks);
        let last = self.view.append(&self.shared, &mut writer, |batch| {
            let last = match &self.buffer[..] {
                [] => None,
                chunk => Some(batch.record(Record::Chunk, tx, None, &[chunk])?),
            };
            batch.document(tx, &state, &self.head, self.length)?;
            Ok(last)
        })?;
        chunks.extend(last);
        let (head, length) = (std::mem::take(&mut self.head), self.length);
        let body = Arc::new(DocumentBody { head, chunks, length });
        self.view.show(&self.shared, &writer, Content::Document(body), &state);
        Ok(())
    }
}

impl DocumentWriter for FileDocument {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Abandoned);
        }
        let written = self.write_on(bytes);
        self.failed = written.is_err();
        written
    }

    fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        if self.failed { Err(StoreError::Abandoned) } else { self.finish() }
    }
}

impl Same {
    /// Whether the recorded body goes on with these bytes.
    fn continues(&mut self, bytes: &[u8]) -> std::io::Result<bool> {
        let mut recorded = vec![0; bytes.len()];
        let mut length = 0;
        while length < bytes.len() {
            match self.recorded.read(&mut recorded[length..])? {
                0 => break,
                n => length += n,
            }
        }
        let same = recorded[..length] == *bytes;
        self.matched += if same { length as u64 } else { 0 };
        Ok(same)
    }
}

impl Drop for FileDocument {
    fn drop(&mut self) {
        let mut writer = lock(&self.view.writer);
        if self.tx.is_some() && writer.removals == self.removals {
            writer.documents = writer.documents.saturating_sub(1);
        }
        self.view.tidy(&self.shared, &mut writer);
    }
}
