//! Watches that do not follow upon what is recorded, and wait for a re-list to close the hole between.
//!
//! A collection is at any moment what the upstream held at the collection's version C. A watch that has told all up to
//! a version P follows upon it where P <= C: folding what it tells next leaves nothing out, since what is told twice is
//! old news. Where P > C, what happened between is unknown. Folding all the same would show a mix that no apiserver ever
//! had, so the collection stays as it is, is called incomplete, and what the watch tells is kept here, in order, until
//! the collection has been listed anew at some version L.
//!
//! Why nothing is lost, whenever what comes: a watch that waits has told us nothing after `since` that is not in
//! `changes`. So once `since` <= L the changes follow upon the list: those up to L are old news to it, the others are
//! folded, and the collection is at the watch's own place. That is done under the watch's lock: it finds itself joined at
//! its next event, with nothing told between. Where `since` > L the list was read before the watch began, and the next
//! one will do. `since` moves only when there is too much to keep, or a change could not be written: then to the last
//! thing told, as if the watch had begun there.
//!
//! The re-list asks for the newest there is (no resourceVersion): by the time it is asked for, the upstream has told
//! `since` already, so L is not below it. Any other list or watch that is recorded meanwhile does as well.
//!
//! Bounded: in views, in watches a view, in bytes a watch, and in how often a view is listed.

use super::fields::Fields;
use crate::identity::Caller;
use crate::store::{Change, Folded, ObjectRef, StoreError, ViewKey};
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// As many views may wait at once.
const MOST_VIEWS: usize = 64;

/// As many watches of one view are kept changes of; kubelet and kube-proxy have one each.
const MOST_WATCHES: usize = 16;

/// What is kept of one watch: about a hundred events.
const MOST_BYTES: usize = 256 * 1024;

/// A list that passed a moment ago may still be on its way into the record: the watch that follows upon it needs no
/// other.
const GRACE: Duration = Duration::from_secs(2);

/// After a failure the next attempt waits for this, and for twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(30);

/// But no longer than this: a view that cannot be recorded at all must not cost its upstream much.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Folds changes into a view's collection.
pub(super) type Fold<'f> = dyn Fn(&[Change<'_>]) -> Result<Folded, StoreError> + 'f;

/// One change, kept.
#[derive(Debug)]
enum Told {
    Put(ObjectRef, Vec<u8>),
    Delete(String, Option<u64>),
    Advance(u64),
}

/// What has become of a watch that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// It waits.
    Still,
    /// All that it told is in the collection now.
    Joined,
    /// Nobody lists the view any more.
    InVain,
}

/// A watch that waits, shared with it.
#[derive(Debug)]
pub(super) struct Waiting(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    state: Waits,
    since: u64,
    changes: Vec<Told>,
    bytes: usize,
}

impl Waiting {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what one event tells, up to the version `told`, if it still waits.
    pub(super) fn push(&self, changes: &[Change<'_>], told: u64) -> Waits {
        let mut kept = self.kept();
        if kept.state != Waits::Still {
            return kept.state;
        }
        for change in changes {
            let (change, size) = match change {
                Change::Put { object, bytes } => (Told::Put(object.clone(), bytes.to_vec()), bytes.len()),
                Change::Delete { key, version } => (Told::Delete((*key).to_owned(), *version), key.len()),
                Change::Advance { version } => (Told::Advance(*version), 0),
                Change::Envelope { .. } | Change::Incomplete | Change::Complete => continue,
            };
            kept.bytes += size + 128;
            kept.changes.push(change);
        }
        if kept.bytes > MOST_BYTES {
            kept.begin_at(told);
        }
        Waits::Still
    }
}

impl Kept {
    /// Forgets what was told, as if the watch had begun at `told`.
    fn begin_at(&mut self, told: u64) {
        self.since = self.since.max(told);
        self.changes = Vec::new();
        self.bytes = 0;
    }

    /// Folds what was told into a collection at `version`, if it follows upon it; the collection's version then.
    fn join(&mut self, version: u64, fold: &Fold<'_>) -> u64 {
        if self.state != Waits::Still || self.since > version {
            return version;
        }
        let changes: Vec<Change<'_>> = self.changes.iter().map(Told::change).collect();
        let last = self.changes.iter().filter_map(Told::version).max();
        if let Ok(folded) = fold(&changes) {
            self.state = Waits::Joined;
            self.begin_at(0);
            folded.version.unwrap_or(version).max(version)
        } else {
            self.begin_at(last.unwrap_or(0));
            version
        }
    }
}

impl Told {
    fn change(&self) -> Change<'_> {
        match self {
            Told::Put(object, bytes) => Change::Put { object: object.clone(), bytes },
            Told::Delete(key, version) => Change::Delete { key, version: *version },
            Told::Advance(version) => Change::Advance { version: *version },
        }
    }

    fn version(&self) -> Option<u64> {
        match self {
            Told::Put(object, _) => object.version,
            Told::Delete(_, version) => *version,
            Told::Advance(version) => Some(*version),
        }
    }
}

/// What it takes to ask for a view's list as the client would.
#[derive(Clone)]
pub(super) struct Relist {
    /// Who asks.
    pub caller: Caller,
    /// The list's target.
    pub target: String,
    /// The client's own header fields, its credentials among them.
    pub headers: Fields,
}

/// A view that something is missing of.
struct Hole {
    waiting: Vec<Arc<Waiting>>,
    relist: Relist,
    due: Instant,
    failures: u32,
    under_way: bool,
}

/// The views that something is missing of.
#[derive(Default)]
pub(super) struct Holes {
    views: Mutex<Views>,
    wake: Condvar,
}

#[derive(Default)]
struct Views {
    holes: HashMap<ViewKey, Hole>,
    stopping: bool,
}

impl Holes {
    fn views(&self) -> MutexGuard<'_, Views> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a watch of `key` that has told all up to `since`, and has the view listed anew. `None`: too many wait.
    pub(super) fn wait(&self, key: &ViewKey, since: u64, relist: impl FnOnce() -> Relist) -> Option<Arc<Waiting>> {
        let mut views = self.views();
        if views.holes.len() >= MOST_VIEWS && !views.holes.contains_key(key) {
            return None;
        }
        let hole = views.holes.entry(key.clone()).or_insert_with(|| Hole {
            waiting: Vec::new(),
            relist: relist(),
            due: Instant::now() + GRACE,
            failures: 0,
            under_way: false,
        });
        if hole.waiting.len() >= MOST_WATCHES {
            // What was told by a watch that has ended is the first that can be done without.
            let ended = hole.waiting.iter().position(|w| Arc::strong_count(w) == 1)?;
            hole.waiting.remove(ended);
        }
        let kept = Kept { state: Waits::Still, since, changes: Vec::new(), bytes: 0 };
        let waiting = Arc::new(Waiting(Mutex::new(kept)));
        hole.waiting.push(Arc::clone(&waiting));
        self.wake.notify_one();
        Some(waiting)
    }

    /// Whether anything waits for `key`.
    pub(super) fn contains(&self, key: &ViewKey) -> bool {
        self.views().holes.contains_key(key)
    }

    /// How many views wait.
    pub(super) fn len(&self) -> usize {
        self.views().holes.len()
    }

    /// The collection is at `version` now: whatever follows upon it is folded. True if nothing waits any more.
    pub(super) fn fill(&self, key: &ViewKey, version: u64, fold: &Fold<'_>) -> bool {
        let Some(mut waiting) = self.views().holes.get(key).map(|hole| hole.waiting.clone()) else { return false };
        waiting.sort_by_key(|w| w.kept().since);
        let mut at = version;
        for waiting in &waiting {
            at = waiting.kept().join(at, fold);
        }
        let mut views = self.views();
        let Some(hole) = views.holes.get_mut(key) else { return false };
        hole.waiting.retain(|w| w.kept().state == Waits::Still);
        let filled = hole.waiting.is_empty();
        if filled {
            views.holes.remove(key);
        }
        filled
    }

    /// Nobody lists `key` any more: what is wrong with it will not pass.
    pub(super) fn give_up(&self, key: &ViewKey) {
        let hole = self.views().holes.remove(key);
        for waiting in hole.into_iter().flat_map(|hole| hole.waiting) {
            let mut kept = waiting.kept();
            kept.state = Waits::InVain;
            kept.begin_at(0);
        }
    }

    /// The next view to be listed, once its time has come; `None`: it is time to stop.
    pub(super) fn next(&self) -> Option<(ViewKey, Relist)> {
        let mut views = self.views();
        loop {
            if views.stopping {
                return None;
            }
            let now = Instant::now();
            if let Some(due) = views.take_due(now) {
                return Some(due);
            }
            let idle = views.holes.values().filter(|h| !h.under_way).map(|h| h.due).min();
            let pause = idle.map_or(LONGEST_PAUSE, |due| due.saturating_duration_since(now));
            views = self.wake.wait_timeout(views, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What is due by `now`, if anything is.
    #[cfg(test)]
    pub(super) fn due(&self, now: Instant) -> Option<(ViewKey, Relist)> {
        self.views().take_due(now)
    }

    /// A re-list of `key` has ended. Where something waits still, it is tried again: soon after one that worked (the watch
    /// may have begun after it), later after one that did not (and not before what its error says), each time after twice
    /// as long, and not at all where nobody watches any more; `followed`: some watch follows upon the collection, though another did not.
    pub(super) fn listed(&self, key: &ViewKey, outcome: Result<(), Duration>, followed: bool) {
        let mut views = self.views();
        let Some(hole) = views.holes.get_mut(key) else { return };
        // What a watch that has ended had told, a list that was asked for since has in it: the second one surely was.
        let had_enough = if outcome.is_ok() { hole.failures > 0 } else { !followed };
        if had_enough {
            hole.waiting.retain(|w| Arc::strong_count(w) > 1);
        }
        if hole.waiting.is_empty() {
            views.holes.remove(key);
            return;
        }
        let (pause, not_before) = outcome.map_or_else(|wanted| (FIRST_PAUSE, wanted), |()| (GRACE, Duration::ZERO));
        let pause = pause.saturating_mul(1 << hole.failures.min(20)).max(not_before).min(LONGEST_PAUSE);
        hole.under_way = false;
        hole.due = Instant::now() + pause;
        hole.failures += 1;
    }

    /// Ends the wait of [`Holes::next`].
    pub(super) fn stop(&self) {
        self.views().stopping = true;
        self.wake.notify_all();
    }
}

impl Views {
    fn take_due(&mut self, now: Instant) -> Option<(ViewKey, Relist)> {
        let (key, hole) =
            self.holes.iter_mut().filter(|(_, h)| !h.under_way && h.due <= now).min_by_key(|(_, h)| h.due)?;
        hole.under_way = true;
        Some((key.clone(), hole.relist.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use std::cell::RefCell;

    fn key() -> ViewKey {
        ViewKey { scope: "s".into(), path: "/p".into(), query: String::new(), representation: "r".into() }
    }

    fn relist() -> Relist {
        let caller = Caller { identity: Identity::Anonymous, impersonated: String::new() };
        Relist { caller, target: "/p".into(), headers: Vec::new() }
    }

    fn put(version: u64, bytes: &[u8]) -> Change<'_> {
        Change::Put { object: ObjectRef { version: Some(version), ..ObjectRef::default() }, bytes }
    }

    #[test]
    fn what_was_told_meanwhile_is_folded_in_order_once_it_follows() {
        let holes = Holes::default();
        let one = holes.wait(&key(), 10, relist).expect("room");
        let two = holes.wait(&key(), 20, relist).expect("room");
        assert_eq!(one.push(&[put(11, b""), put(12, b"")], 12), Waits::Still);
        assert_eq!(two.push(&[put(21, b"")], 21), Waits::Still);
        let folded = RefCell::new(Vec::new());
        let fold = |changes: &[Change<'_>]| {
            folded.borrow_mut().push(changes.len());
            Ok(Folded { applied: 0, version: Some(12) })
        };
        assert!(!holes.fill(&key(), 9, &fold), "the list was read before either began");
        assert!(folded.borrow().is_empty());
        assert!(!holes.fill(&key(), 11, &fold), "the second still waits");
        assert_eq!(one.push(&[put(13, b"")], 13), Waits::Joined);
        assert_eq!(two.push(&[put(22, b"")], 22), Waits::Still);
        assert!(holes.fill(&key(), 30, &fold));
        assert_eq!(*folded.borrow(), [2, 2]);
        assert!(!holes.contains(&key()));
    }

    #[test]
    fn what_is_too_much_to_keep_is_as_if_the_watch_had_begun_later() {
        let holes = Holes::default();
        let watch = holes.wait(&key(), 10, relist).expect("room");
        let large = vec![0; MOST_BYTES];
        watch.push(&[put(11, &large)], 11);
        let nothing = |changes: &[Change<'_>]| {
            assert!(changes.is_empty());
            Ok(Folded { applied: 0, version: None })
        };
        assert!(!holes.fill(&key(), 10, &nothing));
        assert!(holes.fill(&key(), 11, &nothing));
        // What could not be written is missing too.
        let watch = holes.wait(&key(), 20, relist).expect("room");
        watch.push(&[put(21, b"")], 21);
        assert!(!holes.fill(&key(), 20, &|_| Err(StoreError::Abandoned)));
        assert!(!holes.fill(&key(), 20, &nothing));
        assert!(holes.fill(&key(), 21, &nothing));
    }

    #[test]
    fn a_view_is_listed_once_at_a_time_and_ever_less_where_that_fails() {
        let holes = Holes::default();
        let watch = holes.wait(&key(), 10, relist).expect("room");
        let other = holes.wait(&key(), 11, relist).expect("room");
        let now = Instant::now();
        let soon = now + GRACE;
        assert!(holes.views().take_due(now).is_none(), "a list may be on its way");
        assert!(holes.views().take_due(soon).is_some());
        assert!(holes.views().take_due(soon).is_none(), "it is under way");
        holes.listed(&key(), Err(Duration::ZERO), false);
        assert!(holes.views().take_due(soon + Duration::from_secs(20)).is_none());
        assert!(holes.views().take_due(soon + Duration::from_secs(31)).is_some());
        holes.listed(&key(), Err(Duration::ZERO), false);
        assert!(holes.views().take_due(soon + Duration::from_secs(31)).is_none());
        assert!(holes.views().take_due(soon + Duration::from_secs(61)).is_some());
        holes.listed(&key(), Err(Duration::from_secs(600)), false);
        assert!(
            holes.views().take_due(soon + Duration::from_secs(595)).is_none(),
            "the upstream wants to be left alone"
        );
        assert!(holes.views().take_due(soon + Duration::from_secs(601)).is_some());
        drop((watch, other));
        holes.listed(&key(), Err(Duration::ZERO), false);
        assert_eq!(holes.len(), 0, "nobody watches any more");
        holes.stop();
        assert!(holes.next().is_none());
    }
}
