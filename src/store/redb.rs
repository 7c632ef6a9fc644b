//! The engine on redb, a copy-on-write B-tree in one file: what bolt is to Go.
//!
//! ```text
//! <file>            the database, 0600
//! <file>.new        a database that is being made
//! <file>.lock       held (flock) by the process that has it open
//! <file>.damaged    the last database that was not what it should be
//! ```
//!
//! What redb does, and what that costs (its documentation, 4.6):
//!
//! - A commit of `Durability::None` stays in memory, pages and all, until the next durable one or until the cache is
//!   full; so the cache is what bounds memory, and it is small. After a crash the last durable commit is there.
//! - There is one writer: who writes while the flusher makes a commit durable waits for the disk. Readers do not.
//! - A page is 4 KiB, and a change writes anew each page from its leaf to the root, once a flush.
//! - The file grows, and is filled again, but does not shrink. Pages that a reader can see are not filled again.
//! - Checksums are looked at when the file is opened, not when a page is read: hence the one in each row. A file that was
//!   altered may make a plain open panic; so each open checks the whole file, which takes the time of reading it.
//! - After an I/O error redb refuses everything until it is opened again.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redb::{Durability, ReadOnlyTable, ReadableDatabase, StorageBackend, TableDefinition};

use super::disk::{Disk, DiskFile, OsDisk, above, make_dirs};
use super::overlay::Overlay;
use super::rows::{Costs, Database, DatabaseOptions, Moment, Pen, RowStore, VisitRow, open_or_begin_anew};
use super::{StoreError, lock};

const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
/// Pages in memory, those of commits that are not durable yet among them.
const CACHE: usize = 2 << 20;

/// Opens the store in a database of the operating system's file system. One that is damaged is set aside.
///
/// Fails with [`StoreError::Locked`] if another process has it open, and with [`StoreError::Io`] if it cannot be made,
/// read or written.
pub fn open(options: &DatabaseOptions) -> Result<RowStore, StoreError> {
    open_on(&(Arc::new(OsDisk) as Arc<dyn Disk>), options)
}

/// Opens a database that is there to look at it: the file is not changed, and what is written to the store is seen by it
/// alone. It is read whole.
///
/// Fails with [`StoreError::Locked`] while a daemon has it open: its pages are filled again while they are read, and
/// what redb would follow leads nowhere then. Fails with [`StoreError::Io`] (`InvalidData`) if it is damaged.
pub fn look(path: &Path) -> Result<RowStore, StoreError> {
    let options = DatabaseOptions { path: path.to_owned(), flush_interval: Duration::from_secs(1) };
    open_on(&(Arc::new(Overlay) as Arc<dyn Disk>), &options)
}

/// Opens the store on any disk.
pub(super) fn open_on(disk: &Arc<dyn Disk>, options: &DatabaseOptions) -> Result<RowStore, StoreError> {
    let path = &options.path;
    let failed = |doing, error| StoreError::Io { doing, path: path.clone(), error };
    make_dirs(&**disk, above(path)).map_err(|error| failed("create the directory of", error))?;
    let make = || {
        let (database, set_aside) = RedbDatabase::open(Arc::clone(disk), path)?;
        Ok((Box::new(database) as Box<dyn Database>, set_aside))
    };
    let set_aside = |why: &io::Error| set_aside_file(&**disk, path, why);
    RowStore::open(options, &**disk, &beside(path, "lock"), make, set_aside)
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(end);
    name.into()
}

fn set_aside_file(disk: &dyn Disk, path: &Path, why: &io::Error) -> io::Result<()> {
    let to = beside(path, "damaged");
    disk.rename(path, &to)?;
    log::warn!("record: {} is damaged or foreign ({why}): set aside as {}", path.display(), to.display());
    Ok(())
}

struct RedbDatabase {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    numbers: Arc<Numbers>,
    /// `None` only after it could not be opened again.
    open: Mutex<Option<Arc<redb::Database>>>,
}

#[derive(Default, Debug)]
struct Numbers {
    size: AtomicU64,
    bytes_written: AtomicU64,
    fsyncs: AtomicU64,
}

impl RedbDatabase {
    /// Opens a database, or starts one anew where it is damaged; also returns how many were set aside.
    fn open(disk: Arc<dyn Disk>, path: &Path) -> io::Result<(Self, u64)> {
        let (path, numbers, open) = (path.to_owned(), Arc::default(), Mutex::default());
        let database = Self { disk, path, numbers, open };
        let damaged = database.reopen()?;
        Ok((database, damaged))
    }

    fn attempt(&self) -> io::Result<redb::Database> {
        // One that is only half made has another name: it would look like a damaged one.
        let half_made = beside(&self.path, "new");
        let (file, is_new) = match self.disk.open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match self.disk.remove_file(&half_made) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => (self.disk.create(&half_made)?, true),
            },
            opened => (opened?, false),
        };
        let backend = Backend { file, numbers: Arc::clone(&self.numbers) };
        let open = || {
            redb::Builder::new().set_cache_size(CACHE).set_check_integrity_on_open(true).create_with_backend(backend)
        };
        let database = catch_unwind(AssertUnwindSafe(open))
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "its structure makes no sense"))?
            .map_err(to_io)?;
        // So that every reader finds the table.
        let transaction = database.begin_write().map_err(to_io)?;
        transaction.open_table(ROWS).map_err(to_io)?;
        transaction.commit().map_err(to_io)?;
        if is_new {
            self.disk.rename(&half_made, &self.path)?;
        }
        // Whoever made it may have been killed before its name was durable.
        self.disk.sync_dir(above(&self.path))?;
        Ok(database)
    }

    fn current(&self) -> io::Result<Arc<redb::Database>> {
        lock(&self.open).clone().ok_or_else(|| io::Error::other("it could not be opened again"))
    }
}

impl Database for RedbDatabase {
    fn moment(&self) -> io::Result<Box<dyn Moment>> {
        let transaction = self.current()?.begin_read().map_err(to_io)?;
        // The table keeps its transaction.
        Ok(Box::new(RedbMoment(transaction.open_table(ROWS).map_err(to_io)?)))
    }

    fn write(&self, fill: &mut dyn FnMut(&mut dyn Pen) -> io::Result<()>) -> io::Result<()> {
        let mut transaction = self.current()?.begin_write().map_err(to_io)?;
        transaction.set_durability(Durability::None).map_err(to_io)?;
        {
            let mut pen = RedbPen(transaction.open_table(ROWS).map_err(to_io)?);
            fill(&mut pen)?;
        }
        transaction.commit().map_err(to_io)
    }

    fn persist(&self) -> io::Result<()> {
        self.current()?.begin_write().map_err(to_io)?.commit().map_err(to_io)
    }

    fn reopen(&self) -> io::Result<u64> {
        let mut open = lock(&self.open);
        *open = None;
        let (database, damaged) =
            open_or_begin_anew(|| self.attempt(), |error| set_aside_file(&*self.disk, &self.path, error))?;
        *open = Some(Arc::new(database));
        Ok(damaged)
    }

    fn costs(&self) -> Costs {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let Numbers { size, bytes_written, fsyncs } = &*self.numbers;
        Costs { size: load(size), bytes_written: load(bytes_written), fsyncs: load(fsyncs), compactions: 0 }
    }
}

/// What the system or redb said, as an I/O error: `InvalidData` where the database is damaged, or none.
fn to_io(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(error) => error,
        error @ (redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableIsMultimap(_)) => io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
        error => io::Error::other(error.to_string()),
    }
}

struct RedbMoment(ReadOnlyTable<&'static [u8], &'static [u8]>);

impl Moment for RedbMoment {
    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        match self.0.get(key).map_err(to_io)? {
            Some(value) => visit(value.value()),
            None => Ok(()),
        }
    }

    fn scan(&self, prefix: &[u8], visit: VisitRow<'_>) -> io::Result<()> {
        for row in self.0.range(prefix..).map_err(to_io)? {
            let (key, value) = row.map_err(to_io)?;
            if !key.value().starts_with(prefix) {
                break;
            }
            visit(key.value(), value.value())?;
        }
        Ok(())
    }
}

struct RedbPen<'a>(redb::Table<'a, &'static [u8], &'static [u8]>);

impl Pen for RedbPen<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.0.insert(key, value).map(drop).map_err(to_io)
    }

    fn delete(&mut self, key: &[u8]) -> io::Result<()> {
        self.0.remove(key).map(drop).map_err(to_io)
    }
}

/// The database's file. It is locked beside it, not in it.
struct Backend {
    file: Arc<dyn DiskFile>,
    numbers: Arc<Numbers>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").finish_non_exhaustive()
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        let len = self.file.len()?;
        self.numbers.size.store(len, Ordering::Relaxed);
        Ok(len)
    }

    fn read(&self, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            let n = self.file.read_at(out, offset)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            offset += n as u64;
            out = &mut out[n..];
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.numbers.size.store(len, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.numbers.fsyncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.numbers.bytes_written.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.file.write_all_at(data, offset)
    }
}
