//! What is written to a collection: changes that are folded, and generations.

use std::sync::Arc;
use std::time::SystemTime;

use super::super::drafts::{CommitPlan, FoldPlan, Replace, Source, plan_fold};
use super::super::index::{Entry, Index};
use super::super::{Change, Committed, Folded, Generation, ObjectRef, StoreError, lock};
use super::format::{Batch, Loc, Record, State};
use super::scan::Content;
use super::shared::Shared;
use super::view::{View, Writer};

fn collection_state(objects: usize, version: Option<u64>, complete: bool) -> State {
    let objects = u32::try_from(objects).unwrap_or(u32::MAX);
    State { collection: true, complete, status: 0, objects, version, recorded_at: SystemTime::now() }
}

/// An object that has been written.
type Written = Arc<Entry<Loc>>;

/// An object's length as an index keeps it.
fn size_of(bytes: &[u8]) -> Result<u32, StoreError> {
    u32::try_from(bytes.len()).map_err(|_| StoreError::TooLarge { what: "an object", length: bytes.len() as u64 })
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
pub(super) fn fold(view: &Arc<View>, shared: &Shared, changes: &[Change<'_>]) -> Result<Folded, StoreError> {
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
        let written = view.append(shared, &mut writer, |batch| write_steps(batch, tx, &state, &plan, changes));
        let entries = match written {
            Ok(entries) => entries,
            Err(error) => {
                // The next change may find room again: then this one is a hole, also for what is under way.
                writer.drafts.clear();
                view.show_incomplete();
                return Err(error);
            }
        };
        view.show_change(shared, &writer, &state, |index| {
            let mut entries = entries.into_iter();
            for &step in &plan.steps {
                match &changes[step] {
                    Change::Put { .. } => entries.next().into_iter().for_each(|entry| index.put(entry)),
                    Change::Delete { key, .. } => index.delete(key),
                    Change::Envelope { bytes } => index.envelope = Arc::from(*bytes),
                    Change::Advance { .. } | Change::Incomplete | Change::Complete => {}
                }
            }
            index.settle(plan.version, plan.complete, plan.moves_objects(changes));
        });
    }
    with_index(view, |held| {
        if let Some(held) = held {
            writer.drafts.remember(changes, &plan.steps, held);
        }
    });
    Ok(Folded { applied: plan.applied, version: plan.version })
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
            Change::Advance { .. } | Change::Incomplete | Change::Complete => {}
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
    Ok(Folded { applied, version: None })
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
        Ok(Self { view, shared, draft })
    }

    fn write_difference(
        &self,
        writer: &mut Writer,
        held: Option<&Index<Loc>>,
        replace: &Replace<Loc>,
        envelope: &[u8],
    ) -> Result<(State, Vec<Written>), StoreError> {
        let entered = replace.puts.iter().chain(&replace.again);
        let new = entered.filter(|entry| held.is_none_or(|held| held.get(&entry.key).is_none())).count();
        let objects = held.map_or(0, Index::len) + new - replace.deletes.len();
        let state = collection_state(objects, replace.version, replace.complete);
        let mut copies = Vec::new();
        if !replace.again.is_empty() {
            let old = self.view.held_if_read(&self.shared)?.ok_or(StoreError::Abandoned)?;
            for entry in &replace.again {
                let mut record = Vec::new();
                let body = self.view.read_record(&self.shared, &old, entry.at, &mut record)?;
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
        (version, complete): (Option<u64>, bool),
    ) -> Result<(), StoreError> {
        // A pointer to what is held, let go before it is changed, so that it can be changed in place.
        let held = match &lock(&self.view.shown).content {
            Some(Content::Collection(index)) => Some(Arc::clone(index)),
            _ => None,
        };
        let (state, again) = self.write_difference(writer, held.as_deref(), &replace, envelope)?;
        // Ended first: the draft knows as many objects as the collection will.
        writer.drafts.committed(self.draft, version, complete);
        if held.is_some() {
            drop(held);
            self.view.show_change(&self.shared, writer, &state, |index| {
                replace.apply(index, envelope, again);
            });
        } else {
            let mut index = Index::default();
            replace.apply(&mut index, envelope, again);
            self.view.show(&self.shared, writer, Content::Collection(Arc::new(index)), &state);
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
        if !with_index(&self.view, |held| writer.drafts.wants(self.draft, object, held)) {
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

    fn commit(self: Box<Self>, envelope: &[u8], version: Option<u64>, complete: bool) -> Result<Committed, StoreError> {
        let mut writer = lock(&self.view.writer);
        let plan =
            with_index(&self.view, |held| writer.drafts.plan_commit(self.draft, held, envelope, version, complete));
        match plan.ok_or(StoreError::Abandoned)? {
            CommitPlan::Older => Ok(Committed::Older),
            CommitPlan::Unchanged => {
                self.view.confirm();
                writer.drafts.committed(self.draft, version, complete);
                Ok(Committed::Unchanged)
            }
            CommitPlan::Replace(replace) => {
                self.replace(&mut writer, replace, envelope, (version, complete))?;
                Ok(Committed::Replaced)
            }
        }
    }
}

impl Drop for FileGeneration {
    fn drop(&mut self) {
        let mut writer = lock(&self.view.writer);
        writer.drafts.end(self.draft);
        self.view.tidy(&self.shared, &mut writer);
    }
}
