//! What is dropped, when, and what never is; on the memory engine and, where the disk matters, on the file engine.

use super::super::MemoryStore;
use super::super::contract::{
    TempDir, bytes, key, list, object, open_file_store, put, read, read_document, write_document,
};
use super::*;

const KIB: u64 = 1024;

fn bounded(max_size: u64) -> Bounded {
    Bounded::new(Arc::new(MemoryStore::new()), Bounds { max_size, max_age: Duration::ZERO })
}

/// The paths that are recorded.
fn paths(store: &Bounded) -> Vec<String> {
    store.all().into_iter().map(|info| info.key.path).collect()
}

fn nothing_is_kept(_: &ViewKey) -> bool {
    false
}

/// A body of so many KiB.
fn record(store: &Bounded, path: &str, kib: u64) {
    write_document(store, &key(path), "u", 1, &vec![b'x'; (kib * KIB) as usize]);
}

#[test]
fn what_was_used_least_recently_makes_room_and_nothing_else_goes() {
    let store = bounded(110 * KIB);
    let start = Instant::now();
    store.keep(Duration::ZERO, start, &nothing_is_kept);
    for path in ["/a", "/b", "/c", "/d"] {
        record(&store, path, 15);
        store.keep(Duration::ZERO, start, &nothing_is_kept);
    }
    assert_eq!(paths(&store), ["/a", "/b", "/c", "/d"]);
    // Recalled, confirmed, recorded again without a change: each is a use.
    assert_eq!(read_document(&store, &key("/a")).map(|body| body.len()), Some(15 << 10));
    assert!(store.confirm_document(&key("/b"), "u", Some(1)));
    record(&store, "/e", 15);
    store.keep(Duration::ZERO, start, &nothing_is_kept);
    assert_eq!(paths(&store), ["/a", "/b", "/d", "/e"], "c was used least recently");
    record(&store, "/f", 38);
    store.keep(Duration::ZERO, start, &nothing_is_kept);
    assert_eq!(paths(&store), ["/b", "/e", "/f"]);
    let total: u64 = store.all().iter().map(charge).sum();
    assert!(total <= 99 * KIB, "with a tenth to spare: {total}");
    assert_eq!(store.dropped(), Dropped { for_size: 3, ..Dropped::default() });
}

#[test]
fn what_is_read_written_or_kept_live_stays_however_full_it_is() {
    let store = bounded(100 * KIB);
    let start = Instant::now();
    store.keep(Duration::ZERO, start, &nothing_is_kept);
    for path in ["/read", "/live", "/written", "/idle"] {
        list(&store, &key(path), 10, &[("a", 1)]);
    }
    let mut document = {
        record(&store, "/document", 8);
        store.document(&key("/document")).unwrap().unwrap()
    };
    let reading = store.collection(&key("/read")).unwrap().unwrap();
    let mut writing = store.begin_generation(&key("/written")).unwrap();
    writing.put(&object("a", 11), &bytes("a", 11)).unwrap();
    let live = key("/live");
    let is_kept = |key: &ViewKey| *key == live;
    for i in 0..20 {
        record(&store, &format!("/new/{i}"), 20);
        store.keep(Duration::ZERO, start, &is_kept);
    }
    assert_eq!(
        paths(&store).into_iter().filter(|path| !path.starts_with("/new")).collect::<Vec<_>>(),
        ["/document", "/live", "/read", "/written"]
    );
    assert_eq!(store.fold(&live, &[put("b", 12, b"b@12")]).unwrap().applied, 1);
    assert_eq!(reading.get("a").unwrap().1, bytes("a", 1));
    writing.commit(b"envelope", Some(11), true).unwrap();
    let mut body = Vec::new();
    document.body.read_to_end(&mut body).unwrap();
    assert_eq!(body.len(), 8 << 10);
    // Let go, each was used a moment ago, and goes in its turn.
    drop((document, reading));
    for i in 20..40 {
        record(&store, &format!("/new/{i}"), 20);
        store.keep(Duration::ZERO, start, &nothing_is_kept);
    }
    assert!(paths(&store).iter().all(|path| path.starts_with("/new")), "{:?}", paths(&store));
}

#[test]
fn only_time_with_the_link_up_ages_and_use_makes_young() {
    let bounds = Bounds { max_size: 0, max_age: 10 * HOUR };
    let store = Bounded::new(Arc::new(MemoryStore::new()), bounds);
    let start = Instant::now();
    record(&store, "/used", 1);
    record(&store, "/idle", 1);
    record(&store, "/live", 1);
    let live = key("/live");
    let is_kept = |key: &ViewKey| *key == live;
    let mut now = start;
    // A year of outage.
    for _ in 0..365 {
        now += 24 * HOUR;
        store.keep(Duration::ZERO, now, &is_kept);
    }
    assert_eq!(paths(&store), ["/idle", "/live", "/used"]);
    for hour in 1..=11 {
        now += HOUR;
        store.keep(HOUR, now, &is_kept);
        assert!(store.confirm_document(&key("/used"), "u", Some(1)));
        assert_eq!(paths(&store).contains(&"/idle".to_owned()), hour < 11, "after {hour} hours");
    }
    assert_eq!(paths(&store), ["/live", "/used"]);
    assert_eq!(store.dropped(), Dropped { for_age: 1, ..Dropped::default() });
}

#[test]
fn a_view_that_alone_is_too_large_is_given_up_and_not_tried_again_for_an_hour() {
    let store = bounded(100 * KIB);
    let start = Instant::now();
    record(&store, "/small", 8);
    let large = key("/large");
    let try_it = || -> Result<Committed, StoreError> {
        let mut generation = store.begin_generation(&large)?;
        for i in 0..50 {
            generation.put(&object(&format!("o{i}"), 1), &[b'x'; 4096])?;
        }
        generation.commit(b"envelope", Some(1), true)
    };
    assert!(matches!(try_it(), Err(StoreError::Oversized { .. })));
    assert!(matches!(store.begin_generation(&large).map(drop), Err(StoreError::Oversized { .. })), "not even begun");
    store.keep(Duration::ZERO, start, &nothing_is_kept);
    assert_eq!(paths(&store), ["/small"]);
    assert_eq!(store.dropped(), Dropped { too_large: 1, ..Dropped::default() });
    store.keep(Duration::ZERO, Instant::now() + HOUR, &nothing_is_kept);
    assert!(store.begin_generation(&large).is_ok());
    // One that a watch lets grow past the bound stays while it is watched, and then goes before anything else.
    let grown = key("/grown");
    list(&store, &grown, 10, &[("a", 1)]);
    record(&store, "/other", 8);
    for version in 11..61 {
        let change = Change::Put { object: object(&format!("o{version}"), version), bytes: &[b'x'; 4096] };
        store.fold(&grown, &[change]).unwrap();
    }
    let is_live = |key: &ViewKey| *key == grown;
    store.keep(Duration::ZERO, start, &is_live);
    assert_eq!(paths(&store), ["/grown"]);
    record(&store, "/other", 8);
    store.keep(Duration::ZERO, start, &nothing_is_kept);
    assert_eq!(paths(&store), ["/other"]);
}

#[test]
fn what_was_used_when_is_known_after_a_restart_and_is_written_at_most_hourly() {
    let dir = TempDir::new();
    let root = dir.path().join("store");
    let open = |max_size| Bounded::new(Arc::new(open_file_store(&root)), Bounds { max_size, max_age: 10 * HOUR });
    let start = Instant::now();
    {
        let store = open(1 << 20);
        store.keep(Duration::ZERO, start, &nothing_is_kept);
        for path in ["/a", "/b", "/c"] {
            record(&store, path, 16);
        }
        assert!(read_document(&store, &key("/a")).is_some());
        let written = store.stats().bytes_written;
        for minute in 0..59 {
            store.keep(60 * Duration::from_secs(1), start + minute * Duration::from_secs(60), &nothing_is_kept);
            assert!(read_document(&store, &key("/a")).is_some());
        }
        assert_eq!(store.stats().bytes_written, written, "a read costs no write");
        store.keep(9 * HOUR, start + HOUR, &nothing_is_kept);
        assert!(store.stats().bytes_written > written);
        assert!(store.stats().bytes_written < written + 600);
        record(&store, "/new", 16);
        // Killed here.
    }
    let store = open(70 * KIB);
    store.keep(Duration::ZERO, start, &nothing_is_kept);
    assert_eq!(paths(&store), ["/a", "/new"], "b and c were used before a; what is new is younger than the note");
    // For almost ten hours the link had been up since they were used: those count on.
    store.keep(HOUR + Duration::from_secs(1), start + HOUR, &nothing_is_kept);
    assert_eq!(paths(&store), ["/new"], "a was used nine hours before the note was written");
    store.close();
    drop(store);
    let store = open(0);
    store.keep(HOUR, start + 2 * HOUR, &nothing_is_kept);
    assert_eq!(read(&store, &key("/none")), None);
    assert_eq!(paths(&store), ["/new"]);
}

#[test]
fn a_note_of_uses_that_is_damaged_is_no_note() {
    for bytes in [&b""[..], b"x", b"12345678123", &[0xff; 50]] {
        let inner = MemoryStore::new();
        inner.set_note(NOTE, bytes).unwrap();
        let store = Bounded::new(Arc::new(inner), Bounds { max_size: 100 * KIB, max_age: HOUR });
        record(&store, "/a", 1);
        store.keep(HOUR, Instant::now(), &nothing_is_kept);
        assert_eq!(paths(&store), ["/a"]);
    }
}
