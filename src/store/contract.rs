//! The promises that every engine keeps, as tests that run on all of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;

/// A directory that goes with its owner.
pub(super) struct TempDir(PathBuf);

impl TempDir {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("lite-apiserver-store-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Opens a store that makes nothing durable unless it is told to.
pub(super) fn open_file_store(root: &Path) -> FileStore {
    FileStore::open(FileOptions { root: root.to_owned(), flush_interval: Duration::from_secs(3600) }).unwrap()
}

/// Opens the store of an engine that lasts, which makes nothing durable unless it is told to.
pub(super) type Open = fn(&Path) -> Box<dyn Store>;

/// The engines that last.
pub(super) const LASTING: &[(&str, Open)] = &[
    ("file", |root| Box::new(open_file_store(root))),
    #[cfg(feature = "redb")]
    ("redb", |path| Box::new(open_redb(&database_options(path)).unwrap())),
    #[cfg(feature = "fjall")]
    ("fjall", |path| Box::new(open_fjall(&database_options(path)).unwrap())),
];

/// Makes nothing durable unless it is told to.
#[cfg(any(feature = "redb", feature = "fjall"))]
pub(super) fn database_options(path: &Path) -> DatabaseOptions {
    DatabaseOptions { path: path.to_owned(), flush_interval: Duration::from_secs(3600) }
}

/// Copies a directory as it is: what a process finds that starts after this one was killed now.
pub(super) fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Runs a test on every engine.
fn on_every_engine(test: impl Fn(&dyn Store)) {
    test(&MemoryStore::new());
    // What keeps a store to its bounds keeps its promises.
    let bounds = Bounds { max_size: 1 << 30, max_age: Duration::from_secs(3600) };
    test(&Bounded::new(Arc::new(MemoryStore::new()), bounds));
    for (_, open) in LASTING {
        let dir = TempDir::new();
        test(&*open(&dir.path().join("store")));
    }
}

pub(super) fn key(path: &str) -> ViewKey {
    ViewKey {
        scope: "cert:edge1".into(),
        path: path.into(),
        query: String::new(),
        representation: "application/json".into(),
    }
}

pub(super) fn object(key: &str, version: u64) -> ObjectRef {
    ObjectRef { key: key.into(), uid: format!("uid-{key}"), version: Some(version), flags: 1 }
}

/// The bytes of an object, told from its key and version.
pub(super) fn bytes(key: &str, version: u64) -> Vec<u8> {
    format!("{key}@{version}").into_bytes()
}

pub(super) fn put<'a>(key: &str, version: u64, bytes: &'a [u8]) -> Change<'a> {
    Change::Put { object: object(key, version), bytes }
}

pub(super) fn delete(key: &str, version: u64) -> Change<'_> {
    Change::Delete { key, version: Some(version) }
}

/// What a collection holds: its version, and the version of each object.
pub(super) type Held = (Option<u64>, BTreeMap<String, u64>);

pub(super) fn held(version: u64, objects: &[(&str, u64)]) -> Held {
    (Some(version), objects.iter().map(|&(key, version)| (key.to_owned(), version)).collect())
}

/// Reads a collection, and checks that all that can be asked of it agrees.
pub(super) fn read(store: &dyn Store, key: &ViewKey) -> Option<Held> {
    let collection = store.collection(key).unwrap()?;
    let mut objects = BTreeMap::new();
    let mut order = Vec::new();
    collection
        .each(&mut |object, content| {
            let version = object.version.unwrap();
            assert_eq!(content, bytes(&object.key, version));
            assert_eq!(object.uid, format!("uid-{}", object.key));
            order.push(object.key.clone());
            objects.insert(object.key.clone(), version);
            Ok(())
        })
        .unwrap();
    assert!(order.is_sorted(), "{order:?}");
    let mut in_index = Vec::new();
    collection.index(&mut |object, length| {
        assert_eq!(length, bytes(&object.key, object.version.unwrap()).len() as u64);
        in_index.push(object.key.clone());
    });
    assert_eq!(in_index, order);
    assert_eq!((collection.len(), collection.info().objects), (order.len(), order.len()));
    assert_eq!(collection.info().version, collection.version());
    Some((collection.version(), objects))
}

/// Commits a generation of these objects.
pub(super) fn list(store: &dyn Store, key: &ViewKey, version: u64, objects: &[(&str, u64)]) -> Committed {
    let mut generation = store.begin_generation(key).unwrap();
    for &(key, version) in objects {
        generation.put(&object(key, version), &bytes(key, version)).unwrap();
    }
    generation.commit(b"envelope", Some(version), true).unwrap()
}

fn fold(store: &dyn Store, key: &ViewKey, change: Change<'_>) -> usize {
    store.fold(key, &[change]).unwrap().applied
}

pub(super) fn write_document(store: &dyn Store, key: &ViewKey, uid: &str, version: u64, body: &[u8]) {
    let head = DocumentHead { status: 200, uid: uid.into(), version: Some(version), head: b"head".to_vec() };
    let mut writer = store.begin_document(key, head).unwrap();
    for piece in body.chunks(10_000) {
        writer.write(piece).unwrap();
    }
    writer.commit().unwrap();
}

pub(super) fn read_document(store: &dyn Store, key: &ViewKey) -> Option<Vec<u8>> {
    let mut document = store.document(key).unwrap()?;
    let mut body = Vec::new();
    document.body.read_to_end(&mut body).unwrap();
    assert_eq!(document.length, body.len() as u64);
    Some(body)
}

#[test]
fn it_is_known_since_when_nothing_has_changed() {
    on_every_engine(|store| {
        let key = key("/api/v1/pods");
        let since = || store.collection(&key).unwrap().unwrap().unchanged_since();
        list(store, &key, 10, &[("a/b", 7)]);
        assert_eq!(since(), Some(10), "of what was before the first list nothing is known");
        fold(store, &key, Change::Advance { version: 12 });
        assert_eq!(since(), Some(10));
        fold(store, &key, put("a/b", 13, &bytes("a/b", 13)));
        assert_eq!(since(), Some(13));
        fold(store, &key, put("a/b", 11, &bytes("a/b", 11)));
        fold(store, &key, Change::Envelope { bytes: b"another" });
        fold(store, &key, Change::Advance { version: 15 });
        assert_eq!(since(), Some(13), "old news, and the envelope, change no object");
        list(store, &key, 17, &[("a/b", 13)]);
        assert_eq!(since(), Some(13), "a list that says the same");
        list(store, &key, 18, &[("a/b", 13), ("a/c", 18)]);
        assert_eq!(since(), Some(18));
        fold(store, &key, Change::Advance { version: 20 });
        fold(store, &key, delete("a/c", 21));
        assert_eq!(since(), Some(21));
        let mut restored = store.begin_generation(&key).unwrap();
        restored.put(&object("a/b", 13), &bytes("a/b", 13)).unwrap();
        restored.supersede();
        restored.commit(b"envelope", Some(14), true).unwrap();
        assert_eq!(since(), Some(14), "another history");
    });
}

#[test]
fn a_document_is_there_at_its_commit_and_not_before() {
    on_every_engine(|store| {
        let key = key("/version");
        assert!(store.document(&key).unwrap().is_none());
        let mut writer = store.begin_document(&key, DocumentHead { status: 200, ..DocumentHead::default() }).unwrap();
        writer.write(b"half").unwrap();
        assert!(store.document(&key).unwrap().is_none());
        drop(writer);
        assert!(store.document(&key).unwrap().is_none());
        assert!(store.views(&key.scope, &key.path).is_empty());

        write_document(store, &key, "u", 7, b"whole");
        let document = store.document(&key).unwrap().unwrap();
        assert_eq!((document.uid.as_str(), document.version, &document.head[..]), ("u", Some(7), &b"head"[..]));
        assert_eq!((document.info.kind, document.info.status, document.info.objects), (Kind::Document, 200, 1));
        assert!(document.info.complete);
        assert_eq!(read_document(store, &key).unwrap(), b"whole");
        assert!(store.collection(&key).unwrap().is_none());
        assert_eq!(store.views(&key.scope, &key.path), [document.info]);
    });
}

#[test]
fn a_long_document_is_the_same_when_read_and_its_readers_keep_what_they_read() {
    on_every_engine(|store| {
        let key = key("/openapi/v2");
        let first: Vec<u8> = (0..300_000_u32).map(|i| (i / 7) as u8).collect();
        write_document(store, &key, "u", 1, &first);
        let mut reader = store.document(&key).unwrap().unwrap().body;
        let mut start = [0; 1000];
        reader.read_exact(&mut start).unwrap();
        // The same but for its last byte: what was equal so far must be written too.
        let mut second = first.clone();
        second[299_999] ^= 1;
        write_document(store, &key, "u", 2, &second);
        write_document(store, &key, "u", 3, &second[..200_000]);
        store.flush().unwrap();
        assert_eq!(read_document(store, &key).unwrap(), second[..200_000]);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert_eq!((&start[..], &rest[..]), first.split_at(1000));
    });
}

#[test]
fn a_document_that_is_the_same_is_not_written_and_one_that_is_older_is_dropped() {
    on_every_engine(|store| {
        let key = key("/api/v1/nodes/edge1");
        let body = vec![b'x'; 150_000];
        write_document(store, &key, "u", 7, &body);
        let written = store.stats().bytes_written;
        write_document(store, &key, "u", 7, &body);
        assert!(store.confirm_document(&key, "u", Some(7)));
        assert_eq!(store.stats().bytes_written, written);
        assert!(!store.confirm_document(&key, "u", Some(8)));
        assert!(!store.confirm_document(&key, "v", Some(7)));
        assert!(!store.confirm_document(&key, "u", None));
        write_document(store, &key, "u", 6, b"older");
        assert_eq!(read_document(store, &key).unwrap(), body);
        // Another uid is another object: its versions do not compare.
        write_document(store, &key, "v", 6, b"another");
        assert_eq!(read_document(store, &key).unwrap(), b"another");
        // A longer one that begins the same is another one.
        write_document(store, &key, "v", 6, b"another one");
        assert_eq!(read_document(store, &key).unwrap(), b"another one");
        // And so is a shorter one.
        write_document(store, &key, "v", 6, b"another");
        assert_eq!(read_document(store, &key).unwrap(), b"another");
        // No uid is never confirmed.
        write_document(store, &key, "", 6, b"nobody's");
        assert!(!store.confirm_document(&key, "", Some(6)));
    });
}

#[test]
fn a_collection_is_there_at_its_commit_and_in_the_order_of_its_keys() {
    on_every_engine(|store| {
        let key = key("/api/v1/pods");
        let mut generation = store.begin_generation(&key).unwrap();
        for name in ["b/a", "a-b/c", "a/b"] {
            generation.put(&object(name, 3), &bytes(name, 3)).unwrap();
        }
        assert!(store.collection(&key).unwrap().is_none());
        assert!(store.views(&key.scope, &key.path).is_empty());
        assert_eq!(generation.commit(b"envelope", Some(9), true).unwrap(), Committed::Replaced);
        assert_eq!(read(store, &key), Some(held(9, &[("a-b/c", 3), ("a/b", 3), ("b/a", 3)])));
        let collection = store.collection(&key).unwrap().unwrap();
        assert_eq!(collection.envelope(), b"envelope");
        assert_eq!(collection.get("a/b"), Some((object("a/b", 3), bytes("a/b", 3))));
        assert_eq!(collection.get("a/c"), None);
        let info = collection.info();
        assert_eq!((info.kind, info.complete, info.objects), (Kind::Collection, true, 3));
        assert_eq!(store.views(&key.scope, &key.path), std::slice::from_ref(info));
        assert!(store.document(&key).unwrap().is_none());

        // An empty list is an answer; a generation that is dropped is none.
        assert_eq!(list(store, &key, 10, &[]), Committed::Replaced);
        assert_eq!(read(store, &key), Some(held(10, &[])));
        let mut generation = store.begin_generation(&key).unwrap();
        generation.put(&object("x", 11), &bytes("x", 11)).unwrap();
        drop(generation);
        assert_eq!(read(store, &key), Some(held(10, &[])));
    });
}

#[test]
fn changes_fold_by_their_versions() {
    on_every_engine(|store| {
        let key = key("/api/v1/pods");
        assert!(matches!(store.fold(&key, &[]), Err(StoreError::NotRecorded)));
        list(store, &key, 10, &[("a", 5), ("b", 6)]);
        assert_eq!(fold(store, &key, put("a", 5, b"repeated")), 0);
        assert_eq!(fold(store, &key, put("a", 4, b"older")), 0);
        // Not held, and the complete collection is past its version: it was deleted since.
        assert_eq!(fold(store, &key, put("c", 9, b"deleted since")), 0);
        assert_eq!(fold(store, &key, delete("b", 5)), 0);
        assert_eq!(read(store, &key), Some(held(10, &[("a", 5), ("b", 6)])));
        assert_eq!(fold(store, &key, put("a", 11, b"a@11")), 1);
        assert_eq!(fold(store, &key, put("c", 12, b"c@12")), 1);
        assert_eq!(fold(store, &key, delete("b", 13)), 1);
        assert_eq!(read(store, &key), Some(held(13, &[("a", 11), ("c", 12)])));
        assert_eq!(fold(store, &key, Change::Advance { version: 20 }), 1);
        assert_eq!(fold(store, &key, Change::Advance { version: 19 }), 0);
        assert_eq!(fold(store, &key, delete("b", 21)), 1);
        assert_eq!(read(store, &key), Some(held(21, &[("a", 11), ("c", 12)])));
        // Several at once; the later ones see the earlier.
        let changes = [
            put("d", 22, b"d@22"),
            delete("d", 23),
            put("e", 24, b"e@24"),
            put("e", 24, b"again"),
            delete("a", 25),
            put("a", 26, b"a@26"),
        ];
        assert_eq!(store.fold(&key, &changes).unwrap(), Folded { applied: 5, version: Some(26) });
        assert_eq!(read(store, &key), Some(held(26, &[("a", 26), ("c", 12), ("e", 24)])));
        assert_eq!(fold(store, &key, Change::Envelope { bytes: b"new" }), 1);
        assert_eq!(fold(store, &key, Change::Envelope { bytes: b"new" }), 0);
        assert_eq!(store.collection(&key).unwrap().unwrap().envelope(), b"new");
        assert!(store.views(&key.scope, &key.path)[0].complete);
        assert_eq!(fold(store, &key, Change::Incomplete), 1);
        assert!(!store.views(&key.scope, &key.path)[0].complete);
        // It still is what the upstream held at its version.
        assert_eq!(fold(store, &key, put("f", 9, b"f@9")), 0);
        assert_eq!(fold(store, &key, put("g", 27, b"g@27")), 1);
        assert!(!store.views(&key.scope, &key.path)[0].complete);
        assert_eq!(fold(store, &key, Change::Complete), 1);
        assert_eq!(fold(store, &key, Change::Complete), 0);
        assert!(store.views(&key.scope, &key.path)[0].complete);
        assert_eq!(read(store, &key), Some(held(27, &[("a", 26), ("c", 12), ("e", 24), ("g", 27)])));
    });
}

#[test]
fn objects_without_versions_count_as_newest() {
    on_every_engine(|store| {
        let key = key("/apis/metrics.k8s.io/v1beta1/pods");
        let bare = ObjectRef { key: "a".into(), ..ObjectRef::default() };
        let content = |store: &dyn Store| store.collection(&key).unwrap().unwrap().get("a").map(|(_, bytes)| bytes);
        for text in [b"1", b"2"] {
            let mut generation = store.begin_generation(&key).unwrap();
            generation.put(&bare, text).unwrap();
            assert_eq!(generation.commit(b"", None, true).unwrap(), Committed::Replaced);
            assert_eq!(content(store).unwrap(), text);
        }
        assert_eq!(fold(store, &key, Change::Put { object: bare, bytes: b"3" }), 1);
        assert_eq!(content(store).unwrap(), b"3");
        assert_eq!(fold(store, &key, Change::Delete { key: "a", version: None }), 1);
        assert_eq!(content(store), None);
        assert_eq!(store.collection(&key).unwrap().unwrap().version(), None);
    });
}

#[test]
fn a_list_writes_only_what_changed() {
    on_every_engine(|store| {
        let key = key("/api/v1/pods");
        let names: Vec<String> = (0..100).map(|i| format!("ns/pod-{i:03}")).collect();
        let mut objects: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 5)).collect();
        list(store, &key, 10, &objects);
        let written = store.stats().bytes_written;
        assert_eq!(list(store, &key, 10, &objects), Committed::Unchanged);
        assert_eq!(store.stats().bytes_written, written);
        // Only the list's own version moved: one small record, with the view's key where the engine keeps rows.
        assert_eq!(list(store, &key, 11, &objects), Committed::Replaced);
        assert!(store.stats().bytes_written - written < 200);
        objects.remove(7);
        objects[50].1 = 12;
        objects.push(("zz/new", 12));
        assert_eq!(list(store, &key, 12, &objects), Committed::Replaced);
        assert!(store.stats().bytes_written - written < 1200);
        assert_eq!(read(store, &key), Some(held(12, &objects)));
        // What is folded is unchanged for the next list too.
        fold(store, &key, put("zz/new", 13, b"zz/new@13"));
        let written = store.stats().bytes_written;
        *objects.last_mut().unwrap() = ("zz/new", 13);
        assert_eq!(list(store, &key, 13, &objects), Committed::Unchanged);
        assert_eq!(store.stats().bytes_written, written);
    });
}

#[test]
fn changes_folded_while_a_list_streams_win_where_they_are_newer() {
    on_every_engine(|store| {
        let key = key("/api/v1/pods");
        list(store, &key, 10, &[("gone", 1), ("kept", 2), ("put-since", 3), ("deleted-since", 4), ("back", 5)]);
        // The list was read upstream at version 20; changes 21 to 26 are folded while it streams.
        let mut generation = store.begin_generation(&key).unwrap();
        let in_list = [("kept", 2), ("put-since", 19), ("deleted-since", 18), ("back", 17), ("new", 16)];
        for &(name, version) in &in_list[..2] {
            generation.put(&object(name, version), &bytes(name, version)).unwrap();
        }
        fold(store, &key, put("put-since", 21, b"put-since@21"));
        fold(store, &key, delete("deleted-since", 22));
        fold(store, &key, delete("new", 23));
        fold(store, &key, put("created-since", 24, b"created-since@24"));
        fold(store, &key, delete("back", 25));
        fold(store, &key, put("back", 26, b"back@26"));
        for &(name, version) in &in_list[2..] {
            generation.put(&object(name, version), &bytes(name, version)).unwrap();
        }
        assert_eq!(generation.commit(b"envelope", Some(20), true).unwrap(), Committed::Replaced);
        let expected = held(26, &[("kept", 2), ("put-since", 21), ("created-since", 24), ("back", 26)]);
        assert_eq!(read(store, &key), Some(expected));
    });
}

#[test]
fn changes_that_the_list_already_has_do_not_undo_it() {
    on_every_engine(|store| {
        let key = key("/api/v1/pods");
        list(store, &key, 10, &[("a", 1), ("b", 2), ("c", 3)]);
        let mut generation = store.begin_generation(&key).unwrap();
        // The watch lags behind the list, which was read at 30.
        fold(store, &key, put("a", 21, b"a@21"));
        fold(store, &key, delete("b", 22));
        fold(store, &key, put("d", 23, b"d@23"));
        for (name, version) in [("a", 29), ("b", 28), ("c", 3)] {
            generation.put(&object(name, version), &bytes(name, version)).unwrap();
        }
        generation.commit(b"envelope", Some(30), true).unwrap();
        // `b` was created again, `d` deleted again: the list knows, the watch does not yet.
        assert_eq!(read(store, &key), Some(held(30, &[("a", 29), ("b", 28), ("c", 3)])));
        fold(store, &key, delete("d", 24));
        fold(store, &key, put("b", 28, b"again"));
        assert_eq!(read(store, &key), Some(held(30, &[("a", 29), ("b", 28), ("c", 3)])));
    });
}

#[test]
fn changes_before_the_first_commit_wait_in_the_generation() {
    on_every_engine(|store| {
        let key = key("/api/v1/pods");
        let mut generation = store.begin_generation(&key).unwrap();
        generation.put(&object("a", 1), &bytes("a", 1)).unwrap();
        fold(store, &key, put("a", 11, b"a@11"));
        fold(store, &key, put("b", 12, b"b@12"));
        fold(store, &key, delete("c", 13));
        fold(store, &key, put("d", 14, b"d@14"));
        fold(store, &key, delete("d", 15));
        // A second watch that lags must not bring `c` back.
        fold(store, &key, put("c", 9, b"c@9"));
        assert_eq!(read(store, &key), None);
        for (name, version) in [("b", 2), ("c", 3), ("d", 4), ("e", 5)] {
            generation.put(&object(name, version), &bytes(name, version)).unwrap();
        }
        generation.commit(b"envelope", Some(10), true).unwrap();
        assert_eq!(read(store, &key), Some(held(15, &[("a", 11), ("b", 12), ("e", 5)])));
    });
}

#[test]
fn a_stale_list_changes_nothing_unless_the_upstream_went_back() {
    on_every_engine(|store| {
        let key = key("/api/v1/pods");
        list(store, &key, 10, &[("a", 1), ("b", 2)]);
        fold(store, &key, delete("b", 20));
        assert_eq!(list(store, &key, 15, &[("a", 1), ("b", 2)]), Committed::Older);
        assert_eq!(read(store, &key), Some(held(20, &[("a", 1)])));
        // Also where more is known to have happened since: going back would tear the watches that follow upon it.
        fold(store, &key, Change::Incomplete);
        assert_eq!(list(store, &key, 15, &[("a", 1), ("b", 2)]), Committed::Older);
        assert_eq!(read(store, &key), Some(held(20, &[("a", 1)])));
        // The same list again says that nothing is missing.
        assert_eq!(list(store, &key, 20, &[("a", 1)]), Committed::Replaced);
        assert!(store.views(&key.scope, &key.path)[0].complete);
        // After an etcd restore the newest there is has a lower version.
        let mut generation = store.begin_generation(&key).unwrap();
        generation.supersede();
        generation.put(&object("a", 1), &bytes("a", 1)).unwrap();
        assert_eq!(generation.commit(b"envelope", Some(5), true).unwrap(), Committed::Replaced);
        assert_eq!(read(store, &key), Some(held(5, &[("a", 1)])));
    });
}

#[test]
fn of_two_lists_at_once_the_newer_one_stays() {
    on_every_engine(|store| {
        let key = key("/api/v1/pods");
        list(store, &key, 10, &[("a", 1), ("b", 2)]);
        let begin = || {
            let mut generation = store.begin_generation(&key).unwrap();
            generation.supersede();
            generation.put(&object("a", 1), &bytes("a", 1)).unwrap();
            generation
        };
        let (older, newer, newest) = (begin(), begin(), begin());
        assert_eq!(newer.commit(b"envelope", Some(20), true).unwrap(), Committed::Replaced);
        assert_eq!(older.commit(b"envelope", Some(19), true).unwrap(), Committed::Older);
        assert_eq!(read(store, &key), Some(held(20, &[("a", 1)])));
        // `newest` found `a` unchanged; by its commit another list has dropped it.
        assert_eq!(list(store, &key, 25, &[]), Committed::Replaced);
        assert_eq!(newest.commit(b"envelope", Some(30), true).unwrap(), Committed::Replaced);
        assert_eq!(read(store, &key), Some(held(30, &[("a", 1)])));
    });
}

#[test]
fn a_reader_sees_one_moment() {
    on_every_engine(|store| {
        let key = key("/api/v1/pods");
        list(store, &key, 10, &[("a", 1), ("b", 2)]);
        let before = store.collection(&key).unwrap().unwrap();
        fold(store, &key, put("a", 11, b"a@11"));
        fold(store, &key, delete("b", 12));
        list(store, &key, 13, &[("c", 13)]);
        store.flush().unwrap();
        let mut seen = Vec::new();
        before
            .each(&mut |object, bytes| {
                seen.push((object.key.clone(), bytes.to_vec()));
                Ok(())
            })
            .unwrap();
        assert_eq!(seen, [("a".to_owned(), bytes("a", 1)), ("b".to_owned(), bytes("b", 2))]);
        assert_eq!((before.version(), before.info().objects), (Some(10), 2));
        store.remove(&key).unwrap();
        assert_eq!(before.get("b").unwrap().1, bytes("b", 2));
    });
}

#[test]
fn what_is_removed_is_gone_and_what_was_being_written_to_it_is_abandoned() {
    on_every_engine(|store| {
        let pods = key("/api/v1/pods");
        let other = ViewKey { query: "labelSelector=a".into(), ..pods.clone() };
        let elsewhere = ViewKey { scope: "cert:edge2".into(), ..pods.clone() };
        for key in [&pods, &other, &elsewhere] {
            list(store, key, 10, &[("a", 1)]);
        }
        assert_eq!(store.views(&pods.scope, &pods.path).len(), 2);
        assert_eq!(store.all().len(), 3);
        assert_eq!((store.stats().views, store.stats().objects), (3, 3));
        let mut generation = store.begin_generation(&pods).unwrap();
        generation.put(&object("b", 2), &bytes("b", 2)).unwrap();
        let mut document = store.begin_document(&pods, DocumentHead::default()).unwrap();
        document.write(&vec![b'x'; 100_000]).unwrap();
        store.remove(&pods).unwrap();
        assert_eq!(read(store, &pods), None);
        assert!(matches!(store.fold(&pods, &[]), Err(StoreError::NotRecorded)));
        assert!(matches!(generation.put(&object("c", 3), b"c"), Err(StoreError::Abandoned)));
        assert!(matches!(generation.commit(b"", Some(11), true), Err(StoreError::Abandoned)));
        assert!(matches!(document.commit(), Err(StoreError::Abandoned)));
        assert_eq!(store.views(&pods.scope, &pods.path).len(), 1);
        store.remove_scope_path(&pods.scope, &pods.path).unwrap();
        assert!(store.views(&pods.scope, &pods.path).is_empty());
        assert_eq!(read(store, &elsewhere), Some(held(10, &[("a", 1)])));
        // And it can be recorded again.
        list(store, &pods, 12, &[("d", 4)]);
        assert_eq!(read(store, &pods), Some(held(12, &[("d", 4)])));
    });
}

#[test]
fn a_view_can_turn_from_a_document_into_a_collection_and_back() {
    on_every_engine(|store| {
        let key = key("/api/v1/pods");
        write_document(store, &key, "u", 1, b"table");
        assert!(matches!(store.fold(&key, &[]), Err(StoreError::NotRecorded)));
        list(store, &key, 10, &[("a", 1)]);
        assert!(store.document(&key).unwrap().is_none());
        assert_eq!(read(store, &key), Some(held(10, &[("a", 1)])));
        write_document(store, &key, "u", 1, b"table");
        assert_eq!(read(store, &key), None);
        assert_eq!(read_document(store, &key).unwrap(), b"table");
    });
}

#[test]
fn notes_are_kept_and_are_no_views() {
    on_every_engine(|store| {
        assert_eq!(store.note("ledger"), None);
        store.set_note("ledger", b"one").unwrap();
        store.set_note("time", b"two").unwrap();
        store.set_note("ledger", b"three").unwrap();
        assert_eq!((store.note("ledger").unwrap(), store.note("time").unwrap()), (b"three".to_vec(), b"two".to_vec()));
        assert!(store.all().is_empty());
        assert_eq!(store.stats().views, 0);
    });
}

#[test]
fn threads_that_write_one_view_do_not_lose_each_others_changes() {
    on_every_engine(|store| {
        let key = key("/api/v1/pods");
        list(store, &key, 0, &[("w0", 0), ("w1", 0), ("w2", 0), ("w3", 0)]);
        std::thread::scope(|scope| {
            for writer in 0..4_u64 {
                let key = &key;
                scope.spawn(move || {
                    let name = format!("w{writer}");
                    for i in 1..=100 {
                        let version = i * 4 + writer;
                        let content = bytes(&name, version);
                        fold(store, key, Change::Incomplete);
                        fold(store, key, put(&name, version, &content));
                        if i % 25 == 0 {
                            store.flush().unwrap();
                            read(store, key);
                        }
                    }
                });
            }
        });
        assert_eq!(read(store, &key), Some(held(403, &[("w0", 400), ("w1", 401), ("w2", 402), ("w3", 403)])));
    });
}

/// A small generator of numbers (xorshift), so that a failure's story can be told again from its seed.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// What happened upstream: at version `i + 1`, the object of this name was put or deleted.
struct History(Vec<(usize, bool)>);

impl History {
    fn at(&self, version: u64) -> BTreeMap<String, u64> {
        let mut objects = BTreeMap::new();
        for (i, &(name, put)) in self.0[..version as usize].iter().enumerate() {
            if put {
                objects.insert(format!("o{name}"), i as u64 + 1);
            } else {
                objects.remove(&format!("o{name}"));
            }
        }
        objects
    }

    fn fold(&self, store: &dyn Store, key: &ViewKey, version: u64) {
        let (name, is_put) = self.0[version as usize - 1];
        let name = format!("o{name}");
        let content = bytes(&name, version);
        fold(store, key, if is_put { put(&name, version, &content) } else { delete(&name, version) });
    }
}

/// A list on its way: what it goes into, the version it was read at, and the objects that have not arrived.
type LateList = (Box<dyn Generation>, u64, Vec<(String, u64)>);

/// Several watches, each in its own time, and lists that were read at some version and arrive whenever they do: at any
/// moment the collection is exactly what the upstream held at the collection's version.
pub(super) fn play(store: &dyn Store, seed: u64) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let key = key("/api/v1/pods");
    let mut history = History(Vec::new());
    // Where each watch is. The first starts at 0, when the collection is empty and complete, or when a first list is
    // on its way.
    let mut watches = vec![0_u64];
    let mut lists: Vec<LateList> = Vec::new();
    if seed.is_multiple_of(2) {
        list(store, &key, 0, &[]);
    } else {
        lists.push((store.begin_generation(&key).unwrap(), 0, Vec::new()));
    }
    let version_of = |store: &dyn Store| read(store, &key).and_then(|held| held.0).unwrap_or(0);
    for step in 0..200 {
        match dice.roll(12) {
            0..=3 => history.0.push((dice.roll(6) as usize, dice.roll(3) > 0)),
            4..=7 => {
                let which = dice.roll(watches.len() as u64) as usize;
                if watches[which] < history.0.len() as u64 {
                    watches[which] += 1;
                    history.fold(store, &key, watches[which]);
                }
            }
            8 if watches.len() < 3 => {
                // A watch starts no later than the collection's version, or there would be a hole.
                let version = version_of(store);
                watches.push(dice.roll(version + 1));
            }
            9 if lists.len() < 3 => {
                let version = dice.roll(history.0.len() as u64 + 1);
                let mut generation = store.begin_generation(&key).unwrap();
                // What is the newest upstream is no older than what any watch has told.
                let told = watches.iter().copied().max().unwrap_or(0).max(version_of(store));
                if version >= told && dice.roll(2) == 0 {
                    generation.supersede();
                }
                lists.push((generation, version, history.at(version).into_iter().collect()));
            }
            10 if !lists.is_empty() => {
                let which = dice.roll(lists.len() as u64) as usize;
                let (generation, _, objects) = &mut lists[which];
                for (name, version) in objects.drain(..objects.len().min(2)) {
                    generation.put(&object(&name, version), &bytes(&name, version)).unwrap();
                }
            }
            11 if !lists.is_empty() => {
                let which = dice.roll(lists.len() as u64) as usize;
                if lists[which].2.is_empty() {
                    let (generation, version, _) = lists.remove(which);
                    generation.commit(b"envelope", Some(version), true).unwrap();
                } else if dice.roll(4) == 0 && which > 0 {
                    lists.remove(which);
                }
            }
            _ => {}
        }
        if dice.roll(20) == 0 {
            store.flush().unwrap();
        }
        let Some((version, objects)) = read(store, &key) else {
            continue;
        };
        assert_eq!(objects, history.at(version.unwrap()), "seed {seed}, step {step}, version {version:?}");
    }
}

#[test]
fn a_collection_is_always_a_state_that_the_upstream_held() {
    for seed in 1..=2000 {
        play(&MemoryStore::new(), seed);
    }
    for (name, open) in LASTING {
        for seed in 1..=60 {
            let dir = TempDir::new();
            let root = dir.path().join("store");
            let store = open(&root);
            play(&*store, seed);
            let before = read(&*store, &key("/api/v1/pods"));
            drop(store);
            assert_eq!(read(&*open(&root), &key("/api/v1/pods")), before, "{name}, seed {seed}");
        }
    }
}

#[test]
fn what_the_store_hands_out_can_go_to_another_thread() {
    fn sendable<T: Send>() {}
    sendable::<Arc<dyn Collection>>();
    sendable::<Box<dyn Generation>>();
    sendable::<Box<dyn DocumentWriter>>();
    sendable::<Document>();
}
