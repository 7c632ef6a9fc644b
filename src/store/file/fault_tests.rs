//! Each operation on the disk fails once, in turn and in every way, in the course of a short history: whatever was told to
//! have failed has changed nothing, what is held is a state that existed, and what comes later mends all.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rustix::io::Errno;

use super::super::contract::{
    Held, TempDir, bytes, delete, held, key, list, object, open_file_store, put, read, read_document,
};
use super::super::{Disk, DiskFile, DocumentHead, OsDisk, Store, StoreError, ViewKey};
use super::{FileOptions, FileStore};

/// Counts down operations; that at zero fails.
struct Countdown {
    left: AtomicI64,
    errno: Errno,
}

impl Countdown {
    fn step(&self) -> io::Result<()> {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 0 {
            return Err(self.errno.into());
        }
        Ok(())
    }
}

struct Faulty(Arc<Countdown>);

struct FaultyFile {
    file: Arc<dyn DiskFile>,
    countdown: Arc<Countdown>,
}

impl Faulty {
    fn wrap(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(FaultyFile { file, countdown: Arc::clone(&self.0) })
    }
}

impl Disk for Faulty {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.step()?;
        OsDisk.create_dir(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.0.step()?;
        OsDisk.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.step()?;
        OsDisk.create(path).map(|file| self.wrap(file))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.step()?;
        OsDisk.open(path).map(|file| self.wrap(file))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.step()?;
        OsDisk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.step()?;
        OsDisk.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.step()?;
        OsDisk.remove_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.step()?;
        OsDisk.sync_dir(path)
    }
    fn sync_all(&self, path: &Path) -> io::Result<()> {
        self.0.step()?;
        OsDisk.sync_all(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        OsDisk.lock(path)
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(out, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Err(error) = self.countdown.step() {
            // Some of it got there.
            self.file.write_all_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(error);
        }
        self.file.write_all_at(bytes, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.countdown.step()?;
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.countdown.step()?;
        self.file.sync_data()
    }
}

fn open(root: &Path, countdown: &Arc<Countdown>) -> FileStore {
    let options = FileOptions { root: root.to_owned(), flush_interval: Duration::from_secs(3600) };
    // Opening itself must work: without its lock the daemon does not start, and says why.
    let left = countdown.left.swap(i64::MAX, Ordering::SeqCst);
    let store = FileStore::open_on(Arc::new(Faulty(Arc::clone(countdown))), options).unwrap();
    countdown.left.store(left, Ordering::SeqCst);
    store
}

fn generation(store: &FileStore, key: &ViewKey, version: u64, objects: &[(&str, u64)]) -> Result<(), StoreError> {
    let mut generation = store.begin_generation(key)?;
    for &(name, version) in objects {
        generation.put(&object(name, version), &bytes(name, version))?;
    }
    generation.commit(b"envelope", Some(version), true).map(drop)
}

fn document(store: &FileStore, key: &ViewKey, version: u64, body: &[u8]) -> Result<(), StoreError> {
    let head = DocumentHead { status: 200, uid: "u".into(), version: Some(version), head: Vec::new() };
    let mut writer = store.begin_document(key, head)?;
    writer.write(body)?;
    writer.commit()
}

/// What the collection may hold: the states that it has had.
struct Seen {
    states: Vec<Option<Held>>,
}

impl Seen {
    /// After a step that should lead to `next`: it has, or it has failed and changed nothing that counts.
    fn after(
        &mut self,
        store: &FileStore,
        key: &ViewKey,
        next: Option<Held>,
        done: &Result<(), StoreError>,
        what: &str,
    ) {
        if done.is_ok() {
            assert_eq!(store.collection(key).map(|_| read(store, key)).ok(), Some(next.clone()), "{what}");
        }
        self.states.push(next);
        // What cannot be opened now is no answer; whatever is answered has existed.
        if store.collection(key).is_ok() {
            let now = read(store, key);
            assert!(self.states.contains(&now), "{what}: {now:?} never existed");
        }
    }
}

/// A short history with every kind of operation in it; true if nothing failed.
fn play(root: &Path, countdown: &Arc<Countdown>, what: &str) -> bool {
    let (pods, page) = (key("/api/v1/pods"), key("/version"));
    let long = |c: u8| vec![c; 100_000];
    let mut seen = Seen { states: vec![None] };
    let mut clean = true;
    let last;
    {
        let store = open(root, countdown);
        let mut step = |next: Option<Held>, done: Result<(), StoreError>| {
            clean &= done.is_ok();
            seen.after(&store, &pods, next, &done, what);
        };
        step(Some(held(10, &[("a", 1), ("b", 2)])), generation(&store, &pods, 10, &[("a", 1), ("b", 2)]));
        step(seen_now(&store, &pods), store.flush());
        let folded = |changes: &[super::Change<'_>]| store.fold(&pods, changes).map(drop);
        let done = folded(&[put("c", 11, b"c@11")]);
        let with_c = expect_fold(&store, &pods, 11, &[("c", Some(11))], &done);
        step(with_c, done);
        for (version, fill) in [(1, b'x'), (2, b'y')] {
            let done = document(&store, &page, version, &long(fill));
            if done.is_ok() {
                assert_eq!(read_document(&store, &page), Some(long(fill)), "{what}");
            }
            step(seen_now(&store, &pods), done);
            step(seen_now(&store, &pods), store.flush());
        }
        let done = folded(&[delete("b", 12)]);
        let without_b = expect_fold(&store, &pods, 12, &[("b", None)], &done);
        step(without_b, done);
        step(Some(held(13, &[("a", 13), ("d", 13)])), generation(&store, &pods, 13, &[("a", 13), ("d", 13)]));
        // Enough garbage that the file is written anew.
        for version in 20..24 {
            let done = document(&store, &page, version, &long(b'a' + version as u8));
            step(seen_now(&store, &pods), done);
        }
        step(seen_now(&store, &pods), store.flush());
        step(seen_now(&store, &pods), store.remove(&page));
        step(seen_now(&store, &pods), store.set_note("n", b"1"));
        step(seen_now(&store, &pods), store.flush());
        // All that has been shown by now is to last, if the fault is behind us and a flush says so.
        last = (countdown.left.load(Ordering::SeqCst) < 0 && store.flush().is_ok()).then(|| read(&store, &pods));
    }
    // The next life reads what this one left, on the same disk.
    let store = open(root, countdown);
    if store.collection(&pods).is_ok() {
        let now = read(&store, &pods);
        assert!(seen.states.contains(&now), "{what}: {now:?} after a restart");
        assert!(last.is_none_or(|last| last == now), "{what}: {now:?} is not what was made durable");
        clean &= now == Some(held(13, &[("a", 13), ("d", 13)]));
    }
    if let Some(body) = read_document(&store, &page) {
        assert!(body.iter().all(|&c| c == body[0]), "{what}: a mix");
        clean = false;
    }
    clean && countdown.left.load(Ordering::SeqCst) >= 0
}

fn seen_now(store: &FileStore, key: &ViewKey) -> Option<Held> {
    if store.collection(key).is_ok() { read(store, key) } else { None }
}

/// What a fold that worked leads to, from what is held after it; one that did not leads nowhere new.
fn expect_fold(
    store: &FileStore,
    key: &ViewKey,
    version: u64,
    changed: &[(&str, Option<u64>)],
    done: &Result<(), StoreError>,
) -> Option<Held> {
    let now = seen_now(store, key);
    if done.is_ok()
        && let Some((at, objects)) = &now
    {
        assert_eq!(*at, Some(version));
        for (name, object) in changed {
            assert_eq!(objects.get(*name).copied(), *object);
        }
    }
    now
}

#[test]
fn each_operation_fails_once_in_every_way_and_what_comes_later_mends() {
    let mut most = 0;
    for errno in [Errno::NOSPC, Errno::IO, Errno::ROFS] {
        for n in 0.. {
            assert!(n < 1000, "the history never ends");
            let what = format!("{errno:?} at operation {n}");
            let dir = TempDir::new();
            let root = dir.path().join("store");
            let countdown = Arc::new(Countdown { left: AtomicI64::new(n), errno });
            let clean = play(&root, &countdown, &what);
            // The trouble is over: everything works, and lasts.
            countdown.left.store(i64::MAX, Ordering::SeqCst);
            let store = open(&root, &countdown);
            let (pods, page) = (key("/api/v1/pods"), key("/version"));
            list(&store, &pods, 30, &[("z", 30)]);
            document(&store, &page, 30, b"late").unwrap_or_else(|e| panic!("{what}: {e}"));
            store.set_note("n", b"2").unwrap_or_else(|e| panic!("{what}: {e}"));
            store.flush().unwrap_or_else(|e| panic!("{what}: {e}"));
            drop(store);
            let store = open_file_store(&root);
            assert_eq!(read(&store, &pods), Some(held(30, &[("z", 30)])), "{what}");
            assert_eq!(read_document(&store, &page), Some(b"late".to_vec()), "{what}");
            assert_eq!(store.note("n"), Some(b"2".to_vec()), "{what}");
            if clean {
                most = most.max(n);
                break;
            }
        }
    }
    assert!(most > 50, "only {most} operations were made to fail");
}
