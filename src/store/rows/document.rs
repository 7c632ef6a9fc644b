//! What is written to a document.

use std::io::Read;
use std::sync::Arc;
use std::time::SystemTime;

use super::super::{DocumentHead, DocumentWriter, StoreError, lock};
use super::format::{self, Body, Content, Place, Row};
use super::reading::BodyReader;
use super::shared::Shared;
use super::view::{Discards, Held, View, rows_of};

/// Documents up to this length are written at once with their commit; longer ones in pieces of it.
const PIECE: usize = 64 << 10;

/// A document under way. As long as it is the recorded one to the byte, nothing is written.
pub(super) struct RowsDocument {
    view: Arc<View>,
    shared: Arc<Shared>,
    head: DocumentHead,
    removals: u64,
    same: Option<Same>,
    batch: u64,
    /// How many pieces have been written.
    pieces: u32,
    buffer: Vec<u8>,
    length: u64,
    /// A write has failed: the body has a hole.
    failed: bool,
    committed: bool,
}

/// The recorded document that the new one has been the same as, up to `matched` bytes.
struct Same {
    held: Held,
    recorded: BodyReader,
    matched: u64,
}

impl Same {
    fn body(&self) -> Option<&Body> {
        match &self.held.row.content {
            Content::Document(body) => Some(body),
            Content::Collection(_) => None,
        }
    }

    /// Whether the recorded body goes on with these bytes.
    fn continues(&mut self, bytes: &[u8]) -> std::io::Result<bool> {
        let mut recorded = Vec::with_capacity(bytes.len());
        self.recorded.by_ref().take(bytes.len() as u64).read_to_end(&mut recorded)?;
        let same = recorded == bytes;
        self.matched += if same { bytes.len() as u64 } else { 0 };
        Ok(same)
    }
}

impl RowsDocument {
    pub(super) fn begin(view: Arc<View>, shared: Arc<Shared>, head: DocumentHead) -> Result<Self, StoreError> {
        let same = view.held(&shared)?.and_then(|held| match &held.row.content {
            Content::Document(body) if body.head == head => {
                let recorded = BodyReader::new(&view, &shared, &held, body);
                Some(Same { held, recorded, matched: 0 })
            }
            _ => None,
        });
        let removals = lock(&view.writer).removals;
        let batch = shared.next();
        let (buffer, pieces, length) = (Vec::new(), 0, 0);
        Ok(Self { view, shared, head, removals, same, batch, pieces, buffer, length, failed: false, committed: false })
    }

    /// Writes what was the same as the recorded body so far.
    fn differs(&mut self, same: &Same) -> Result<(), StoreError> {
        let Some(body) = same.body() else {
            return Ok(());
        };
        let mut recorded = BodyReader::new(&self.view, &self.shared, &same.held, body).take(same.matched);
        let mut piece = vec![0; 16 << 10];
        loop {
            match recorded.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(n) => self.add(&piece[..n])?,
                // The reader has counted it.
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
                Ok(false) => self.differs(&same)?,
                Err(_) => return Err(StoreError::Abandoned),
            }
        }
        self.add(bytes)
    }

    fn add(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        self.length += bytes.len() as u64;
        while self.buffer.len() + bytes.len() > PIECE {
            let (now, later) = bytes.split_at(PIECE - self.buffer.len());
            self.buffer.extend_from_slice(now);
            self.spill()?;
            bytes = later;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn spill(&mut self) -> Result<(), StoreError> {
        let _gate = self.shared.enter();
        if lock(&self.view.writer).removals != self.removals {
            return Err(StoreError::Abandoned);
        }
        let key = format::bytes_key(Place { batch: self.batch, seq: self.pieces });
        self.shared.write(&mut |pen| {
            if self.pieces == 0 {
                pen.put(&format::draft_key(self.batch), b"")?;
            }
            pen.put(&key, &format::seal(&key, &[&self.buffer]))
        })?;
        self.pieces = self.pieces.checked_add(1).ok_or(StoreError::Abandoned)?;
        self.buffer.clear();
        Ok(())
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        if let Some(same) = self.same.take() {
            let whole = same.body().is_some_and(|body| body.length == same.matched);
            let still = || lock(&self.view.writer).removals == self.removals;
            if whole && still() && self.view.confirm_if(|row| row.tx == same.held.row.tx) {
                return Ok(());
            }
            self.differs(&same)?;
        }
        let _gate = self.shared.enter();
        let mut writer = lock(&self.view.writer);
        if writer.removals != self.removals {
            return Err(StoreError::Abandoned);
        }
        let before = self.view.row();
        let older = matches!(&before, Some(Row { content: Content::Document(held), .. })
            if self.head.is_older_than(&held.head));
        if older {
            return Ok(());
        }
        let tx = self.shared.next();
        let id = before.as_ref().map_or(tx, |row| row.id);
        let erased = match &before {
            Some(row) => self
                .shared
                .moment()
                .and_then(|moment| rows_of(&*moment, row.id))
                .map_err(|error| self.shared.failed("read", error))?,
            None => (Vec::new(), Vec::new()),
        };
        let last = Place { batch: self.batch, seq: self.pieces };
        let pieces = self.pieces + u32::from(!self.buffer.is_empty());
        let body = Body { head: self.head.clone(), batch: self.batch, pieces, length: self.length };
        let bytes = self.length + (body.head.head.len() + body.head.uid.len()) as u64;
        let row = Row { id, tx, recorded_at: SystemTime::now(), bytes, content: Content::Document(body) };
        let mut discards = Discards::new(writer.drafts.ids().len());
        self.shared.write(&mut |pen| {
            for &place in &erased.1 {
                discards.discard(pen, place)?;
            }
            erased.0.iter().try_for_each(|key| pen.delete(key))?;
            if !self.buffer.is_empty() {
                let key = format::bytes_key(last);
                pen.put(&key, &format::seal(&key, &[&self.buffer]))?;
            }
            if self.pieces > 0 {
                pen.delete(&format::draft_key(self.batch))?;
            }
            let key = format::view_key(id);
            pen.put(&key, &format::seal(&key, &[&row.encode(&self.view.key)]))
        })?;
        writer.doomed.extend(discards.doomed);
        writer.behind = false;
        self.committed = true;
        self.view.show(row, None);
        Ok(())
    }
}

impl DocumentWriter for RowsDocument {
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

impl Drop for RowsDocument {
    fn drop(&mut self) {
        if self.committed || self.pieces == 0 {
            return;
        }
        let _gate = self.shared.enter();
        // What stays is swept when the database is opened again.
        let _ = self.shared.write(&mut |pen| {
            for seq in 0..self.pieces {
                pen.delete(&format::bytes_key(Place { batch: self.batch, seq }))?;
            }
            pen.delete(&format::draft_key(self.batch))
        });
    }
}
