//! The engine that keeps each view in a file of its own: an append-only log under a hashed name.
//!
//! # Layout
//!
//! ```text
//! <root>/lock                                                  held (flock) by the process that has the store open
//! <root>/damaged/                                              files that were not what they should be, the newest 16
//! <root>/<scope>/<2 hex of path>/<path>/<view>.<number>        a view; number counts up, the highest one counts
//! ```
//!
//! `<scope>`, `<path>` and `<view>` are 32 hex digits of SHA-256 of the scope, the path, and the query with the
//! representation. Directories are 0700, files 0600. Notes ([`Store::set_note`]) are documents
//! of a scope that no identity can have. All numbers are little-endian; `crc` is CRC-32 (IEEE).
//!
//! ```text
//! header   0  magic "lite-api"      8  version u32 = 1     12 length of header u32    16 file id u64, random
//!         24  number u64           32  lengths of scope, path, query, representation, 4 x u32
//!         48  crc u32 of all before    52  the four texts     …  crc u32 of all before
//! record   0  crc u32 of file id, offset of the record, and bytes 4..40
//!          4  crc u32 of payload    8  length of payload u32      12 kind u8    13 flags u8 (1 = commits)    14 0 u16
//!         16  bytes 0..4 of the record before, or the header's crc   20 0 u32   24 transaction u64
//!         32  durable u64: an end of a commit up to which the file was known to be durable
//!         40  payload               …  length of payload u32, bytes 0..4 again
//! ```
//!
//! A payload of a record that commits begins with the view's state after it (24 bytes: u8 bits collection, complete,
//! has version; u8 0; u16 status; u32 objects; u64 version; u64 milliseconds since 1970). Then, by kind:
//!
//! | kind | payload |
//! |---|---|
//! | 1 put | u32 flags, u32 length of key, u32 length of uid, u8 has version, 3 x 0, u64 version, key, uid, object |
//! | 2 delete | key |
//! | 3 void: what the transaction said of this key does not count | key |
//! | 4 envelope | envelope |
//! | 5 chunk of a document's body | bytes |
//! | 6 nothing but the state: commits a collection | |
//! | 7 document, commits it | u32 length of uid, u32 0, u64 length of body, uid, head |
//! | 8 since which version the collection has held what the transaction makes of it | u64 version |
//!
//! # Invariants
//!
//! - A transaction counts when its committing record is there and every record before that in the file is. Records of
//!   several transactions may alternate; a generation's are without effect until its commit, a fold is one transaction
//!   of its own. Replaying decides nothing: what is older than what was decided before a record was written.
//! - A record follows the one before it (its checksum is in it) and belongs to its file and offset (they are in its own
//!   checksum). So nothing that was overwritten, moved, duplicated or left over from another file is ever taken for one.
//! - A file is only ever appended to, but that what follows the last commit is cut off when it is read again, and
//!   what a failed write may have left before the next one. Bytes up to a commit never change: readers need no lock.
//! - A file is replaced by writing the next number. It counts from its first commit on; the old one is removed after
//!   the new one *and its name* are durable. (A rename would have to wait for the disk while the view is locked.)
//! - What cannot be read back is a torn end if nothing after it claims that it had been durable, and is then simply not
//!   there. Else the file is damaged: it is set aside, and the view is not recorded. A wrong answer is worse than none.
//! - A file whose full key is not the one that was asked for is foreign, and set aside. So is one whose header is longer
//!   than a sector and torn: it looks like a damaged one, and holds nothing.
//!
//! # What is assumed of the disk
//!
//! See [`Disk`]. Nothing about the order in which what is not durable yet gets there, nor about the size of a torn
//! write; not that a failed `fdatasync` can be repeated: after one, only a new file is trusted.
//!
//! Writers never wait for the disk: a thread of the store makes what was committed durable at most a flush interval
//! later, and writes files anew when three quarters of them are garbage. What a process finds when it starts may have been
//! written by one that was killed, and not be durable: the first thing that this thread does is to make all of it so.
//!
//! What is told of a view before its file has been read is what its last whole record says. After a power loss what is
//! before that may be missing; reading the file then finds less.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::disk::{Disk, OsDisk, make_dirs};
use super::{
    Change, Collection, Document, DocumentHead, DocumentWriter, Folded, Generation, Kind, Stats, Store, StoreError,
    ViewInfo, ViewKey,
};

mod document;
mod durable;
mod folders;
mod format;
mod layout;
mod looking;
mod reading;
mod scan;
mod shared;
mod view;
mod writing;

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) mod trouble;

use document::FileDocument;
use folders::Folders;
#[cfg(feature = "redb")]
pub(super) use looking::Unchanged;
pub use looking::{Checked, Condition, verify};
use reading::{BodyReader, snapshot};
use scan::Content;
use shared::Shared;
use view::View;
use writing::FileGeneration;

/// How often the flusher looks for indices that nobody uses.
const IDLE_CHECK: Duration = Duration::from_secs(60);
/// Enough for reading and writing files anew, whose buffers are on the heap; debug builds need more.
const FLUSHER_STACK: usize = 256 << 10;

/// How to open a [`FileStore`].
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// The directory that it has for itself. Made (0700) if it is not there.
    pub root: PathBuf,
    /// How old the durable state may be.
    pub flush_interval: Duration,
}

/// A store in a directory.
pub struct FileStore {
    inner: Arc<Inner>,
    flusher: Option<JoinHandle<()>>,
}

struct Inner {
    shared: Arc<Shared>,
    folders: Folders,
}

impl FileStore {
    /// Opens the store in a directory of the operating system. Reads nothing but the directory's lock.
    ///
    /// Fails with [`StoreError::Locked`] if another process has it open, and with [`StoreError::Io`] if the directory
    /// or the lock file cannot be made.
    pub fn open(options: FileOptions) -> Result<Self, StoreError> {
        Self::open_on(Arc::new(OsDisk), options)
    }

    /// Opens the store on any disk.
    pub fn open_on(disk: Arc<dyn Disk>, options: FileOptions) -> Result<Self, StoreError> {
        let root = options.root;
        let path = root.join(layout::LOCK);
        let io_error = |doing, path: &PathBuf, error| StoreError::Io { doing, path: path.clone(), error };
        make_dirs(&*disk, &root).map_err(|error| io_error("create", &root, error))?;
        let held = disk.lock(&path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => StoreError::Locked { path: path.clone() },
            _ => io_error("lock", &path, error),
        })?;
        let shared = Arc::new(Shared::new(disk, root.clone(), held));
        let inner = Arc::new(Inner { shared, folders: Folders::default() });
        let for_flusher = Arc::clone(&inner);
        let flusher = thread::Builder::new()
            .name("store-flush".into())
            .stack_size(FLUSHER_STACK)
            .spawn(move || {
                let Inner { shared, folders } = &*for_flusher;
                shared.run(options.flush_interval, || folders.look_after(shared), || folders.tidy(shared));
            })
            .map_err(|error| io_error("start a thread for", &root, error))?;
        Ok(Self { inner, flusher: Some(flusher) })
    }

    fn find(&self, key: &ViewKey) -> Option<Arc<View>> {
        self.inner.folders.find(&self.inner.shared, key)
    }

    fn make(&self, key: &ViewKey) -> Result<Arc<View>, StoreError> {
        self.inner.folders.make(&self.inner.shared, key)
    }

    fn read_document(&self, key: &ViewKey) -> Result<Option<Document>, StoreError> {
        let Some(view) = self.find(key) else {
            return Ok(None);
        };
        let Some(held) = view.held(&self.inner.shared)? else {
            return Ok(None);
        };
        let Content::Document(body) = &held.content else {
            return Ok(None);
        };
        let reader = BodyReader::new(&view, &self.inner.shared, &held, Arc::clone(body));
        Ok(Some(Document {
            uid: body.head.uid.clone(),
            version: body.head.version,
            head: body.head.head.clone(),
            length: body.length,
            body: Box::new(reader),
            info: held.info,
        }))
    }
}

impl Drop for FileStore {
    fn drop(&mut self) {
        self.inner.shared.stop();
        if let Some(flusher) = self.flusher.take() {
            // A panic there has been printed; there is nothing left to do about it.
            let _ = flusher.join();
        }
    }
}

fn note_key(name: &str) -> ViewKey {
    ViewKey {
        scope: layout::NOTES.to_owned(),
        path: name.to_owned(),
        query: String::new(),
        representation: String::new(),
    }
}

impl Store for FileStore {
    fn views(&self, scope: &str, path: &str) -> Vec<ViewInfo> {
        let views = self.inner.folders.views(&self.inner.shared, scope, path);
        views.iter().filter_map(|view| view.info()).collect()
    }

    fn all(&self) -> Vec<ViewInfo> {
        let views = self.inner.folders.all(&self.inner.shared);
        let mut infos: Vec<_> = views.iter().filter_map(|view| view.info()).collect();
        infos.retain(|info| info.key.scope != layout::NOTES);
        infos.sort_by(|a, b| a.key.cmp(&b.key));
        infos
    }

    fn document(&self, key: &ViewKey) -> Result<Option<Document>, StoreError> {
        self.read_document(key)
    }

    fn begin_document(&self, key: &ViewKey, head: DocumentHead) -> Result<Box<dyn DocumentWriter>, StoreError> {
        let (view, shared) = (self.make(key)?, Arc::clone(&self.inner.shared));
        Ok(Box::new(FileDocument::begin(view, shared, head)?))
    }

    fn confirm_document(&self, key: &ViewKey, uid: &str, version: Option<u64>) -> bool {
        if uid.is_empty() || version.is_none() {
            return false;
        }
        let Some(view) = self.find(key) else {
            return false;
        };
        // What is known before the file is read tells most of them apart.
        let likely = view.info().is_some_and(|info| info.kind == Kind::Document && info.version == version);
        let Ok(Some(held)) = (if likely { view.held(&self.inner.shared) } else { Ok(None) }) else {
            return false;
        };
        let same = matches!(&held.content, Content::Document(body)
            if body.head.uid == uid && body.head.version == version);
        if same {
            view.confirm();
        }
        same
    }

    fn collection(&self, key: &ViewKey) -> Result<Option<Arc<dyn Collection>>, StoreError> {
        let Some(view) = self.find(key) else {
            return Ok(None);
        };
        let Some(held) = view.held(&self.inner.shared)? else {
            return Ok(None);
        };
        let Content::Collection(index) = &held.content else {
            return Ok(None);
        };
        let index = Arc::clone(index);
        Ok(Some(Arc::new(snapshot(&view, &self.inner.shared, held, index))))
    }

    fn begin_generation(&self, key: &ViewKey) -> Result<Box<dyn Generation>, StoreError> {
        Ok(Box::new(FileGeneration::begin(self.make(key)?, Arc::clone(&self.inner.shared))?))
    }

    fn fold(&self, key: &ViewKey, changes: &[Change<'_>]) -> Result<Folded, StoreError> {
        let view = self.find(key).ok_or(StoreError::NotRecorded)?;
        writing::fold(&view, &self.inner.shared, changes)
    }

    fn remove(&self, key: &ViewKey) -> Result<(), StoreError> {
        self.find(key).map_or(Ok(()), |view| view.forget(&self.inner.shared))
    }

    fn remove_scope_path(&self, scope: &str, path: &str) -> Result<(), StoreError> {
        let views = self.inner.folders.views(&self.inner.shared, scope, path);
        // All are tried, whatever becomes of one.
        views.iter().map(|view| view.forget(&self.inner.shared)).fold(Ok(()), Result::and)
    }

    fn note(&self, name: &str) -> Option<Vec<u8>> {
        let mut document = self.read_document(&note_key(name)).ok()??;
        let mut bytes = Vec::new();
        document.body.read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    fn set_note(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let mut writer = self.begin_document(&note_key(name), DocumentHead::default())?;
        writer.write(bytes)?;
        writer.commit()
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.inner.shared.make_durable(true)
    }

    fn stats(&self) -> Stats {
        let views = self.all();
        let numbers = &self.inner.shared.numbers;
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Stats {
            views: views.len(),
            objects: views.iter().map(|view| view.objects).sum(),
            bytes: views.iter().map(|view| view.bytes).sum(),
            bytes_written: load(&numbers.bytes_written),
            damaged: load(&numbers.damaged),
            errors: load(&numbers.errors),
            failing: self.inner.shared.is_failing(),
            fsyncs: load(&numbers.fsyncs),
            compactions: load(&numbers.compactions),
        }
    }
}
