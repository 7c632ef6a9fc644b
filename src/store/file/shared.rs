//! What all views of a file store share: the disk, the open files, what waits to be made durable, the numbers.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::super::disk::{Disk, DiskFile};
use super::super::{StoreError, lock};
use super::layout;
use super::view::View;

/// How many files stay open between two uses.
const OPEN_FILES: usize = 64;
/// How many damaged files are kept to be looked at; the oldest go first.
const DAMAGED_KEPT: usize = 16;
/// How long what could not be made durable waits for the next attempt.
const RETRY: Duration = Duration::from_secs(10);
/// Trouble is over when something has been made durable and nothing has failed for so long: on a full disk small things
/// succeed between large ones that do not.
const QUIET: Duration = Duration::from_secs(5);

pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) root: PathBuf,
    open: Mutex<Vec<OpenFile>>,
    waiting: Mutex<Waiting>,
    wake: Condvar,
    /// Held while what waits is made durable, so that nobody returns from a flush before the one under way is done.
    pass: Mutex<()>,
    pub(super) numbers: Numbers,
    next_view: AtomicU64,
    /// Kinds of failures that have been logged.
    told: Mutex<HashSet<(&'static str, io::ErrorKind)>>,
    /// The last failure of a trouble that is not over.
    trouble: Mutex<Option<Instant>>,
    /// Whether something has been made durable since then.
    well: AtomicBool,
    /// Released when the last user of the directory is gone.
    held: Mutex<Box<dyn Send + Sync>>,
}

#[derive(Default)]
pub(super) struct Numbers {
    pub(super) bytes_written: AtomicU64,
    pub(super) damaged: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) fsyncs: AtomicU64,
    pub(super) compactions: AtomicU64,
}

struct OpenFile {
    view: u64,
    seq: u64,
    file: Arc<dyn DiskFile>,
}

/// What must be made durable.
#[derive(Default)]
struct Waiting {
    /// All that is there: a process before this one may have written it, and have been killed before it was durable.
    inherited: bool,
    views: BTreeMap<u64, Arc<View>>,
    /// Directories in which there are new names.
    dirs: BTreeSet<PathBuf>,
    /// What failed, and when to try it again.
    failed: Vec<Arc<View>>,
    failed_dirs: Vec<PathBuf>,
    retry: Option<Instant>,
    stop: bool,
}

impl Shared {
    pub(super) fn new(disk: Arc<dyn Disk>, root: PathBuf, held: Box<dyn Send + Sync>) -> Self {
        Self {
            disk,
            root,
            open: Mutex::default(),
            waiting: Mutex::new(Waiting { inherited: true, ..Waiting::default() }),
            wake: Condvar::new(),
            pass: Mutex::default(),
            numbers: Numbers::default(),
            next_view: AtomicU64::new(1),
            told: Mutex::default(),
            trouble: Mutex::default(),
            well: AtomicBool::new(false),
            held: Mutex::new(held),
        }
    }

    /// Whether the directory is another than the one that was opened, or none: somebody has removed it, and what is written
    /// to open files leads nowhere.
    pub(super) fn is_gone(&self) -> bool {
        let lock = self.root.join(layout::LOCK);
        matches!(self.disk.open(&lock), Err(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// Begins the directory anew. The old one's lock goes with it.
    pub(super) fn begin_anew(&self) -> Result<(), StoreError> {
        let path = self.root.join(layout::LOCK);
        let made = super::make_dirs(&*self.disk, &self.root).and_then(|()| self.disk.lock(&path));
        *lock(&self.held) = made.map_err(|error| self.failed("create", &path, error))?;
        lock(&self.open).clear();
        lock(&self.waiting).inherited = true;
        log::warn!("record: {} was removed; what was in it is forgotten, and it begins anew", self.root.display());
        Ok(())
    }

    pub(super) fn next_view(&self) -> u64 {
        self.next_view.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts a failure, and logs it if it is the first of its kind since the last time that all was well.
    pub(super) fn failed(&self, doing: &'static str, path: &Path, error: io::Error) -> StoreError {
        self.numbers.errors.fetch_add(1, Ordering::Relaxed);
        self.well.store(false, Ordering::Relaxed);
        *lock(&self.trouble) = Some(Instant::now());
        let first = lock(&self.told).insert((doing, error.kind()));
        let error = StoreError::Io { doing, path: path.to_owned(), error };
        if first {
            log::warn!("record: {error}; what comes is not recorded until this ends");
        }
        error
    }

    /// Whether there is trouble that is not known to be over.
    pub(super) fn is_failing(&self) -> bool {
        lock(&self.trouble).is_some() || lock(&self.waiting).retry.is_some()
    }

    /// Says that the trouble is over, if there was one and it is.
    fn end_trouble(&self) {
        if lock(&self.waiting).retry.is_some() {
            return;
        }
        let mut trouble = lock(&self.trouble);
        if self.well.load(Ordering::Relaxed) && trouble.is_some_and(|last| last.elapsed() >= QUIET) {
            *trouble = None;
            lock(&self.told).clear();
            log::info!("record: {} can be written again", self.root.display());
        }
    }

    /// An open file, opened if need be. The file must exist: the caller holds a lock that keeps it.
    pub(super) fn open_file(&self, view: u64, seq: u64, path: &Path) -> Result<Arc<dyn DiskFile>, StoreError> {
        let mut open = lock(&self.open);
        if let Some(at) = open.iter().position(|file| file.view == view && file.seq == seq) {
            let found = open.remove(at);
            let file = Arc::clone(&found.file);
            open.push(found);
            return Ok(file);
        }
        drop(open);
        let file = self.disk.open(path).map_err(|error| self.failed("open", path, error))?;
        self.keep_open(view, seq, Arc::clone(&file));
        Ok(file)
    }

    pub(super) fn keep_open(&self, view: u64, seq: u64, file: Arc<dyn DiskFile>) {
        let mut open = lock(&self.open);
        if open.len() >= OPEN_FILES {
            open.remove(0);
        }
        open.push(OpenFile { view, seq, file });
    }

    pub(super) fn close(&self, view: u64, seq: u64) {
        lock(&self.open).retain(|file| !(file.view == view && file.seq == seq));
    }

    /// Makes a directory and those above it, and has their names made durable.
    pub(super) fn make_dir(&self, dir: &Path) -> io::Result<()> {
        let above = dir.parent().unwrap_or(dir);
        let make = || -> io::Result<()> {
            // Nobody who finds it there may think it durable.
            let mut waiting = lock(&self.waiting);
            self.disk.create_dir(dir)?;
            waiting.dirs.insert(above.to_owned());
            self.wake.notify_one();
            Ok(())
        };
        let mut made = make();
        if matches!(&made, Err(error) if error.kind() == io::ErrorKind::NotFound && above != dir) {
            self.make_dir(above)?;
            made = make();
        }
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    pub(super) fn remove_file(&self, path: &Path) -> Result<(), StoreError> {
        match self.disk.remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("remove", path, error)),
            _ => Ok(()),
        }
    }

    /// Moves a file that is not what it should be out of the way, to be looked at.
    pub(super) fn set_aside(&self, path: &Path, why: &str) {
        self.numbers.damaged.fetch_add(1, Ordering::Relaxed);
        let dir = self.root.join(layout::DAMAGED);
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let number = self.numbers.damaged.load(Ordering::Relaxed);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let to = dir.join(format!("{millis:016}-{number}-{name}"));
        let moved = self.make_dir(&dir).and_then(|()| self.disk.rename(path, &to));
        match moved {
            Ok(()) => log::warn!("record: {} is {why}: set aside as {}", path.display(), to.display()),
            Err(error) => {
                self.failed("set aside", path, error);
                // What cannot be moved must at least not be met again.
                let _ = self.remove_file(path);
            }
        }
        let mut kept = self.disk.list(&dir).unwrap_or_default();
        kept.sort();
        for name in kept.iter().take(kept.len().saturating_sub(DAMAGED_KEPT)) {
            let _ = self.remove_file(&dir.join(name));
        }
    }

    /// Has a view made durable within a flush interval.
    pub(super) fn mark(&self, view: &Arc<View>) {
        let mut waiting = lock(&self.waiting);
        if waiting.views.insert(view.id, Arc::clone(view)).is_none() {
            self.wake.notify_one();
        }
    }

    /// Whether a view waits to be made durable.
    pub(super) fn waits(&self, view: &View) -> bool {
        let waiting = lock(&self.waiting);
        waiting.views.contains_key(&view.id) || waiting.failed.iter().any(|failed| failed.id == view.id)
    }

    /// Has a directory's names made durable within a flush interval.
    pub(super) fn mark_dir(&self, dir: &Path) {
        lock(&self.waiting).dirs.insert(dir.to_owned());
        self.wake.notify_one();
    }

    /// Whether what a process before this one has left is durable.
    pub(super) fn has_settled(&self) -> bool {
        !lock(&self.waiting).inherited
    }

    /// Tells the flusher to end.
    pub(super) fn stop(&self) {
        lock(&self.waiting).stop = true;
        self.wake.notify_one();
    }

    /// The flusher: makes durable what waits, at most every `interval`, until told to stop. Calls `look` before that, and
    /// `idle` now and then.
    pub(super) fn run(&self, interval: Duration, look: impl Fn(), idle: impl Fn()) {
        let mut last_idle = Instant::now();
        loop {
            let waiting = lock(&self.waiting);
            let nothing = |waiting: &mut Waiting| {
                let due = waiting.retry.map_or(waiting.inherited, |retry| Instant::now() >= retry);
                !waiting.stop && !due && waiting.views.is_empty() && waiting.dirs.is_empty()
            };
            let pause = match *lock(&self.trouble) {
                Some(_) => QUIET,
                None => super::IDLE_CHECK,
            };
            let Ok((waiting, _)) = self.wake.wait_timeout_while(waiting, pause, nothing) else {
                return;
            };
            // What comes within the interval is made durable with what woke us.
            let Ok((waiting, _)) = self.wake.wait_timeout_while(waiting, interval, |waiting| !waiting.stop) else {
                return;
            };
            let stop = waiting.stop;
            drop(waiting);
            look();
            // Failures have been counted and logged where they happened.
            let _ = self.make_durable(stop);
            self.end_trouble();
            if stop {
                return;
            }
            if last_idle.elapsed() >= super::IDLE_CHECK {
                last_idle = Instant::now();
                idle();
            }
        }
    }

    /// Makes durable all that waits; with `now`, also what failed a moment ago.
    pub(super) fn make_durable(&self, now: bool) -> Result<(), StoreError> {
        let _only_one = lock(&self.pass);
        let (again, inherited, views) = {
            let mut waiting = lock(&self.waiting);
            let again = now || waiting.retry.is_none_or(|retry| Instant::now() >= retry);
            let mut views = std::mem::take(&mut waiting.views);
            if again {
                waiting.retry = None;
                views.extend(waiting.failed.drain(..).map(|view| (view.id, view)));
            }
            (again, waiting.inherited && again, views)
        };
        let mut failure = None;
        if inherited {
            match self.sync("sync what is in", &self.root, |root| self.disk.sync_all(root)) {
                Ok(()) => lock(&self.waiting).inherited = false,
                Err(error) => failure = Some(error),
            }
        }
        let mut synced = Vec::new();
        for view in views.into_values() {
            match view.sync(self) {
                Ok(Some(seq)) => synced.push((view, seq)),
                Ok(None) => {}
                Err(error) => {
                    failure = Some(error);
                    lock(&self.waiting).failed.push(view);
                }
            }
        }
        // Those among them in which a view's file has just been written anew.
        let dirs = {
            let mut waiting = lock(&self.waiting);
            let mut dirs = std::mem::take(&mut waiting.dirs);
            if again {
                dirs.extend(waiting.failed_dirs.drain(..));
            }
            dirs
        };
        let any = inherited || !(synced.is_empty() && dirs.is_empty());
        for dir in dirs {
            if let Err(error) = self.sync("sync", &dir, |dir| self.disk.sync_dir(dir)) {
                failure = Some(error);
                lock(&self.waiting).failed_dirs.push(dir);
            }
        }
        for (view, seq) in synced {
            // An older file may go only when the name of its successor lasts.
            let mut waiting = lock(&self.waiting);
            if waiting.inherited || waiting.failed_dirs.iter().any(|dir| view.folder.starts_with(dir)) {
                waiting.failed.push(view);
            } else {
                drop(waiting);
                view.settle(self, seq);
            }
        }
        if let Some(error) = failure {
            lock(&self.waiting).retry = Some(Instant::now() + RETRY);
            return Err(error);
        }
        if any {
            self.well.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes a directory durable in some way; one that is gone has nothing that must be.
    pub(super) fn sync(
        &self,
        doing: &'static str,
        dir: &Path,
        sync: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(), StoreError> {
        self.numbers.fsyncs.fetch_add(1, Ordering::Relaxed);
        match sync(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed(doing, dir, error)),
            _ => Ok(()),
        }
    }
}
