//! What is written to a collection: changes that are folded, and generations.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use super::super::drafts::{CommitPlan, FoldPlan, Replace, Source, plan_fold};
use super::super::index::{Entry, Index};
use super::super::{Change, Committed, Folded, Generation, ObjectRef, StoreError, lock};
use super::Pen;
use super::format::{self, Content, Listed, Place, Row};
use super::shared::Shared;
use super::view::{Base, Discards, View, Writer, rows_of};

type Object = Arc<Entry<Place>>;

fn entry(object: &ObjectRef, bytes: &[u8], at: Place) -> Result<Object, StoreError> {
    let size = u32::try_from(bytes.len())
        .map_err(|_| StoreError::TooLarge { what: "an object", length: bytes.len() as u64 })?;
    Ok(Arc::new(Entry::new(object, size, at)))
}

fn put_row(pen: &mut dyn Pen, view: &View, row: &Row) -> io::Result<()> {
    let key = format::view_key(row.id);
    pen.put(&key, &format::seal(&key, &[&row.encode(&view.key)]))
}

fn put_entry(pen: &mut dyn Pen, view: u64, entry: &Entry<Place>) -> io::Result<()> {
    let key = format::index_key(view, &entry.key);
    pen.put(&key, &format::seal(&key, &[&format::encode_entry(entry)]))
}

fn put_bytes(pen: &mut dyn Pen, place: Place, bytes: &[u8]) -> io::Result<()> {
    let key = format::bytes_key(place);
    pen.put(&key, &format::seal(&key, &[bytes]))
}

/// Folds changes into a view.
pub(super) fn fold(view: &View, shared: &Shared, changes: &[Change<'_>]) -> Result<Folded, StoreError> {
    let mut writer = lock(&view.writer);
    let Some((row, index)) = view.base(shared, &mut writer)? else {
        return if writer.drafts.is_empty() {
            Err(StoreError::NotRecorded)
        } else {
            fold_early(shared, &mut writer, changes)
        };
    };
    let plan = plan_fold(&index, changes);
    if plan.applied == 0 {
        view.confirm_if(|_| true);
    } else {
        let step = match write_fold(view, shared, &mut writer, (&row, &index), &plan, changes) {
            Ok(step) => step,
            Err(error) => {
                // The next change may be written again: then this one is a hole, also for what is under way.
                writer.drafts.clear();
                view.show_incomplete();
                return Err(error);
            }
        };
        // Let go, so that it can be changed in place.
        drop(index);
        view.show_change(step.row, |index| {
            for (key, object) in step.objects {
                match object {
                    Some(object) => index.put(object),
                    None => index.delete(key),
                }
            }
            if let Some(bytes) = step.envelope {
                index.envelope = bytes.into();
            }
            index.settle(plan.version, plan.complete, plan.moves_objects(changes));
        });
    }
    if let Some(held) = view.index() {
        writer.drafts.remember(changes, &plan.steps, &held);
    }
    Ok(Folded { applied: plan.applied, version: plan.version })
}

/// What a fold makes of a collection.
struct Step<'a> {
    row: Row,
    /// What becomes of the keys that are touched.
    objects: BTreeMap<&'a str, Option<Object>>,
    envelope: Option<&'a [u8]>,
}

/// Writes the changes that have an effect as one transaction.
fn write_fold<'a>(
    view: &View,
    shared: &Shared,
    writer: &mut Writer,
    (row, index): (&Row, &Index<Place>),
    plan: &FoldPlan,
    changes: &'a [Change<'a>],
) -> Result<Step<'a>, StoreError> {
    let tx = shared.next();
    let place = |step: usize| Place { batch: tx, seq: step as u32 };
    let mut step = Step { row: row.clone(), objects: BTreeMap::new(), envelope: None };
    let mut written: BTreeMap<&str, (Place, &[u8])> = BTreeMap::new();
    let mut listed = listed(row)?.clone();
    for &at in &plan.steps {
        match &changes[at] {
            Change::Put { object, bytes } => {
                step.objects.insert(&object.key, Some(entry(object, bytes, place(at))?));
                written.insert(&object.key, (place(at), bytes));
            }
            Change::Delete { key, .. } => {
                step.objects.insert(key, None);
                written.remove(key);
            }
            Change::Envelope { bytes } => {
                step.envelope = Some(bytes);
                listed.envelope = place(at);
            }
            Change::Advance { .. } | Change::Incomplete | Change::Complete => {}
        }
    }
    let weight = |object: Option<&Object>| object.map_or(0, |object| object.weight());
    for (key, object) in &step.objects {
        step.row.bytes = (step.row.bytes + weight(object.as_ref())).saturating_sub(weight(index.get(key)));
    }
    if let Some(bytes) = step.envelope {
        step.row.bytes = (step.row.bytes + bytes.len() as u64).saturating_sub(index.envelope.len() as u64);
    }
    listed.unchanged_since = index.since_after(plan.version, plan.moves_objects(changes));
    (listed.version, listed.complete, listed.objects) = (plan.version, plan.complete, plan.objects as u64);
    let old_envelope = content_envelope(row).filter(|_| step.envelope.is_some());
    step.row.content = Content::Collection(listed.clone());
    (step.row.tx, step.row.recorded_at) = (tx, SystemTime::now());
    let mut discards = Discards::new(writer.drafts.ids().len());
    shared.write(&mut |pen| {
        for (key, object) in &step.objects {
            let old = index.get(key);
            if let Some(old) = old {
                discards.discard(pen, old.at)?;
            }
            match object {
                Some(object) => put_entry(pen, row.id, object)?,
                None if old.is_some() => pen.delete(&format::index_key(row.id, key))?,
                None => {}
            }
        }
        for &(place, bytes) in written.values() {
            put_bytes(pen, place, bytes)?;
        }
        if let Some(bytes) = step.envelope {
            put_bytes(pen, listed.envelope, bytes)?;
        }
        if let Some(old) = old_envelope {
            pen.delete(&format::bytes_key(old))?;
        }
        put_row(pen, view, &step.row)
    })?;
    writer.doomed.extend(discards.doomed);
    Ok(step)
}

fn listed(row: &Row) -> Result<&Listed, StoreError> {
    match &row.content {
        Content::Collection(listed) => Ok(listed),
        Content::Document(_) => Err(StoreError::NotRecorded),
    }
}

fn content_envelope(row: &Row) -> Option<Place> {
    listed(row).ok().map(|listed| listed.envelope)
}

/// Folds changes into the generations that are open, there being no collection yet.
fn fold_early(shared: &Shared, writer: &mut Writer, changes: &[Change<'_>]) -> Result<Folded, StoreError> {
    let mut applied = 0;
    for change in changes {
        let mut counts = matches!(change, Change::Delete { .. });
        if let Change::Put { object, bytes } = change {
            for draft in writer.drafts.ids() {
                if !writer.drafts.wants_early(draft, object) {
                    continue;
                }
                if let Err(error) = enter(shared, writer, draft, object, bytes, Source::Folded) {
                    // A generation that has missed a change must not be committed.
                    writer.drafts.clear();
                    return Err(error);
                }
                counts = true;
            }
        }
        applied += usize::from(counts);
        writer.drafts.remember_one(change, counts);
    }
    Ok(Folded { applied, version: None })
}

/// Enters an object into a draft, with its bytes.
fn enter(
    shared: &Shared,
    writer: &mut Writer,
    draft: u64,
    object: &ObjectRef,
    bytes: &[u8],
    source: Source,
) -> Result<(), StoreError> {
    let place = writer.pending.entry(draft).or_default().add(shared, draft, bytes)?;
    writer.drafts.enter(draft, entry(object, bytes, place)?, source);
    Ok(())
}

/// A generation under way. Its id as a draft is the batch of what it writes.
pub(super) struct RowsGeneration {
    view: Arc<View>,
    shared: Arc<Shared>,
    draft: u64,
}

impl RowsGeneration {
    pub(super) fn begin(view: Arc<View>, shared: Arc<Shared>) -> Result<Self, StoreError> {
        let mut writer = lock(&view.writer);
        let base = view.base(&shared, &mut writer)?;
        let draft = shared.next();
        writer.drafts.begin(draft, base.as_ref().map(|(_, index)| &**index));
        drop(writer);
        Ok(Self { view, shared, draft })
    }

    fn replace(
        &self,
        writer: &mut Writer,
        base: Option<Base>,
        replace: Replace<Place>,
        envelope: &[u8],
        (version, complete): (Option<u64>, bool),
    ) -> Result<(), StoreError> {
        let row = self.write_difference(writer, base.as_ref(), &replace, envelope)?;
        // Ended first: the draft knows as many objects as the collection will.
        writer.pending.remove(&self.draft);
        writer.drafts.committed(self.draft, version, complete);
        writer.behind = false;
        for entry in &replace.again {
            writer.doomed.remove(&entry.at);
        }
        let again = replace.again.clone();
        if base.is_some() {
            drop(base);
            self.view.show_change(row, |index| replace.apply(index, envelope, again));
        } else {
            let mut index = Index::default();
            replace.apply(&mut index, envelope, again);
            self.view.show(row, Some(Arc::new(index)));
        }
        Ok(())
    }

    /// Writes what makes of the collection what the generation is, as one transaction; returns the view's row.
    fn write_difference(
        &self,
        writer: &mut Writer,
        base: Option<&Base>,
        replace: &Replace<Place>,
        envelope: &[u8],
    ) -> Result<Row, StoreError> {
        let (shared, draft, tx) = (&*self.shared, self.draft, self.shared.next());
        let before = self.view.row();
        let id = before.as_ref().map_or(tx, |row| row.id);
        let nothing = Index::default();
        let held = base.map_or(&nothing, |(_, index)| index);
        // A document, or what the changes do not follow upon: it goes as a whole.
        let erased = match (&before, base) {
            (Some(row), None) => shared
                .moment()
                .and_then(|moment| rows_of(&*moment, row.id))
                .map_err(|error| shared.failed("read", error))?,
            _ => (Vec::new(), Vec::new()),
        };
        let (mut objects, mut bytes) = (held.len(), base.map_or(0, |(row, _)| row.bytes));
        for entry in replace.puts.iter().chain(&replace.again) {
            let old = held.get(&entry.key);
            objects += usize::from(old.is_none());
            bytes = (bytes + entry.weight()).saturating_sub(old.map_or(0, |old| old.weight()));
        }
        for old in replace.deletes.iter().filter_map(|key| held.get(key)) {
            objects -= 1;
            bytes = bytes.saturating_sub(old.weight());
        }
        let old_envelope = base.and_then(|(row, _)| content_envelope(row));
        let new_envelope = replace.envelope || old_envelope.is_none();
        if new_envelope {
            bytes = (bytes + envelope.len() as u64).saturating_sub(held.envelope.len() as u64);
        }
        let moves = !(replace.puts.is_empty() && replace.again.is_empty() && replace.deletes.is_empty());
        let listed = Listed {
            version: replace.version,
            unchanged_since: held.since_after(replace.version, moves),
            complete: replace.complete,
            objects: objects as u64,
            envelope: old_envelope.filter(|_| !new_envelope).unwrap_or(Place { batch: tx, seq: 0 }),
        };
        let envelope_at = listed.envelope;
        let row = Row { id, tx, recorded_at: SystemTime::now(), bytes, content: Content::Collection(listed) };

        let no_bytes = super::view::Pending::default();
        let pending = writer.pending.get(&draft).unwrap_or(&no_bytes);
        let mut unused: Vec<bool> = pending.places(draft).map(|_| true).collect();
        for entry in replace.puts.iter().filter(|entry| entry.at.batch == draft) {
            if let Some(unused) = unused.get_mut(entry.at.seq as usize) {
                *unused = false;
            }
        }
        let mut discards = Discards::new(writer.drafts.ids().len() - 1);
        shared.write(&mut |pen| {
            for &place in &erased.1 {
                discards.discard(pen, place)?;
            }
            erased.0.iter().try_for_each(|key| pen.delete(key))?;
            pending.write(draft, pen)?;
            for (place, _) in pending.places(draft).zip(&unused).filter(|(_, unused)| **unused) {
                pen.delete(&format::bytes_key(place))?;
            }
            if pending.spilled() {
                pen.delete(&format::draft_key(draft))?;
            }
            for entry in replace.puts.iter().chain(&replace.again) {
                if let Some(old) = held.get(&entry.key) {
                    discards.discard(pen, old.at)?;
                }
                put_entry(pen, id, entry)?;
            }
            for entry in &replace.again {
                pen.delete(&format::doomed_key(entry.at))?;
            }
            for old in replace.deletes.iter().filter_map(|key| held.get(key)) {
                discards.discard(pen, old.at)?;
                pen.delete(&format::index_key(id, &old.key))?;
            }
            if new_envelope {
                if let Some(old) = old_envelope {
                    pen.delete(&format::bytes_key(old))?;
                }
                put_bytes(pen, envelope_at, envelope)?;
            }
            put_row(pen, &self.view, &row)
        })?;
        writer.doomed.extend(discards.doomed);
        Ok(row)
    }
}

impl Generation for RowsGeneration {
    fn put(&mut self, object: &ObjectRef, bytes: &[u8]) -> Result<(), StoreError> {
        let _gate = self.shared.enter();
        let mut writer = lock(&self.view.writer);
        if !writer.drafts.has(self.draft) {
            return Err(StoreError::Abandoned);
        }
        // While the database is behind, what it holds is not what the generation is compared with.
        let held = self.view.index().filter(|_| !writer.behind);
        if !writer.drafts.wants(self.draft, object, held.as_deref()) {
            return Ok(());
        }
        drop(held);
        enter(&self.shared, &mut writer, self.draft, object, bytes, Source::Listed).inspect_err(|_| {
            writer.drafts.end(self.draft);
        })
    }

    fn supersede(&mut self) {
        lock(&self.view.writer).drafts.supersede(self.draft);
    }

    fn commit(self: Box<Self>, envelope: &[u8], version: Option<u64>, complete: bool) -> Result<Committed, StoreError> {
        let _gate = self.shared.enter();
        let mut writer = lock(&self.view.writer);
        if !writer.drafts.has(self.draft) {
            return Err(StoreError::Abandoned);
        }
        let base = self.view.base(&self.shared, &mut writer)?;
        let held = base.as_ref().map(|(_, index)| &**index);
        let plan = writer.drafts.plan_commit(self.draft, held, envelope, version, complete);
        match plan.ok_or(StoreError::Abandoned)? {
            CommitPlan::Older => Ok(Committed::Older),
            CommitPlan::Unchanged => {
                self.view.confirm_if(|_| true);
                writer.drafts.committed(self.draft, version, complete);
                Ok(Committed::Unchanged)
            }
            CommitPlan::Replace(replace) => {
                self.replace(&mut writer, base, replace, envelope, (version, complete))?;
                Ok(Committed::Replaced)
            }
        }
    }
}

impl Drop for RowsGeneration {
    fn drop(&mut self) {
        // A commit has let go of its gate and its lock by now.
        let _gate = self.shared.enter();
        let mut writer = lock(&self.view.writer);
        View::end_draft(&self.shared, &mut writer, self.draft);
    }
}
