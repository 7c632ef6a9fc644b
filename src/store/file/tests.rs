//! What only the file engine promises: crashes, damage, sizes, modes.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::contract::{
    Held, TempDir, bytes, copy_tree, delete, held, key, list, object, open_file_store, put, read, read_document,
    write_document,
};
use super::super::lock;
use super::super::{Change, Committed, DocumentHead, Store, StoreError, ViewKey};
use super::trouble::{stumbling, troubled};
use super::{FileOptions, FileStore, layout};

/// The files of a store that hold views.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                if entry.file_name() != layout::DAMAGED {
                    dirs.push(entry.path());
                }
            } else if entry.file_name() != layout::LOCK {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

fn only_file(root: &Path) -> PathBuf {
    let found = files(root);
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

fn remove_all(files: &[PathBuf]) {
    for file in files {
        fs::remove_file(file).unwrap();
    }
}

/// What a process finds that starts after this one was killed here.
fn after_a_kill<T>(root: &Path, look: impl FnOnce(&FileStore) -> T) -> T {
    let dir = TempDir::new();
    let copy = dir.path().join("copy");
    copy_tree(root, &copy);
    look(&open_file_store(&copy))
}

/// A short life of a collection: lists, changes, a generation that is abandoned, one that alternates with changes.
/// Calls `after` after each commit.
fn live(store: &FileStore, key: &ViewKey, mut after: impl FnMut()) {
    let fold = |changes: &[Change<'_>]| store.fold(key, changes).unwrap();
    list(store, key, 10, &[("a", 1), ("b", 2)]);
    after();
    fold(&[put("c", 11, b"c@11")]);
    after();
    let mut abandoned = store.begin_generation(key).unwrap();
    abandoned.put(&object("a", 12), &bytes("a", 12)).unwrap();
    fold(&[delete("b", 12), put("d", 13, b"d@13")]);
    after();
    drop(abandoned);
    let mut generation = store.begin_generation(key).unwrap();
    generation.put(&object("a", 14), &bytes("a", 14)).unwrap();
    fold(&[Change::Advance { version: 15 }]);
    after();
    generation.put(&object("d", 13), &bytes("d", 13)).unwrap();
    fold(&[put("a", 16, b"a@16")]);
    after();
    generation.commit(b"envelope", Some(15), true).unwrap();
    after();
    fold(&[delete("d", 17)]);
    after();
}

/// The states and lengths of the file after each commit of [`live`], and the file at the end.
fn short_history(root: &Path, durable: bool) -> (Vec<(u64, Held)>, Vec<u8>) {
    let store = open_file_store(root);
    let key = key("/api/v1/pods");
    let mut states = Vec::new();
    live(&store, &key, || {
        states.push((fs::metadata(only_file(root)).unwrap().len(), read(&store, &key).unwrap()));
        if durable {
            store.flush().unwrap();
        }
    });
    assert_eq!(states.last().unwrap().1, held(17, &[("a", 16)]));
    (states, fs::read(only_file(root)).unwrap())
}

#[test]
fn a_file_cut_at_any_length_is_the_state_of_its_last_whole_commit() {
    let dir = TempDir::new();
    let root = dir.path().join("store");
    let (states, whole) = short_history(&root, false);
    let file = only_file(&root);
    for length in 0..=whole.len() {
        fs::write(&file, &whole[..length]).unwrap();
        let store = open_file_store(&root);
        let key = key("/api/v1/pods");
        let expected = states.iter().rev().find(|(end, _)| *end <= length as u64).map(|(_, state)| state.clone());
        let told = store.views(&key.scope, &key.path);
        assert_eq!(read(&store, &key), expected, "cut at {length}");
        assert_eq!(store.stats().damaged, 0, "cut at {length}");
        // What was told before the file was read whole is the same.
        let told = told.first().map(|info| (info.version, info.objects));
        assert_eq!(told, expected.as_ref().map(|(version, objects)| (*version, objects.len())), "cut at {length}");
        // And it goes on from there, with nothing left behind of what came after.
        list(&store, &key, 20, &[("z", 20)]);
        let length_now = fs::metadata(only_file(&root)).unwrap().len();
        assert_eq!(store.views(&key.scope, &key.path)[0].bytes, length_now, "cut at {length}");
        assert_eq!(after_a_kill(&root, |store| read(store, &key)), Some(held(20, &[("z", 20)])), "cut at {length}");
        drop(store);
        remove_all(&files(&root));
    }
}

#[test]
fn a_flipped_byte_is_a_miss_or_an_earlier_state_and_never_a_wrong_one() {
    for durable in [false, true] {
        let dir = TempDir::new();
        let root = dir.path().join("store");
        let (states, whole) = short_history(&root, durable);
        let file = only_file(&root);
        let last = states.last().unwrap().1.clone();
        // All but the last commit is known to be durable.
        let known = states[states.len() - 2].0 as usize;
        let mut misses = 0;
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, &damaged).unwrap();
            let store = open_file_store(&root);
            let found = read(&store, &key("/api/v1/pods"));
            let earlier = states.iter().any(|(_, state)| found.as_ref() == Some(state));
            assert!(found.is_none() || earlier, "byte {at}: {found:?}");
            if durable && at < known {
                assert_eq!(found, None, "byte {at}: what had been durable is not an old state but a miss");
                assert_eq!(store.stats().damaged, 1, "byte {at}");
            }
            assert_ne!(found.as_ref(), Some(&last), "byte {at} is not covered by any checksum");
            misses += usize::from(found.is_none());
            drop(store);
            remove_all(&files(&root));
        }
        assert!(misses > 0);
        let kept = fs::read_dir(root.join(layout::DAMAGED)).unwrap().count();
        assert!(kept <= 16, "{kept} damaged files are kept");
    }
}

#[test]
fn what_was_written_is_there_after_a_kill() {
    let dir = TempDir::new();
    let root = dir.path().join("store");
    let store = open_file_store(&root);
    let pods = key("/api/v1/pods");
    live(&store, &pods, || {
        let now = read(&store, &pods);
        assert_eq!(after_a_kill(&root, |store| read(store, &pods)), now);
    });
    let body = vec![7; 200_000];
    write_document(&store, &key("/version"), "u", 1, &body);
    store.set_note("ledger", b"note").unwrap();
    let mut half = store.begin_document(&key("/version"), DocumentHead::default()).unwrap();
    half.write(&vec![8; 200_000]).unwrap();
    after_a_kill(&root, |store| {
        assert_eq!(read_document(store, &key("/version")).unwrap(), body);
        assert_eq!(store.note("ledger").unwrap(), b"note");
        let all: Vec<_> = store.all().into_iter().map(|info| (info.key.path, info.version)).collect();
        assert_eq!(all, [("/api/v1/pods".to_owned(), Some(17)), ("/version".to_owned(), Some(1))]);
    });
}

#[test]
fn what_was_abandoned_stays_so_after_a_restart() {
    let dir = TempDir::new();
    let root = dir.path().join("store");
    let key = key("/api/v1/pods");
    {
        let store = open_file_store(&root);
        list(&store, &key, 10, &[("a", 1)]);
        let mut generation = store.begin_generation(&key).unwrap();
        generation.put(&object("b", 12), &bytes("b", 12)).unwrap();
        store.fold(&key, &[Change::Advance { version: 13 }]).unwrap();
        generation.put(&object("c", 12), &vec![b'c'; 5000]).unwrap();
        copy_tree(&root, &dir.path().join("killed"));
    }
    let root = dir.path().join("killed");
    let store = open_file_store(&root);
    for version in 14..20 {
        store.fold(&key, &[Change::Advance { version }]).unwrap();
    }
    let length = fs::metadata(only_file(&root)).unwrap().len();
    assert!(length < 5000 && length == store.views(&key.scope, &key.path)[0].bytes, "{length}");
    assert_eq!(after_a_kill(&root, |store| read(store, &key)), Some(held(19, &[("a", 1)])));
}

#[test]
fn a_record_whose_predecessor_was_written_over_does_not_count() {
    let dir = TempDir::new();
    let root = dir.path().join("store");
    let key = key("/api/v1/pods");
    let (first, both, other) = {
        let store = open_file_store(&root);
        list(&store, &key, 10, &[("a", 1)]);
        let first = fs::read(only_file(&root)).unwrap();
        store.fold(&key, &[put("b", 11, b"b@11")]).unwrap();
        store.fold(&key, &[put("c", 12, b"c@12")]).unwrap();
        let both = fs::read(only_file(&root)).unwrap();
        drop(store);
        fs::write(only_file(&root), &first).unwrap();
        let store = open_file_store(&root);
        store.fold(&key, &[put("x", 13, b"x@13")]).unwrap();
        (first.len(), both, fs::read(only_file(&root)).unwrap())
    };
    // The cutting off of the first history did not last, its beginning was written over with as many bytes.
    let mut mixed = both.clone();
    mixed[first..other.len()].copy_from_slice(&other[first..]);
    fs::write(only_file(&root), &mixed).unwrap();
    assert_eq!(read(&open_file_store(&root), &key), Some(held(13, &[("a", 1), ("x", 13)])));
}

#[test]
fn a_claim_to_be_durable_holds_for_what_may_be_cut_off_too() {
    let dir = TempDir::new();
    let root = dir.path().join("store");
    let key = key("/api/v1/pods");
    let committed = {
        let store = open_file_store(&root);
        list(&store, &key, 10, &[("a", 1)]);
        let committed = fs::metadata(only_file(&root)).unwrap().len() as usize;
        let mut generation = store.begin_generation(&key).unwrap();
        generation.put(&object("b", 12), &bytes("b", 12)).unwrap();
        // Durable with the commit before it, though it is none itself.
        store.flush().unwrap();
        generation.put(&object("c", 12), &bytes("c", 12)).unwrap();
        let killed = fs::read(only_file(&root)).unwrap();
        drop(generation);
        drop(store);
        fs::write(only_file(&root), killed).unwrap();
        committed
    };
    // After the kill the end was cut off and written over; then the power went, with half of that on the disk.
    let mut torn = fs::read(only_file(&root)).unwrap();
    torn[committed + 10..committed + 60].fill(0);
    fs::write(only_file(&root), &torn).unwrap();
    let store = open_file_store(&root);
    assert_eq!(read(&store, &key), Some(held(10, &[("a", 1)])));
    assert_eq!(store.stats().damaged, 0);
}

#[test]
fn files_that_change_places_are_set_aside() {
    let dir = TempDir::new();
    let root = dir.path().join("store");
    let (pods, nodes) = (key("/api/v1/pods"), key("/api/v1/nodes"));
    let selected = ViewKey { query: "labelSelector=a".into(), ..pods.clone() };
    let mut of = HashMap::new();
    {
        let store = open_file_store(&root);
        for key in [&pods, &nodes, &selected] {
            list(&store, key, 10, &[("a", 1)]);
            let new = files(&root).into_iter().find(|file| !of.values().any(|known| known == file)).unwrap();
            of.insert(key.clone(), new);
        }
    }
    // Swapped between two paths and, as a copy, between two queries and with another number.
    let contents: HashMap<_, _> = of.iter().map(|(key, file)| (key.clone(), fs::read(file).unwrap())).collect();
    fs::write(&of[&pods], &contents[&nodes]).unwrap();
    fs::write(&of[&nodes], &contents[&selected]).unwrap();
    fs::write(of[&selected].with_extension("9"), &contents[&selected]).unwrap();
    let store = open_file_store(&root);
    assert_eq!(read(&store, &pods), None);
    assert_eq!(read(&store, &nodes), None);
    assert_eq!(read(&store, &selected), Some(held(10, &[("a", 1)])));
    assert_eq!(store.stats().damaged, 3);
    assert_eq!(store.all().len(), 1);
    list(&store, &pods, 11, &[("b", 2)]);
    assert_eq!(read(&store, &pods), Some(held(11, &[("b", 2)])));
}

#[test]
fn garbage_of_every_kind_does_not_stop_the_store_from_opening() {
    let dir = TempDir::new();
    let root = dir.path().join("store");
    let pods = key("/api/v1/pods");
    {
        let store = open_file_store(&root);
        list(&store, &pods, 10, &[("a", 1)]);
    }
    let file = only_file(&root);
    let folder = file.parent().unwrap().to_owned();
    fs::write(root.join("README"), b"hello").unwrap();
    fs::write(folder.join("core"), b"dump").unwrap();
    fs::write(folder.join(format!("{}.1", "0".repeat(32))), b"not ours").unwrap();
    fs::write(folder.join(format!("{}.1", "1".repeat(32))), [0; 4096]).unwrap();
    fs::write(folder.join(format!("{}.1", "2".repeat(32))), b"").unwrap();
    fs::create_dir(folder.join(format!("{}.1", "3".repeat(32)))).unwrap();
    let mut other = fs::read(&file).unwrap();
    for (version, name) in [(2, "2"), (0, "3")] {
        other[8] = version;
        fs::write(file.with_extension(name), &other).unwrap();
    }
    let store = open_file_store(&root);
    assert_eq!(store.all().len(), 1);
    assert_eq!(read(&store, &pods), Some(held(10, &[("a", 1)])));
    // Not ours, a directory, a newer version, an older one; what was never written whole is no damage.
    assert_eq!(store.stats().damaged, 4);
    assert!(root.join("README").exists() && folder.join("core").exists());
}

#[test]
fn a_file_is_not_set_aside_because_the_disk_stumbled_once() {
    let dir = TempDir::new();
    let root = dir.path().join("store");
    let pods = key("/api/v1/pods");
    {
        let store = open_file_store(&root);
        list(&store, &pods, 10, &[("a", 1), ("b", 2)]);
        store.flush().unwrap();
    }
    // Its head, its end and the whole of it are read.
    let noticed = (0..12).filter(|before| {
        let store = stumbling(&root, *before, 1);
        let found = store.collection(&pods).unwrap().map(|collection| collection.len());
        let stats = store.stats();
        assert_eq!((found, stats.damaged, stats.failing), (Some(2), 0, stats.errors > 0), "after {before} reads");
        stats.errors > 0
    });
    assert!(noticed.count() > 2);
}

#[test]
fn damage_that_a_reader_finds_makes_a_miss_of_the_view() {
    let dir = TempDir::new();
    let root = dir.path().join("store");
    let store = open_file_store(&root);
    let (pods, openapi) = (key("/api/v1/pods"), key("/openapi/v2"));
    list(&store, &pods, 10, &[("a", 1), ("b", 2)]);
    let file = only_file(&root);
    let mut content = fs::read(&file).unwrap();
    let at = content.windows(3).rposition(|window| window == b"b@2").unwrap();
    content[at] = b'X';
    fs::write(&file, &content).unwrap();
    let collection = store.collection(&pods).unwrap().unwrap();
    let mut seen = 0;
    let error = collection.each(&mut |_, _| {
        seen += 1;
        Ok(())
    });
    assert_eq!((error.unwrap_err().kind(), seen), (io::ErrorKind::InvalidData, 1));
    assert_eq!((read(&store, &pods), store.stats().damaged), (None, 1));

    write_document(&store, &openapi, "u", 1, &vec![1; 200_000]);
    let file = only_file(&root);
    let mut content = fs::read(&file).unwrap();
    content[150_000] ^= 1;
    fs::write(&file, &content).unwrap();
    let mut body = Vec::new();
    let error = store.document(&openapi).unwrap().unwrap().body.read_to_end(&mut body).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(body.iter().all(|&byte| byte == 1));
    assert!(store.document(&openapi).unwrap().is_none());
}

#[test]
fn a_file_of_garbage_is_written_anew_and_its_readers_keep_the_old_one() {
    let dir = TempDir::new();
    let root = dir.path().join("store");
    let store = open_file_store(&root);
    let key = key("/api/v1/pods");
    let big = |version: u64| {
        let mut content = bytes("a", version);
        content.resize(5000, b' ');
        content
    };
    list(&store, &key, 10, &[("a", 1), ("b", 2)]);
    let before = store.collection(&key).unwrap().unwrap();
    for version in 11..60 {
        store.fold(&key, &[put("a", version, &big(version))]).unwrap();
    }
    store.fold(&key, &[put("a", 60, b"a@60")]).unwrap();
    let long = fs::metadata(only_file(&root)).unwrap().len();
    let mut open = store.begin_generation(&key).unwrap();
    open.put(&object("b", 2), &bytes("b", 2)).unwrap();
    store.flush().unwrap();
    assert_eq!(store.stats().compactions, 0, "not while a generation is open");
    drop(open);
    store.fold(&key, &[Change::Advance { version: 61 }]).unwrap();
    store.flush().unwrap();
    assert_eq!(store.stats().compactions, 1);
    let short = fs::metadata(only_file(&root)).unwrap().len();
    assert!(long > 200_000 && short < 1000, "{long} -> {short}");
    let expected = Some(held(61, &[("a", 60), ("b", 2)]));
    assert_eq!(read(&store, &key), expected);
    assert_eq!(before.get("a").unwrap().1, bytes("a", 1));
    let since = |store: &FileStore| store.collection(&key).unwrap().unwrap().unchanged_since();
    assert_eq!((since(&store), after_a_kill(&root, since)), (Some(60), Some(60)));
    // What comes after goes into the new file, and is found again.
    store.fold(&key, &[delete("b", 62)]).unwrap();
    let info = store.views(&key.scope, &key.path).remove(0);
    assert_eq!((info.bytes, info.objects), (fs::metadata(only_file(&root)).unwrap().len(), 1));
    assert_eq!(store.collection(&key).unwrap().unwrap().envelope(), b"envelope");
    assert_eq!(after_a_kill(&root, |store| read(store, &key)), Some(held(62, &[("a", 60)])));

    let version = ViewKey { path: "/version".into(), ..key.clone() };
    for i in 0..4 {
        write_document(&store, &version, "u", i, &vec![i as u8; 100_000]);
    }
    store.flush().unwrap();
    write_document(&store, &version, "u", 9, &vec![9; 100_000]);
    let mut reader = store.document(&version).unwrap().unwrap().body;
    store.flush().unwrap();
    assert_eq!(store.stats().compactions, 2);
    let mut body = Vec::new();
    reader.read_to_end(&mut body).unwrap();
    assert_eq!(body, vec![9; 100_000]);
    assert_eq!(read_document(&store, &version).unwrap(), body);
}

#[test]
fn many_changes_cost_little_more_than_their_own_bytes() {
    let dir = TempDir::new();
    let store = open_file_store(&dir.path().join("store"));
    let key = key("/api/v1/pods");
    let names: Vec<String> = (0..50).map(|i| format!("namespace/pod-{i}")).collect();
    let content = vec![b'x'; 3000];
    let mut generation = store.begin_generation(&key).unwrap();
    for name in &names {
        generation.put(&object(name, 1), &content).unwrap();
    }
    generation.commit(b"envelope", Some(1), true).unwrap();
    let before = store.stats().bytes_written;
    let changes = 3000;
    for version in 2..2 + changes {
        store.fold(&key, &[put(&names[version as usize % 50], version, &content)]).unwrap();
        if version % 5 == 0 {
            store.flush().unwrap();
        }
    }
    let stats = store.stats();
    let percent = (stats.bytes_written - before) * 100 / (changes * 3000);
    assert!(stats.compactions > 5 && percent < 150, "{percent} % with {} compactions", stats.compactions);
}

#[test]
fn an_older_file_that_a_crash_left_goes_and_a_newer_one_that_was_never_whole_does_not_count() {
    let dir = TempDir::new();
    let root = dir.path().join("store");
    let key = key("/api/v1/pods");
    {
        let store = open_file_store(&root);
        list(&store, &key, 10, &[("a", 1)]);
    }
    let file = only_file(&root);
    let old = fs::read(&file).unwrap();
    // A crash while the next file was being written.
    fs::write(file.with_extension("2"), &old[..60]).unwrap();
    {
        let store = open_file_store(&root);
        assert_eq!(read(&store, &key), Some(held(10, &[("a", 1)])));
        assert_eq!(store.stats().damaged, 0);
        assert_eq!(only_file(&root), file);
        // Garbage enough for a second file.
        for version in 11..100 {
            store.fold(&key, &[put("b", version, &[b'x'; 5000])]).unwrap();
        }
        store.fold(&key, &[delete("b", 100)]).unwrap();
        store.flush().unwrap();
        assert_ne!(only_file(&root), file);
    }
    // A crash before the old one was removed.
    fs::write(&file, &old).unwrap();
    let store = open_file_store(&root);
    assert_eq!(read(&store, &key), Some(held(100, &[("a", 1)])));
    store.flush().unwrap();
    assert_ne!(only_file(&root), file);
}

#[test]
fn a_directory_belongs_to_one_process() {
    let dir = TempDir::new();
    let root = dir.path().join("a/b/store");
    let options = FileOptions { root: root.clone(), flush_interval: Duration::from_secs(1) };
    let store = FileStore::open(options.clone()).unwrap();
    let second = FileStore::open(options.clone()).err().unwrap();
    assert!(matches!(&second, StoreError::Locked { path } if *path == root.join("lock")), "{second}");
    assert!(second.to_string().contains("held by another process"), "{second}");
    drop(store);
    FileStore::open(options).unwrap();
    let nowhere = FileOptions { root: "/proc/nowhere".into(), flush_interval: Duration::from_secs(1) };
    assert!(matches!(FileStore::open(nowhere), Err(StoreError::Io { doing: "create", .. })));
}

#[test]
fn nobody_else_can_read_the_record() {
    let dir = TempDir::new();
    let root = dir.path().join("store");
    let store = open_file_store(&root);
    list(&store, &key("/api/v1/secrets"), 10, &[("a", 1)]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let file = only_file(&root);
    assert_eq!((mode(&file), mode(&root.join("lock"))), (0o600, 0o600));
    let mut dirs = 0;
    for above in file.ancestors().skip(1).take_while(|above| above.starts_with(&root)) {
        assert_eq!(mode(above), 0o700, "{above:?}");
        dirs += 1;
    }
    assert_eq!(dirs, 4);
}

#[test]
fn an_index_that_is_dropped_is_read_again_and_abandoned_files_go() {
    let dir = TempDir::new();
    let root = dir.path().join("store");
    let store = open_file_store(&root);
    let pods = key("/api/v1/pods");
    let expected = {
        live(&store, &pods, || {});
        store.flush().unwrap();
        read(&store, &pods)
    };
    let view = store.find(&pods).unwrap();
    view.unread(&store.inner.shared);
    assert!(lock(&view.shown).content.is_none());
    assert_eq!(store.views(&pods.scope, &pods.path)[0].version, Some(17));
    assert_eq!(read(&store, &pods), expected);
    let reader = store.collection(&pods).unwrap();
    view.unread(&store.inner.shared);
    assert!(lock(&view.shown).content.is_some(), "not while somebody reads");
    drop(reader);
    view.unread(&store.inner.shared);
    store.fold(&pods, &[put("n", 30, b"n@30")]).unwrap();
    assert_eq!(read(&store, &pods), Some(held(30, &[("a", 16), ("n", 30)])));

    let other = key("/api/v1/configmaps");
    let mut generation = store.begin_generation(&other).unwrap();
    generation.put(&object("a", 1), b"a").unwrap();
    assert_eq!(files(&root).len(), 2);
    drop(generation);
    assert_eq!(files(&root).len(), 1);
    drop(view);
    store.inner.folders.tidy(&store.inner.shared);
    assert_eq!(store.all().len(), 1);
    store.remove(&pods).unwrap();
    assert!(files(&root).is_empty());
}

#[test]
fn a_write_that_fails_leaves_the_last_state_and_the_next_one_goes_on() {
    let dir = TempDir::new();
    let root = dir.path().join("store");
    let (store, writes, ..) = troubled(&root);
    let (pods, version) = (key("/api/v1/pods"), key("/version"));
    // The very first write, that of the header, fails.
    writes.store(0, Ordering::SeqCst);
    let mut generation = store.begin_generation(&pods).unwrap();
    assert!(matches!(generation.put(&object("a", 1), b"a@1"), Err(StoreError::Io { doing: "write", .. })));
    assert!(matches!(generation.put(&object("b", 1), b"b@1"), Err(StoreError::Abandoned)));
    assert!(generation.commit(b"envelope", Some(1), true).is_err());
    assert!(files(&root).is_empty());

    assert_eq!(list(&store, &pods, 10, &[("a", 1)]), Committed::Replaced);
    let before = read(&store, &pods);
    for write in 0..2 {
        writes.store(write, Ordering::SeqCst);
        let result = store.fold(&pods, &[put("b", 11, b"b@11"), put("c", 12, b"c@12")]);
        if write == 0 {
            assert!(result.is_err());
            assert!(!store.views(&pods.scope, &pods.path)[0].complete);
            assert_eq!(read(&store, &pods), before);
            assert_eq!(after_a_kill(&root, |store| read(store, &pods)), before);
        }
        writes.store(-1, Ordering::SeqCst);
    }
    let expected = Some(held(12, &[("a", 1), ("b", 11), ("c", 12)]));
    assert_eq!(read(&store, &pods), expected);
    assert_eq!(after_a_kill(&root, |store| read(store, &pods)), expected);

    // A shorter write after one that failed must not leave a whole record behind it.
    writes.store(0, Ordering::SeqCst);
    store.fold(&pods, &[put("d", 13, b"d@13"), put("e", 14, b"e@14")]).unwrap_err();
    store.fold(&pods, &[Change::Advance { version: 13 }]).unwrap();
    assert_eq!(after_a_kill(&root, |store| read(store, &pods)), read(&store, &pods));

    assert_eq!(store.views(&pods.scope, &pods.path)[0].bytes, fs::metadata(only_file(&root)).unwrap().len());

    write_document(&store, &version, "u", 1, b"one");
    writes.store(1, Ordering::SeqCst);
    let mut document = store.begin_document(&version, DocumentHead::default()).unwrap();
    let pieces = (0..10).map(|_| document.write(&vec![2; 50_000])).collect::<Vec<_>>();
    assert!(pieces.iter().any(Result::is_err));
    assert!(matches!(document.commit(), Err(StoreError::Abandoned)));
    assert_eq!(read_document(&store, &version).unwrap(), b"one");
    assert!(store.stats().errors >= 4);
}

#[test]
fn after_a_sync_that_failed_only_a_new_file_is_trusted() {
    let dir = TempDir::new();
    let root = dir.path().join("store");
    let (store, writes, syncs, _) = troubled(&root);
    let pods = key("/api/v1/pods");
    list(&store, &pods, 10, &[("a", 1)]);
    let old = only_file(&root);
    syncs.store(0, Ordering::SeqCst);
    assert!(matches!(store.flush(), Err(StoreError::Io { doing: "sync", .. })));
    // The next attempt would succeed, but there is no room for a new file.
    writes.store(0, Ordering::SeqCst);
    assert!(store.flush().is_err());
    assert_eq!(only_file(&root), old);
    store.flush().unwrap();
    assert_ne!(only_file(&root), old);
    assert_eq!(after_a_kill(&root, |store| read(store, &pods)), Some(held(10, &[("a", 1)])));
}

#[test]
fn a_bounded_number_of_files_is_open() {
    let dir = TempDir::new();
    let (store, .., open) = troubled(&dir.path().join("store"));
    for i in 0..200 {
        list(&store, &key(&format!("/api/v1/namespaces/n{i}/pods")), 10, &[("a", 1)]);
    }
    store.flush().unwrap();
    assert!(open.load(Ordering::SeqCst) <= 64, "{}", open.load(Ordering::SeqCst));
    for i in 0..200 {
        let key = key(&format!("/api/v1/namespaces/n{i}/pods"));
        assert_eq!(read(&store, &key), Some(held(10, &[("a", 1)])));
    }
    assert!(open.load(Ordering::SeqCst) <= 64, "{}", open.load(Ordering::SeqCst));
}

#[test]
fn what_is_committed_becomes_durable_by_itself_and_nothing_is_synced_without_need() {
    let dir = TempDir::new();
    let options = FileOptions { root: dir.path().join("store"), flush_interval: Duration::from_millis(20) };
    let store = FileStore::open(options).unwrap();
    list(&store, &key("/api/v1/pods"), 10, &[("a", 1)]);
    let wait = |enough: &dyn Fn() -> bool| {
        for _ in 0..1000 {
            if enough() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    };
    // What was there before; the file, its folder, and the three directories that got new names.
    assert!(wait(&|| store.stats().fsyncs == 6), "{}", store.stats().fsyncs);
    store.fold(&key("/api/v1/pods"), &[put("a", 11, b"a@11")]).unwrap();
    assert!(wait(&|| store.stats().fsyncs == 7), "{}", store.stats().fsyncs);
    list(&store, &key("/api/v1/pods"), 11, &[("a", 11)]);
    store.flush().unwrap();
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(store.stats().fsyncs, 7);
}
