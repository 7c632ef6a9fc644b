//! Keeps a store of any engine to its size and age: knows what was used when, and what is in use now, and drops what was
//! least recently used. It stands before the engine and is one itself.
//!
//! - *Used* is a view that is recalled, recorded, confirmed or folded into. A view that is being read or written, or that
//!   the caller says is to be kept (a live collection), is never dropped.
//! - *Age* is counted in time with the link up, which the caller tells of: an outage ages nothing, however long.
//! - When what was used is kept in one note, at most hourly, 12 bytes a view in the order of their use: no read costs a
//!   write. What a crash forgets of it makes views look at most an hour older than they are.
//! - A view that alone takes more than the bound is not recorded: it is given up while it is written, and not tried again
//!   for an hour, so that it wears no flash. One that a watch has let grow past the bound stays while the watch is open.
//!
//! What is counted: a view's bytes, rounded up to the blocks of a disk, and two blocks for its folders. Not counted: what
//! is being written, files being written anew, and the damaged files that were set aside.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, UNIX_EPOCH};

use ring::digest::{Context, SHA256};

use super::{
    Change, Collection, Committed, Document, DocumentHead, DocumentWriter, Folded, Generation, ObjectRef, Stats, Store,
    StoreError, ViewInfo, ViewKey, lock,
};

/// The note of what was used when.
const NOTE: &str = "uses";
/// How often that note is written at most, and how long what was too large is not tried again.
const HOUR: Duration = Duration::from_secs(3600);
/// A block of a disk.
const BLOCK: u64 = 4096;
/// What the folders of a view take, which it mostly has for itself.
const FOLDERS: u64 = 2 * BLOCK;
/// About what an object takes beside its bytes.
const PER_OBJECT: u64 = 160;

/// How much may be kept, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Bytes; 0: any number.
    pub max_size: u64,
    /// What was not used for so long while the link was up goes; zero: never.
    pub max_age: Duration,
}

impl Bounds {
    /// No bounds.
    pub const NONE: Bounds = Bounds { max_size: 0, max_age: Duration::ZERO };
}

/// What was dropped since the store was opened.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Dropped {
    /// Views that were dropped for want of room.
    pub for_size: u64,
    /// Views that nobody had used for too long.
    pub for_age: u64,
    /// Times that a view was given up because it alone is larger than the bound.
    pub too_large: u64,
}

/// A store that is kept to its bounds.
pub struct Bounded {
    store: Arc<dyn Store>,
    bounds: Bounds,
    book: Arc<Book>,
    pass: Mutex<Pass>,
}

/// What is known of the uses.
struct Book(Mutex<Uses>);

#[derive(Default)]
struct Uses {
    views: HashMap<u64, Use>,
    /// Counts uses: their order.
    clock: u64,
    /// For how long the link has been up, in this life and those before.
    up: Duration,
    /// About what was written since the record was measured.
    written: u64,
    /// Views that were too large, and when that was found.
    too_large: HashMap<u64, Instant>,
    dropped: Dropped,
}

#[derive(Clone, Copy, Default)]
struct Use {
    /// In which order, of all uses of this life; 0: in an earlier one.
    order: u64,
    /// Place in the note of an earlier life.
    place: u64,
    /// For how long the link had been up.
    up: Duration,
    /// How many read or write it now.
    holders: usize,
}

/// What housekeeping remembers.
#[derive(Default)]
struct Pass {
    measured: Option<u64>,
    kept: Option<Instant>,
    /// What the note was made of.
    noted: Option<Noted>,
    overfull: bool,
}

/// The clock of uses, and for how many hours the link had been up, when a note was written.
type Noted = (u64, u64);

/// Of a view's key: 64 bits of SHA-256, the same in every life.
fn id(key: &ViewKey) -> u64 {
    let mut context = Context::new(&SHA256);
    for part in [&key.scope, &key.path, &key.query, &key.representation] {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref().iter().take(8).fold(0, |id, &byte| id << 8 | u64::from(byte))
}

/// What a view takes, with what stands around it on a disk.
fn charge(info: &ViewInfo) -> u64 {
    info.bytes.div_ceil(BLOCK) * BLOCK + FOLDERS
}

impl Book {
    fn uses(&self) -> MutexGuard<'_, Uses> {
        lock(&self.0)
    }

    /// Notes that a view is in use until the returned value is dropped.
    fn hold(self: &Arc<Self>, key: &ViewKey) -> InUse {
        let id = id(key);
        self.uses().touch(id).holders += 1;
        InUse { book: Arc::clone(self), id }
    }
}

impl Uses {
    fn touch(&mut self, id: u64) -> &mut Use {
        self.clock += 1;
        let used = self.views.entry(id).or_default();
        (used.order, used.up) = (self.clock, self.up);
        used
    }

    fn encode(&self, present: &[u64]) -> Vec<u8> {
        let mut order: Vec<(u64, Use)> = present.iter().filter_map(|id| Some((*id, *self.views.get(id)?))).collect();
        order.sort_by_key(|(_, used)| (used.order, used.place));
        let mut out = self.up.as_secs().to_le_bytes().to_vec();
        for (id, used) in order {
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&u32::try_from(used.up.as_secs()).unwrap_or(u32::MAX).to_le_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Uses {
        let Some((up, rest)) = bytes.split_first_chunk::<8>() else { return Uses::default() };
        let mut uses = Uses { up: Duration::from_secs(u64::from_le_bytes(*up)), ..Uses::default() };
        for (place, entry) in (1..).zip(rest.chunks_exact(12)) {
            let Some((id, up)) = entry.split_first_chunk::<8>() else { break };
            let up = up.first_chunk::<4>().map_or(0, |up| u32::from_le_bytes(*up));
            let used = Use { place, up: Duration::from_secs(up.into()), ..Use::default() };
            uses.views.insert(u64::from_le_bytes(*id), used);
        }
        uses
    }
}

/// Says that a view is in use, for as long as it is held.
struct InUse {
    book: Arc<Book>,
    id: u64,
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut uses = self.book.uses();
        let used = uses.touch(self.id);
        used.holders = used.holders.saturating_sub(1);
    }
}

/// What is written to one view, counted.
struct Written {
    in_use: InUse,
    max: u64,
    bytes: u64,
}

impl Written {
    fn add(&mut self, bytes: u64) -> Result<(), StoreError> {
        self.bytes += bytes;
        let mut uses = self.in_use.book.uses();
        uses.written += bytes;
        if self.max == 0 || self.bytes <= self.max {
            return Ok(());
        }
        if uses.too_large.insert(self.in_use.id, Instant::now()).is_none() {
            uses.dropped.too_large += 1;
        }
        Err(StoreError::Oversized { bound: self.max })
    }
}

impl Bounded {
    /// Puts `store` under `bounds`, with what it remembers of earlier uses.
    pub fn new(store: Arc<dyn Store>, bounds: Bounds) -> Bounded {
        let uses = store.note(NOTE).map_or_else(Uses::default, |bytes| Uses::decode(&bytes));
        Bounded { store, bounds, book: Arc::new(Book(Mutex::new(uses))), pass: Mutex::default() }
    }

    /// What was dropped since the store was opened.
    pub fn dropped(&self) -> Dropped {
        self.book.uses().dropped
    }

    /// The bounds.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// To be called about once a second. `up`: for how long the link has been up since the last call. Drops what is past
    /// the bounds, but for what `is_kept` says must stay.
    pub fn keep(&self, up: Duration, now: Instant, is_kept: &dyn Fn(&ViewKey) -> bool) {
        let mut pass = lock(&self.pass);
        let written = {
            let mut uses = self.book.uses();
            uses.up = uses.up.saturating_add(up);
            uses.too_large.retain(|_, found| now.saturating_duration_since(*found) < HOUR);
            uses.written
        };
        let hourly = pass.kept.is_none_or(|kept| now.saturating_duration_since(kept) >= HOUR);
        let full = self.bounds.max_size > 0
            && pass.measured.is_some_and(|bytes| bytes.saturating_add(written) > self.bounds.max_size);
        if !hourly && !full {
            return;
        }
        let mut views = self.measure();
        if self.bounds.max_age > Duration::ZERO {
            self.drop_aged(&mut views, is_kept);
        }
        if self.bounds.max_size > 0 {
            self.drop_surplus(&mut pass, &mut views, is_kept);
        }
        pass.measured = Some(views.iter().map(charge).sum());
        if hourly {
            // At the start nothing new is known.
            if pass.kept.replace(now).is_some() {
                self.note_uses(&mut pass, &views);
            }
        }
    }

    /// Writes down what was used when, before the process ends.
    pub fn close(&self) {
        let mut pass = lock(&self.pass);
        let views = self.measure();
        self.note_uses(&mut pass, &views);
    }

    /// All views, those first that were used least recently. What no note tells of is younger than what it tells of.
    fn measure(&self) -> Vec<ViewInfo> {
        self.book.uses().written = 0;
        let mut views = self.store.all();
        let mut uses = self.book.uses();
        let age = |info: &ViewInfo| info.recorded_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let up = uses.up;
        views.sort_by_cached_key(|info| match uses.views.get(&id(&info.key)) {
            Some(Use { order: 0, place, .. }) if *place > 0 => (0, *place, Duration::ZERO),
            Some(Use { order, .. }) if *order > 0 => (2, *order, Duration::ZERO),
            _ => (1, 0, age(info)),
        });
        let mut place = uses.views.values().map(|used| used.place).max().unwrap_or(0);
        for info in &views {
            uses.views.entry(id(&info.key)).or_insert_with(|| {
                place += 1;
                Use { place, up, ..Use::default() }
            });
        }
        views
    }

    fn drop_aged(&self, views: &mut Vec<ViewInfo>, is_kept: &dyn Fn(&ViewKey) -> bool) {
        let max_age = self.bounds.max_age;
        views.retain(|info| {
            let is_old = {
                let uses = self.book.uses();
                uses.views.get(&id(&info.key)).is_some_and(|used| uses.up.saturating_sub(used.up) > max_age)
            };
            let gone = is_old && self.drop_one(info, is_kept);
            self.book.uses().dropped.for_age += u64::from(gone);
            !gone
        });
    }

    /// Drops until there is some room again, so that not each event finds it full: a tenth.
    fn drop_surplus(&self, pass: &mut Pass, views: &mut Vec<ViewInfo>, is_kept: &dyn Fn(&ViewKey) -> bool) {
        let max = self.bounds.max_size;
        let mut total: u64 = views.iter().map(charge).sum();
        if total <= max {
            pass.overfull = false;
            return;
        }
        let before = views.len();
        // What can never fit goes first: others need not make room for it.
        for only_hopeless in [true, false] {
            views.retain(|info| {
                let wanted = if only_hopeless { info.bytes > max } else { total > max - max / 10 };
                let gone = wanted && self.drop_one(info, is_kept);
                if gone {
                    total -= charge(info);
                    self.book.uses().dropped.for_size += 1;
                }
                !gone
            });
        }
        if before > views.len() {
            log::info!(
                "record: {} views that were used least recently made room (--cache-max-size)",
                before - views.len()
            );
        }
        if total > max && !pass.overfull {
            pass.overfull = true;
            log::warn!(
                "record: what is being served takes {total} bytes, more than --cache-max-size {max}; it is kept"
            );
        }
    }

    /// Whether a view was dropped: not if it is in use.
    fn drop_one(&self, info: &ViewInfo, is_kept: &dyn Fn(&ViewKey) -> bool) -> bool {
        let id = id(&info.key);
        let in_use = || self.book.uses().views.get(&id).is_some_and(|used| used.holders > 0);
        // A failure has been counted and logged.
        if in_use() || is_kept(&info.key) || self.store.remove(&info.key).is_err() {
            return false;
        }
        let mut uses = self.book.uses();
        if uses.views.get(&id).is_some_and(|used| used.holders == 0) {
            uses.views.remove(&id);
        }
        true
    }

    fn note_uses(&self, pass: &mut Pass, views: &[ViewInfo]) {
        let present: Vec<u64> = views.iter().map(|info| id(&info.key)).collect();
        let (bytes, noted) = {
            let mut uses = self.book.uses();
            let known: std::collections::HashSet<u64> = present.iter().copied().collect();
            uses.views.retain(|id, used| used.holders > 0 || known.contains(id));
            (uses.encode(&present), Some((uses.clock, uses.up.as_secs() / HOUR.as_secs())))
        };
        // A failure has been counted and logged; the next hour tries again.
        if pass.noted != noted && self.store.set_note(NOTE, &bytes).is_ok() {
            pass.noted = noted;
        }
    }

    fn written(&self, key: &ViewKey) -> Result<Written, StoreError> {
        let in_use = self.book.hold(key);
        let max = self.bounds.max_size;
        if self.book.uses().too_large.contains_key(&in_use.id) {
            return Err(StoreError::Oversized { bound: max });
        }
        Ok(Written { in_use, max, bytes: 0 })
    }
}

fn size_of(object: &ObjectRef, bytes: &[u8]) -> u64 {
    (bytes.len() + object.key.len()) as u64 + PER_OBJECT
}

impl Store for Bounded {
    fn views(&self, scope: &str, path: &str) -> Vec<ViewInfo> {
        self.store.views(scope, path)
    }

    fn all(&self) -> Vec<ViewInfo> {
        self.store.all()
    }

    fn document(&self, key: &ViewKey) -> Result<Option<Document>, StoreError> {
        let found = self.store.document(key)?;
        Ok(found.map(|document| {
            let body = Box::new(HeldBody { body: document.body, _in_use: self.book.hold(key) });
            Document { body, ..document }
        }))
    }

    fn begin_document(&self, key: &ViewKey, head: DocumentHead) -> Result<Box<dyn DocumentWriter>, StoreError> {
        let written = self.written(key)?;
        Ok(Box::new(CountedDocument { writer: self.store.begin_document(key, head)?, written }))
    }

    fn confirm_document(&self, key: &ViewKey, uid: &str, version: Option<u64>) -> bool {
        let confirmed = self.store.confirm_document(key, uid, version);
        if confirmed {
            self.book.uses().touch(id(key));
        }
        confirmed
    }

    fn collection(&self, key: &ViewKey) -> Result<Option<Arc<dyn Collection>>, StoreError> {
        let found = self.store.collection(key)?;
        Ok(found.map(|collection| {
            Arc::new(HeldCollection { collection, _in_use: self.book.hold(key) }) as Arc<dyn Collection>
        }))
    }

    fn begin_generation(&self, key: &ViewKey) -> Result<Box<dyn Generation>, StoreError> {
        let written = self.written(key)?;
        Ok(Box::new(CountedGeneration { generation: self.store.begin_generation(key)?, written }))
    }

    fn fold(&self, key: &ViewKey, changes: &[Change<'_>]) -> Result<Folded, StoreError> {
        let folded = self.store.fold(key, changes)?;
        let size = |change: &Change<'_>| match change {
            Change::Put { object, bytes } => size_of(object, bytes),
            Change::Envelope { bytes } => bytes.len() as u64,
            _ => PER_OBJECT,
        };
        let mut uses = self.book.uses();
        uses.touch(id(key));
        uses.written += changes.iter().map(size).sum::<u64>();
        Ok(folded)
    }

    fn remove(&self, key: &ViewKey) -> Result<(), StoreError> {
        self.store.remove(key)
    }

    fn remove_scope_path(&self, scope: &str, path: &str) -> Result<(), StoreError> {
        self.store.remove_scope_path(scope, path)
    }

    fn note(&self, name: &str) -> Option<Vec<u8>> {
        self.store.note(name)
    }

    fn set_note(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.store.set_note(name, bytes)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.store.flush()
    }

    fn stats(&self) -> Stats {
        self.store.stats()
    }
}

struct HeldBody {
    body: Box<dyn Read + Send>,
    _in_use: InUse,
}

impl Read for HeldBody {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.body.read(out)
    }
}

struct CountedDocument {
    writer: Box<dyn DocumentWriter>,
    written: Written,
}

impl DocumentWriter for CountedDocument {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.written.add(bytes.len() as u64)?;
        self.writer.write(bytes)
    }

    fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        // What stands around it on a disk.
        self.written.in_use.book.uses().written += BLOCK + FOLDERS;
        self.written.add(0)?;
        self.writer.commit()
    }
}

struct CountedGeneration {
    generation: Box<dyn Generation>,
    written: Written,
}

impl Generation for CountedGeneration {
    fn put(&mut self, object: &ObjectRef, bytes: &[u8]) -> Result<(), StoreError> {
        self.written.add(size_of(object, bytes))?;
        self.generation.put(object, bytes)
    }

    fn supersede(&mut self) {
        self.generation.supersede();
    }

    fn commit(
        mut self: Box<Self>,
        envelope: &[u8],
        version: Option<u64>,
        complete: bool,
    ) -> Result<Committed, StoreError> {
        self.written.in_use.book.uses().written += BLOCK + FOLDERS;
        self.written.add(envelope.len() as u64)?;
        self.generation.commit(envelope, version, complete)
    }
}

struct HeldCollection {
    collection: Arc<dyn Collection>,
    _in_use: InUse,
}

impl Collection for HeldCollection {
    fn info(&self) -> &ViewInfo {
        self.collection.info()
    }

    fn envelope(&self) -> Vec<u8> {
        self.collection.envelope()
    }

    fn version(&self) -> Option<u64> {
        self.collection.version()
    }

    fn unchanged_since(&self) -> Option<u64> {
        self.collection.unchanged_since()
    }

    fn len(&self) -> usize {
        self.collection.len()
    }

    fn each(&self, visit: &mut dyn FnMut(&ObjectRef, &[u8]) -> io::Result<()>) -> io::Result<()> {
        self.collection.each(visit)
    }

    fn lengths(&self, visit: &mut dyn FnMut(u32, u64)) {
        self.collection.lengths(visit);
    }

    fn index(&self, visit: &mut dyn FnMut(&ObjectRef, u64)) {
        self.collection.index(visit);
    }

    fn find(&self, object_key: &str) -> Option<ObjectRef> {
        self.collection.find(object_key)
    }

    fn get(&self, object_key: &str) -> Option<(ObjectRef, Vec<u8>)> {
        self.collection.get(object_key)
    }
}

#[cfg(test)]
mod tests;
