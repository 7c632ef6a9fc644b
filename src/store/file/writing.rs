//! What is written to a view: changes that are folded, generations, documents.

use std::io::Read;
use std::sync::Arc;
use std::time::SystemTime;

use super::super::drafts::{CommitPlan, FoldPlan, Replace, Source, plan_fold};
use super::super::index::{Entry, Index};
use super::super::{
    Change, Committed, DocumentHead, DocumentWriter, Folded, Generation, ObjectRef, StoreError,
    lock,
};
use super::format::{Batch, Loc, Record, State};
use super::reading::BodyReader;
use super::scan::{Content, DocumentBody};
use super::shared::Shared;
use super::view::{View, Writer};

/// Documents up to this length are written at once with their commit; longer ones in pieces of it.
const CHUNK: usize = 64 << 10;

fn collection_state(objects: usize, version: Option<u64>, complete: bool) -> State {
    let objects = u32::try_from(objects).unwrap_or(u32::MAX);
    State {
        collection: true,
        complete,
        status: 0,
        objects,
        version,
        recorded_at: SystemTime::now(),
    }
}

/// An object that has been written.
type Written = Arc<Entry<Loc>>;

/// An object's length as an index keeps it.
fn size_of(bytes: &[u8]) -> Result<u32, StoreError> {
    u32::try_from(bytes.len()).map_err(|_| StoreError::TooLarge {
        what: "an object",
        length: bytes.len() as u64,
    })
}

fn entry(object: &ObjectRef, bytes: &[u8], loc: Loc) -> Result<Written, StoreError> {
    Ok(Arc::new(Entry::new(object, size_of(bytes)?, loc)))
}

/// Calls `then` with the collection that is shown, if there is one. Short work only: readers wait.
fn with_index<T>(view: &View, then: impl FnOnce(Option<&Index<Loc>>) -> T) -> T {
    match &lock(&view.shown).content {
        Some(Content::Collection(index)) => then(Some(index)),
        _ => then(None),
    }
}

/// Folds changes into a view.
pub(super) fn fold(
    view: &Arc<View>,
    shared: &Shared,
    changes: &[Change<'_>],
) -> Result<Folded, StoreError> {
    let mut writer = lock(&view.writer);
    view.read(shared, &mut writer)?;
    let Some(plan) = with_index(view, |held| held.map(|held| plan_fold(held, changes))) else {
        return if writer.drafts.is_empty() {
            Err(StoreError::NotRecorded)
        } else {
            fold_early(view, shared, &mut writer, changes)
        };
    };
    if plan.applied == 0 {
        view.confirm();
    } else {
        let state = collection_state(plan.objects, plan.version, plan.complete);
        let tx = View::next_tx(&mut writer);
        let entries = view.append(shared, &mut writer, |batch| {
            write_steps(batch, tx, &state, &plan, changes)
        })?;
        view.show_change(shared, &writer, &state, |index| {
            let mut entries = entries.into_iter();
            for &step in &plan.steps {
                match &changes[step] {
                    Change::Put { .. } => entries
                        .next()
                        .into_iter()
                        .for_each(|entry| index.put(entry)),
                    Change::Delete { key, .. } => index.delete(key),
                    Change::Envelope { bytes } => index.envelope = Arc::from(*bytes),
                    Change::Advance { .. } | Change::Incomplete => {}
                }
            }
            (index.version, index.complete) = (plan.version, plan.complete);
        });
    }
    with_index(view, |held| {
        if let Some(held) = held {
            writer.drafts.remember(changes, &plan.steps, held);
        }
    });
    Ok(Folded {
        applied: plan.applied,
        version: plan.version,
    })
}

/// Writes the changes that have an effect as one transaction, and returns the entries of those that put something.
fn write_steps(
    batch: &mut Batch,
    tx: u64,
    state: &State,
    plan: &FoldPlan,
    changes: &[Change<'_>],
) -> Result<Vec<Written>, StoreError> {
    let mut entries = Vec::new();
    for (i, &step) in plan.steps.iter().enumerate() {
        let state = (i + 1 == plan.steps.len()).then_some(state);
        match &changes[step] {
            Change::Put { object, bytes } => {
                let loc = batch.put(tx, state, object, bytes)?;
                entries.push(entry(object, bytes, loc)?);
            }
            Change::Delete { key, .. } => {
                batch.record(Record::Delete, tx, state, &[key.as_bytes()])?;
            }
            Change::Envelope { bytes } => {
                batch.record(Record::Envelope, tx, state, &[bytes])?;
            }
            Change::Advance { .. } | Change::Incomplete => {}
        }
    }
    if plan.steps.is_empty() {
        batch.record(Record::Collection, tx, Some(state), &[])?;
    }
    Ok(entries)
}

/// Folds changes into the generations that are open, there being no collection yet.
fn fold_early(
    view: &Arc<View>,
    shared: &Shared,
    writer: &mut Writer,
    changes: &[Change<'_>],
) -> Result<Folded, StoreError> {
    let mut applied = 0;
    for change in changes {
        let mut counts = matches!(change, Change::Delete { .. });
        if let Change::Put { object, bytes } = change {
            for draft in writer.drafts.ids() {
                if !writer.drafts.wants_early(draft, object) {
                    continue;
                }
                let written = view.append(shared, writer, |batch| {
                    let loc = batch.put(draft, None, object, bytes)?;
                    entry(object, bytes, loc)
                });
                match written {
                    Ok(entry) => writer.drafts.enter(draft, entry, Source::Folded),
                    Err(error) => {
                        // A generation that has missed a change must not be committed.
                        writer.drafts.clear();
                        return Err(error);
                    }
                }
                counts = true;
            }
        }
        applied += usize::from(counts);
        writer.drafts.remember_one(change, counts);
    }
    Ok(Folded {
        applied,
        version: None,
    })
}

/// A generation under way. Its id as a draft is its transaction's number.
pub(super) struct FileGeneration {
    view: Arc<View>,
    shared: Arc<Shared>,
    draft: u64,
}

impl FileGeneration {
    pub(super) fn begin(view: Arc<View>, shared: Arc<Shared>) -> Result<Self, StoreError> {
        let mut writer = lock(&view.writer);
        view.read(&shared, &mut writer)?;
        let draft = View::next_tx(&mut writer);
        with_index(&view, |held| writer.drafts.begin(draft, held));
        drop(writer);
        Ok(Self {
            view,
            shared,
            draft,
        })
    }

    fn write_difference(
        &self,
        writer: &mut Writer,
        held: Option<&Index<Loc>>,
        replace: &Replace<Loc>,
        envelope: &[u8],
    ) -> Result<(State, Vec<Written>), StoreError> {
        let entered = replace.puts.iter().chain(&replace.again);
        let new = entered
            .filter(|entry| held.is_none_or(|held| held.get(&entry.key).is_none()))
            .count();
        let objects = held.map_or(0, Index::len) + new - replace.deletes.len();
        let state = collection_state(objects, replace.version, replace.complete);
        let mut copies = Vec::new();
        if !replace.again.is_empty() {
            let old = self
                .view
                .held_if_read(&self.shared)?
                .ok_or(StoreError::Abandoned)?;
            for entry in &replace.again {
                let mut record = Vec::new();
                let body = self
                    .view
                    .read_record(&self.shared, &old, entry.at, &mut record)?;
                copies.push(body.object_bytes().unwrap_or_default().to_vec());
            }
        }
        let again = self.view.append(&self.shared, writer, |batch| {
            let mut again = Vec::new();
            let mut object = ObjectRef::default();
            for key in &replace.voids {
                batch.record(Record::Void, self.draft, None, &[key.as_bytes()])?;
            }
            for key in &replace.deletes {
                batch.record(Record::Delete, self.draft, None, &[key.as_bytes()])?;
            }
            for (entry, bytes) in replace.again.iter().zip(&copies) {
                entry.describe(&mut object);
                let loc = batch.put(self.draft, None, &object, bytes)?;
                again.push(Arc::new(entry.moved(loc)));
            }
            if replace.envelope {
                batch.record(Record::Envelope, self.draft, Some(&state), &[envelope])?;
            } else {
                batch.record(Record::Collection, self.draft, Some(&state), &[])?;
            }
            Ok(again)
        })?;
        Ok((state, again))
    }

    fn replace(
        &self,
        writer: &mut Writer,
        replace: Replace<Loc>,
        envelope: &[u8],
    ) -> Result<(), StoreError> {
        // A pointer to what is held, let go before it is changed, so that it can be changed in place.
        let held = match &lock(&self.view.shown).content {
            Some(Content::Collection(index)) => Some(Arc::clone(index)),
            _ => None,
        };
        let (state, again) = self.write_difference(writer, held.as_deref(), &replace, envelope)?;
        if held.is_some() {
            drop(held);
            self.view
                .show_change(&self.shared, writer, &state, |index| {
                    replace.apply(index, envelope, again);
                });
        } else {
            let mut index = Index::default();
            replace.apply(&mut index, envelope, again);
            self.view.show(
                &self.shared,
                writer,
                Content::Collection(Arc::new(index)),
                &state,
            );
        }
        Ok(())
    }
}

impl Generation for FileGeneration {
    fn put(&mut self, object: &ObjectRef, bytes: &[u8]) -> Result<(), StoreError> {
        let mut writer = lock(&self.view.writer);
        if !writer.drafts.has(self.draft) {
            return Err(StoreError::Abandoned);
        }
        if !with_index(&self.view, |held| {
            writer.drafts.wants(self.draft, object, held)
        }) {
            return Ok(());
        }
        let written = self.view.append(&self.shared, &mut writer, |batch| {
            let loc = batch.put(self.draft, None, object, bytes)?;
            entry(object, bytes, loc)
        });
        match written {
            Ok(entry) => {
                writer.drafts.enter(self.draft, entry, Source::Listed);
                Ok(())
            }
            Err(error) => {
                writer.drafts.end(self.draft);
                Err(error)
            }
        }
    }

    fn supersede(&mut self) {
        lock(&self.view.writer).drafts.supersede(self.draft);
    }

    fn commit(
        self: Box<Self>,
        envelope: &[u8],
        version: Option<u64>,
        complete: bool,
    ) -> Result<Committed, StoreError> {
        let mut writer = lock(&self.view.writer);
        let plan = with_index(&self.view, |held| {
            writer
                .drafts
                .plan_commit(self.draft, held, envelope, version, complete)
        });
        let outcome = match plan.ok_or(StoreError::Abandoned)? {
            CommitPlan::Older => return Ok(Committed::Older),
            CommitPlan::Unchanged => {
                self.view.confirm();
                Committed::Unchanged
            }
            CommitPlan::Replace(replace) => {
                self.replace(&mut writer, replace, envelope)?;
                Committed::Replaced
            }
        };
        writer.drafts.committed(self.draft, version, complete);
        Ok(outcome)
    }
}

impl Drop for FileGeneration {
    fn drop(&mut self) {
        let mut writer = lock(&self.view.writer);
        writer.drafts.end(self.draft);
        self.view.tidy(&self.shared, &mut writer);
    }
}

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
    pub(super) fn begin(
        view: Arc<View>,
        shared: Arc<Shared>,
        head: DocumentHead,
    ) -> Result<Self, StoreError> {
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
        Ok(Self {
            view,
            shared,
            head,
            removals,
            same,
            buffer,
            tx: None,
            chunks,
            length: 0,
            failed: false,
        })
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
        let loc = self.view.append(&self.shared, &mut writer, |batch| {
            batch.record(Record::Chunk, tx, None, &[chunk])
        })?;
        self.chunks.push(loc);
        self.buffer.clear();
        Ok(())
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        if let Some(same) = self.same.take() {
            let writer = lock(&self.view.writer);
            let held = lock(&self.view.shown).content.clone();
            let still =
                matches!(held, Some(Content::Document(body)) if Arc::ptr_eq(&body, &same.body));
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
        let body = Arc::new(DocumentBody {
            head,
            chunks,
            length,
        });
        self.view
            .show(&self.shared, &writer, Content::Document(body), &state);
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
        if self.failed {
            Err(StoreError::Abandoned)
        } else {
            self.finish()
        }
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
