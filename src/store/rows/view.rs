//! One view: what it holds, and what is being written to it.
//!
//! Two locks. `writer` is held while the view's rows are written, so that transactions follow each other; `shown` is what
//! readers take, for as long as it takes to copy a pointer. Whoever needs both takes `writer` first.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use super::super::drafts::Drafts;
use super::super::index::{Entry, Index};
use super::super::{StoreError, ViewInfo, ViewKey, lock};
use super::format::{self, Content, Place, Row};
use super::shared::Shared;
use super::{Moment, Pen};

/// Bytes of a generation that are kept in memory before they are written.
const SPILL: usize = 128 << 10;

pub(super) struct View {
    pub(super) key: ViewKey,
    pub(super) writer: Mutex<Writer>,
    shown: Mutex<Shown>,
}

/// The writing side.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) drafts: Drafts<Place>,
    /// What the drafts have written, and are about to.
    pub(super) pending: HashMap<u64, Pending>,
    /// Places that nothing holds any more, kept for the drafts that may bring them back.
    pub(super) doomed: HashSet<Place>,
    /// Counts how often the view was forgotten: what began before is abandoned.
    pub(super) removals: u64,
    /// The database has gone back behind what was told of the view: changes do not follow upon what it holds.
    pub(super) behind: bool,
}

/// The reading side.
struct Shown {
    row: Option<Row>,
    /// Made when it is first asked for.
    index: Option<Arc<Index<Place>>>,
    used: Instant,
}

/// What a reader takes away: one state, and the moment that it can be read in.
pub(super) struct Held {
    pub(super) row: Row,
    pub(super) index: Option<Arc<Index<Place>>>,
    pub(super) moment: Arc<dyn Moment>,
}

/// What changes are planned upon: a collection's row and its index.
pub(super) type Base = (Row, Arc<Index<Place>>);

/// What a draft has written. Each piece of bytes has the next number.
#[derive(Default)]
pub(super) struct Pending {
    seq: u32,
    /// The first of them that has not been written.
    first: u32,
    waiting: Vec<Vec<u8>>,
    bytes: usize,
}

impl Pending {
    /// Takes bytes for a draft, and writes what has come together when that is much.
    pub(super) fn add(&mut self, shared: &Shared, draft: u64, bytes: &[u8]) -> Result<Place, StoreError> {
        let place = Place { batch: draft, seq: self.seq };
        self.seq = self.seq.checked_add(1).ok_or(StoreError::Abandoned)?;
        self.waiting.push(format::seal(&format::bytes_key(place), &[bytes]));
        self.bytes += bytes.len();
        if self.bytes >= SPILL {
            shared.write(&mut |pen| {
                pen.put(&format::draft_key(draft), b"")?;
                self.write(draft, pen)
            })?;
            (self.first, self.bytes) = (self.seq, 0);
            self.waiting.clear();
        }
        Ok(place)
    }

    /// Writes what waits.
    pub(super) fn write(&self, draft: u64, pen: &mut dyn Pen) -> io::Result<()> {
        for (seq, value) in (self.first..).zip(&self.waiting) {
            pen.put(&format::bytes_key(Place { batch: draft, seq }), value)?;
        }
        Ok(())
    }

    /// Whether the database knows of the draft.
    pub(super) fn spilled(&self) -> bool {
        self.first > 0
    }

    /// Every place that there is, waiting or written.
    pub(super) fn places(&self, draft: u64) -> impl Iterator<Item = Place> + use<> {
        (0..self.seq).map(move |seq| Place { batch: draft, seq })
    }

    /// Deletes what has been written.
    fn undo(&self, shared: &Shared, draft: u64) {
        if self.spilled() {
            // What stays is swept when the database is opened again.
            let _ = shared.write(&mut |pen| {
                (0..self.first).try_for_each(|seq| pen.delete(&format::bytes_key(Place { batch: draft, seq })))?;
                pen.delete(&format::draft_key(draft))
            });
        }
    }
}

impl View {
    pub(super) fn new(key: ViewKey, row: Option<Row>) -> Self {
        let shown = Shown { row, index: None, used: Instant::now() };
        Self { key, writer: Mutex::default(), shown: Mutex::new(shown) }
    }

    pub(super) fn info(&self) -> Option<ViewInfo> {
        lock(&self.shown).row.as_ref().map(|row| row.info(&self.key))
    }

    pub(super) fn row(&self) -> Option<Row> {
        lock(&self.shown).row.clone()
    }

    /// Notes that the upstream confirmed what is held, if it is this.
    pub(super) fn confirm_if(&self, is: impl FnOnce(&Row) -> bool) -> bool {
        let mut shown = lock(&self.shown);
        let same = shown.row.as_ref().is_some_and(is);
        if let Some(row) = shown.row.as_mut().filter(|_| same) {
            row.recorded_at = SystemTime::now();
        }
        same
    }

    /// What is held now. What turns out to be damaged is dropped.
    pub(super) fn held(&self, shared: &Shared) -> Result<Option<Held>, StoreError> {
        if let Ok(Ok(held)) = self.held_if_still(shared) {
            return Ok(held);
        }
        // Written at that moment, or in trouble. Nobody writes while this is held.
        let mut writer = lock(&self.writer);
        self.held_at_rest(shared, &mut writer)
    }

    fn held_at_rest(&self, shared: &Shared, writer: &mut Writer) -> Result<Option<Held>, StoreError> {
        match self.held_if_still(shared) {
            Ok(Ok(held)) => Ok(held),
            Ok(Err(())) => Err(self.damaged(shared, writer)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(self.damaged(shared, writer)),
            Err(error) => Err(shared.failed("read", error)),
        }
    }

    /// What is held; `Err(())` if what is shown is not what the database has at this moment.
    fn held_if_still(&self, shared: &Shared) -> io::Result<Result<Option<Held>, ()>> {
        let (row, index) = {
            let mut shown = lock(&self.shown);
            shown.used = Instant::now();
            (shown.row.clone(), shown.index.clone())
        };
        let Some(row) = row else {
            return Ok(Ok(None));
        };
        let moment: Arc<dyn Moment> = shared.moment()?.into();
        let mut tx = None;
        let key = format::view_key(row.id);
        moment.get(&key, &mut |value| {
            tx = Some(Row::tx_of(format::unseal(&key, value)?)?);
            Ok(())
        })?;
        if tx != Some(row.tx) {
            return Ok(Err(()));
        }
        let index = match (&row.content, index) {
            (Content::Document(_), _) => None,
            (Content::Collection(_), Some(index)) => Some(index),
            (Content::Collection(_), None) => {
                let index = Arc::new(read_index(&*moment, &row)?);
                let mut shown = lock(&self.shown);
                if shown.row.as_ref().is_some_and(|now| now.tx == row.tx) {
                    shown.index = Some(Arc::clone(&index));
                }
                Some(index)
            }
        };
        Ok(Ok(Some(Held { row, index, moment })))
    }

    /// What changes are planned upon. `None`: there is no collection, or none that they follow.
    pub(super) fn base(&self, shared: &Shared, writer: &mut Writer) -> Result<Option<Base>, StoreError> {
        if writer.behind {
            return Ok(None);
        }
        {
            let shown = lock(&self.shown);
            match (&shown.row, &shown.index) {
                (None | Some(Row { content: Content::Document(_), .. }), _) => return Ok(None),
                (Some(row), Some(index)) => return Ok(Some((row.clone(), Arc::clone(index)))),
                (Some(_), None) => {}
            }
        }
        let held = self.held_at_rest(shared, writer)?;
        Ok(held.and_then(|held| held.index.map(|index| (held.row, index))))
    }

    /// Shows another state.
    pub(super) fn show(&self, row: Row, index: Option<Arc<Index<Place>>>) {
        *lock(&self.shown) = Shown { row: Some(row), index, used: Instant::now() };
    }

    /// Shows a collection that has changed, in place where nobody reads it.
    pub(super) fn show_change(&self, row: Row, change: impl FnOnce(&mut Index<Place>)) {
        let mut shown = lock(&self.shown);
        if let Some(index) = &mut shown.index {
            change(Arc::make_mut(index));
        }
        shown.row = Some(row);
        shown.used = Instant::now();
    }

    /// Says that a collection lacks something. The next row will say so in the database.
    pub(super) fn show_incomplete(&self) {
        let mut shown = lock(&self.shown);
        if let Some(Row { content: Content::Collection(listed), .. }) = &mut shown.row {
            listed.complete = false;
        }
        if let Some(index) = &mut shown.index {
            Arc::make_mut(index).complete = false;
        }
    }

    /// Forgets what is held, and abandons what is being written.
    pub(super) fn forget(&self, shared: &Shared) -> Result<(), StoreError> {
        self.forget_by(shared, &mut lock(&self.writer))
    }

    fn forget_by(&self, shared: &Shared, writer: &mut Writer) -> Result<(), StoreError> {
        writer.drafts.clear();
        writer.removals += 1;
        writer.behind = false;
        let doomed = std::mem::take(&mut writer.doomed);
        // Not served again even if it cannot be deleted: it is deleted when the database is opened again.
        let row = {
            let mut shown = lock(&self.shown);
            shown.index = None;
            shown.row.take()
        };
        let Some(row) = row else {
            return Ok(());
        };
        let (keys, places) = shared.moment().and_then(|moment| rows_of(&*moment, row.id)).map_err(|error| {
            shared.is_broken();
            shared.failed("read", error)
        })?;
        shared.write(&mut |pen| {
            for &place in &doomed {
                pen.delete(&format::doomed_key(place))?;
            }
            places.iter().chain(&doomed).try_for_each(|place| pen.delete(&format::bytes_key(*place)))?;
            keys.iter().try_for_each(|key| pen.delete(key))
        })
    }

    /// Drops what could not be read.
    fn damaged(&self, shared: &Shared, writer: &mut Writer) -> StoreError {
        let error = shared.damaged(&self.key);
        let _ = self.forget_by(shared, writer);
        error
    }

    /// Drops what could not be read later on, unless it has been replaced since.
    pub(super) fn is_damaged(&self, shared: &Shared, tx: u64) {
        let _gate = shared.enter();
        let mut writer = lock(&self.writer);
        if self.row().is_some_and(|row| row.tx == tx) {
            self.damaged(shared, &mut writer);
        }
    }

    /// The index as it is shown, if it has been made.
    pub(super) fn index(&self) -> Option<Arc<Index<Place>>> {
        lock(&self.shown).index.clone()
    }

    /// Ends a draft: deletes what it wrote, unless that was committed, and what was kept for the last one.
    pub(super) fn end_draft(shared: &Shared, writer: &mut Writer, draft: u64) {
        writer.drafts.end(draft);
        if let Some(pending) = writer.pending.remove(&draft) {
            pending.undo(shared, draft);
        }
        if writer.drafts.is_empty() && !writer.doomed.is_empty() {
            let doomed = std::mem::take(&mut writer.doomed);
            let _ = shared.write(&mut |pen| {
                for &place in &doomed {
                    pen.delete(&format::bytes_key(place))?;
                    pen.delete(&format::doomed_key(place))?;
                }
                Ok(())
            });
        }
    }

    /// Takes what the database has after it was opened again, out of `rows`. What is not held is left there.
    pub(super) fn restore(&self, rows: &mut HashMap<ViewKey, Row>) {
        let mut writer = lock(&self.writer);
        writer.drafts.clear();
        writer.pending.clear();
        writer.doomed.clear();
        writer.removals += 1;
        let mut shown = lock(&self.shown);
        let Some(known) = &shown.row else {
            return;
        };
        let found = rows.remove(&self.key);
        if found.as_ref().is_some_and(|found| found.tx == known.tx) {
            return;
        }
        shown.index = None;
        shown.row = found;
        writer.behind = matches!(&shown.row, Some(Row { content: Content::Collection(_), .. }));
        if let Some(Row { content: Content::Collection(listed), .. }) = &mut shown.row {
            listed.complete = false;
        }
    }

    /// Forgets an index that nobody has used for so long.
    pub(super) fn unread_after(&self, idle: Duration) {
        if let (Ok(writer), Ok(mut shown)) = (self.writer.try_lock(), self.shown.try_lock()) {
            let used = shown.index.as_ref().is_none_or(|index| Arc::strong_count(index) > 1);
            if !used && writer.drafts.is_empty() && shown.used.elapsed() > idle {
                shown.index = None;
            }
        }
    }

    /// Whether nothing is recorded and nobody is about to.
    pub(super) fn is_empty(&self) -> bool {
        self.writer.try_lock().is_ok_and(|writer| writer.drafts.is_empty()) && lock(&self.shown).row.is_none()
    }
}

/// Deletes bytes, or keeps them for drafts that may bring them back.
pub(super) struct Discards {
    keep: bool,
    pub(super) doomed: Vec<Place>,
}

impl Discards {
    /// `drafts`: how many may still want what is discarded.
    pub(super) fn new(drafts: usize) -> Self {
        Self { keep: drafts > 0, doomed: Vec::new() }
    }

    pub(super) fn discard(&mut self, pen: &mut dyn Pen, place: Place) -> io::Result<()> {
        if self.keep {
            self.doomed.push(place);
            pen.put(&format::doomed_key(place), b"")
        } else {
            pen.delete(&format::bytes_key(place))
        }
    }
}

/// The keys of all rows of a view, its own last, and the places of its bytes. Bytes whose row cannot be read stay behind.
pub(super) fn rows_of(moment: &dyn Moment, view: u64) -> io::Result<(Vec<Vec<u8>>, Vec<Place>)> {
    let (mut keys, mut places) = (Vec::new(), Vec::new());
    moment.scan(&format::index_key(view, ""), &mut |key, value| {
        if let Ok(entry) = format::unseal(key, value).and_then(|payload| format::decode_entry(key, payload)) {
            places.push(entry.at);
        }
        keys.push(key.to_vec());
        Ok(())
    })?;
    let key = format::view_key(view);
    moment.get(&key, &mut |value| {
        if let Ok((_, row)) = format::unseal(&key, value).and_then(|payload| Row::decode(view, payload)) {
            places.extend(row.content.places());
        }
        Ok(())
    })?;
    keys.push(key);
    Ok((keys, places))
}

/// Reads bytes into `out`.
pub(super) fn read_bytes(moment: &dyn Moment, place: Place, out: &mut Vec<u8>) -> io::Result<()> {
    out.clear();
    let key = format::bytes_key(place);
    let mut found = false;
    moment.get(&key, &mut |value| {
        out.extend_from_slice(format::unseal(&key, value)?);
        found = true;
        Ok(())
    })?;
    if found { Ok(()) } else { Err(format::damaged()) }
}

/// Makes the index of a collection.
pub(super) fn read_index(moment: &dyn Moment, row: &Row) -> io::Result<Index<Place>> {
    let Content::Collection(listed) = &row.content else {
        return Err(format::damaged());
    };
    let mut entries: Vec<Arc<Entry<Place>>> = Vec::new();
    moment.scan(&format::index_key(row.id, ""), &mut |key, value| {
        let entry = format::decode_entry(key, format::unseal(key, value)?)?;
        entries.push(Arc::new(entry));
        Ok(())
    })?;
    if entries.len() as u64 != listed.objects {
        return Err(format::damaged());
    }
    let mut envelope = Vec::new();
    read_bytes(moment, listed.envelope, &mut envelope)?;
    let mut index = Index::default();
    index.put_all(entries);
    index.envelope = envelope.into();
    (index.version, index.complete) = (listed.version, listed.complete);
    index.unchanged_since = listed.unchanged_since;
    Ok(index)
}
