//! What lasts. One trait, several engines, the same promises.
//!
//! The store keeps *views*: documents (one body of bytes) and collections (an envelope and objects, kept one by one).
//! It knows nothing of HTTP, of the upstream or of what is in the bytes: an object is bytes with a key, a uid and a
//! version, and the rules for folding changes into a collection ([`Change`], [`Generation::commit`]) need no more.
//!
//! Promises of every engine, checked by the same tests (`contract.rs`):
//!
//! - A reader sees one committed state of a view, whatever is written meanwhile. A document or a generation becomes
//!   visible at its commit, as a whole, or never; a writer that is dropped has written nothing.
//! - What is the same (uid and version) is not written again; a change costs one append of its own size.
//! - A damaged record is a miss, is set aside and counted, and never stops the store from opening.
//! - An error leaves the last committed state as it was. No engine panics because a disk is full or broken.
//! - An engine that lasts holds, after a crash or power loss at any instruction, a state that existed at most a
//!   flush interval before.
//!
//! What it refuses to do: decide what is worth recording, judge who may read it, wait for the network.

use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

mod bounds;
mod disk;
mod drafts;
mod file;
#[cfg(feature = "fjall")]
mod fjall;
mod holder;
mod index;
mod memory;
#[cfg(feature = "redb")]
mod overlay;
#[cfg(feature = "redb")]
mod redb;
#[cfg(any(feature = "redb", feature = "fjall"))]
mod rows;
mod snapshot;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod kill_tests;
#[cfg(test)]
mod power_tests;

pub use bounds::{Bounded, Bounds, Dropped};
pub use disk::{Disk, DiskFile, OsDisk};
pub use file::{Checked, Condition, FileOptions, FileStore, verify};
#[cfg(feature = "fjall")]
pub use fjall::{look as look_into_fjall, open as open_fjall};
pub use holder::holder;
pub use memory::MemoryStore;
#[cfg(feature = "redb")]
pub use redb::{look as look_into_redb, open as open_redb};
#[cfg(any(feature = "redb", feature = "fjall"))]
pub use rows::{DatabaseOptions, RowStore};

/// Locks; a thread that panicked while it held the lock had finished no write of ours, so what it left is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All that one recorded answer depends on. Two keys that differ in anything are two views; nothing is shared.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ViewKey {
    /// The identity as the upstream sees it, for example `cert:system:node:edge1`.
    pub scope: String,
    /// The request's path, for example `/api/v1/pods`.
    pub path: String,
    /// The selecting query in its canonical form; empty when nothing is selected.
    pub query: String,
    /// The media type of the answer with the parameters that change its body.
    pub representation: String,
}

/// What a view holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One body of bytes.
    Document,
    /// An envelope and objects.
    Collection,
}

/// What is known of a view without reading its contents.
#[derive(Clone, PartialEq, Debug)]
pub struct ViewInfo {
    /// The view's key.
    pub key: ViewKey,
    /// Whether it is a document or a collection.
    pub kind: Kind,
    /// When the upstream last confirmed it, to the millisecond. A confirmation that changed nothing is not written
    /// to disk: after a restart this is the time of the last change.
    pub recorded_at: SystemTime,
    /// The HTTP status of a document (200, or 404 for what is known to be absent); 0 for a collection.
    pub status: u16,
    /// The resourceVersion of a collection or of a document's object; `None` if it has none that is an integer.
    pub version: Option<u64>,
    /// How many objects a collection holds; 1 for a document.
    pub objects: usize,
    /// Whether nothing is known to have happened to the collection since its version. Always true for a document.
    pub complete: bool,
    /// Bytes that the view takes on disk (in memory, for the memory engine), garbage included.
    pub bytes: u64,
}

/// Which object: all that the store knows of one beside its bytes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ObjectRef {
    /// `namespace/name`, or `name` for what has no namespace. Collections are ordered by the bytes of this key, which
    /// is etcd's order of `/registry/<resource>/<namespace>/<name>`, so kube-apiserver's order of a list.
    pub key: String,
    /// `metadata.uid`; may be empty.
    pub uid: String,
    /// `metadata.resourceVersion` as an integer; `None` if it is not one: then it counts as newest.
    pub version: Option<u64>,
    /// Whatever the caller must know to read the bytes again; kept with them, never looked at.
    pub flags: u32,
}

/// One change of a collection, as a watch tells it.
///
/// Changes come in the order of one watch that started at a resourceVersion. The unordered ADDED events with which a
/// watch without a resourceVersion begins are no changes but a [`Generation`].
#[derive(Clone, Debug)]
pub enum Change<'a> {
    /// The object is now this. Ignored if an object that is newer, or the same, is held; or if none is held and the
    /// collection is already past this version (then it has been deleted since).
    Put {
        /// Which object, at which version.
        object: ObjectRef,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// The object is gone. Ignored if what is held is newer than `version`.
    Delete {
        /// The object's key.
        key: &'a str,
        /// The version at which it was deleted; `None` counts as newest.
        version: Option<u64>,
    },
    /// Nothing else happened up to this version (a bookmark). A collection's version never goes back by it.
    Advance {
        /// The collection's version from now on.
        version: u64,
    },
    /// A new envelope.
    Envelope {
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// Something has happened since the collection's version that has not been folded: it is what the upstream held, but
    /// it is not complete, until [`Change::Complete`] or the next generation. What is folded all the same must follow
    /// upon its version.
    Incomplete,
    /// Nothing is known to be missing any more.
    Complete,
}

/// What [`Store::fold`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Folded {
    /// Changes that had an effect; the others were old news.
    pub applied: usize,
    /// The collection's version after them. `None` if it has none, or if no generation has been committed yet (the
    /// changes then wait in the generation that is open).
    pub version: Option<u64>,
}

/// What [`Generation::commit`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Committed {
    /// The generation is the collection now.
    Replaced,
    /// The collection already was the same; nothing was written.
    Unchanged,
    /// The generation was older than the collection that is held, which stays (see [`Generation::supersede`]).
    Older,
}

/// What is known of a document when its body begins.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct DocumentHead {
    /// HTTP status, 200 or 404.
    pub status: u16,
    /// `metadata.uid`, or empty.
    pub uid: String,
    /// `metadata.resourceVersion` as an integer.
    pub version: Option<u64>,
    /// Headers to keep, in the caller's own encoding.
    pub head: Vec<u8>,
}

impl DocumentHead {
    /// Whether this is an earlier state of the object that `held` is.
    fn is_older_than(&self, held: &Self) -> bool {
        !self.uid.is_empty() && self.uid == held.uid && self.version.is_some() && self.version < held.version
    }
}

/// A recorded document.
pub struct Document {
    /// What is known of the view.
    pub info: ViewInfo,
    /// `metadata.uid`, or empty.
    pub uid: String,
    /// `metadata.resourceVersion` as an integer.
    pub version: Option<u64>,
    /// Headers that were kept, as [`DocumentHead::head`] gave them.
    pub head: Vec<u8>,
    /// The body, as it was at one moment whatever is written meanwhile. Reading fails with `InvalidData` if the bytes
    /// turn out to be damaged, before any damaged byte has been returned.
    pub body: Box<dyn Read + Send>,
    /// The body's length in bytes.
    pub length: u64,
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The body may be a secret: never shown.
        f.debug_struct("Document")
            .field("info", &self.info)
            .field("uid", &self.uid)
            .field("version", &self.version)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// Numbers for `/metrics`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stats {
    /// Views that are recorded.
    pub views: usize,
    /// Objects in all collections, and documents.
    pub objects: usize,
    /// Bytes that they take, garbage included.
    pub bytes: u64,
    /// Bytes written since the store was opened, successfully or not.
    pub bytes_written: u64,
    /// Files found damaged or foreign, and set aside, since the store was opened.
    pub damaged: u64,
    /// File operations that failed since the store was opened.
    pub errors: u64,
    /// Whether the store is in trouble now: something has failed, and it has not been seen since that it can be written
    /// again. Never so in memory, but where that stands in for a disk ([`MemoryStore::standing_in`]).
    pub failing: bool,
    /// `fsync` and `fdatasync` calls since the store was opened.
    pub fsyncs: u64,
    /// Files written anew to be rid of garbage since the store was opened.
    pub compactions: u64,
}

/// Why the store could not do what it was asked.
#[derive(Debug)]
pub enum StoreError {
    /// There is no such collection to fold into.
    NotRecorded,
    /// The view was removed, or a write of this writer failed, since it began; it can only be dropped.
    Abandoned,
    /// More than the format can hold.
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its length in bytes.
        length: u64,
    },
    /// A view alone is larger than all that may be kept.
    Oversized {
        /// How much that is, in bytes.
        bound: u64,
    },
    /// Another process holds the directory.
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// What was recorded is damaged; it has been set aside.
    Damaged {
        /// Where it was.
        path: PathBuf,
    },
    /// The disk refused.
    Io {
        /// What was tried, for example `write`.
        doing: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::NotRecorded => write!(f, "no such collection is recorded"),
            StoreError::Abandoned => write!(f, "the recording was abandoned"),
            StoreError::TooLarge { what, length } => {
                write!(f, "{what} of {length} bytes is too large to be recorded")
            }
            StoreError::Oversized { bound } => {
                write!(f, "it alone is larger than all that may be kept ({bound} bytes, --cache-max-size)")
            }
            StoreError::Locked { path } => {
                write!(f, "{} is held by another process; give each its own directory", path.display())
            }
            StoreError::Damaged { path } => {
                write!(f, "{} is damaged and was set aside", path.display())
            }
            StoreError::Io { doing, path, error } => {
                write!(f, "cannot {doing} {}: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreError::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Where answers are recorded and recalled. Every call may come from any thread.
pub trait Store: Send + Sync {
    /// Every view of this scope and path, any query and representation. Cheap enough for every request.
    fn views(&self, scope: &str, path: &str) -> Vec<ViewInfo>;

    /// Every view of every scope. The first call may have to look at every file's head and end.
    fn all(&self) -> Vec<ViewInfo>;

    /// The document recorded under this key; `None` if there is none, or a collection.
    fn document(&self, key: &ViewKey) -> Result<Option<Document>, StoreError>;

    /// Starts to record a document; it takes the place of whatever the view holds at its commit.
    fn begin_document(&self, key: &ViewKey, head: DocumentHead) -> Result<Box<dyn DocumentWriter>, StoreError>;

    /// Whether the recorded document has the same uid and version, neither of them empty. If so it counts as confirmed
    /// now, and nothing is written.
    fn confirm_document(&self, key: &ViewKey, uid: &str, version: Option<u64>) -> bool;

    /// The collection recorded under this key as it is now; `None` if none was ever committed.
    fn collection(&self, key: &ViewKey) -> Result<Option<Arc<dyn Collection>>, StoreError>;

    /// Starts to record a whole new content of a collection. What is folded meanwhile is merged at its commit.
    fn begin_generation(&self, key: &ViewKey) -> Result<Box<dyn Generation>, StoreError>;

    /// Folds changes into the collection, all of them or, on an error, none. Fails with [`StoreError::NotRecorded`] if
    /// no collection is committed and no generation is open; while the first generation is open, changes wait in it.
    /// After any other error something is missing: the collection is not complete until it is said to be, or the next
    /// generation is committed, and generations that were open are abandoned.
    fn fold(&self, key: &ViewKey, changes: &[Change<'_>]) -> Result<Folded, StoreError>;

    /// Forgets a view. What is being written to it is abandoned; what is being read can be read to its end.
    fn remove(&self, key: &ViewKey) -> Result<(), StoreError>;

    /// Forgets all views of a scope and path.
    fn remove_scope_path(&self, scope: &str, path: &str) -> Result<(), StoreError>;

    /// A small named thing, as [`Store::set_note`] last put it.
    fn note(&self, name: &str) -> Option<Vec<u8>>;

    /// Keeps a small named thing, whole: after a crash it is this value or an earlier one.
    fn set_note(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError>;

    /// Returns when all that was committed before is durable.
    fn flush(&self) -> Result<(), StoreError>;

    /// Numbers for `/metrics`.
    fn stats(&self) -> Stats;
}

/// A document under way. Dropped without a commit, it was never there.
pub trait DocumentWriter: Send {
    /// Adds to the body. After an error the writer can only be dropped.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;

    /// Makes it the recorded document. A document of the same uid and a lower version than the recorded one is
    /// dropped instead, and one that equals the recorded one to the byte is not written again; both are a success.
    fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// A whole new content of a collection under way: a re-list, or the initial events of a watch.
pub trait Generation: Send {
    /// Adds an object; one of the same key that was put before is replaced. Writes nothing if the collection holds the
    /// same one. After an error the generation can only be dropped.
    fn put(&mut self, object: &ObjectRef, bytes: &[u8]) -> Result<(), StoreError>;

    /// Says that this generation is what the upstream holds now (a list without a resourceVersion), so that it takes
    /// the place of a collection of a higher version too: the upstream has gone back, as after an etcd restore.
    /// Without this, a generation below the collection's version is a stale answer and changes nothing.
    fn supersede(&mut self);

    /// Makes this the collection. Changes folded since the generation began win where they are newer than it: an
    /// object put since stays unless the generation's is newer; one deleted since stays deleted unless the
    /// generation's is newer. The version is the generation's or that of the newest change since, whichever is higher.
    fn commit(self: Box<Self>, envelope: &[u8], version: Option<u64>, complete: bool) -> Result<Committed, StoreError>;
}

/// A consistent reading of one collection at one moment; it does not change whatever is folded meanwhile.
pub trait Collection: Send + Sync {
    /// What is known of the view at that moment.
    fn info(&self) -> &ViewInfo;

    /// The envelope.
    fn envelope(&self) -> Vec<u8>;

    /// The collection's resourceVersion.
    fn version(&self) -> Option<u64>;

    /// From which version to [`Collection::version`] it has held what it holds, as far as is known: a file that was
    /// written anew, or read after a restart, may know less than was known before. `None` if it has no version.
    fn unchanged_since(&self) -> Option<u64>;

    /// How many objects there are.
    fn len(&self) -> usize;

    /// Whether there are no objects.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `visit` with each object and its bytes in the order of their keys, until it returns an error, which is
    /// handed on. An object whose bytes are damaged ends it with `InvalidData`.
    fn each(&self, visit: &mut dyn FnMut(&ObjectRef, &[u8]) -> io::Result<()>) -> io::Result<()>;

    /// Calls `visit` with the flags of each object and the length of its bytes, in no order that matters: what a whole list
    /// takes, as cheaply as it can be told.
    fn lengths(&self, visit: &mut dyn FnMut(u32, u64));

    /// Calls `visit` with each object and the length of its bytes, in the order of their keys; reads no contents.
    fn index(&self, visit: &mut dyn FnMut(&ObjectRef, u64));

    /// What is known of one object, without reading its bytes; `None` if it is not there.
    fn find(&self, object_key: &str) -> Option<ObjectRef>;

    /// One object by its key. `None` if it is not there, or damaged.
    fn get(&self, object_key: &str) -> Option<(ObjectRef, Vec<u8>)>;
}
