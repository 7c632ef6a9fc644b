//! The engines that keep the record as rows of an ordered map with transactions (redb, fjall): what they share, which
//! is all but the map itself ([`Database`]).
//!
//! # Rows
//!
//! | key | value |
//! |---|---|
//! | `f` | the format's name and number; a database without it, or with another, is set aside |
//! | `v` view | the view's key, kind, version, and where its envelope or body is |
//! | `i` view, object's key | an object of a collection: uid, version, flags, length, place |
//! | `o` place | bytes: of an object, an envelope, a piece of a document's body |
//! | `d` batch | a generation or a document under way has written bytes of this batch |
//! | `x` place | bytes that no view holds any more, and that a generation under way may bring back |
//! | `n` name | a note |
//!
//! Views and batches are numbers (u64, big-endian in keys, else little-endian); a place is a batch and a u32. Before each
//! value is a CRC-32 of it and its key, so that bytes that rot, or turn up under another key, are a miss.
//!
//! # Invariants
//!
//! - A fold, a commit and a removal are one transaction each. A generation's and a long document's bytes are written
//!   before it as they come (memory does not grow with them), and belong to nothing until then; what `d` and `x` say is
//!   swept when the database is opened.
//! - Bytes at a place never change, so that an index in memory is good for any reading that begins when the view's row
//!   is the one the index was made of.
//! - A reading (a [`Moment`]) is held by what was handed out, and no longer.
//! - After a write has failed the database is not trusted: it is closed and opened again, which takes it to its last durable
//!   state. A view that has lost something by it can be read, is not complete, and takes changes only again when a
//!   whole generation has been committed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::disk::Disk;
use super::{
    Change, Collection, Document, DocumentHead, DocumentWriter, Folded, Generation, Stats, Store, StoreError, ViewInfo,
    ViewKey,
};

#[cfg(test)]
mod damage_tests;
mod document;
mod format;
mod reading;
mod shared;
#[cfg(test)]
mod tests;
mod view;
mod writing;

use document::RowsDocument;
use format::Content;
use reading::{BodyReader, snapshot};
use shared::Shared;
use writing::RowsGeneration;

/// Debug builds need more.
const FLUSHER_STACK: usize = 512 << 10;

/// An ordered map of bytes on disk. One writer at a time, any number of readers, each with its moment.
pub(super) trait Database: Send + Sync {
    /// What is committed now.
    fn moment(&self) -> io::Result<Box<dyn Moment>>;
    /// Commits what `fill` writes, all of it or, on an error, nothing. Visible at once, durable with [`Database::persist`].
    fn write(&self, fill: &mut dyn FnMut(&mut dyn Pen) -> io::Result<()>) -> io::Result<()>;
    /// Makes durable what has been committed.
    fn persist(&self) -> io::Result<()>;
    /// Takes the last durable state, after an error, or starts anew where that is damaged; returns how many databases
    /// were set aside. What was handed out by [`Database::moment`] may end with an error.
    fn reopen(&self) -> io::Result<u64>;
    /// What it takes on disk, and what it has cost since it was opened.
    fn costs(&self) -> Costs;
}

/// Opens a database by `attempt`; one that is damaged is set aside, once, and begun anew. Also returns how many were.
pub(super) fn open_or_begin_anew<T>(
    attempt: impl Fn() -> io::Result<T>,
    set_aside: impl Fn(&io::Error) -> io::Result<()>,
) -> io::Result<(T, u64)> {
    match attempt() {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            set_aside(&error)?;
            Ok((attempt()?, 1))
        }
        opened => Ok((opened?, 0)),
    }
}

/// A transaction under way.
pub(super) trait Pen {
    fn put(&mut self, key: &[u8], value: &[u8]) -> io::Result<()>;
    fn delete(&mut self, key: &[u8]) -> io::Result<()>;
}

/// Is shown a row, its key and its value; its error ends the scan.
pub(super) type VisitRow<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> io::Result<()>;

/// One state of a database.
pub(super) trait Moment: Send + Sync {
    /// Calls `visit` with the value of this key, if there is one.
    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()>;
    /// Calls `visit` with each row whose key begins with this, in their order.
    fn scan(&self, prefix: &[u8], visit: VisitRow<'_>) -> io::Result<()>;
}

/// See [`Stats`].
#[derive(Clone, Copy, Default)]
pub(super) struct Costs {
    pub(super) size: u64,
    pub(super) bytes_written: u64,
    pub(super) fsyncs: u64,
    pub(super) compactions: u64,
}

/// How to open a [`RowStore`].
#[derive(Clone, Debug)]
pub struct DatabaseOptions {
    /// The database: a file or a directory, as the engine has it. What is above it is made (0700) if it is not there.
    pub path: PathBuf,
    /// How old the durable state may be.
    pub flush_interval: Duration,
}

/// A store in a database.
pub struct RowStore {
    shared: Arc<Shared>,
    flusher: Option<JoinHandle<()>>,
}

impl RowStore {
    /// Takes the lock, and opens the store in the database that `make` opens, which also says how many it has set aside as
    /// damaged. One that is not ours is set aside by `set_aside`, once, and made anew.
    pub(super) fn open(
        options: &DatabaseOptions,
        disk: &dyn Disk,
        lock: &Path,
        make: impl Fn() -> io::Result<(Box<dyn Database>, u64)>,
        set_aside: impl Fn(&io::Error) -> io::Result<()>,
    ) -> Result<Self, StoreError> {
        let failed = |doing, error| StoreError::Io { doing, path: options.path.clone(), error };
        let held = disk.lock(lock).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => StoreError::Locked { path: lock.to_owned() },
            _ => failed("lock", error),
        })?;
        let held: Arc<dyn Send + Sync> = Arc::from(held);
        let mut damaged = 0;
        loop {
            let (database, found_damaged) = make().map_err(|error| failed("open", error))?;
            damaged += found_damaged;
            match RowStore::new(database, options, damaged, Box::new(Arc::clone(&held))) {
                Err(error) if error.kind() == io::ErrorKind::InvalidData && damaged == 0 => {
                    set_aside(&error).map_err(|error| failed("set aside", error))?;
                    damaged += 1;
                }
                opened => return opened.map_err(|error| failed("open", error)),
            }
        }
    }

    /// A store in an open database. `InvalidData`: it is not one of ours. `lock` is let go when the store is.
    fn new(
        database: Box<dyn Database>,
        options: &DatabaseOptions,
        damaged: u64,
        lock: Box<dyn Send + Sync>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::open(database, options.path.clone(), damaged, lock)?);
        let (for_flusher, interval) = (Arc::clone(&shared), options.flush_interval);
        let flusher = thread::Builder::new()
            .name("store-flush".into())
            .stack_size(FLUSHER_STACK)
            .spawn(move || for_flusher.run(interval))?;
        Ok(Self { shared, flusher: Some(flusher) })
    }
}

impl Drop for RowStore {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(flusher) = self.flusher.take() {
            // A panic there has been printed; there is nothing left to do about it.
            let _ = flusher.join();
        }
    }
}

impl Store for RowStore {
    fn views(&self, scope: &str, path: &str) -> Vec<ViewInfo> {
        self.shared.views(scope, path).iter().filter_map(|view| view.info()).collect()
    }

    fn all(&self) -> Vec<ViewInfo> {
        self.shared.all().iter().filter_map(|view| view.info()).collect()
    }

    fn document(&self, key: &ViewKey) -> Result<Option<Document>, StoreError> {
        let _gate = self.shared.enter();
        let Some(view) = self.shared.find(key) else {
            return Ok(None);
        };
        let Some(held) = view.held(&self.shared)? else {
            return Ok(None);
        };
        let Content::Document(body) = &held.row.content else {
            return Ok(None);
        };
        Ok(Some(Document {
            info: held.row.info(key),
            uid: body.head.uid.clone(),
            version: body.head.version,
            head: body.head.head.clone(),
            length: body.length,
            body: Box::new(BodyReader::new(&view, &self.shared, &held, body)),
        }))
    }

    fn begin_document(&self, key: &ViewKey, head: DocumentHead) -> Result<Box<dyn DocumentWriter>, StoreError> {
        let _gate = self.shared.enter();
        Ok(Box::new(RowsDocument::begin(self.shared.make(key), Arc::clone(&self.shared), head)?))
    }

    fn confirm_document(&self, key: &ViewKey, uid: &str, version: Option<u64>) -> bool {
        if uid.is_empty() || version.is_none() {
            return false;
        }
        self.shared.find(key).is_some_and(|view| {
            view.confirm_if(|row| {
                matches!(&row.content, Content::Document(body)
                if body.head.uid == uid && body.head.version == version)
            })
        })
    }

    fn collection(&self, key: &ViewKey) -> Result<Option<Arc<dyn Collection>>, StoreError> {
        let _gate = self.shared.enter();
        let Some(view) = self.shared.find(key) else {
            return Ok(None);
        };
        let Some(held) = view.held(&self.shared)? else {
            return Ok(None);
        };
        Ok(snapshot(&view, &self.shared, held).map(|snapshot| Arc::new(snapshot) as Arc<dyn Collection>))
    }

    fn begin_generation(&self, key: &ViewKey) -> Result<Box<dyn Generation>, StoreError> {
        let _gate = self.shared.enter();
        Ok(Box::new(RowsGeneration::begin(self.shared.make(key), Arc::clone(&self.shared))?))
    }

    fn fold(&self, key: &ViewKey, changes: &[Change<'_>]) -> Result<Folded, StoreError> {
        let _gate = self.shared.enter();
        let view = self.shared.find(key).ok_or(StoreError::NotRecorded)?;
        writing::fold(&view, &self.shared, changes)
    }

    fn remove(&self, key: &ViewKey) -> Result<(), StoreError> {
        let _gate = self.shared.enter();
        self.shared.find(key).map_or(Ok(()), |view| view.forget(&self.shared))
    }

    fn remove_scope_path(&self, scope: &str, path: &str) -> Result<(), StoreError> {
        let _gate = self.shared.enter();
        // All are tried, whatever becomes of one.
        self.shared.views(scope, path).iter().map(|view| view.forget(&self.shared)).fold(Ok(()), Result::and)
    }

    fn note(&self, name: &str) -> Option<Vec<u8>> {
        let _gate = self.shared.enter();
        self.shared.row(&format::note_key(name))
    }

    fn set_note(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let _gate = self.shared.enter();
        let key = format::note_key(name);
        if self.shared.row(&key).is_some_and(|held| held == bytes) {
            return Ok(());
        }
        self.shared.write(&mut |pen| pen.put(&key, &format::seal(&key, &[bytes])))
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.shared.make_durable(true)
    }

    fn stats(&self) -> Stats {
        self.shared.stats()
    }
}
