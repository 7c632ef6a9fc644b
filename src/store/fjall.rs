//! The engine on fjall, a log-structured tree in a directory: what badger is to Go.
//!
//! ```text
//! <dir>/db         fjall's own files: journals, tables
//! <dir>/lock       held (flock) by the process that has it open
//! <dir>/damaged    the last database that was not what it should be
//! ```
//!
//! What fjall does, and what that costs (3.1):
//!
//! - A commit is appended to a journal and handed to the operating system; after a crash of the process it is there, after
//!   a power cut what was synced is, and the journal is cut at the first batch that is not whole.
//! - What is in the journal is in memory too, until it is written as a table; so memory is bounded by how large that may
//!   grow, which is little here. Writing and merging tables costs writes besides, by threads of fjall's own, of which it
//!   tells no number: [`Costs::bytes_written`] is what went to the journal.
//! - A journal is made 64 MiB long, with nothing in it, before it is written to.
//! - After an I/O error fjall takes no more writes until it is opened again.
//! - A journal's damage is taken for its torn end: what follows it is lost, uncounted. Damage in its list of tables may end
//!   the process for want of memory (lsm-tree 3.1 allocates by a number that it has not checked); the directory must go then.
//! - It opens its files itself, by `std::fs`: their modes are what the process's umask leaves.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fjall::{Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable, Snapshot};

use super::disk::{OsDisk, make_dirs};
use super::rows::{Costs, Database, DatabaseOptions, Moment, Pen, RowStore, VisitRow, open_or_begin_anew};
use super::{StoreError, lock};

/// What waits in memory to be written as a table.
const MEMTABLE: u64 = 2 << 20;
/// Blocks of tables in memory.
const CACHE: u64 = 1 << 20;

/// Opens the store in a directory. A database that is damaged is set aside.
///
/// Fails with [`StoreError::Locked`] if another process has it open, and with [`StoreError::Io`] if it cannot be made,
/// read or written.
pub fn open(options: &DatabaseOptions) -> Result<RowStore, StoreError> {
    open_or_look(options, false)
}

/// Opens a database that is there to look at it. It is opened as for use, which brings its files into order, but one that
/// is damaged is left as it is.
///
/// Fails with [`StoreError::Locked`] while a daemon has it open, since fjall knows no reading beside a writer, and with
/// [`StoreError::Io`] (`InvalidData`) if it is damaged.
pub fn look(dir: &Path) -> Result<RowStore, StoreError> {
    open_or_look(&DatabaseOptions { path: dir.to_owned(), flush_interval: Duration::from_secs(1) }, true)
}

fn open_or_look(options: &DatabaseOptions, looks: bool) -> Result<RowStore, StoreError> {
    let dir = &options.path;
    let failed = |doing, error| StoreError::Io { doing, path: dir.clone(), error };
    make_dirs(&OsDisk, dir).map_err(|error| failed("create", error))?;
    let make = || {
        let database = FjallDatabase { dir: dir.clone(), looks, numbers: Numbers::default(), open: Mutex::default() };
        let damaged = database.reopen()?;
        Ok((Box::new(database) as Box<dyn Database>, damaged))
    };
    RowStore::open(options, &OsDisk, &dir.join("lock"), make, |why| set_aside(dir, looks, why))
}

fn set_aside(dir: &Path, looks: bool, why: &io::Error) -> io::Result<()> {
    if looks {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{why}; the daemon will set it aside")));
    }
    let (from, to) = (dir.join("db"), dir.join("damaged"));
    match fs::remove_dir_all(&to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::rename(&from, &to)?,
    }
    log::warn!("record: {} is damaged ({why}): set aside as {}", from.display(), to.display());
    Ok(())
}

struct FjallDatabase {
    dir: PathBuf,
    /// Whether it is not to be set aside.
    looks: bool,
    numbers: Numbers,
    /// `None` only after it could not be opened again.
    open: Mutex<Option<Open>>,
}

#[derive(Default)]
struct Numbers {
    bytes_written: AtomicU64,
    fsyncs: AtomicU64,
}

#[derive(Clone)]
struct Open {
    database: fjall::Database,
    rows: Keyspace,
}

impl FjallDatabase {
    fn attempt(&self) -> io::Result<Open> {
        let open = || {
            let database = fjall::Database::builder(self.dir.join("db")).cache_size(CACHE).worker_threads(1).open()?;
            let rows = database.keyspace("rows", || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE))?;
            Ok(Open { database, rows })
        };
        catch_unwind(AssertUnwindSafe(open))
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "its structure makes no sense"))?
            .map_err(to_io)
    }

    fn current(&self) -> io::Result<Open> {
        lock(&self.open).clone().ok_or_else(|| io::Error::other("it could not be opened again"))
    }
}

impl Database for FjallDatabase {
    fn moment(&self) -> io::Result<Box<dyn Moment>> {
        let Open { database, rows } = self.current()?;
        Ok(Box::new(FjallMoment { snapshot: database.snapshot(), rows }))
    }

    fn write(&self, fill: &mut dyn FnMut(&mut dyn Pen) -> io::Result<()>) -> io::Result<()> {
        let Open { database, rows } = self.current()?;
        let mut pen = FjallPen { batch: database.batch(), rows, bytes: 0 };
        fill(&mut pen)?;
        self.numbers.bytes_written.fetch_add(pen.bytes, Ordering::Relaxed);
        pen.batch.commit().map_err(to_io)
    }

    fn persist(&self) -> io::Result<()> {
        self.numbers.fsyncs.fetch_add(1, Ordering::Relaxed);
        self.current()?.database.persist(PersistMode::SyncData).map_err(to_io)
    }

    fn reopen(&self) -> io::Result<u64> {
        let mut open = lock(&self.open);
        *open = None;
        let (opened, damaged) = open_or_begin_anew(|| self.attempt(), |error| set_aside(&self.dir, self.looks, error))?;
        *open = Some(opened);
        Ok(damaged)
    }

    fn costs(&self) -> Costs {
        let open = lock(&self.open).clone();
        let database = open.as_ref().map(|open| &open.database);
        Costs {
            size: database.and_then(|database| database.disk_space().ok()).unwrap_or_default(),
            bytes_written: self.numbers.bytes_written.load(Ordering::Relaxed),
            fsyncs: self.numbers.fsyncs.load(Ordering::Relaxed),
            compactions: database.map_or(0, |database| database.compactions_completed() as u64),
        }
    }
}

/// What the system or fjall said, as an I/O error: `InvalidData` where the database is damaged.
fn to_io(error: fjall::Error) -> io::Error {
    let damaged = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => match error.kind() {
            // A file of its own is missing, too short, or there where it would begin anew; or it says to read nowhere.
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::NotFound
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::InvalidData => damaged(error.to_string()),
            _ => error,
        },
        error @ (fjall::Error::Poisoned | fjall::Error::Locked | fjall::Error::KeyspaceDeleted) => {
            io::Error::other(error.to_string())
        }
        error => damaged(error.to_string()),
    }
}

struct FjallMoment {
    snapshot: Snapshot,
    rows: Keyspace,
}

impl Moment for FjallMoment {
    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        match self.snapshot.get(&self.rows, key).map_err(to_io)? {
            Some(value) => visit(&value),
            None => Ok(()),
        }
    }

    fn scan(&self, prefix: &[u8], visit: VisitRow<'_>) -> io::Result<()> {
        for row in self.snapshot.prefix(&self.rows, prefix) {
            let (key, value) = row.into_inner().map_err(to_io)?;
            visit(&key, &value)?;
        }
        Ok(())
    }
}

struct FjallPen {
    batch: OwnedWriteBatch,
    rows: Keyspace,
    bytes: u64,
}

impl Pen for FjallPen {
    fn put(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.bytes += (key.len() + value.len()) as u64;
        self.batch.insert(&self.rows, key, value);
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> io::Result<()> {
        self.bytes += key.len() as u64;
        self.batch.remove(&self.rows, key);
        Ok(())
    }
}
