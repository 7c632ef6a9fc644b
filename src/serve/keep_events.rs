//! A watch on its way into the record: each event folded into the collection as it passes.

use super::keep::{Kept, NotKept};
use super::keep_list::reference;
use super::live::Watching;
use super::{Asked, Service};
use crate::front::BodyWriter;
use crate::record::{Encoding, EventKind, Frame, WatchReader};
use crate::request::Query;
use crate::store::{Change, StoreError, ViewKey};
use std::io::{self, Write};

/// One watch under way.
pub(super) struct Events {
    reader: WatchReader,
    /// The resourceVersion that the watch began at; `None`: from the state of things, whose events say nothing of
    /// what is gone.
    from: Option<u64>,
    place: Place,
}

/// Where its events go.
enum Place {
    /// Not known before the first event has said what kind of body this is.
    Unknown,
    /// Into this collection, which is live as long as the watch is.
    Collection(ViewKey, #[expect(dead_code, reason = "held for its Drop")] Watching),
    /// Nowhere: nothing is recorded that they follow upon.
    Nowhere,
}

impl Events {
    pub(super) fn new(encoding: Encoding, max_object: usize, query: &Query) -> Events {
        let initial = query.flag("sendInitialEvents");
        let from = query.resource_version().filter(|v| !initial && *v != "0").and_then(|v| v.parse().ok());
        Events { reader: WatchReader::new(encoding, max_object), from, place: Place::Unknown }
    }

    /// Passes whole events on and folds them. The outer error is the client's, the inner one says why nothing can be
    /// recorded any more; what has not been passed on then is in [`Events::take_rest`].
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        service: &Service,
        asked: &Asked,
        answer: &Kept,
        out: &mut BodyWriter<'_>,
    ) -> io::Result<Result<(), NotKept>> {
        self.reader.push(bytes);
        loop {
            let frame = match self.reader.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(e) => return Ok(Err(e.into())),
            };
            out.write_all(frame.raw)?;
            if let Err(why) = fold(&mut self.place, self.from, &frame, service, asked, answer) {
                // The client's stream goes on, event by event.
                log::warn!("{}: events are not recorded any more: {why}", asked.shown_target());
                self.place = Place::Nowhere;
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

fn fold(
    place: &mut Place,
    from: Option<u64>,
    frame: &Frame<'_>,
    service: &Service,
    asked: &Asked,
    answer: &Kept,
) -> Result<(), NotKept> {
    let event = &frame.event;
    if matches!(place, Place::Unknown) && event.kind != EventKind::Error {
        *place = settle(from, frame, service, asked, answer)?;
    }
    let Place::Collection(key, _) = place else { return Ok(()) };
    let references: Vec<_> = frame.items().map(|item| (reference(&item), item.bytes)).collect();
    let changes: Vec<Change<'_>> = match event.kind {
        EventKind::Added | EventKind::Modified => {
            references.into_iter().map(|(object, bytes)| Change::Put { object, bytes }).collect()
        }
        EventKind::Deleted => {
            references.iter().map(|(object, _)| Change::Delete { key: &object.key, version: object.version }).collect()
        }
        EventKind::Bookmark => {
            event.facts.resource_version.parse().ok().map(|version| Change::Advance { version }).into_iter().collect()
        }
        EventKind::Error => Vec::new(),
    };
    match service.store.fold(key, &changes) {
        Ok(_) => Ok(()),
        // Dropped meanwhile, as after a 403: the next list begins anew.
        Err(StoreError::NotRecorded) => {
            *place = Place::Nowhere;
            Ok(())
        }
        Err(e) => Err(e.into()),
    }
}

/// Finds the collection that a watch continues: the one of its view, if the watch began at or before the version that
/// it is at. A later beginning would leave a hole.
fn settle(
    from: Option<u64>,
    frame: &Frame<'_>,
    service: &Service,
    asked: &Asked,
    answer: &Kept,
) -> Result<Place, NotKept> {
    let key = answer.key(service, asked, Some(&frame.event.facts.type_meta))?;
    let held = service.store.collection(&key)?.and_then(|c| c.version());
    Ok(match (from, held) {
        (Some(from), Some(held)) if from <= held => {
            let watching = service.live.watch(&key);
            Place::Collection(key, watching)
        }
        _ => Place::Nowhere,
    })
}
