//! What only the engines in a database promise: nothing left over, crashes, damage, trouble.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::super::contract::{
    TempDir, bytes, copy_tree, database_options, delete, held, key, list, object, play, put, read, read_document,
    write_document,
};
use super::super::{Change, Committed, DocumentHead, Store, StoreError};
use super::format::{self, Row};
use super::{DatabaseOptions, RowStore};

pub(super) type Open = fn(&DatabaseOptions) -> Result<RowStore, StoreError>;

pub(super) const ENGINES: &[(&str, Open)] = &[
    #[cfg(feature = "redb")]
    ("redb", super::super::redb::open),
    #[cfg(feature = "fjall")]
    ("fjall", super::super::fjall::open),
];

/// Runs a test on each engine, in a directory of its own.
fn on_each(test: impl Fn(&dyn Fn(&Path) -> RowStore, &Path)) {
    for (_, open) in ENGINES {
        let dir = TempDir::new();
        test(&|path| open(&database_options(path)).unwrap(), &dir.path().join("store"));
    }
}

/// What a process finds that starts after this one was killed here.
fn after_a_kill<T>(open: &dyn Fn(&Path) -> RowStore, path: &Path, look: impl FnOnce(&RowStore) -> T) -> T {
    let dir = TempDir::new();
    let copy = dir.path().join("copy");
    copy_tree(path.parent().unwrap(), &copy);
    look(&open(&copy.join(path.file_name().unwrap())))
}

/// Checks that the database has the bytes that its views name, and no others; returns how many those are.
fn nothing_is_left_over(store: &RowStore) -> usize {
    let moment = store.shared.moment().unwrap();
    let (mut there, mut named) = (BTreeSet::new(), BTreeSet::new());
    let mut views = BTreeSet::new();
    moment
        .scan(b"", &mut |key, value| {
            match key[0] {
                b'o' => drop(there.insert(key.to_vec())),
                b'v' => {
                    let id = format::number_of(key).unwrap();
                    views.insert(id);
                    let (_, row) = Row::decode(id, format::unseal(key, value)?)?;
                    named.extend(row.content.places().map(format::bytes_key));
                }
                b'i' => {
                    let entry = format::decode_entry(key, format::unseal(key, value)?)?;
                    assert!(named.insert(format::bytes_key(entry.at)), "bytes that two objects have");
                }
                b'f' | b'n' => {}
                _ => panic!("{key:?} is left over"),
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(there, named);
    moment
        .scan(b"i", &mut |key, _| {
            assert!(views.contains(&format::number_of(key).unwrap()), "an object of no view");
            Ok(())
        })
        .unwrap();
    there.len()
}

#[test]
fn nothing_stays_that_no_view_names() {
    on_each(|open, path| {
        for seed in 1..=30 {
            let path = path.with_file_name(format!("play-{seed}"));
            let store = open(&path);
            play(&store, seed);
            nothing_is_left_over(&store);
            let pods = key("/api/v1/pods");
            write_document(&store, &pods, "u", 1, &vec![7; 200_000]);
            assert_eq!(nothing_is_left_over(&store), 4);
            // One that gives up half-way, and one that is forgotten.
            let mut writer = store.begin_document(&pods, DocumentHead::default()).unwrap();
            writer.write(&vec![b'x'; 300_000]).unwrap();
            drop(writer);
            let mut generation = store.begin_generation(&pods).unwrap();
            for i in 0..100 {
                generation.put(&object(&format!("o{i}"), 1), &vec![b'x'; 10_000]).unwrap();
            }
            drop(generation);
            assert_eq!(nothing_is_left_over(&store), 4);
            list(&store, &pods, 20, &[("a", 1), ("b", 2)]);
            assert_eq!(nothing_is_left_over(&store), 3);
            store.remove(&pods).unwrap();
            assert_eq!(nothing_is_left_over(&store), 0);
        }
    });
}

#[test]
fn after_a_kill_there_is_what_was_durable_and_nothing_that_was_under_way() {
    on_each(|open, path| {
        let (store, pods, version) = (open(path), key("/api/v1/pods"), key("/version"));
        list(&store, &pods, 10, &[("a", 1), ("b", 2)]);
        write_document(&store, &version, "u", 1, b"one");
        store.set_note("ledger", b"one").unwrap();
        store.flush().unwrap();
        let mut generation = store.begin_generation(&pods).unwrap();
        for i in 0..100 {
            generation.put(&object(&format!("o{i}"), 11), &vec![b'x'; 10_000]).unwrap();
        }
        let mut document = store.begin_document(&version, DocumentHead::default()).unwrap();
        document.write(&vec![b'x'; 300_000]).unwrap();
        store.flush().unwrap();
        let look = |found: &RowStore| {
            assert_eq!(found.note("ledger").unwrap(), b"one");
            assert_eq!(read_document(found, &version).unwrap(), b"one");
            nothing_is_left_over(found);
            read(found, &pods).unwrap()
        };
        assert_eq!(after_a_kill(open, path, look), held(10, &[("a", 1), ("b", 2)]));
        store.fold(&pods, &[put("a", 12, b"a@12"), delete("b", 13)]).unwrap();
        // What is not durable may be there or not; what was kept for the generation is not.
        let found = after_a_kill(open, path, look);
        assert!([held(10, &[("a", 1), ("b", 2)]), held(13, &[("a", 12)])].contains(&found), "{found:?}");
        store.flush().unwrap();
        assert_eq!(after_a_kill(open, path, look), held(13, &[("a", 12)]));
        drop((generation, document));
        store.remove(&pods).unwrap();
        store.flush().unwrap();
        after_a_kill(open, path, |found| assert_eq!(read(found, &pods), None));
        drop(store);
        assert_eq!(read_document(&open(path), &version).unwrap(), b"one");
    });
}

#[test]
fn two_processes_do_not_share_a_database() {
    on_each(|open, path| {
        let store = open(path);
        for (_, again) in ENGINES {
            // Whichever engine it is: the other one's path is no database, or is locked.
            if let Err(error) = again(&database_options(path)) {
                assert!(matches!(error, StoreError::Locked { .. } | StoreError::Io { .. }), "{error}");
            } else {
                panic!("it was opened twice");
            }
        }
        drop(store);
        open(path);
    });
}

#[test]
fn what_was_read_is_whole_and_a_row_that_is_not_what_was_written_is_a_miss() {
    on_each(|open, path| {
        let store = open(path);
        let (pods, version) = (key("/api/v1/pods"), key("/version"));
        for damage in 0..4 {
            list(&store, &pods, 10, &[("a", 1), ("b", 2)]);
            write_document(&store, &version, "u", 1, b"one");
            let before = store.stats().damaged;
            // Another's bytes under an object's key, then under an index row's, a view's, a document's.
            let table = [b'o', b'i', b'v', b'o'][damage];
            let mut keys = Vec::new();
            let moment = store.shared.moment().unwrap();
            moment
                .scan(&[table], &mut |key, _| {
                    keys.push(key.to_vec());
                    Ok(())
                })
                .unwrap();
            drop(moment);
            let at = if damage == 3 { keys.len() - 1 } else { 0 };
            store.shared.write(&mut |pen| pen.put(&keys[at], &format::seal(b"elsewhere", &[b"a@1"]))).unwrap();
            // The index is made anew, as after a restart.
            store.shared.all().iter().for_each(|view| view.unread_after(std::time::Duration::ZERO));
            let found = store.collection(&pods).map(|found| {
                found.is_some_and(|found| {
                    found
                        .each(&mut |object, content| {
                            assert_eq!(content, bytes(&object.key, object.version.unwrap()));
                            Ok(())
                        })
                        .is_ok()
                })
            });
            let mut body = Vec::new();
            let document = store.document(&version).map(|found| {
                found.is_some_and(|mut found| std::io::Read::read_to_end(&mut found.body, &mut body).is_ok())
            });
            assert!(!matches!((found, document), (Ok(true), Ok(true))), "damage {damage} was not found");
            assert!(body.is_empty() || body == b"one");
            assert_eq!(store.stats().damaged, before + 1);
            // The other is there, and what was lost can be recorded again.
            list(&store, &pods, 11, &[("a", 1)]);
            write_document(&store, &version, "u", 2, b"two");
            assert_eq!(read(&store, &pods), Some(held(11, &[("a", 1)])));
            assert_eq!(read_document(&store, &version).unwrap(), b"two");
            store.remove(&pods).unwrap();
            store.remove(&version).unwrap();
        }
    });
}

#[test]
fn a_database_in_another_format_is_set_aside() {
    on_each(|open, path| {
        for other in [b"lite-apiserver rows 2", b"lite-apiserver rows 0"] {
            let store = open(path);
            list(&store, &key("/api/v1/pods"), 10, &[("a", 1)]);
            store.shared.write(&mut |pen| pen.put(format::FORMAT_KEY, other)).unwrap();
            store.flush().unwrap();
            drop(store);
            let store = open(path);
            assert_eq!((store.stats().damaged, store.stats().views), (1, 0));
            list(&store, &key("/api/v1/pods"), 10, &[("a", 1)]);
            drop(store);
            let store = open(path);
            assert_eq!((store.stats().damaged, store.stats().views), (0, 1));
        }
    });
}

#[cfg(feature = "redb")]
mod on_redb {
    use super::super::super::file::trouble;
    use super::super::super::redb;
    use super::*;

    #[test]
    fn files_are_their_owners_only() {
        let dir = TempDir::new();
        let path = dir.path().join("made").join("too").join("db");
        let store = redb::open(&database_options(&path)).unwrap();
        list(&store, &key("/api/v1/pods"), 10, &[("a", 1)]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.with_extension("lock"))), (0o600, 0o600));
        assert_eq!((mode(path.parent().unwrap()), mode(path.parent().unwrap().parent().unwrap())), (0o700, 0o700));
    }

    #[test]
    fn a_file_that_is_no_database_or_a_damaged_one_is_set_aside() {
        let dir = TempDir::new();
        let path = dir.path().join("db");
        let open = || redb::open(&database_options(&path)).unwrap();
        let pods = key("/api/v1/pods");
        fs::write(&path, vec![7; 100_000]).unwrap();
        assert_eq!(open().stats().damaged, 1);
        assert_eq!(fs::read(dir.path().join("db.damaged")).unwrap(), vec![7; 100_000]);
        let store = open();
        list(&store, &pods, 10, &[("a", 1), ("b", 2)]);
        list(&store, &key("/api/v1/nodes"), 10, &[("c", 1)]);
        drop(store);
        let whole = fs::read(&path).unwrap();
        let (mut lost, mut kept) = (0, 0);
        for at in (0..whole.len()).step_by(509) {
            for cut in [false, true] {
                let mut damaged = whole.clone();
                damaged[at] ^= 0x55;
                damaged.truncate(if cut { at } else { whole.len() });
                fs::write(&path, damaged).unwrap();
                let store = open();
                let found = read(&store, &pods);
                assert!([None, Some(held(10, &[("a", 1), ("b", 2)]))].contains(&found), "at {at}: {found:?}");
                if found.is_some() {
                    kept += 1;
                } else {
                    // A new one; an empty file is that too.
                    assert!(store.stats().damaged == 1 || cut && at == 0, "at {at}");
                    lost += 1;
                }
                list(&store, &pods, 11, &[("a", 1)]);
            }
        }
        assert!(lost > 10 && kept > 10, "{lost} {kept}");
    }

    #[test]
    fn each_write_and_sync_fails_once_and_nothing_is_mixed() {
        let (pods, nodes) = (key("/api/v1/pods"), key("/api/v1/nodes"));
        let (mut failures, mut behind) = (0, 0);
        for which in 0..2 {
            for after in 0..60 {
                let dir = TempDir::new();
                let path = dir.path().join("db");
                let (disk, writes, syncs) = trouble::disk();
                let store = redb::open_on(&disk, &database_options(&path)).unwrap();
                list(&store, &pods, 10, &[("a", 1), ("b", 2)]);
                list(&store, &nodes, 10, &[("n", 1)]);
                store.flush().unwrap();
                let count = [&writes, &syncs][which];
                count.store(after, std::sync::atomic::Ordering::SeqCst);
                let mut told = 10;
                for version in 11..=20 {
                    let big = format!("a@{version}");
                    let change = Change::Put { object: object("a", version), bytes: big.as_bytes() };
                    match store.fold(&pods, &[change]) {
                        Ok(folded) => told = folded.version.unwrap(),
                        Err(error) => assert!(!matches!(error, StoreError::Damaged { .. }), "{error}"),
                    }
                    let mut generation = store.begin_generation(&nodes).unwrap();
                    let put = (0..40).try_for_each(|i| generation.put(&object(&format!("n{i}"), version), &[0; 9000]));
                    let _ = put.and_then(|()| generation.commit(b"envelope", Some(version), true));
                    let _ = store.flush();
                }
                let hit = count.swap(-1, std::sync::atomic::Ordering::SeqCst) < 0;
                failures += usize::from(hit);
                let _ = store.flush();
                store.flush().unwrap();
                // A state that was; and where something is missing, it says so and takes nothing on top.
                let (found, objects) = read(&store, &pods).unwrap();
                let found = found.unwrap();
                assert_eq!(objects["a"], if found == 10 { 1 } else { found }, "{which} {after}");
                assert!(found <= told);
                if found < told {
                    behind += 1;
                    assert!(!store.views(&pods.scope, &pods.path)[0].complete);
                    let change = put("b", told + 1, b"b@later");
                    assert!(matches!(store.fold(&pods, &[change]), Err(StoreError::NotRecorded)));
                }
                assert_eq!(list(&store, &pods, 30, &[("a", 25)]), Committed::Replaced);
                store.fold(&pods, &[put("b", 31, b"b@31")]).unwrap();
                assert_eq!(read(&store, &pods), Some(held(31, &[("a", 25), ("b", 31)])));
                list(&store, &nodes, 31, &[("n", 31)]);
                nothing_is_left_over(&store);
                drop(store);
                let store = redb::open(&database_options(&path)).unwrap();
                assert_eq!(store.stats().damaged, 0);
                assert_eq!(read(&store, &pods), Some(held(31, &[("a", 25), ("b", 31)])));
            }
        }
        assert!(failures > 20 && behind > 0, "{failures} {behind}");
    }
}
