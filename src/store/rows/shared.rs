//! What all views of a store share: the database, what is known of the views, the flusher, the numbers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use super::super::{Stats, StoreError, ViewInfo, ViewKey, lock};
use super::format::{self, Row};
use super::view::{View, rows_of};
use super::{Database, Moment, Pen};

/// How often the flusher looks for indices that nobody uses.
const IDLE_CHECK: Duration = Duration::from_secs(60);
/// How long an index stays that nobody uses.
const IDLE: Duration = Duration::from_secs(600);
/// How long a database that failed waits to be opened again.
const RETRY: Duration = Duration::from_secs(10);
/// Trouble is over when nothing has failed for so long: a full disk lets a database be opened again, and no more.
const QUIET: Duration = Duration::from_secs(5);
/// How many rows are deleted in one transaction when a database is swept.
const SWEEP: usize = 4096;

pub(super) struct Shared {
    database: Box<dyn Database>,
    path: PathBuf,
    /// Held, shared, by whoever works with the database; alone, by whoever opens it again. Taken before any other lock.
    gate: RwLock<()>,
    views: Mutex<BTreeMap<ViewKey, Arc<View>>>,
    /// The next batch, view or transaction.
    next: AtomicU64,
    waiting: Mutex<Waiting>,
    wake: Condvar,
    /// Held while what waits is made durable, so that nobody returns from a flush before the one under way is done.
    pass: Mutex<()>,
    /// Set by a write that failed, until the database has been opened again.
    broken: AtomicBool,
    damaged: AtomicU64,
    errors: AtomicU64,
    /// When something failed last.
    failed: Mutex<Option<Instant>>,
    /// Kinds of failures that have been logged.
    told: Mutex<HashSet<(&'static str, io::ErrorKind)>>,
    /// Released when the last user of the database is gone.
    _lock: Box<dyn Send + Sync>,
}

#[derive(Default)]
struct Waiting {
    /// Something has been committed that is not durable.
    dirty: bool,
    /// When to open a database again that failed.
    retry: Option<Instant>,
    stop: bool,
}

/// What a database holds of views.
struct Found {
    rows: Vec<(ViewKey, Row)>,
    /// Views whose row cannot be read.
    lost: Vec<u64>,
    next: u64,
}

impl Shared {
    pub(super) fn open(
        database: Box<dyn Database>,
        path: PathBuf,
        damaged: u64,
        lock: Box<dyn Send + Sync>,
    ) -> io::Result<Self> {
        check_format(&*database)?;
        let found = look(&*database)?;
        sweep(&*database, &found.lost)?;
        database.persist()?;
        let lost = found.lost.len() as u64;
        if lost > 0 {
            log::warn!("record: {lost} views of {} are damaged and were dropped", path.display());
        }
        let views = found.rows.into_iter().map(|(key, row)| (key.clone(), Arc::new(View::new(key, Some(row)))));
        Ok(Self {
            database,
            path,
            gate: RwLock::default(),
            views: Mutex::new(views.collect()),
            next: AtomicU64::new(found.next),
            waiting: Mutex::default(),
            wake: Condvar::new(),
            pass: Mutex::default(),
            broken: AtomicBool::new(false),
            damaged: AtomicU64::new(damaged + lost),
            errors: AtomicU64::new(0),
            failed: Mutex::default(),
            told: Mutex::default(),
            _lock: lock,
        })
    }

    /// Keeps the database open. Taken once by every call from outside, and never again below.
    pub(super) fn enter(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn find(&self, key: &ViewKey) -> Option<Arc<View>> {
        lock(&self.views).get(key).cloned()
    }

    pub(super) fn make(&self, key: &ViewKey) -> Arc<View> {
        let make = || Arc::new(View::new(key.clone(), None));
        Arc::clone(lock(&self.views).entry(key.clone()).or_insert_with(make))
    }

    pub(super) fn all(&self) -> Vec<Arc<View>> {
        lock(&self.views).values().cloned().collect()
    }

    pub(super) fn views(&self, scope: &str, path: &str) -> Vec<Arc<View>> {
        let empty = String::new;
        let first = ViewKey { scope: scope.into(), path: path.into(), query: empty(), representation: empty() };
        let views = lock(&self.views);
        let same = views.range(first..).take_while(|(key, _)| key.scope == scope && key.path == path);
        same.map(|(_, view)| Arc::clone(view)).collect()
    }

    /// Counts a failure, and logs it if it is the first of its kind since the last time that all was well.
    pub(super) fn failed(&self, doing: &'static str, error: io::Error) -> StoreError {
        self.errors.fetch_add(1, Ordering::Relaxed);
        *lock(&self.failed) = Some(Instant::now());
        let first = lock(&self.told).insert((doing, error.kind()));
        let error = StoreError::Io { doing, path: self.path.clone(), error };
        if first {
            log::warn!("record: {error}; what comes is not recorded until this ends");
        }
        error
    }

    /// Counts and logs what was found damaged.
    pub(super) fn damaged(&self, key: &ViewKey) -> StoreError {
        self.damaged.fetch_add(1, Ordering::Relaxed);
        log::warn!("record: {} is damaged in {} and was dropped", key.path, self.path.display());
        StoreError::Damaged { path: self.path.clone() }
    }

    pub(super) fn moment(&self) -> io::Result<Box<dyn Moment>> {
        self.database.moment()
    }

    /// A row's payload, as it is now; one that is damaged is none.
    pub(super) fn row(&self, key: &[u8]) -> Option<Vec<u8>> {
        let mut found = None;
        let mut visit = |value: &[u8]| {
            found = Some(format::unseal(key, value)?.to_vec());
            Ok(())
        };
        match self.moment().and_then(|moment| moment.get(key, &mut visit)) {
            Ok(()) => found,
            Err(error) => {
                self.failed("read", error);
                None
            }
        }
    }

    /// Commits what `fill` writes, and has it made durable within a flush interval.
    pub(super) fn write(&self, fill: &mut dyn FnMut(&mut dyn Pen) -> io::Result<()>) -> Result<(), StoreError> {
        if self.broken.load(Ordering::Acquire) {
            let error = io::Error::other("an earlier write failed, and it has not been opened again since");
            return Err(self.failed("write", error));
        }
        if let Err(error) = self.database.write(fill) {
            let error = self.failed("write", error);
            self.is_broken();
            return Err(error);
        }
        let mut waiting = lock(&self.waiting);
        if !std::mem::replace(&mut waiting.dirty, true) {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Has the database opened again before anything else is written.
    pub(super) fn is_broken(&self) {
        if !self.broken.swap(true, Ordering::AcqRel) {
            lock(&self.waiting).retry = Some(Instant::now());
            self.wake.notify_one();
        }
    }

    /// Tells the flusher to end.
    pub(super) fn stop(&self) {
        lock(&self.waiting).stop = true;
        self.wake.notify_one();
    }

    /// The flusher: makes durable what has been committed, at most every `interval`, until told to stop.
    pub(super) fn run(&self, interval: Duration) {
        let mut last_idle = Instant::now();
        loop {
            let waiting = lock(&self.waiting);
            let due = |waiting: &Waiting| waiting.retry.is_some_and(|retry| Instant::now() >= retry);
            let nothing = |waiting: &mut Waiting| !waiting.stop && !waiting.dirty && !due(waiting);
            let pause = if waiting.retry.is_some() { RETRY } else { IDLE_CHECK };
            let Ok((waiting, _)) = self.wake.wait_timeout_while(waiting, pause, nothing) else {
                return;
            };
            // What comes within the interval is made durable with what woke us.
            let early = |waiting: &mut Waiting| !waiting.stop && !due(waiting);
            let Ok((waiting, _)) = self.wake.wait_timeout_while(waiting, interval, early) else {
                return;
            };
            let (stop, now) = (waiting.stop, waiting.stop || due(&waiting));
            drop(waiting);
            // Failures have been counted and logged where they happened.
            let _ = self.make_durable(now);
            if stop {
                return;
            }
            if last_idle.elapsed() >= IDLE_CHECK {
                last_idle = Instant::now();
                self.tidy();
            }
        }
    }

    /// Makes durable all that has been committed. With `now`, a database that failed is opened again, whenever that was.
    pub(super) fn make_durable(&self, now: bool) -> Result<(), StoreError> {
        let _only_one = lock(&self.pass);
        if self.broken.load(Ordering::Acquire) {
            return if now { self.recover() } else { Err(StoreError::Abandoned) };
        }
        let _gate = self.enter();
        if !std::mem::take(&mut lock(&self.waiting).dirty) {
            return Ok(());
        }
        if let Err(error) = self.database.persist() {
            let error = self.failed("sync", error);
            self.is_broken();
            return Err(error);
        }
        Ok(())
    }

    /// Opens the database again, and makes of what is known what is there.
    fn recover(&self) -> Result<(), StoreError> {
        let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let found = self.database.reopen().and_then(|damaged| {
            self.damaged.fetch_add(damaged, Ordering::Relaxed);
            check_format(&*self.database)?;
            let found = look(&*self.database)?;
            sweep(&*self.database, &found.lost)?;
            self.database.persist()?;
            Ok(found)
        });
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                lock(&self.waiting).retry = Some(Instant::now() + RETRY);
                return Err(self.failed("open", error));
            }
        };
        let mut rows: HashMap<ViewKey, Row> = found.rows.into_iter().collect();
        for view in lock(&self.views).values() {
            view.restore(&mut rows);
        }
        // What is left was removed before the failure, and not lastingly: it stays so.
        let removed: Vec<u64> = rows.into_values().map(|row| row.id).collect();
        let swept = sweep(&*self.database, &removed).and_then(|()| self.database.persist());
        if let Err(error) = swept {
            lock(&self.waiting).retry = Some(Instant::now() + RETRY);
            return Err(self.failed("write", error));
        }
        {
            let mut waiting = lock(&self.waiting);
            (waiting.dirty, waiting.retry) = (false, None);
        }
        self.broken.store(false, Ordering::Release);
        lock(&self.told).clear();
        log::info!("record: {} can be written again", self.path.display());
        Ok(())
    }

    /// Drops indices that nobody uses, and what stands for views that are no more.
    fn tidy(&self) {
        for view in self.all() {
            view.unread_after(IDLE);
        }
        // Whoever else knows a view has got it under this lock.
        lock(&self.views).retain(|_, view| Arc::strong_count(view) > 1 || !view.is_empty());
    }

    pub(super) fn stats(&self) -> Stats {
        let infos: Vec<ViewInfo> = self.all().iter().filter_map(|view| view.info()).collect();
        let costs = {
            let _gate = self.enter();
            self.database.costs()
        };
        Stats {
            views: infos.len(),
            objects: infos.iter().map(|info| info.objects).sum(),
            bytes: costs.size,
            bytes_written: costs.bytes_written,
            damaged: self.damaged.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            failing: self.broken.load(Ordering::Relaxed) || lock(&self.failed).is_some_and(|at| at.elapsed() < QUIET),
            fsyncs: costs.fsyncs,
            compactions: costs.compactions,
        }
    }
}

/// Makes sure that a database is one of ours, in the format that is read here; a new one is made so.
fn check_format(database: &dyn Database) -> io::Result<()> {
    let (mut ours, mut empty) = (false, true);
    let moment = database.moment()?;
    moment.get(format::FORMAT_KEY, &mut |value| {
        ours = value == format::FORMAT;
        empty = false;
        Ok(())
    })?;
    if empty {
        moment.scan(b"", &mut |_, _| {
            empty = false;
            Err(format::damaged())
        })?;
        database.write(&mut |pen| pen.put(format::FORMAT_KEY, format::FORMAT))?;
        ours = true;
    }
    if ours { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidData, "it is in another format")) }
}

/// Reads what there is of views, and nothing of their contents.
fn look(database: &dyn Database) -> io::Result<Found> {
    let mut found = Found { rows: Vec::new(), lost: Vec::new(), next: 1 };
    let moment = database.moment()?;
    moment.scan(format::VIEWS, &mut |key, value| {
        let id = format::number_of(key).ok_or_else(format::damaged)?;
        let row = format::unseal(key, value).and_then(|payload| Row::decode(id, payload));
        found.next = found.next.max(id.saturating_add(1));
        match row {
            Ok((view, row)) => {
                // A commit's number is above those of all that it makes visible.
                found.next = found.next.max(row.tx.saturating_add(1));
                found.rows.push((view, row));
            }
            Err(_) => found.lost.push(id),
        }
        Ok(())
    })?;
    for table in [format::DRAFTS, format::DOOMED] {
        moment.scan(table, &mut |key, _| {
            let batch = format::number_of(key).ok_or_else(format::damaged)?;
            found.next = found.next.max(batch.saturating_add(1));
            Ok(())
        })?;
    }
    Ok(found)
}

/// Deletes what was under way when the database was last used, and views that are to go.
fn sweep(database: &dyn Database, views: &[u64]) -> io::Result<()> {
    let moment = database.moment()?;
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let mut last: Vec<Vec<u8>> = Vec::new();
    moment.scan(format::DRAFTS, &mut |key, _| {
        last.push(key.to_vec());
        moment.scan(&format::batch_keys(format::number_of(key).ok_or_else(format::damaged)?), &mut |key, _| {
            keys.push(key.to_vec());
            Ok(())
        })
    })?;
    moment.scan(format::DOOMED, &mut |key, _| {
        last.push(key.to_vec());
        keys.push(format::bytes_key(format::place_of(key).ok_or_else(format::damaged)?));
        Ok(())
    })?;
    for &view in views {
        let (mut rows, places) = rows_of(&*moment, view)?;
        last.extend(rows.pop());
        keys.append(&mut rows);
        keys.extend(places.into_iter().map(format::bytes_key));
    }
    drop(moment);
    // What says that something is to go, goes last.
    keys.append(&mut last);
    for some in keys.chunks(SWEEP) {
        database.write(&mut |pen| some.iter().try_for_each(|key| pen.delete(key)))?;
    }
    Ok(())
}
