//! The link goes: what was read is there, what was not is said to be missing, nothing pretends to have been written; and
//! it comes back.

#[cfg(any(feature = "redb", feature = "fjall"))]
use crate::support::TempDir;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::proxy::{NODE, Proxy};
use crate::{MAPS, Scene, list, map};
use serde_json::{Value, json};
#[cfg(any(feature = "redb", feature = "fjall"))]
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// As kubectl asks for what it prints.
const TABLE: &str = "Accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// What a node and a person read, and how.
fn reads() -> Vec<(String, Vec<&'static str>)> {
    let plain = |target: &str| (target.to_owned(), Vec::new());
    vec![
        plain(MAPS),
        plain("/api/v1/configmaps"),
        plain(&format!("{MAPS}/one")),
        plain("/api/v1/namespaces/empty/configmaps"),
        plain("/apis/example.com/v1/widgets"),
        plain("/version"),
        plain("/api"),
        plain("/apis"),
        (MAPS.to_owned(), vec![TABLE]),
    ]
}

fn read_all(proxy: &Proxy) -> Vec<(u16, String)> {
    let read = |(target, headers): (String, Vec<&str>)| {
        let reply = proxy.client(Some(NODE)).get_with(&target, &headers);
        (reply.status(), reply.text())
    };
    reads().into_iter().map(read).collect()
}

fn hold(proxy: &Proxy, target: &str) -> Client {
    let mut client = proxy.client(Some(NODE));
    client.request("GET", target, &[]);
    assert_eq!(client.head().expect("a head").status, 200, "{target}");
    client
}

#[test]
fn every_read_is_answered_as_before_through_a_cut_and_a_reboot() {
    through_a_cut_and_a_reboot(&[]);
}

#[cfg(feature = "redb")]
#[test]
fn the_same_with_redb() {
    let folder = TempDir::new();
    let file = folder.path().join("made").join("record.db");
    through_a_cut_and_a_reboot(&["--cache-type=bolt", &format!("--bolt-cache-file={}", file.display())]);
    assert_eq!(std::fs::metadata(file).expect("the record").permissions().mode() & 0o777, 0o600);
}

#[cfg(feature = "fjall")]
#[test]
fn the_same_with_fjall() {
    let folder = TempDir::new();
    let record = folder.path().join("made").join("record");
    through_a_cut_and_a_reboot(&["--cache-type=badger", &format!("--badger-cache-path={}", record.display())]);
    let mut below = vec![record];
    while let Some(path) = below.pop() {
        let seen = std::fs::metadata(&path).expect("the record");
        assert_eq!(seen.permissions().mode() & 0o077, 0, "{}", path.display());
        if seen.is_dir() {
            below.extend(std::fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path()));
        }
    }
}

fn through_a_cut_and_a_reboot(flags: &[&str]) {
    let (mut scene, cluster) = Scene::with_cluster(flags);
    cluster.put("widgets", "shop", "a", &json!({"n": 1}));
    let before = read_all(&scene.proxy);
    assert!(before.iter().all(|(status, _)| *status == 200), "{before:?}");
    // What is recorded may be a second away from the disk.
    std::thread::sleep(std::time::Duration::from_secs(2));
    scene.cut();
    assert_eq!(read_all(&scene.proxy), before);
    scene.proxy.kill();
    scene.proxy.boot();
    scene.proxy.await_link(false);
    assert_eq!(read_all(&scene.proxy), before, "after a power cut in the outage");
    // A person is told how old it is, a machine too.
    let table = scene.proxy.client(Some(NODE)).get_with(MAPS, &[TABLE]);
    assert!(table.header("age").is_some());
    assert!(table.header("warning").is_some_and(|w| w.starts_with("299 ") && w.contains("down since")), "{table:?}");
    assert_eq!(scene.proxy.get(MAPS).header("warning"), None);
    scene.heal();
    cluster.put("configmaps", "shop", "after", &json!({}));
    assert!(scene.proxy.get(MAPS).text().contains("after"));
}

#[test]
fn a_boot_in_an_outage_waits_for_nobody_to_find_it_out_again() {
    let (mut scene, cluster) = Scene::with_cluster(&[]);
    let before = scene.proxy.get(MAPS).text();
    scene.cut();
    // The outage is noted within a second.
    std::thread::sleep(std::time::Duration::from_secs(2));
    scene.proxy.kill();
    // Who connects now is taken, and never spoken to: that is known only when the patience of a probe is over.
    let hole = std::net::TcpListener::bind(("127.0.0.1", scene.upstream.port())).expect("the upstream's port");
    scene.proxy.boot();
    assert_eq!(scene.proxy.metric("lite_apiserver_link_up"), 0, "{}", scene.proxy.log());
    assert_eq!(scene.proxy.get(MAPS).text(), before);
    assert!(scene.proxy.get("/api/v1/nodes").text().contains("not reached since the start"));
    drop(hole);
    scene.heal();
    cluster.put("configmaps", "shop", "after", &json!({}));
    assert!(scene.proxy.get(MAPS).text().contains("after"));
    // And that it is over is noted, too.
    std::thread::sleep(std::time::Duration::from_secs(2));
    scene.proxy.kill();
    scene.proxy.boot();
    assert_eq!(scene.proxy.metric("lite_apiserver_link_up"), 1, "{}", scene.proxy.log());
}

#[test]
fn what_was_never_read_and_what_would_change_something_is_refused_with_words() {
    let (mut scene, cluster) = Scene::with_cluster(&[]);
    scene.proxy.get(MAPS);
    scene.cut();
    let mut client = scene.proxy.client(Some(NODE));
    let object = map(1, "new");
    let refused = [
        client.get("/api/v1/pods"),
        client.get("/api/v1/namespaces/shop/pods?watch=1&resourceVersion=1"),
        client.get("/healthz"),
        client.get("/api/v1/namespaces/shop/pods/p/log"),
        client.get_with("/api/v1/namespaces/shop/pods/p/exec", &["Connection: Upgrade", "Upgrade: SPDY/3.1"]),
        client.write("POST", MAPS, &[], &object),
        client.write("PUT", &format!("{MAPS}/one"), &[], &object),
        client.write("PATCH", &format!("{MAPS}/one"), &[], "{}"),
        client.write("DELETE", &format!("{MAPS}/one"), &[], ""),
        client.write("DELETE", MAPS, &[], ""),
        client.write("POST", "/api/v1/namespaces/shop/serviceaccounts/s/token", &[], "{}"),
    ];
    for (i, reply) in refused.iter().enumerate() {
        let status = reply.json();
        assert_eq!((reply.status(), &status["reason"]), (503, &json!("ServiceUnavailable")), "{i}: {}", reply.text());
        assert_eq!(
            (&status["kind"], &status["status"], &status["code"]),
            (&json!("Status"), &json!("Failure"), &json!(503))
        );
        let message = status["message"].as_str().expect("a message");
        assert!(message.contains("the link from this node to the cluster is down since 20"), "{message}");
        assert_eq!(reply.header("retry-after"), None, "client-go would sleep and try again inside the call");
    }
    // kubectl does not read the Status of a discovery that fails, but prints its warning.
    let discovery = client.get("/apis/apps/v1");
    assert_eq!(discovery.status(), 503);
    assert!(discovery.header("warning").is_some_and(|w| w.contains("is down since 20")), "{discovery:?}");
    let other = client.get_with(MAPS, &["Accept: application/yaml"]);
    assert_eq!(other.status(), 406, "{}", other.text());
    // An object that a complete list would have shown does not exist; no other is spoken for.
    assert_eq!(client.get(&format!("{MAPS}/nowhere")).status(), 404);
    assert_eq!(client.get("/api/v1/namespaces/other/configmaps/one").status(), 503);
    assert_eq!(client.get(&format!("{MAPS}?limit=1&continue=abc")).status(), 410);
    assert_eq!(client.get(&format!("{MAPS}?fieldSelector=spec.a%3Db")).status(), 503);
    scene.heal();
    assert_eq!(cluster.version(), 102, "nothing of all that was done");
}

#[test]
fn a_watch_is_held_from_the_record_and_ends_cleanly_when_the_link_is_back() {
    let (mut scene, cluster) = Scene::with_cluster(&[]);
    let version = scene.proxy.get(MAPS).json()["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    scene.cut();
    let here = format!("{MAPS}?watch=1&allowWatchBookmarks=true&resourceVersion={version}");
    let mut silent = hold(&scene.proxy, &here);
    let mut all = hold(&scene.proxy, &format!("{MAPS}?watch=1&allowWatchBookmarks=true"));
    let initial = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=";
    let mut initial = hold(&scene.proxy, &format!("{MAPS}?watch=1&allowWatchBookmarks=true&{initial}"));
    let mut old = hold(&scene.proxy, &format!("{MAPS}?watch=1&resourceVersion=3"));
    let mut short = hold(&scene.proxy, &format!("{here}&timeoutSeconds=2"));

    for client in [&mut all, &mut initial] {
        let mut buffer = Vec::new();
        let events: Vec<Value> = (0..3).map(|_| client.event(&mut buffer).expect("an event").expect("one")).collect();
        let kinds: Vec<&Value> = events.iter().map(|e| &e["type"]).collect();
        assert_eq!(kinds, ["ADDED", "ADDED", "BOOKMARK"]);
        assert_eq!(events[0]["object"]["kind"], "ConfigMap");
        let bookmark = &events[2]["object"];
        assert_eq!(bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
        assert_eq!(
            (&bookmark["metadata"]["resourceVersion"], &bookmark["kind"]),
            (&json!(version), &json!("ConfigMap"))
        );
    }
    let mut buffer = Vec::new();
    let expired = old.event(&mut buffer).expect("an event").expect("one");
    assert_eq!(
        (&expired["type"], &expired["object"]["code"], &expired["object"]["reason"]),
        (&json!("ERROR"), &json!(410), &json!("Expired"))
    );
    assert!(old.event(&mut buffer).expect("a clean end").is_none());
    assert!(short.event(&mut Vec::new()).expect("a clean end at its timeoutSeconds").is_none());

    scene.heal();
    let mut buffer = Vec::new();
    assert!(silent.event(&mut buffer).expect("a clean end").is_none());
    cluster.put("configmaps", "shop", "three", &json!({}));
    let mut again = hold(&scene.proxy, &here);
    let event = again.event(&mut buffer).expect("an event").expect("one");
    assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("three")));
}

#[test]
fn an_upstream_that_cannot_serve_counts_as_away_for_reads_and_speaks_for_itself_in_writes() {
    let turn = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&turn);
    let scene = Scene::scripted(&[], move |request, wire| {
        let body = "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"status\":\"Failure\",\"message\":\"etcdserver: request timed out\",\"code\":500}";
        match (seen.fetch_add(1, Ordering::SeqCst), request.path()) {
            (0, _) => wire.json(200, list(100, &["one"])),
            (_, MAPS) if request.method == "GET" => wire.json(503, "{}"),
            (_, path) if path.ends_with("configmaps") => wire.json(500, body),
            (_, "/api/v1/namespaces/shop/configmaps/two") => wire.json(500, "{\"message\":\"a webhook said no\"}"),
            _ => wire.json(504, "{}"),
        }
    });
    assert_eq!(scene.proxy.get(MAPS).header("age"), None);
    // The client has the list before the record does.
    eventually("the list is recorded", || scene.proxy.metric("lite_apiserver_record_views") == 1);
    let recalled = scene.proxy.get(MAPS);
    assert_eq!((recalled.status(), recalled.text()), (200, list(100, &["one"])));
    assert!(recalled.header("age").is_some());
    // Not recorded: the upstream's own word.
    assert_eq!(scene.proxy.get("/api/v1/configmaps").status(), 500);
    assert_eq!(scene.proxy.get(&format!("{MAPS}/two")).status(), 500, "not etcd's failure: the upstream's own word");
    assert_eq!(scene.proxy.client(Some(NODE)).write("POST", MAPS, &[], "{}").status(), 500);
    assert_eq!(scene.proxy.metric("lite_apiserver_link_up"), 1);
}

#[test]
fn known_absence_is_recorded_and_a_creation_ends_it() {
    let (mut scene, _cluster) = Scene::with_cluster(&[]);
    let target = "/api/v1/namespaces/other/configmaps/gone";
    assert_eq!(scene.proxy.get(target).status(), 404);
    scene.cut();
    assert_eq!(scene.proxy.get(target).status(), 404);
    scene.heal();
    let created = scene.proxy.client(Some(NODE)).write(
        "POST",
        "/api/v1/namespaces/other/configmaps",
        &[],
        "{\"metadata\":{\"name\":\"gone\"}}",
    );
    assert_eq!(created.status(), 201, "{}", created.text());
    scene.cut();
    assert_eq!(scene.proxy.get(target).status(), 503, "it was created since, and not read");
}

#[test]
fn the_link_is_found_down_at_once_and_up_again_soon() {
    let (mut scene, _cluster) = Scene::with_cluster(&[]);
    scene.proxy.get(MAPS);
    // The client has its answer's last byte a moment before the record has.
    eventually("the list is recorded", || scene.proxy.metric("lite_apiserver_record_views") > 0);
    // No waiting for probes: the first request that fails finds out.
    scene.upstream.cut();
    assert_eq!(scene.proxy.get(MAPS).status(), 200);
    scene.proxy.await_link(false);
    assert!(
        scene.proxy.page("/readyz").starts_with("HTTP/1.0 200") || scene.proxy.page("/readyz").contains(" 200 "),
        "{}",
        scene.proxy.page("/readyz")
    );
    scene.upstream.heal();
    eventually("an answer of the upstream itself", || scene.proxy.get(MAPS).header("age").is_none());
}
