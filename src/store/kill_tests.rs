//! A process that records is killed (SIGKILL) at any moment, and another one goes on with what is there, on every engine
//! that lasts. The killed process is this test program, started again to play the part.
//!
//! What this shows is what a process leaves; what the kernel has not written yet is there all the same. Power cuts are tried
//! where the operations on the disk are ours to see (`power_tests`): of fjall, which opens its files itself, this and the
//! spoiling of its files (`rows/damage_tests.rs`) are all there is.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::contract::{
    Dice, Held, LASTING, TempDir, bytes, delete, key, list, put, read, read_document, write_document,
};
use super::{Change, Store};

const CHILD: &str = "LITE_APISERVER_TEST_KILLED";

/// What the pods are at a version.
fn at(version: u64) -> Held {
    let mut objects = BTreeMap::new();
    for v in 1..=version {
        let name = format!("o{}", v % 5);
        if v % 7 == 0 {
            objects.remove(&name);
        } else if v % 11 != 0 {
            objects.insert(name, v);
        }
    }
    (Some(version), objects)
}

fn go_to(store: &dyn Store, version: u64) {
    let (pods, name) = (key("/api/v1/pods"), format!("o{}", version % 5));
    let content = bytes(&name, version);
    let change = match version {
        v if v % 7 == 0 => delete(&name, v),
        v if v % 11 == 0 => Change::Advance { version: v },
        v => put(&name, v, &content),
    };
    store.fold(&pods, &[change]).unwrap();
    if version.is_multiple_of(10) {
        write_document(store, &key("/version"), "u", version, &vec![version as u8; 100_000]);
        let objects = at(version).1;
        let objects: Vec<(&str, u64)> = objects.iter().map(|(name, version)| (name.as_str(), *version)).collect();
        list(store, &pods, version, &objects);
    }
}

/// The part of the process that is killed: goes on from what is there, and says what it has flushed.
#[test]
fn a_process_that_is_killed() {
    let Ok(which) = std::env::var(CHILD) else {
        return;
    };
    let (engine, root) = which.split_once(' ').unwrap();
    let (_, open) = LASTING.iter().find(|(name, _)| *name == engine).unwrap();
    let store = open(Path::new(root));
    let pods = key("/api/v1/pods");
    if read(&*store, &pods).is_none() {
        list(&*store, &pods, 0, &[]);
    }
    let first = read(&*store, &pods).unwrap().0.unwrap() + 1;
    for version in first.. {
        go_to(&*store, version);
        if version % 13 == 0 {
            store.flush().unwrap();
            writeln!(std::io::stdout(), "\nflushed {version}").unwrap();
        }
    }
}

#[test]
fn whenever_a_process_is_killed_the_next_one_finds_what_it_had_flushed_and_a_state_that_existed() {
    let mut dice = Dice(0x0123_4567_89ab_cdef);
    for (name, open) in LASTING {
        let dir = TempDir::new();
        let root = dir.path().join("store");
        let (mut kills, mut flushed) = (0, 0);
        for _ in 0..12 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "store::kill_tests::a_process_that_is_killed", "--nocapture", "--test-threads=1"])
                .env(CHILD, format!("{name} {}", root.display()))
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let told = BufReader::new(child.stdout.take().unwrap());
            // The first thing that it has flushed, then any moment.
            let reader = std::thread::spawn(move || {
                let flushed =
                    |line: String| line.strip_prefix("flushed ").map(|version| version.parse::<u64>().unwrap());
                told.lines().map_while(Result::ok).filter_map(flushed).last().unwrap_or(0)
            });
            std::thread::sleep(Duration::from_millis(30 + dice.roll(150)));
            child.kill().unwrap();
            kills += usize::from(!child.wait().unwrap().success());
            flushed = reader.join().unwrap().max(flushed);

            let store = open(&root);
            assert_eq!(store.stats().damaged, 0, "{name}");
            let found = read(&*store, &key("/api/v1/pods"));
            let version = found.as_ref().and_then(|found| found.0).unwrap_or(0);
            assert!(version >= flushed, "{name}: {version} is there, {flushed} had been flushed");
            assert!(found.is_none_or(|found| found == at(version)), "{name}, at {version}");
            let body = read_document(&*store, &key("/version")).unwrap_or_default();
            let last = body.first().copied().unwrap_or(0);
            assert!(body.iter().all(|&byte| byte == last), "{name}: a mix");
            let least = (flushed / 10 * 10) as u8;
            assert!(last.wrapping_sub(least) <= (version + 10 - flushed / 10 * 10) as u8, "{name}: {last}, {least}");
        }
        eprintln!("{name}: {kills} kills, {flushed} versions flushed");
        assert!(kills == 12 && flushed > 0, "{name}: {kills} kills, {flushed} versions flushed");
    }
}
