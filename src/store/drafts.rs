//! What becomes of a collection when changes are folded into it and generations are committed over it: the rules,
//! once for every engine. Decides and keeps book; bytes are written by the engine between a plan and its being applied,
//! so that a failed write leaves everything as it was.
//!
//! A *draft* is a generation under way. While one is open, the keys that changes have touched are remembered (with
//! tombstones for deletions), because a list that was read before a change may arrive after it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::index::{ByKey, Entry, Index};
use super::{Change, ObjectRef};

/// All generations under way of one view.
pub(super) struct Drafts<L> {
    open: HashMap<u64, Draft<L>>,
    touched: HashMap<Box<str>, Touch>,
    /// Counts changes and drafts, so that a draft can tell what came after its beginning.
    clock: u64,
}

/// The last change of a key since the oldest open draft began.
struct Touch {
    at: u64,
    last: Last,
}

#[derive(Clone, Copy)]
enum Last {
    Put,
    /// At this version; `None` counts as newest.
    Deleted(Option<u64>),
}

impl Touch {
    /// Whether the key was deleted, and stays so against an object at this version.
    fn deletes(&self, version: Option<u64>) -> bool {
        matches!(self.last, Last::Deleted(at) if stands(at, version))
    }
}

struct Draft<L> {
    began: u64,
    /// The version below which a generation is stale, if there is one.
    base: Option<u64>,
    /// The newest version that was folded since it began.
    folded: Option<u64>,
    objects: Objects<L>,
}

/// A draft's objects, by their source; each object has one. There may be ten thousand, so that this is kept small.
struct Objects<L>([Sorted<L>; 3]);

/// Objects by their keys. Most lists come in that order, and take a pointer an object; what comes out of order takes more.
struct Sorted<L> {
    in_order: Vec<ByKey<L>>,
    others: BTreeSet<ByKey<L>>,
}

/// Where a draft has an object from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// The generation put what the collection held already; nothing was written.
    Held,
    /// The generation put it, and its bytes were written for this draft.
    Listed,
    /// A change put it, there being no collection yet, and its bytes were written for this draft.
    Folded,
}

impl Source {
    const ALL: [Source; 3] = [Source::Held, Source::Listed, Source::Folded];
}

impl<L> Default for Objects<L> {
    fn default() -> Self {
        Self([const { Sorted { in_order: Vec::new(), others: BTreeSet::new() } }; 3])
    }
}

impl<L> Objects<L> {
    fn get(&self, key: &str) -> Option<(&Arc<Entry<L>>, Source)> {
        Source::ALL.into_iter().find_map(|source| Some((self.0[source as usize].get(key)?, source)))
    }

    fn put(&mut self, entry: Arc<Entry<L>>, source: Source) {
        self.0.iter_mut().for_each(|objects| objects.remove(&entry.key));
        self.0[source as usize].insert(entry);
    }

    /// How many have been written for the draft.
    fn written(&self) -> usize {
        [Source::Listed, Source::Folded].into_iter().map(|source| self.0[source as usize].len()).sum()
    }

    /// All of them, in no order.
    fn iter(&self) -> impl Iterator<Item = (&Arc<Entry<L>>, Source)> {
        Source::ALL.into_iter().flat_map(|source| self.0[source as usize].iter().map(move |entry| (entry, source)))
    }
}

impl<L> Sorted<L> {
    fn find(&self, key: &str) -> Option<usize> {
        // What comes in order is looked for in vain, each time, before it is added.
        if self.in_order.last().is_none_or(|last| *last.0.key < *key) {
            return None;
        }
        self.in_order.binary_search_by(|held| (*held.0.key).cmp(key)).ok()
    }

    fn get(&self, key: &str) -> Option<&Arc<Entry<L>>> {
        self.find(key).map(|at| &self.in_order[at]).or_else(|| self.others.get(key)).map(|held| &held.0)
    }

    fn insert(&mut self, entry: Arc<Entry<L>>) {
        if self.in_order.last().is_none_or(|last| last.0.key < entry.key) {
            self.in_order.push(ByKey(entry));
        } else {
            self.others.insert(ByKey(entry));
        }
    }

    fn remove(&mut self, key: &str) {
        match self.find(key) {
            // Rare: an object that comes twice in one list, or in a list and from a watch.
            Some(at) => drop(self.in_order.remove(at)),
            None => drop(self.others.take(key)),
        }
    }

    fn len(&self) -> usize {
        self.in_order.len() + self.others.len()
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<Entry<L>>> {
        self.in_order.iter().chain(&self.others).map(|held| &held.0)
    }
}

/// What a fold into a committed collection does.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct FoldPlan {
    /// The places, in the slice that was folded, of puts, deletes and envelopes that have an effect.
    pub(super) steps: Vec<usize>,
    pub(super) version: Option<u64>,
    pub(super) complete: bool,
    /// How many objects there are then.
    pub(super) objects: usize,
    /// Changes that have an effect, advances among them.
    pub(super) applied: usize,
}

impl FoldPlan {
    /// Whether one of the changes that have an effect puts or deletes an object.
    pub(super) fn moves_objects(&self, changes: &[Change<'_>]) -> bool {
        self.steps.iter().any(|&step| matches!(changes[step], Change::Put { .. } | Change::Delete { .. }))
    }
}

/// What a generation's commit does.
pub(super) enum CommitPlan<L> {
    Older,
    Unchanged,
    Replace(Replace<L>),
}

/// The difference between what is held and what a generation makes of it.
pub(super) struct Replace<L> {
    /// Objects to enter, whose bytes the draft has written.
    pub(super) puts: Vec<Arc<Entry<L>>>,
    /// Objects to enter whose bytes are those of an earlier state, because they left the collection meanwhile.
    pub(super) again: Vec<Arc<Entry<L>>>,
    /// Keys to delete.
    pub(super) deletes: Vec<Box<str>>,
    /// Keys that the draft has written, and that do not count.
    pub(super) voids: Vec<Box<str>>,
    /// Whether the envelope is another.
    pub(super) envelope: bool,
    pub(super) version: Option<u64>,
    pub(super) complete: bool,
}

/// Whether a change at `change` stands against an object at `other`. Without versions the change does: a generation was
/// asked for before it.
fn stands(change: Option<u64>, other: Option<u64>) -> bool {
    match (change, other) {
        (Some(change), Some(other)) => change >= other,
        _ => true,
    }
}

/// Decides which of `changes` have an effect on a committed collection. Changes nothing.
pub(super) fn plan_fold<L>(held: &Index<L>, changes: &[Change<'_>]) -> FoldPlan {
    let mut plan =
        FoldPlan { steps: Vec::new(), version: held.version, complete: held.complete, objects: held.len(), applied: 0 };
    // What the earlier changes of this slice have made of a key.
    let mut over: HashMap<&str, Option<&ObjectRef>> = HashMap::new();
    let mut envelope: &[u8] = &held.envelope;
    for (i, change) in changes.iter().enumerate() {
        let before = (plan.steps.len(), plan.version, plan.complete);
        match change {
            Change::Put { object, .. } => {
                // The version that is held, and whether it is the same object at the same version.
                let current = match over.get(object.key.as_str()) {
                    Some(earlier) => earlier.map(|e| (e.version, e.version.is_some() && e == object)),
                    None => held.get(&object.key).map(|e| (e.version(), e.is(object))),
                };
                let old_news = match current {
                    Some((version, same)) => same || !stands(object.version, version),
                    None => object.version.is_some() && object.version <= plan.version,
                };
                if !old_news {
                    plan.steps.push(i);
                    plan.objects += usize::from(current.is_none());
                    over.insert(&object.key, Some(object));
                }
                plan.version = plan.version.max(object.version);
            }
            Change::Delete { key, version } => {
                let current = match over.get(key) {
                    Some(earlier) => earlier.map(|e| e.version),
                    None => held.get(key).map(|e| e.version()),
                };
                if current.is_some_and(|current| stands(*version, current)) {
                    plan.steps.push(i);
                    plan.objects -= 1;
                    over.insert(key, None);
                }
                plan.version = plan.version.max(*version);
            }
            Change::Advance { version } => plan.version = plan.version.max(Some(*version)),
            Change::Envelope { bytes } => {
                if *bytes != envelope {
                    envelope = bytes;
                    plan.steps.push(i);
                }
            }
            Change::Incomplete => plan.complete = false,
            Change::Complete => plan.complete = true,
        }
        plan.applied += usize::from(before != (plan.steps.len(), plan.version, plan.complete));
    }
    plan
}

impl<L> Default for Drafts<L> {
    fn default() -> Self {
        Self { open: HashMap::new(), touched: HashMap::new(), clock: 0 }
    }
}

impl<L> Drafts<L> {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn has(&self, draft: u64) -> bool {
        self.open.contains_key(&draft)
    }

    /// The drafts that are open.
    pub(super) fn ids(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = self.open.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Begins a draft under an id of the engine's choice that was not used before.
    pub(super) fn begin(&mut self, draft: u64, held: Option<&Index<L>>) {
        self.clock += 1;
        let base = match held {
            Some(held) => held.version,
            // Changes that wait in older drafts would be missing from a list that was read before them.
            None => self.open.values().filter_map(|other| other.folded).max(),
        };
        let mut objects = Objects::default();
        // Most of what is listed again is what is held.
        objects.0[Source::Held as usize].in_order.reserve_exact(held.map_or(0, Index::len));
        let draft_of_now = Draft { began: self.clock, base, folded: None, objects };
        self.open.insert(draft, draft_of_now);
    }

    /// Ends a draft that is given up.
    pub(super) fn end(&mut self, draft: u64) {
        self.open.remove(&draft);
        if self.open.is_empty() {
            self.touched = HashMap::new();
        }
    }

    /// Ends all drafts.
    pub(super) fn clear(&mut self) {
        *self = Self { clock: self.clock, ..Self::default() };
    }

    pub(super) fn supersede(&mut self, draft: u64) {
        if let Some(draft) = self.open.get_mut(&draft) {
            draft.base = None;
        }
    }

    /// Whether the bytes of an object that a generation puts must be written. If not, it has been taken note of.
    pub(super) fn wants(&mut self, draft: u64, object: &ObjectRef, held: Option<&Index<L>>) -> bool {
        let Some(draft) = self.open.get_mut(&draft) else {
            return false;
        };
        let touch = self.touched.get(object.key.as_str()).filter(|touch| touch.at > draft.began);
        if touch.is_some_and(|touch| touch.deletes(object.version)) {
            return false;
        }
        if let Some((earlier, source)) = draft.objects.get(&object.key)
            && source != Source::Held
        {
            let earlier = Arc::clone(earlier);
            if earlier.is(object) {
                draft.objects.put(earlier, Source::Listed);
                return false;
            }
            return !(touch.is_some() && stands(earlier.version(), object.version));
        }
        match held.and_then(|held| held.get(&object.key)) {
            Some(entry) if entry.is(object) || touch.is_some() && stands(entry.version(), object.version) => {
                draft.objects.put(Arc::clone(entry), Source::Held);
                false
            }
            _ => true,
        }
    }

    /// Whether the bytes of an object that a change puts must be written for a draft, there being no collection yet.
    pub(super) fn wants_early(&self, draft: u64, object: &ObjectRef) -> bool {
        let Some(draft) = self.open.get(&draft) else {
            return false;
        };
        // Whenever it was deleted: a change that is older than that is told by a watch that lags.
        let touch = self.touched.get(object.key.as_str());
        if touch.is_some_and(|touch| matches!(touch.last, Last::Deleted(at) if !stands(object.version, at))) {
            return false;
        }
        let earlier = draft.objects.get(&object.key).map(|(earlier, _)| earlier);
        earlier.is_none_or(|earlier| !earlier.is(object) && stands(object.version, earlier.version()))
    }

    /// Enters an object whose bytes have been written for this draft.
    pub(super) fn enter(&mut self, draft: u64, entry: Arc<Entry<L>>, source: Source) {
        if let Some(draft) = self.open.get_mut(&draft) {
            draft.objects.put(entry, source);
        }
    }

    /// Remembers changes that have been folded into a collection, for the drafts that are open. `steps` are those that
    /// had an effect, `held` is the collection after them.
    pub(super) fn remember(&mut self, changes: &[Change<'_>], steps: &[usize], held: &Index<L>) {
        if self.open.is_empty() {
            return;
        }
        for (i, change) in changes.iter().enumerate() {
            let counts = match change {
                Change::Delete { key, .. } => held.get(key).is_none(),
                _ => steps.binary_search(&i).is_ok(),
            };
            self.remember_one(change, counts);
        }
    }

    /// Remembers a change for the drafts that are open. `counts`: whether it is what its key's state is due to, and
    /// not older than that.
    pub(super) fn remember_one(&mut self, change: &Change<'_>, counts: bool) {
        self.clock += 1;
        let (touched, version) = match change {
            Change::Put { object, .. } => (Some((object.key.as_str(), Last::Put)), object.version),
            Change::Delete { key, version } => (Some((*key, Last::Deleted(*version))), *version),
            Change::Advance { version } => (None, Some(*version)),
            Change::Envelope { .. } | Change::Incomplete | Change::Complete => (None, None),
        };
        if let Some((key, last)) = touched.filter(|_| counts) {
            let at = self.clock;
            let touch = self.touched.entry(key.into()).or_insert(Touch { at, last });
            // A watch that lags tells of earlier deletions too; they must not make light of the last one.
            touch.last = match (touch.last, last) {
                (Last::Deleted(known), Last::Deleted(told)) if stands(known, told) => touch.last,
                _ => last,
            };
            touch.at = at;
        }
        for draft in self.open.values_mut() {
            draft.folded = draft.folded.max(version);
        }
    }

    /// Decides what the commit of a draft does. Changes nothing. `None` if there is no such draft.
    pub(super) fn plan_commit(
        &self,
        draft: u64,
        held: Option<&Index<L>>,
        envelope: &[u8],
        version: Option<u64>,
        complete: bool,
    ) -> Option<CommitPlan<L>> {
        let draft = self.open.get(&draft)?;
        if version.is_some() && version < draft.base {
            return Some(CommitPlan::Older);
        }
        let mut plan = Replace {
            puts: Vec::with_capacity(draft.objects.written()),
            again: Vec::new(),
            deletes: Vec::new(),
            voids: Vec::new(),
            envelope: held.is_none_or(|held| *held.envelope != *envelope),
            version: version.max(draft.folded),
            complete,
        };
        // What a change put, and the generation lacks: created after the generation, or deleted before it.
        let is_newer = |entry: &Entry<L>| version.is_none() || entry.version().is_none() || entry.version() > version;
        for (entry, source) in draft.objects.iter() {
            let held = held.and_then(|held| held.get(&entry.key));
            let touch = self.touched.get(&entry.key).filter(|touch| touch.at > draft.began);
            let deleted = touch.is_some_and(|touch| touch.deletes(entry.version()));
            let held_wins = touch.is_some() && held.is_some_and(|held| stands(held.version(), entry.version()));
            let loses = deleted || held_wins || source == Source::Folded && !is_newer(entry);
            match source {
                Source::Held if loses || held.is_some_and(|held| Arc::ptr_eq(held, entry)) => {}
                Source::Held => plan.again.push(Arc::clone(entry)),
                Source::Listed | Source::Folded if loses => plan.voids.push(entry.key.clone()),
                Source::Listed | Source::Folded => plan.puts.push(Arc::clone(entry)),
            }
        }
        plan.puts.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        for entry in held.into_iter().flat_map(Index::iter) {
            let touched = self.touched.get(&entry.key).is_some_and(|touch| touch.at > draft.began);
            let listed = draft.objects.get(&entry.key).is_some_and(|(_, source)| source != Source::Folded);
            let put = plan.puts.binary_search_by(|put| put.key.cmp(&entry.key)).is_ok();
            if !(listed || put || touched && is_newer(entry)) {
                plan.deletes.push(entry.key.clone());
            }
        }
        let same = held.is_some_and(|held| held.version == plan.version && held.complete == plan.complete);
        let same_objects = plan.puts.is_empty() && plan.again.is_empty() && plan.deletes.is_empty();
        Some(if same && same_objects && !plan.envelope { CommitPlan::Unchanged } else { CommitPlan::Replace(plan) })
    }

    /// Ends a draft that has been committed, or found unchanged. Those of older versions are stale from now on, if what
    /// was committed is complete.
    pub(super) fn committed(&mut self, draft: u64, version: Option<u64>, complete: bool) {
        self.end(draft);
        for other in self.open.values_mut().filter(|_| complete) {
            other.base = other.base.max(version);
        }
    }
}

impl<L> Replace<L> {
    /// Makes an index of what was held and this difference; `again` are the entries of [`Replace::again`] where their
    /// bytes are now.
    pub(super) fn apply(self, held: &mut Index<L>, envelope: &[u8], again: Vec<Arc<Entry<L>>>) {
        let objects = !(self.deletes.is_empty() && self.puts.is_empty() && again.is_empty());
        for key in &self.deletes {
            held.delete(key);
        }
        held.put_all(self.puts);
        again.into_iter().for_each(|entry| held.put(entry));
        if self.envelope {
            held.envelope = envelope.into();
        }
        held.settle(self.version, self.complete, objects);
    }
}
