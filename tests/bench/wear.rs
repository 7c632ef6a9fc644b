//! What the record costs the flash in a node's daily life, by engine, in time that is made to pass quickly.
//!
//! The store is driven directly, as the proxy drives it, and told when a second has passed: it is flushed once for each
//! simulated second in which something was recorded, and never by its own clock. So the figures are those of
//! `--flush-interval 1s`, whatever the spans here.
//!
//! The node: 20 watches. Five events a second come by them; three of those are leases and events, which are not recorded.
//! Each watch gets a bookmark a minute, ends after five to ten minutes, and is then listed anew, as client-go does after
//! an error: mostly nothing has changed but the list's own resourceVersion.

use crate::support::TempDir;
use crate::support::churn::Dice;
#[cfg(any(feature = "redb", feature = "fjall"))]
use lite_apiserver::store::DatabaseOptions;
#[cfg(feature = "fjall")]
use lite_apiserver::store::open_fjall;
#[cfg(feature = "redb")]
use lite_apiserver::store::open_redb;
use lite_apiserver::store::{Change, FileOptions, FileStore, ObjectRef, Store, StoreError, ViewKey};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// So many hours pass.
const HOURS: u64 = 4;
/// Of five events a second.
const RECORDED: u64 = 2;
/// Never within the time that this takes: only what is told to be flushed is.
const NEVER: Duration = Duration::from_secs(86400);

type Open = fn(&Path) -> Result<Box<dyn Store>, StoreError>;

const ENGINES: &[(&str, Open)] = &[
    ("file", |path| Ok(Box::new(FileStore::open(FileOptions { root: path.to_owned(), flush_interval: NEVER })?))),
    #[cfg(feature = "redb")]
    ("redb", |path| Ok(Box::new(open_redb(&DatabaseOptions { path: path.to_owned(), flush_interval: NEVER })?))),
    #[cfg(feature = "fjall")]
    ("fjall", |path| Ok(Box::new(open_fjall(&DatabaseOptions { path: path.to_owned(), flush_interval: NEVER })?))),
];

/// One watch's collection.
struct Watched {
    key: ViewKey,
    objects: Vec<(ObjectRef, usize)>,
    /// How many of a hundred recorded events are about it.
    share: u64,
    ends: u64,
}

/// What is watched: path, how many objects, of how many bytes, how many of a hundred events.
const WATCHED: [(&str, usize, usize, u64); 8] = [
    ("/api/v1/pods", 30, 6000, 55),
    ("/api/v1/nodes", 1, 9000, 5),
    ("/apis/discovery.k8s.io/v1/endpointslices", 150, 1500, 25),
    ("/api/v1/services", 150, 1200, 2),
    ("/apis/storage.k8s.io/v1/csidrivers", 4, 900, 0),
    ("/apis/node.k8s.io/v1/runtimeclasses", 2, 500, 0),
    ("/apis/networking.k8s.io/v1/networkpolicies", 40, 1200, 1),
    ("/api/v1/namespaces", 20, 700, 0),
];
/// Besides, one object each.
const MAPS: usize = 12;

fn watched() -> Vec<Watched> {
    let one = |path: String, objects: usize, size: usize, share: u64| {
        let object = |n: usize| ObjectRef {
            key: format!("shop/object-{n:04}"),
            uid: format!("7f0c1a52-54d2-4b7e-9a55-{n:012x}"),
            version: Some(1000),
            flags: 0,
        };
        let key = ViewKey {
            scope: "cert:system:node:edge1".to_owned(),
            path,
            query: String::new(),
            representation: "application/vnd.kubernetes.protobuf".to_owned(),
        };
        Watched { key, objects: (0..objects).map(|n| (object(n), size)).collect(), share, ends: 0 }
    };
    let maps = (0..MAPS).map(|n| one(format!("/api/v1/namespaces/shop/configmaps/of-{n}"), 1, 3000, 1));
    WATCHED.into_iter().map(|(path, count, size, share)| one(path.to_owned(), count, size, share)).chain(maps).collect()
}

/// The bytes of an object at a version.
fn contents(object: &ObjectRef, size: usize) -> Vec<u8> {
    let line = format!("{} at {:?}; ", object.key, object.version);
    line.bytes().cycle().take(size).collect()
}

/// What has happened.
#[derive(Default)]
struct Life {
    events: u64,
    changed: u64,
    lists: u64,
    flushes: u64,
}

/// Prints the table.
pub fn measure(wanted: &str) -> io::Result<()> {
    if !"wear".contains(wanted) {
        return Ok(());
    }
    println!("\n{HOURS} hours of a node's life, flushed once a second in which something was recorded");
    println!(
        "{:<8} {:>8} {:>6} {:>9}  {:>10} {:>6}  {:>10} {:>6}  {:>8} {:>8}  {:>8} {:>6}",
        "engine",
        "events",
        "lists",
        "changed",
        "by engine",
        "times",
        "by system",
        "times",
        "flushes",
        "fsyncs",
        "on disk",
        "took"
    );
    for (name, open) in ENGINES {
        let folder = TempDir::new();
        let before = written_by_system()?;
        let begun = Instant::now();
        let store = open(&folder.path().join("record")).map_err(io::Error::other)?;
        let life = live(&*store).map_err(io::Error::other)?;
        let stats = store.stats();
        drop(store);
        let system = written_by_system()? - before;
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let times = |bytes: u64| bytes as f64 / life.changed as f64;
        println!(
            "{name:<8} {:>8} {:>6} {:>6.1} MB  {:>7.1} MB {:>6.2}  {:>7.1} MB {:>6.2}  {:>8} {:>8}  {:>5.1} MB {:>4.0} s",
            life.events,
            life.lists,
            megabytes(life.changed),
            megabytes(stats.bytes_written),
            times(stats.bytes_written),
            megabytes(system),
            times(system),
            life.flushes,
            stats.fsyncs,
            megabytes(stats.bytes),
            begun.elapsed().as_secs_f64(),
        );
    }
    Ok(())
}

/// Bytes of pages that this process has made the system write, those apart that went before they were (proc_pid_io(5)).
fn written_by_system() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/io")?;
    let number = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<u64>().ok());
    Ok(number("write_bytes:").unwrap_or(0) - number("cancelled_write_bytes:").unwrap_or(0))
}

fn live(store: &dyn Store) -> Result<Life, StoreError> {
    let mut dice = Dice::new(7);
    let (mut life, mut watched, mut version) = (Life::default(), watched(), 1000);
    let shares: u64 = watched.iter().map(|one| one.share).sum();
    for second in 0..HOURS * 3600 {
        let mut recorded = false;
        for _ in 0..RECORDED {
            version += 1;
            let mut pick = dice.below(shares);
            let one = watched.iter_mut().find(|one| {
                let is_it = pick < one.share;
                pick = pick.saturating_sub(one.share);
                is_it
            });
            let one = one.expect("one of them");
            let at = dice.below(one.objects.len() as u64) as usize;
            let (object, size) = &mut one.objects[at];
            object.version = Some(version);
            let bytes = contents(object, *size);
            // Before its first list nothing is recorded.
            if one.ends > 0 {
                store.fold(&one.key, &[Change::Put { object: object.clone(), bytes: &bytes }])?;
                (life.events, life.changed, recorded) = (life.events + 1, life.changed + bytes.len() as u64, true);
            }
        }
        // Leases and events.
        version += 3;
        for (n, one) in watched.iter_mut().enumerate() {
            if second >= one.ends {
                if one.ends == 0 {
                    life.changed += one.objects.iter().map(|(_, size)| *size as u64).sum::<u64>();
                }
                one.ends = second + 300 + dice.below(300);
                list(store, one, version)?;
                (life.lists, recorded) = (life.lists + 1, true);
            } else if second % 60 == n as u64 * 3 {
                store.fold(&one.key, &[Change::Advance { version }])?;
                recorded = true;
            }
        }
        if recorded {
            store.flush()?;
            life.flushes += 1;
        }
    }
    Ok(life)
}

fn list(store: &dyn Store, one: &Watched, version: u64) -> Result<(), StoreError> {
    let mut generation = store.begin_generation(&one.key)?;
    for (object, size) in &one.objects {
        generation.put(object, &contents(object, *size))?;
    }
    generation.commit(b"envelope of some forty bytes, as a list has", Some(version), true).map(drop)
}
