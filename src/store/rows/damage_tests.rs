//! Databases that are not what was written: whatever becomes of their files, the answer is the right one, or a miss, or the
//! whole database is set aside and begun anew, and counted. Nothing fails to start, panics, or answers what is not so.
//!
//! Two things less hold of fjall. It takes a journal's damage for its torn end: what follows is not there, uncounted. And
//! lsm-tree 3.1 believes the numbers in its list of tables (`v<n>`) before it has checked them: other bytes in there can make
//! it ask for more memory than there is, which ends the process, and which nobody can catch. That list is only cut here.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::super::contract::{TempDir, bytes, copy_tree, database_options, held, key, list, write_document};
use super::super::{Store, StoreError};
use super::RowStore;
use super::tests::{ENGINES, Open};

/// What was recorded.
fn fill(store: &RowStore) {
    list(store, &key("/api/v1/pods"), 10, &[("a", 1), ("b", 2)]);
    list(store, &key("/api/v1/nodes"), 20, &[("c", 3)]);
    write_document(store, &key("/version"), "u", 1, b"one");
    store.set_note("ledger", b"note").unwrap();
}

/// Whatever is answered is right; returns how many of the four things are there.
fn answers(store: &RowStore, what: &str) -> usize {
    let mut there = 0;
    for (path, version, objects) in
        [("/api/v1/pods", 10, &[("a", 1), ("b", 2)][..]), ("/api/v1/nodes", 20, &[("c", 3)][..])]
    {
        match store.collection(&key(path)) {
            Ok(Some(collection)) => {
                let mut found = BTreeMap::new();
                let read = collection.each(&mut |object, content| {
                    assert_eq!(content, bytes(&object.key, object.version.unwrap()), "{what}");
                    found.insert(object.key.clone(), object.version.unwrap());
                    Ok(())
                });
                if read.is_ok() {
                    assert_eq!((collection.version(), found), held(version, objects), "{what}");
                    assert_eq!(collection.envelope(), b"envelope", "{what}");
                    there += 1;
                }
            }
            Ok(None) | Err(StoreError::Damaged { .. } | StoreError::Io { .. }) => {}
            Err(error) => panic!("{what}: {error}"),
        }
    }
    if let Ok(Some(mut document)) = store.document(&key("/version")) {
        let mut body = Vec::new();
        let read = document.body.read_to_end(&mut body);
        assert!(b"one".starts_with(&body[..]) && (body == b"one" || read.is_err()), "{what}: {body:?}");
        there += usize::from(read.is_ok());
    }
    match store.note("ledger") {
        Some(note) => assert_eq!(note, b"note", "{what}"),
        None => return there,
    }
    there + 1
}

/// What came of how many databases.
#[derive(Default, Debug)]
struct Came {
    whole: usize,
    missed: usize,
    uncounted: usize,
    anew: usize,
}

/// Opens a damaged database, looks at all that is in it, and records all anew.
fn try_it(open: Open, path: &Path, what: &str, came: &mut Came) {
    let store = open(&database_options(path)).unwrap_or_else(|error| panic!("{what}: {error}"));
    let there = answers(&store, what);
    let damaged = store.stats().damaged + store.stats().errors;
    match there {
        4 => {
            came.whole += 1;
            return;
        }
        0 if store.all().is_empty() && damaged > 0 => came.anew += 1,
        _ if damaged > 0 => came.missed += 1,
        _ => {
            // An empty file, or none, is a new database.
            assert!(there == 0 || what.starts_with("fjall"), "{what}: something is missing, and nobody has counted it");
            came.uncounted += 1;
        }
    }
    // What a read error has left is mended by a flush.
    let _ = store.flush();
    fill(&store);
    store.flush().unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(answers(&store, what), 4, "{what}, afterwards");
    drop(store);
    let store = open(&database_options(path)).unwrap_or_else(|error| panic!("{what}, again: {error}"));
    assert_eq!(answers(&store, what), 4, "{what}, opened again");
}

/// The files of a database, from the directory that it is in; locks are none.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else if !entry.file_name().to_string_lossy().contains("lock") {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// A database that was closed, in a directory of its own.
fn whole(open: Open, dir: &Path) -> PathBuf {
    let whole = dir.join("whole");
    fs::create_dir(&whole).unwrap();
    fill(&open(&database_options(&whole.join("store"))).unwrap());
    for file in files(&whole).iter().filter(|file| file.extension().is_some_and(|end| end == "jnl")) {
        // 64 MiB of zeros that a journal is made with.
        let length = written(&fs::read(file).unwrap());
        fs::File::options().write(true).open(file).unwrap().set_len(length as u64).unwrap();
    }
    whole
}

/// Without the zeros at its end, which a journal has many of.
fn written(content: &[u8]) -> usize {
    content.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1)
}

#[test]
fn whatever_becomes_of_a_databases_bytes_no_answer_is_wrong() {
    for &(name, open) in ENGINES {
        let dir = TempDir::new();
        let whole = whole(open, dir.path());
        let mut came = Came::default();
        let mut tried = 0;
        let mut spoil = |what: &str, came: &mut Came, spoil: &dyn Fn(&Path) -> io::Result<()>| {
            let copy = dir.path().join("copy");
            copy_tree(&whole, &copy);
            spoil(&copy).unwrap();
            try_it(open, &copy.join("store"), &format!("{name}: {what}"), came);
            fs::remove_dir_all(&copy).unwrap();
            tried += 1;
        };
        let all: Vec<PathBuf> = files(&whole).iter().map(|at| at.strip_prefix(&whole).unwrap().to_owned()).collect();
        for file in &all {
            let content = fs::read(whole.join(file)).unwrap();
            let length = written(&content);
            // The header each byte, the rest now and then; a small file is all header.
            let step = (length / 150).max(1) | 1;
            let believed = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('v'));
            let (flips, dense) = (if believed { 0 } else { length }, if name == "redb" { 1 } else { 7 });
            for at in (0..flips.min(320)).step_by(dense).chain((320..flips).step_by(step)) {
                spoil(&format!("{} flipped at {at}", file.display()), &mut came, &|copy| {
                    let mut content = content.clone();
                    content[at] ^= 1 << (at % 8);
                    fs::write(copy.join(file), content)
                });
            }
            // The end of a journal each byte: a batch that is not whole.
            let end =
                if file.extension().is_some_and(|end| end == "jnl") { length.saturating_sub(150) } else { length };
            for at in (0..end).step_by((end / 40).max(1)).chain(end..length) {
                spoil(&format!("{} cut at {at}", file.display()), &mut came, &|copy| {
                    fs::write(copy.join(file), &content[..at])
                });
                spoil(&format!("{} zeros from {at}", file.display()), &mut came, &|copy| {
                    let mut content = content[..length].to_vec();
                    content[at..].fill(0);
                    fs::write(copy.join(file), content)
                });
            }
            spoil(&format!("{} gone", file.display()), &mut came, &|copy| fs::remove_file(copy.join(file)));
            if believed {
                continue;
            }
            for foreign in [&b""[..], b"Dear reader,\nthis is no database.\n", &[0; 5000], &[0xff; 9000]] {
                let what = format!("{} with {} bytes of another's", file.display(), foreign.len());
                spoil(&what, &mut came, &|copy| fs::write(copy.join(file), foreign));
            }
            for other in all.iter().filter(|other| *other > file && !other.to_string_lossy().contains("/v")) {
                spoil(&format!("{} and {} swapped", file.display(), other.display()), &mut came, &|copy| {
                    fs::copy(whole.join(other), copy.join(file))?;
                    fs::copy(whole.join(file), copy.join(other)).map(drop)
                });
            }
        }
        eprintln!("{name}: {tried} spoiled databases of {} files: {came:?}", all.len());
        assert!(came.whole > 0 && came.anew > 0, "{came:?}");
    }
}
