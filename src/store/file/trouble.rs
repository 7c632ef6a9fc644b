//! A disk for tests on which things go wrong.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use super::super::{Disk, DiskFile, OsDisk};
use super::{FileOptions, FileStore};

/// The operating system's disk, on which operations can be made to fail and are counted.
#[derive(Default)]
struct Trouble {
    /// How many writes succeed before one fails half-way; negative: all.
    writes: Arc<AtomicI64>,
    syncs: Arc<AtomicI64>,
    /// How many reads succeed before some fail, and how many do then.
    reads: Arc<(AtomicI64, AtomicI64)>,
    open: Arc<AtomicUsize>,
}

struct TroubledFile {
    file: Arc<dyn DiskFile>,
    reads: Arc<(AtomicI64, AtomicI64)>,
    writes: Arc<AtomicI64>,
    syncs: Arc<AtomicI64>,
    open: Arc<AtomicUsize>,
}

fn fails(count: &AtomicI64) -> bool {
    count.load(Ordering::SeqCst) >= 0 && count.fetch_sub(1, Ordering::SeqCst) == 0
}

impl Trouble {
    fn wrap(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        self.open.fetch_add(1, Ordering::SeqCst);
        let (writes, syncs, open) = (self.writes.clone(), self.syncs.clone(), self.open.clone());
        Arc::new(TroubledFile { file, reads: self.reads.clone(), writes, syncs, open })
    }
}

impl Drop for TroubledFile {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Disk for Trouble {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.create_dir(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<std::ffi::OsString>> {
        OsDisk.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        OsDisk.create(path).map(|file| self.wrap(file))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        OsDisk.open(path).map(|file| self.wrap(file))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.sync_dir(path)
    }
    fn sync_all(&self, path: &Path) -> io::Result<()> {
        OsDisk.sync_all(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        OsDisk.lock(path)
    }
}

impl DiskFile for TroubledFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let (before, failing) = &*self.reads;
        if before.fetch_sub(1, Ordering::SeqCst) <= 0 && failing.fetch_sub(1, Ordering::SeqCst) > 0 {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        self.file.read_at(out, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if fails(&self.writes) {
            self.file.write_all_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_all_at(bytes, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        if fails(&self.syncs) {
            return Err(io::Error::other("I/O error"));
        }
        self.file.sync_data()
    }
}

/// Such a disk; with it come the counts of writes and of syncs until one fails.
#[cfg(feature = "redb")]
pub(in crate::store) fn disk() -> (Arc<dyn Disk>, Arc<AtomicI64>, Arc<AtomicI64>) {
    let disk = Trouble { writes: Arc::new((-1).into()), syncs: Arc::new((-1).into()), ..Trouble::default() };
    let (writes, syncs) = (disk.writes.clone(), disk.syncs.clone());
    (Arc::new(disk), writes, syncs)
}

/// Opens a store on a disk of which, once so many reads have succeeded, so many fail.
pub(super) fn stumbling(root: &Path, before: i64, failing: i64) -> FileStore {
    let (writes, syncs) = (Arc::new((-1).into()), Arc::new((-1).into()));
    let reads = Arc::new((before.into(), failing.into()));
    let options = FileOptions { root: root.to_owned(), flush_interval: Duration::from_secs(3600) };
    FileStore::open_on(Arc::new(Trouble { writes, syncs, reads, ..Trouble::default() }), options).unwrap()
}

/// Opens a store on such a disk; with it come the counts of writes and of syncs until one fails, and of open files.
pub(super) fn troubled(root: &Path) -> (FileStore, Arc<AtomicI64>, Arc<AtomicI64>, Arc<AtomicUsize>) {
    let disk = Trouble { writes: Arc::new((-1).into()), syncs: Arc::new((-1).into()), ..Trouble::default() };
    let (writes, syncs, open) = (disk.writes.clone(), disk.syncs.clone(), disk.open.clone());
    let options = FileOptions { root: root.to_owned(), flush_interval: Duration::from_secs(3600) };
    (FileStore::open_on(Arc::new(disk), options).unwrap(), writes, syncs, open)
}
