//! The lives: short histories that have every kind of transaction in them, and those of the past that went wrong.

use std::time::{Duration, Instant};

use super::super::contract::{bytes, delete, list, object, put, write_document};
use super::super::{Bounded, Bounds, Change, DocumentHead, ViewKey};
use super::{Effort, FILE, Life, elsewhere, nodes, page, pods, selected, try_life};

fn fold(life: &mut Life, key: &ViewKey, changes: &[Change<'_>]) {
    life.step(|store| store.fold(key, changes).unwrap());
}

fn record(life: &mut Life, key: &ViewKey, version: u64, objects: &[(&str, u64)]) {
    life.step(|store| list(store, key, version, objects));
}

fn document(life: &mut Life, key: &ViewKey, version: u64, body: &[u8]) {
    life.step(|store| write_document(store, key, "u", version, body));
}

/// What a store does first after a power cut.
pub(super) fn work_on(life: &mut Life) {
    let held = life.store().collection(&pods()).unwrap().is_some();
    if held {
        fold(life, &pods(), &[put("z", 900, b"z@900")]);
    } else {
        record(life, &pods(), 900, &[("z", 900)]);
    }
    document(life, &page(), 900, b"later");
    life.flush();
    life.step(|store| store.set_note("n", b"later").unwrap());
    life.step(|store| store.remove(&selected()).unwrap());
    life.flush();
}

fn documents(life: &mut Life) {
    document(life, &page(), 1, b"one");
    document(life, &page(), 1, b"one");
    life.flush();
    document(life, &page(), 2, b"two");
    document(life, &page(), 1, b"older");
    life.step(|store| {
        let head = DocumentHead { status: 404, ..DocumentHead::default() };
        store.begin_document(&page(), head).unwrap().commit().unwrap();
    });
    life.flush();
    document(life, &nodes(), 3, b"another");
}

fn long_documents(life: &mut Life) {
    let mut body: Vec<u8> = (0..150_000_u32).map(|i| (i / 7) as u8).collect();
    document(life, &page(), 1, &body);
    life.flush();
    body[100_000] ^= 1;
    // The same head: what is the same so far is not written until it differs.
    document(life, &page(), 1, &body);
    life.step(|store| {
        let mut writer = store.begin_document(&page(), DocumentHead::default()).unwrap();
        writer.write(&body).unwrap();
    });
    life.flush();
}

fn generations(life: &mut Life) {
    record(life, &pods(), 10, &[("a", 1), ("b", 2)]);
    life.flush();
    record(life, &pods(), 10, &[("a", 1), ("b", 2)]);
    record(life, &pods(), 12, &[("a", 1), ("c", 12)]);
    record(life, &pods(), 11, &[("a", 1)]);
    record(life, &pods(), 13, &[]);
    life.flush();
}

fn folds(life: &mut Life) {
    record(life, &pods(), 10, &[("a", 1), ("b", 2)]);
    life.flush();
    fold(life, &pods(), &[put("c", 11, b"c@11")]);
    fold(life, &pods(), &[delete("b", 12), put("d", 13, b"d@13"), Change::Advance { version: 14 }]);
    fold(life, &pods(), &[Change::Advance { version: 15 }]);
    life.flush();
    fold(life, &pods(), &[Change::Envelope { bytes: b"another" }]);
    fold(life, &pods(), &[Change::Incomplete]);
    fold(life, &pods(), &[Change::Complete]);
}

fn early_folds(life: &mut Life) {
    let mut generation = life.store().begin_generation(&pods()).unwrap();
    life.step(|_| generation.put(&object("a", 1), &bytes("a", 1)).unwrap());
    fold(life, &pods(), &[put("b", 12, b"b@12"), delete("a", 13)]);
    life.step(|_| generation.put(&object("c", 9), &bytes("c", 9)).unwrap());
    life.flush();
    life.step(|_| generation.commit(b"envelope", Some(10), true).unwrap());
    fold(life, &pods(), &[put("a", 14, b"a@14")]);
    life.flush();
}

/// A generation and a document of several pieces, with changes, flushes and another view's commits between them.
fn alternating(life: &mut Life) {
    record(life, &pods(), 10, &[("a", 1), ("b", 2)]);
    life.flush();
    let mut generation = life.store().begin_generation(&pods()).unwrap();
    life.step(|_| generation.put(&object("a", 14), &bytes("a", 14)).unwrap());
    fold(life, &pods(), &[delete("b", 12), put("d", 13, b"d@13")]);
    life.flush();
    life.step(|_| generation.put(&object("e", 14), &bytes("e", 14)).unwrap());
    record(life, &selected(), 14, &[("a", 14)]);
    fold(life, &pods(), &[put("e", 16, b"e@16")]);
    life.step(|_| generation.commit(b"envelope", Some(15), true).unwrap());
    life.flush();
}

/// What gives up has made directories for others.
fn abandoned(life: &mut Life) {
    let mut generation = life.store().begin_generation(&pods()).unwrap();
    life.step(|_| generation.put(&object("a", 1), &bytes("a", 1)).unwrap());
    life.step(|_| drop(generation));
    record(life, &selected(), 10, &[("a", 1)]);
    life.flush();
    record(life, &pods(), 11, &[("b", 2)]);
    life.flush();
}

/// What is still under way has made directories for others.
fn under_way(life: &mut Life) {
    let mut generation = life.store().begin_generation(&pods()).unwrap();
    life.step(|_| generation.put(&object("a", 1), &bytes("a", 1)).unwrap());
    document(life, &page(), 1, b"one");
    life.flush();
    record(life, &elsewhere(), 10, &[("a", 1)]);
    life.flush();
    life.step(|_| drop(generation));
}

fn removals(life: &mut Life) {
    record(life, &pods(), 10, &[("a", 1)]);
    record(life, &selected(), 10, &[("a", 1)]);
    life.flush();
    life.step(|store| store.remove(&pods()).unwrap());
    record(life, &pods(), 11, &[("b", 2)]);
    life.flush();
    life.step(|store| store.remove(&selected()).unwrap());
    life.step(|store| store.remove_scope_path(&pods().scope, &pods().path).unwrap());
    life.flush();
    record(life, &pods(), 12, &[("c", 3)]);
    record(life, &elsewhere(), 13, &[("d", 4)]);
    life.flush();
}

fn turned(life: &mut Life) {
    document(life, &pods(), 1, b"table");
    life.flush();
    record(life, &pods(), 10, &[("a", 1)]);
    document(life, &pods(), 2, b"table");
    record(life, &pods(), 11, &[("b", 2)]);
    life.flush();
}

fn notes(life: &mut Life) {
    for value in [&b"one"[..], b"two", b"two", b""] {
        life.step(|store| store.set_note("n", value).unwrap());
    }
    life.flush();
    life.step(|store| store.set_note("n", b"four").unwrap());
}

/// Garbage enough that the page's file is written anew by the next flush.
fn litter_page(life: &mut Life) {
    document(life, &page(), 1, &vec![b'x'; 70_000]);
    life.flush();
    document(life, &page(), 2, b"short");
}

/// The same of the pods', which are at a version above that of their last change, with another envelope.
fn litter_pods(life: &mut Life) {
    record(life, &pods(), 10, &[("a", 1), ("b", 2)]);
    life.step(|store| store.fold(&pods(), &[Change::Envelope { bytes: &vec![b'x'; 70_000] }]).unwrap());
    life.flush();
    fold(life, &pods(), &[put("a", 60, b"a@60")]);
    fold(life, &pods(), &[Change::Envelope { bytes: b"short" }, Change::Advance { version: 61 }]);
}

fn compactions(life: &mut Life) {
    litter_page(life);
    life.flush();
    document(life, &page(), 3, b"third");
    life.flush();
    litter_pods(life);
    life.flush();
    fold(life, &pods(), &[delete("b", 62)]);
    life.flush();
}

/// A file that was written anew is removed before the older one's removal is durable.
fn removed_after_compaction(life: &mut Life) {
    litter_page(life);
    life.flush();
    life.step(|store| store.remove(&page()).unwrap());
    life.flush();
}

fn restarts(life: &mut Life) {
    record(life, &pods(), 10, &[("a", 1)]);
    life.restart();
    fold(life, &pods(), &[put("b", 11, b"b@11")]);
    life.restart();
    fold(life, &pods(), &[put("c", 12, b"c@12")]);
    life.flush();
}

/// What one process has written and not made durable, the next one stands upon.
fn killed(life: &mut Life) {
    record(life, &pods(), 10, &[("a", 1)]);
    document(life, &page(), 1, b"one");
    life.kill();
    fold(life, &pods(), &[put("b", 11, b"b@11")]);
    life.flush();
    record(life, &selected(), 10, &[("a", 1)]);
    let mut generation = life.store().begin_generation(&pods()).unwrap();
    life.step(|_| generation.put(&object("c", 12), &bytes("c", 12)).unwrap());
    fold(life, &pods(), &[put("d", 13, b"d@13")]);
    life.step(|_| generation.put(&object("e", 12), &bytes("e", 12)).unwrap());
    life.kill();
    drop(generation);
    life.flush();
    fold(life, &pods(), &[put("f", 14, b"f@14")]);
    life.flush();
}

/// The process is killed while it writes a file anew, after so many operations.
fn killed_in_compaction(life: &mut Life, operations: usize) {
    litter_page(life);
    life.kill_in(operations, |store| drop(store.flush()));
    life.step(|store| store.all());
    life.flush();
    document(life, &page(), 3, b"third");
    life.flush();
}

/// A damaged file is set aside, and its view recorded again.
fn damaged(life: &mut Life) {
    record(life, &pods(), 10, &[("a", 1)]);
    fold(life, &pods(), &[put("b", 11, b"b@11")]);
    document(life, &page(), 1, b"one");
    life.flush();
    fold(life, &pods(), &[Change::Advance { version: 12 }]);
    life.rots(b"a@1");
    life.flush();
    record(life, &pods(), 13, &[("c", 13)]);
    life.flush();
}

/// What is dropped to make room.
fn bounded(life: &mut Life) {
    for (key, fill) in [(page(), b'x'), (nodes(), b'y')] {
        document(life, &key, 1, &vec![fill; 40_000]);
    }
    record(life, &pods(), 10, &[("a", 1)]);
    life.flush();
    let bounded = Bounded::new(life.store(), Bounds { max_size: 80_000, max_age: Duration::ZERO });
    let before = life.disk.steps();
    life.step(|_| bounded.keep(Duration::ZERO, Instant::now(), &|_| false));
    assert!(bounded.dropped().for_size == 1 && life.disk.steps() > before);
    life.flush();
}

/// A header that is longer than a sector.
fn long_names(life: &mut Life) {
    for query in ["a", "b"] {
        let key = ViewKey { query: query.repeat(1500), ..pods() };
        life.step(|store| list(store, &key, 10, &[("a", 1)]));
        life.flush();
    }
}

const SHORT: Effort = Effort { disks: 400, units: &[512, 48], second: 0, headers_tear: false };
const LONG: Effort = Effort { disks: 40, units: &[512, 4096], second: 0, headers_tear: false };
const TWICE: Effort = Effort { disks: 100, units: &[512], second: 20, headers_tear: false };

type Story = fn(&mut Life);

#[test]
fn whenever_the_power_goes_the_file_engine_holds_a_state_that_existed() {
    let stories: &[(&str, Story, Effort)] = &[
        ("documents", documents, SHORT),
        ("long documents", long_documents, LONG),
        ("generations", generations, SHORT),
        ("folds", folds, SHORT),
        ("early folds", early_folds, SHORT),
        ("alternating", alternating, SHORT),
        ("abandoned", abandoned, SHORT),
        ("under way", under_way, SHORT),
        ("removals", removals, SHORT),
        ("turned", turned, SHORT),
        ("notes", notes, SHORT),
        ("compactions", compactions, LONG),
        ("removed after a compaction", removed_after_compaction, LONG),
        ("restarts", restarts, SHORT),
        ("killed", killed, SHORT),
        ("damaged", damaged, SHORT),
        ("bounded", bounded, LONG),
        ("long names", long_names, Effort { headers_tear: true, ..LONG }),
    ];
    for (name, story, effort) in stories {
        try_life(FILE, name, story, *effort);
    }
    for operations in 0..12 {
        let story = |life: &mut Life| killed_in_compaction(life, operations);
        try_life(FILE, &format!("killed in a compaction after {operations}"), story, LONG);
    }
}

#[test]
fn whenever_the_power_goes_again_while_the_file_engine_works_on_nothing_more_is_lost() {
    for (name, story) in [("documents", documents as Story), ("folds", folds), ("removals", removals)] {
        try_life(FILE, name, story, TWICE);
    }
}

/// What was not durable when the process was killed may be there or not.
#[cfg(feature = "redb")]
fn killed_between(life: &mut Life) {
    record(life, &pods(), 10, &[("a", 1), ("b", 2)]);
    life.flush();
    fold(life, &pods(), &[put("c", 11, b"c@11")]);
    life.kill();
    record(life, &pods(), 12, &[("d", 12)]);
    life.kill_in(3, |store| drop(store.flush()));
    document(life, &page(), 1, b"one");
    life.flush();
}

/// An opening costs some milliseconds, hence fewer disks; a second cut only where `POWER_CUTS` asks for more.
#[cfg(feature = "redb")]
#[test]
fn whenever_the_power_goes_redb_holds_a_state_that_existed() {
    const FEW: Effort = Effort { disks: 12, units: &[512], second: 0, headers_tear: false };
    let stories: &[(&str, Story)] = &[
        ("documents", documents),
        ("folds", folds),
        ("alternating", alternating),
        ("removals", removals),
        ("restarts", restarts),
        ("killed between", killed_between),
    ];
    for (name, story) in stories {
        try_life(super::REDB, name, story, FEW);
    }
    try_life(super::REDB, "long documents", long_documents, Effort { disks: 4, ..FEW });
    if super::times() > 1 {
        for (name, story) in [("generations", generations as Story), ("turned", turned), ("notes", notes)] {
            try_life(super::REDB, name, story, Effort { disks: 2, second: 2, ..FEW });
        }
    }
}
