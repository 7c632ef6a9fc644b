//! A watch on its way into the record: each event folded into the collection as it passes.
//!
//! ```text
//!             +-- from a version -------------------------> follows? --yes--> Collection: fold each event
//! a watch ----+                                               |  ^                |
//!             +-- from the state of things: Initial           no |                | out of order, or not written
//!                 |  annotated bookmark: commit --------------+--|----------------+
//!                 |  something else: Adrift -- bookmark ------+  |
//!                                                             v  |
//!                                                      Behind: kept in a hole until the view is listed anew
//! ```
//!
//! `told` is the version up to which the watch has told all; it follows upon a collection that is at `told` or later.
//! The events with which a watch without a version begins are in no order and say nothing of what is gone: they fill a
//! new generation, which is committed at the bookmark that says that they were all (kube-apiserver sends one where
//! bookmarks are allowed: `staging/src/k8s.io/apimachinery/pkg/apis/meta/internalversion/defaults.go`,
//! `SetListOptionsDefaults`). Without that bookmark nothing of them is recorded, and a later one says no more than where
//! the watch is.

use super::holes::{Waiting, Waits};
use super::keep::{Kept, NotKept};
use super::keep_list::reference;
use super::live::Watching;
use super::{Asked, Service};
use crate::record::{Encoding, Envelope, EventKind, Facts, Frame, WatchReader};
use crate::request::Query;
use crate::store::{Change, Generation, StoreError, ViewKey};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One watch under way.
pub(super) struct Events {
    reader: WatchReader,
    fold: Fold,
}

/// What is known of the watch, and where its events go.
struct Fold {
    begins: Begins,
    /// The version up to which all has been told; `None`: not known.
    told: Option<u64>,
    place: Place,
}

/// How a watch begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begins {
    /// After a version.
    After,
    /// With the state of things, and a bookmark that ends it.
    WithState {
        /// That was asked for by name: then no other bookmark comes before that one.
        asked_for: bool,
    },
    /// With whatever is the case; nobody says when that has been told.
    Anyhow,
}

/// Where its events go.
enum Place {
    /// Not known before the first event has said what kind of body this is.
    Unknown,
    /// Into a generation, until all is told.
    Initial(Box<Initial>),
    /// Nowhere, until a bookmark says where the watch is.
    Adrift(ViewKey),
    /// Into this collection, which is live as long as the watch is.
    Collection(ViewKey, #[expect(dead_code, reason = "held for its Drop")] Watching),
    /// Nowhere yet: the collection is older than what the watch follows upon. `None`: too many wait already.
    Behind(ViewKey, Option<Arc<Waiting>>),
    /// Nowhere.
    Nowhere,
}

/// The state of things, as a watch begins with it.
struct Initial {
    key: ViewKey,
    generation: Box<dyn Generation>,
    /// What the first of the objects said of itself, if there was one.
    first: Option<Facts>,
}

/// What an event is folded with.
pub(super) struct Around<'a> {
    pub(super) service: &'a Service,
    pub(super) asked: &'a Asked,
    pub(super) answer: &'a Kept,
}

impl Events {
    /// A watch that has just been answered 200.
    pub(super) fn new(encoding: Encoding, max_object: usize, around: &Around<'_>) -> Events {
        let request = &around.asked.request;
        let (begins, told) = beginning(&request.query);
        let mut fold = Fold { begins, told, place: Place::Unknown };
        // Whether it follows upon what is recorded is known before the first event, which may be hours away, unless
        // only the body will tell which of two representations it is.
        if begins == Begins::After
            && !request.accept.wants_conversion()
            && let Ok(key) = around.answer.key(around.service, around.asked, None)
        {
            fold.settle(key, around);
        }
        Events { reader: WatchReader::new(encoding, max_object), fold }
    }

    /// Passes whole events on and folds them. The outer error is the client's, the inner one says why nothing can be
    /// recorded any more; what has not been passed on then is in [`Events::take_rest`].
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        around: &Around<'_>,
        out: &mut dyn Write,
    ) -> io::Result<Result<(), NotKept>> {
        self.reader.push(bytes);
        loop {
            let frame = match self.reader.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(e) => {
                    // What it said came after all that was told before.
                    self.fold.lose_track(1, around);
                    return Ok(Err(e.into()));
                }
            };
            out.write_all(frame.raw)?;
            if let Err(why) = self.fold.take(&frame, around) {
                // The client's stream goes on, event by event.
                around.service.counters.not_recorded.fetch_add(1, Ordering::Relaxed);
                let level = if why.is_of_the_disk() { log::Level::Debug } else { log::Level::Warn };
                log::log!(level, "{}: an event is not recorded: {why}", around.asked.shown_target());
            }
        }
        out.write_all(&self.reader.take_blanks())?;
        Ok(Ok(()))
    }

    /// What was not passed on yet.
    pub(super) fn take_rest(&mut self) -> Vec<u8> {
        self.reader.take_rest()
    }
}

/// How a watch that asks so begins, and the version up to which all has been told then.
fn beginning(query: &Query) -> (Begins, Option<u64>) {
    let version = query.resource_version().filter(|v| *v != "0");
    let bookmarks = query.flag("allowWatchBookmarks");
    match query.get("sendInitialEvents") {
        Some(_) if query.flag("sendInitialEvents") && bookmarks => (Begins::WithState { asked_for: true }, None),
        Some(_) if query.flag("sendInitialEvents") || version.is_none() => (Begins::Anyhow, None),
        _ => match version {
            Some(version) => version.parse().map_or((Begins::Anyhow, None), |v| (Begins::After, Some(v))),
            None if bookmarks && query.get("resourceVersionMatch").is_none_or(str::is_empty) => {
                (Begins::WithState { asked_for: false }, None)
            }
            None => (Begins::Anyhow, None),
        },
    }
}

impl Fold {
    /// Takes one event. After an error the watch goes on as if it had begun after that event.
    fn take(&mut self, frame: &Frame<'_>, around: &Around<'_>) -> Result<(), NotKept> {
        let event = &frame.event;
        if event.kind == EventKind::Error {
            return Ok(());
        }
        if matches!(self.place, Place::Unknown) {
            let key = around.answer.key(around.service, around.asked, Some(&event.facts.type_meta))?;
            self.open(key, around)?;
        }
        if matches!(self.place, Place::Initial(_) | Place::Adrift(_)) {
            return self.take_early(frame, around);
        }
        let version = event.facts.resource_version.parse().ok();
        // kube-apiserver tells things in the order of their versions; who does not has perhaps left something out.
        if matches!(self.place, Place::Collection(..)) && version.is_some() && version < self.told {
            log::warn!(
                "{}: event {version:?} comes after {:?}: the list is asked for anew",
                around.asked.shown_target(),
                self.told
            );
            around.service.counters.not_recorded.fetch_add(1, Ordering::Relaxed);
            // The collection may have been wrong for a while: only what is newer puts it right.
            self.lose_track(1, around);
        }
        let told = version.max(self.told);
        let done = self.fold(frame, told, around);
        self.told = told;
        if done.is_err() {
            self.lose_track(0, around);
        }
        done
    }

    /// Finds the place of a watch whose view is known.
    fn open(&mut self, key: ViewKey, around: &Around<'_>) -> Result<(), NotKept> {
        match self.begins {
            Begins::After => self.settle(key, around),
            Begins::WithState { .. } => {
                let generation = around.service.store.begin_generation(&key)?;
                self.place = Place::Initial(Box::new(Initial { key, generation, first: None }));
            }
            Begins::Anyhow => self.place = Place::Adrift(key),
        }
        Ok(())
    }

    /// Takes an event of a watch whose place in history is not known.
    fn take_early(&mut self, frame: &Frame<'_>, around: &Around<'_>) -> Result<(), NotKept> {
        let event = &frame.event;
        let version = event.facts.resource_version.parse().ok();
        match (event.kind, std::mem::replace(&mut self.place, Place::Nowhere)) {
            (EventKind::Added | EventKind::Modified, Place::Initial(mut initial)) => {
                for item in frame.items() {
                    if let Err(e) = initial.generation.put(&reference(&item), item.bytes) {
                        self.place = Place::Adrift(initial.key);
                        return Err(e.into());
                    }
                    initial.first.get_or_insert_with(|| item.facts.clone());
                }
                self.place = Place::Initial(initial);
            }
            // Older apiservers mix what happens meanwhile with the initial events: what is gone cannot be taken out
            // of a generation again.
            (EventKind::Deleted, Place::Initial(initial)) => self.place = Place::Adrift(initial.key),
            (EventKind::Bookmark, Place::Initial(initial)) if event.facts.initial_events_end => {
                self.told = version;
                let key = initial.key.clone();
                let done = commit(*initial, frame, around);
                around.service.fill_holes(&key);
                self.settle(key, around);
                return done;
            }
            (EventKind::Bookmark, Place::Initial(initial))
                if self.begins == (Begins::WithState { asked_for: true }) =>
            {
                self.place = Place::Initial(initial);
            }
            (EventKind::Bookmark, Place::Adrift(key)) => {
                self.told = version;
                self.settle(key, around);
            }
            (EventKind::Bookmark, Place::Initial(initial)) => {
                self.told = version;
                self.settle(initial.key, around);
            }
            (_, place) => self.place = place,
        }
        Ok(())
    }

    /// Folds one event, or keeps it for when the collection is where it can be folded.
    fn fold(&mut self, frame: &Frame<'_>, told: Option<u64>, around: &Around<'_>) -> Result<(), NotKept> {
        let references: Vec<_> = frame.items().map(|item| (reference(&item), item.bytes)).collect();
        let changes = changes(frame, &references);
        while let Place::Behind(key, waiting) = &self.place {
            match waiting.as_ref().map(|w| w.push(&changes, told.unwrap_or_default())) {
                Some(Waits::Still) => return Ok(()),
                Some(Waits::InVain) => self.place = Place::Nowhere,
                Some(Waits::Joined) | None => {
                    self.settle(key.clone(), around);
                    if matches!(self.place, Place::Behind(_, None)) {
                        return Ok(());
                    }
                }
            }
        }
        let Place::Collection(key, _) = &self.place else { return Ok(()) };
        match around.service.store.fold(key, &changes) {
            Ok(_) => Ok(()),
            // Dropped meanwhile, as after a 403: the next list begins anew.
            Err(StoreError::NotRecorded) => {
                self.place = Place::Nowhere;
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Joins the collection that the watch follows upon, or waits for it to be listed anew.
    fn settle(&mut self, key: ViewKey, around: &Around<'_>) {
        let service = around.service;
        let Some(told) = self.told else {
            self.place = Place::Adrift(key);
            return;
        };
        // Without its index: this may be asked before the client has its answer.
        let held = service.standing(&key);
        match held {
            Some((version, complete)) if Some(told) <= version => {
                // What is missing will be told by this watch.
                if !complete && !service.holes.contains(&key) {
                    service.say(&key, Change::Complete);
                }
                let watching = service.live.watch(&key);
                self.place = Place::Collection(key, watching);
            }
            held => {
                if held.is_some() {
                    service.say(&key, Change::Incomplete);
                }
                self.place = Place::Behind(key.clone(), service.wait_for_list(&key, told, around.asked));
            }
        }
    }

    /// Something that the watch told, `after` what counts as told, is not in its collection: it goes on as one that began
    /// there.
    fn lose_track(&mut self, after: u64, around: &Around<'_>) {
        let Place::Collection(key, _) = &self.place else { return };
        let key = key.clone();
        around.service.say(&key, Change::Incomplete);
        let waiting = self.told.and_then(|told| around.service.wait_for_list(&key, told + after, around.asked));
        self.place = Place::Behind(key, waiting);
    }
}

/// What an event changes.
fn changes<'a>(frame: &Frame<'_>, references: &'a [(crate::store::ObjectRef, &'a [u8])]) -> Vec<Change<'a>> {
    let event = &frame.event;
    match event.kind {
        EventKind::Added | EventKind::Modified => {
            references.iter().map(|(object, bytes)| Change::Put { object: object.clone(), bytes }).collect()
        }
        EventKind::Deleted => {
            references.iter().map(|(object, _)| Change::Delete { key: &object.key, version: object.version }).collect()
        }
        EventKind::Bookmark => {
            event.facts.resource_version.parse().ok().map(|version| Change::Advance { version }).into_iter().collect()
        }
        EventKind::Error => Vec::new(),
    }
}

/// The initial events were all: they are the collection now.
fn commit(initial: Initial, bookmark: &Frame<'_>, around: &Around<'_>) -> Result<(), NotKept> {
    let Initial { key, mut generation, first } = initial;
    let facts = &bookmark.event.facts;
    let held = around.service.store.collection(&key)?.map(|c| c.envelope());
    // What the upstream once said around its list is better than what we can say, if it is of the same encoding.
    let envelope = held.filter(|e| Envelope::decode(e).is_some()).or_else(|| {
        let encoding = Encoding::of(&around.answer.content_type)?;
        Some(Envelope::of_objects(encoding, first.as_ref().unwrap_or(facts), &facts.resource_version)?.encode())
    });
    let envelope = envelope.ok_or(NotKept::NoEnvelope)?;
    let version = facts.resource_version.parse().ok();
    if version < around.asked.back_below(&key) {
        generation.supersede();
    }
    generation.commit(&envelope, version, true)?;
    Ok(())
}
