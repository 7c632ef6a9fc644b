//! How what was committed becomes durable, and how a file of garbage becomes a short one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::index::Index;
use super::super::{ObjectRef, StoreError, lock};
use super::format::{Batch, Record};
use super::scan::{Content, DocumentBody};
use super::shared::Shared;
use super::view::{Held, Log, View, Writer};

/// A file shorter than this is not worth writing anew.
const WORTH: u64 = 64 << 10;
/// How much is written at a time when a file is written anew.
const PIECE: usize = 256 << 10;

impl View {
    fn is_worth_compacting(&self, writer: &Writer) -> bool {
        let busy = !writer.drafts.is_empty() || writer.documents > 0;
        let Some(log) = writer.log.as_ref().filter(|_| !busy) else {
            return false;
        };
        let shown = lock(&self.shown);
        // Written anew at three quarters of garbage, every changed byte costs a third of another one on top. At half,
        // as one would do to save space, it would cost a whole one, and it is the flash that wears out.
        let limit = |content: &Content| content.weight().saturating_mul(4).saturating_add(WORTH);
        writer.distrusted || shown.content.as_ref().is_some_and(|content| log.chain.offset > limit(content))
    }

    /// Writes what is held to a new file, which is the view's from then on. The old one goes when the new one is
    /// durable; those who read it have it open.
    pub(super) fn compact(&self, shared: &Shared, writer: &mut Writer) -> Result<(), StoreError> {
        let Some(held) = self.held_if_read(shared)? else {
            return Ok(());
        };
        let mut log = self.create(shared, writer)?;
        let copied = self.copy(shared, &held, &mut log);
        match copied {
            Ok(content) => {
                shared.numbers.compactions.fetch_add(1, Ordering::Relaxed);
                let mut shown = lock(&self.shown);
                shown.content = Some(content);
                (shown.seq, shown.file_id) = (log.seq, log.chain.file_id);
                if let Some(info) = &mut shown.info {
                    info.bytes = log.chain.offset;
                }
                writer.distrusted = false;
                writer.log = Some(log);
                Ok(())
            }
            Err(error) => {
                shared.close(self.id, log.seq);
                shared.remove_file(&self.path(log.seq))?;
                writer.seqs.retain(|&seq| seq != log.seq);
                if matches!(error, StoreError::Damaged { .. }) {
                    self.give_up(shared, writer, "damaged");
                }
                Err(error)
            }
        }
    }

    fn copy(&self, shared: &Shared, held: &Held, log: &mut Log) -> Result<Content, StoreError> {
        let header = self.header(log.seq, log.chain.file_id);
        let state = held.state();
        let mut batch = Batch::new(log.chain, 0, &header);
        let mut record = Vec::new();
        let mut object = ObjectRef::default();
        let mut full = |batch: &mut Batch| -> Result<(), StoreError> {
            if batch.out.len() >= PIECE {
                self.write(shared, log, batch)?;
                batch.out.clear();
            }
            Ok(())
        };
        let content = match &held.content {
            Content::Document(body) => {
                let mut chunks = Vec::with_capacity(body.chunks.len());
                for &loc in &body.chunks {
                    let chunk = self.read_record(shared, held, loc, &mut record)?;
                    chunks.push(batch.record(Record::Chunk, 1, None, &[chunk.rest])?);
                    full(&mut batch)?;
                }
                batch.document(1, &state, &body.head, body.length)?;
                let (head, length) = (body.head.clone(), body.length);
                Content::Document(Arc::new(DocumentBody { head, chunks, length }))
            }
            Content::Collection(index) => {
                let mut copy = Index::default();
                copy.envelope = Arc::clone(&index.envelope);
                (copy.version, copy.complete) = (index.version, index.complete);
                copy.unchanged_since = index.unchanged_since;
                for entry in index.iter() {
                    let body = self.read_record(shared, held, entry.at, &mut record)?;
                    let bytes = body.object_bytes().unwrap_or_default();
                    entry.describe(&mut object);
                    let loc = batch.put(1, None, &object, bytes)?;
                    copy.put(Arc::new(entry.moved(loc)));
                    full(&mut batch)?;
                }
                if let Some(since) = index.unchanged_since {
                    batch.record(Record::Since, 1, None, &[&since.to_le_bytes()])?;
                }
                batch.record(Record::Envelope, 1, Some(&state), &[&index.envelope])?;
                Content::Collection(Arc::new(copy))
            }
        };
        self.write(shared, log, &batch)?;
        Ok(content)
    }

    /// Makes what has been committed durable, after writing the file anew if it is worth it. Returns the file's number,
    /// whose name may still have to be; `None` if there is nothing left of the view.
    pub(super) fn sync(&self, shared: &Shared) -> Result<Option<u64>, StoreError> {
        let (seq, written, distrusted, file) = {
            let mut writer = lock(&self.writer);
            if !writer.read && writer.seqs.len() > 1 {
                self.read(shared, &mut writer)?;
            }
            if self.is_worth_compacting(&writer) {
                // A failure has been counted; the old file is still good, unless it is not trusted.
                let _ = self.compact(shared, &mut writer);
            }
            let Some(log) = &writer.log else {
                return Ok(None);
            };
            let file = shared.open_file(self.id, log.seq, &self.path(log.seq))?;
            (log.seq, log.committed, writer.distrusted, file)
        };
        shared.numbers.fsyncs.fetch_add(1, Ordering::Relaxed);
        let synced = file.sync_data();
        let mut writer = lock(&self.writer);
        let current = writer.log.as_mut().filter(|log| log.seq == seq);
        match synced {
            Ok(()) if !distrusted => {
                if let Some(log) = current {
                    log.durable = log.durable.max(written);
                }
                Ok(Some(seq))
            }
            outcome => {
                writer.distrusted |= current_is(&writer, seq);
                let error = outcome.err().unwrap_or_else(|| io::Error::other("an earlier attempt failed"));
                Err(shared.failed("sync", &self.path(seq), error))
            }
        }
    }

    /// Removes files older than the one with this number, which is durable with its name.
    pub(super) fn settle(&self, shared: &Shared, seq: u64) {
        let mut writer = lock(&self.writer);
        let old: Vec<u64> = writer.seqs.iter().copied().filter(|&other| other < seq).collect();
        for old in old {
            shared.close(self.id, old);
            if shared.remove_file(&self.path(old)).is_ok() {
                writer.seqs.retain(|&other| other != old);
                writer.may_return = true;
                shared.mark_dir(&self.folder);
            }
        }
    }

    /// Whether older files wait for the newest to be durable.
    pub(super) fn has_old_files(&self) -> bool {
        lock(&self.writer).seqs.len() > 1
    }
}

fn current_is(writer: &Writer, seq: u64) -> bool {
    writer.log.as_ref().is_some_and(|log| log.seq == seq)
}
