//! Watches while they run: each event at once, folded into the record, ended at an event's border.

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::proxy::NODE;
use crate::{MAPS, Scene, event, list};
use serde_json::json;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

fn watch(scene: &Scene, target: &str) -> Client {
    let mut client = scene.proxy.client(Some(NODE));
    client.request("GET", target, &[]);
    assert_eq!(client.head().expect("a head").status, 200, "{target}");
    client
}

#[test]
fn an_event_is_with_the_client_before_the_next_is_sent() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let scene = Scene::scripted(&[], move |request, wire| {
        if !request.target.contains("watch") {
            return wire.json(200, list(100, &["one"]));
        }
        wire.begin_chunked()?;
        for version in 101..=103 {
            wire.chunk(event("MODIFIED", version, "one"))?;
            // Nothing more comes, and nothing ends, until the client has said that it has this one.
            let _ = wait.lock().expect("wait").recv_timeout(Duration::from_secs(20));
        }
        wire.end_chunked()
    });
    scene.proxy.get(MAPS);
    let mut client = watch(&scene, &format!("{MAPS}?watch=1&resourceVersion=100"));
    client.patience(Duration::from_secs(15));
    let mut buffer = Vec::new();
    for version in 101..=103 {
        let event = client.event(&mut buffer).expect("an event at once").expect("not the end");
        assert_eq!(event["object"]["metadata"]["resourceVersion"], version.to_string());
        go.send(()).expect("the upstream waits");
    }
    assert!(client.event(&mut buffer).expect("a clean end").is_none());
}

#[test]
fn half_an_event_is_passed_on_only_when_it_is_whole() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let mut scene = Scene::scripted(&[], move |request, wire| {
        if !request.target.contains("watch") {
            return wire.json(200, list(100, &["one"]));
        }
        let next = event("MODIFIED", 102, "one");
        wire.begin_chunked()?;
        wire.chunk([event("MODIFIED", 101, "one").as_bytes(), &next.as_bytes()[..30]].concat())?;
        let _ = wait.lock().expect("wait").recv_timeout(Duration::from_secs(20));
        wire.cut()
    });
    scene.proxy.get(MAPS);
    let mut client = watch(&scene, &format!("{MAPS}?watch=1&resourceVersion=100"));
    let mut buffer = Vec::new();
    let first = client.event(&mut buffer).expect("an event").expect("not the end");
    assert_eq!(first["object"]["metadata"]["resourceVersion"], "101");
    go.send(()).expect("the upstream waits");
    // The upstream's connection broke within an event: the client sees a clean end after the last whole one.
    assert!(client.event(&mut buffer).expect("a clean end").is_none());
    assert!(buffer.is_empty());
    scene.cut();
    assert_eq!(scene.proxy.get(MAPS).json()["metadata"]["resourceVersion"], "101");
}

#[test]
fn a_client_that_hangs_up_frees_its_thread_and_its_upstream_connection() {
    let gone = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&gone);
    let scene = Scene::scripted(&[], move |_, wire| {
        wire.begin_chunked()?;
        wire.chunk(event("ADDED", 101, "one"))?;
        if wire.peer_hangs_up_within(Duration::from_secs(25)) {
            seen.fetch_add(1, Ordering::SeqCst);
        }
        wire.cut()
    });
    let mut clients: Vec<Client> =
        (0..10).map(|_| watch(&scene, &format!("{MAPS}?watch=1&resourceVersion=100"))).collect();
    for client in &mut clients {
        assert!(client.event(&mut Vec::new()).expect("an event").is_some());
    }
    assert_eq!(scene.proxy.metric("lite_apiserver_watches"), 10);
    let start = Instant::now();
    drop(clients);
    eventually("the upstream's connections are closed", || gone.load(Ordering::SeqCst) == 10);
    eventually("the threads are free", || scene.proxy.metric("lite_apiserver_connections") == 0);
    println!("freed after {:?}", start.elapsed());
    assert_eq!(scene.proxy.metric("lite_apiserver_watches"), 0);
}

#[test]
fn events_fold_into_the_record() {
    let (mut scene, cluster) = Scene::with_cluster(&[]);
    let first = scene.proxy.get(MAPS).json();
    let version = first["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    let mut client = watch(&scene, &format!("{MAPS}?watch=1&resourceVersion={version}"));
    cluster.put("configmaps", "shop", "one", &json!({"colour": "changed"}));
    cluster.put("configmaps", "shop", "three", &json!({"colour": "new"}));
    cluster.put("configmaps", "elsewhere", "not-ours", &json!({}));
    assert!(cluster.delete("configmaps", "shop", "two"));
    let mut buffer = Vec::new();
    let kinds: Vec<_> =
        (0..3).map(|_| client.event(&mut buffer).expect("an event").expect("one")["type"].clone()).collect();
    assert_eq!(kinds, ["MODIFIED", "ADDED", "DELETED"]);
    scene.cut();
    assert!(client.event(&mut buffer).expect("a clean end").is_none(), "the link is down: the watch ends");
    let recorded = scene.proxy.get(MAPS).json();
    let shown: Vec<_> = recorded["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|o| (&o["metadata"]["name"], &o["data"]["colour"]))
        .collect();
    assert_eq!(shown, [(&json!("one"), &json!("changed")), (&json!("three"), &json!("new"))]);
    // Each on its own, out of the collection, with what a single object needs.
    let one = scene.proxy.get(&format!("{MAPS}/three")).json();
    assert_eq!(
        (&one["kind"], &one["apiVersion"], &one["data"]["colour"]),
        (&json!("ConfigMap"), &json!("v1"), &json!("new"))
    );
    assert_eq!(scene.proxy.get(&format!("{MAPS}/two")).status(), 404);
}

#[test]
fn custom_resources_fold_as_well() {
    let (mut scene, cluster) = Scene::with_cluster(&[]);
    let all = "/apis/example.com/v1/widgets";
    cluster.put("widgets", "shop", "a", &json!({"n": 1}));
    let version = scene.proxy.get(all).json()["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    let mut client = watch(&scene, &format!("{all}?watch=1&resourceVersion={version}"));
    cluster.put("widgets", "shop", "a", &json!({"n": 2}));
    assert!(client.event(&mut Vec::new()).expect("an event").is_some());
    scene.cut();
    let recorded = scene.proxy.get(all).json();
    assert_eq!((&recorded["kind"], &recorded["items"][0]["data"]["n"]), (&json!("WidgetList"), &json!(2)));
    assert_eq!(recorded["items"][0]["kind"], "Widget");
}

#[test]
fn what_is_unchanged_is_not_written_again() {
    let (scene, _cluster) = Scene::with_cluster(&[]);
    for target in [MAPS.to_owned(), format!("{MAPS}/one"), "/version".to_owned()] {
        scene.proxy.get(&target);
    }
    eventually("what was read is on disk", || {
        let before = scene.proxy.metric("lite_apiserver_record_written_bytes_total");
        std::thread::sleep(Duration::from_millis(1500));
        before > 0 && scene.proxy.metric("lite_apiserver_record_written_bytes_total") == before
    });
    let before = scene.proxy.metric("lite_apiserver_record_written_bytes_total");
    for _ in 0..20 {
        for target in [MAPS.to_owned(), format!("{MAPS}/one"), "/version".to_owned()] {
            assert_eq!(scene.proxy.get(&target).status(), 200);
        }
    }
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(scene.proxy.metric("lite_apiserver_record_written_bytes_total"), before);
}

#[test]
fn an_event_costs_the_disk_little_more_than_its_object_and_the_same_list_again_nothing() {
    const EVENTS: u64 = 100;
    let filling = "x".repeat(2800);
    let object = move |n: u64| {
        let metadata = crate::metadata(100 + n, &format!("map-{n}"));
        format!(r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{metadata},"data":{{"x":"{filling}"}}}}"#)
    };
    let objects = (1..=EVENTS).map(&object).map(|o| o.len() as u64).sum::<u64>();
    let scene = Scene::scripted(&["--flush-interval=50ms"], move |request, wire| {
        if !request.target.contains("watch") {
            return wire.json(200, crate::list(100, &["one"]));
        }
        wire.begin_chunked()?;
        (1..=EVENTS).try_for_each(|n| wire.chunk(format!("{{\"type\":\"ADDED\",\"object\":{}}}\n", object(n))))?;
        wire.end_chunked()
    });
    // What the program says of itself, and what the files say.
    let written = || {
        let mut before = (0, 0);
        eventually("what was read is on disk", || {
            // Longer than a second, after which it is noted, once a minute, when the link was last up.
            std::thread::sleep(Duration::from_millis(1500));
            let metric = scene.proxy.metric("lite_apiserver_record_written_bytes_total");
            let now = (metric, length_below(&scene.proxy.folder.path().join("cache")));
            std::mem::replace(&mut before, now) == now
        });
        before
    };
    scene.proxy.get(MAPS);
    let first = written();
    assert!(first.0 > 0);
    assert_eq!(scene.proxy.get(&format!("{MAPS}?resourceVersion=100")).status(), 200);
    assert_eq!(written(), first, "the same list again");
    assert_eq!(scene.proxy.get(&format!("{MAPS}?watch=1&resourceVersion=100")).status(), 200);
    let last = written();
    let grown = (last.0 - first.0, last.1 - first.1);
    assert!(grown.0 >= objects && grown.0 * 100 <= objects * 110, "{grown:?} for {objects} bytes of objects");
    assert_eq!(grown.0, grown.1, "the files have grown by what was written");
}

/// Bytes of all files below a folder.
fn length_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry"));
    entries.map(|e| if e.path().is_dir() { length_below(&e.path()) } else { e.metadata().map_or(0, |m| m.len()) }).sum()
}

#[test]
fn a_watch_without_events_lasts_past_every_time_limit() {
    let over = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&over);
    let scene = Scene::scripted(&["--timeout=200ms", "--slow-timeout=400ms"], move |_, wire| {
        wire.begin_chunked()?;
        std::thread::sleep(Duration::from_millis(1500));
        seen.store(true, Ordering::SeqCst);
        wire.chunk(event("ADDED", 101, "one"))?;
        wire.end_chunked()
    });
    let mut client = watch(&scene, &format!("{MAPS}?watch=1&resourceVersion=100"));
    assert!(client.event(&mut Vec::new()).expect("an event").is_some());
    assert!(over.load(Ordering::SeqCst));
}

#[test]
fn a_log_that_is_followed_comes_line_by_line_past_every_time_limit() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let flags = ["--timeout=200ms", "--slow-timeout=400ms", "--idle-timeout=500ms", "--head-timeout=500ms"];
    let scene = Scene::scripted(&flags, move |request, wire| {
        let line = |wire: &mut crate::support::upstream::Wire, n: u32, chunked: bool| {
            let text = format!("line {n}\n");
            if chunked {
                wire.chunk(text)?;
            } else {
                wire.send(text)?;
            }
            // Nothing more comes, and nothing ends, until the client has said that it has this one.
            let _ = wait.lock().expect("wait").recv_timeout(Duration::from_secs(20));
            std::io::Result::Ok(())
        };
        if request.target.contains("previous") {
            wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n")?;
            (1..=3).try_for_each(|n| line(wire, n, false))?;
            return wire.goodbye();
        }
        wire.begin_chunked()?;
        (1..=3).try_for_each(|n| line(wire, n, true))?;
        wire.end_chunked()
    });
    for query in ["follow=true", "follow=true&previous=true"] {
        let mut client = scene.proxy.client(Some(NODE));
        client.patience(Duration::from_secs(15));
        client.request("GET", &format!("/api/v1/namespaces/shop/pods/p/log?{query}"), &[]);
        assert_eq!(client.head().expect("a head at once").status, 200);
        assert_eq!(scene.proxy.metric("lite_apiserver_long_requests"), 1);
        for n in 1..=3 {
            assert_eq!(client.chunk().expect("a line at once"), format!("line {n}\n").into_bytes());
            std::thread::sleep(Duration::from_millis(700));
            go.send(()).expect("the upstream waits");
        }
        assert!(client.chunk().expect("a clean end").is_empty());
    }
}
