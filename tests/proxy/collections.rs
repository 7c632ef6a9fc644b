//! Collections as kube-apiserver means them: lists in pages, watches that begin with the state of things, gaps and their
//! healing, narrower lists out of wider ones, and every representation on its own.

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::proxy::NODE;
use crate::{MAPS, Scene, bare, event, list};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

fn watch(scene: &Scene, target: &str) -> Client {
    let mut client = scene.proxy.client(Some(NODE));
    client.request("GET", target, &[]);
    assert_eq!(client.head().expect("a head").status, 200, "{target}");
    client
}

/// The names of a list's objects.
fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap_or_else(|| panic!("{list}"));
    items.iter().map(|o| o["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

fn page(version: u64, next: &str, names: &[&str]) -> String {
    let next =
        if next.is_empty() { String::new() } else { format!(",\"continue\":\"{next}\",\"remainingItemCount\":1") };
    list(version, names).replace(
        &format!("\"resourceVersion\":\"{version}\"}},\"items\""),
        &format!("\"resourceVersion\":\"{version}\"{next}}},\"items\""),
    )
}

fn bookmark(version: u64, initial_events_end: bool) -> String {
    let annotations = if initial_events_end { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
    format!(
        "{{\"type\":\"BOOKMARK\",\"object\":{{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"{version}\",\"creationTimestamp\":null{annotations}}}}}}}\n"
    )
}

#[test]
fn the_pages_of_a_list_are_one_list_once_the_last_has_come() {
    let round = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&round);
    let mut scene = Scene::scripted(&[], move |request, wire| {
        let token = request.target.split("continue=").nth(1).unwrap_or_default();
        let last = match seen.load(Ordering::SeqCst) {
            0 => 100,
            // The token has expired: what it leads to is of another version.
            _ => 117,
        };
        match (request.path(), token) {
            (MAPS, "") if last == 117 => wire.json(200, page(110, "t1", &["one"])),
            (MAPS, "") => wire.json(200, page(100, "t1", &["one", "two"])),
            (MAPS, "t1") if last == 117 => {
                wire.json(410, "{\"kind\":\"Status\",\"code\":410,\"metadata\":{\"continue\":\"t9\"}}")
            }
            (MAPS, "t1") => wire.json(200, page(100, "t2", &["three"])),
            (MAPS, _) => wire.json(200, page(last, "", &["up"])),
            _ => wire.json(200, page(100, "t1", &["never", "asked", "on"])),
        }
    });
    let ask = |target: &str| scene.proxy.get(&format!("{MAPS}?limit=2{target}"));
    assert_eq!(ask("").json()["metadata"]["continue"], "t1");
    assert_eq!(ask("&continue=t1").json()["metadata"]["continue"], "t2");
    assert_eq!(scene.proxy.metric("lite_apiserver_record_views"), 0, "two of three pages are no list");
    assert_eq!(ask("&continue=t2").text(), list(100, &["up"]));
    eventually("the list is recorded", || scene.proxy.metric("lite_apiserver_record_views") == 1);
    // Another, of which the second page is not to be had any more.
    round.store(1, Ordering::SeqCst);
    assert_eq!(ask("").status(), 200);
    assert_eq!(ask("&continue=t1").status(), 410);
    assert_eq!(ask("&continue=t9").text(), list(117, &["up"]));
    scene.proxy.get("/api/v1/namespaces/other/configmaps?limit=3");
    eventually("the unfinished ones wait", || scene.proxy.metric("lite_apiserver_paged_lists") == 2);
    scene.cut();
    let whole = scene.proxy.get(MAPS).json();
    assert_eq!(whole["metadata"], json!({"resourceVersion": "100"}));
    assert_eq!(names(&whole), ["one", "three", "two", "up"]);
    assert_eq!(scene.proxy.get("/api/v1/namespaces/other/configmaps").status(), 503);
}

#[test]
fn initial_events_are_a_list_once_the_bookmark_has_said_so() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let mut scene = Scene::scripted(&[], move |request, wire| {
        wire.begin_chunked()?;
        wire.chunk([event("ADDED", 90, "one"), event("ADDED", 80, "two")].concat())?;
        if request.path() == MAPS {
            let _ = wait.lock().expect("wait").recv_timeout(Duration::from_secs(20));
            wire.chunk(bookmark(100, true))?;
            wire.chunk(event("DELETED", 101, "two"))?;
        } else {
            wire.chunk(bookmark(100, false))?;
        }
        wire.peer_hangs_up_within(Duration::from_secs(20));
        wire.cut()
    });
    let initial = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut client = watch(&scene, &format!("{MAPS}?{initial}"));
    let mut other = watch(&scene, &format!("/api/v1/namespaces/other/configmaps?{initial}"));
    let (mut buffer, mut rest) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        client.event(&mut buffer).expect("an event").expect("one");
    }
    for _ in 0..3 {
        other.event(&mut rest).expect("an event").expect("one");
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(scene.proxy.metric("lite_apiserver_record_views"), 0, "nothing says that these were all");
    go.send(()).expect("the upstream waits");
    for kind in ["BOOKMARK", "DELETED"] {
        assert_eq!(client.event(&mut buffer).expect("an event").expect("one")["type"], kind);
    }
    eventually("the list is recorded", || scene.proxy.metric("lite_apiserver_record_views") == 1);
    std::thread::sleep(Duration::from_millis(300));
    scene.cut();
    // As kube-apiserver would have written the list, though it never did.
    let one = bare(90, "one");
    let want = format!(
        "{{\"kind\":\"ConfigMapList\",\"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"101\"}},\"items\":[{one}]}}\n"
    );
    assert_eq!(scene.proxy.get(MAPS).text(), want);
    assert_eq!(scene.proxy.get(&format!("{MAPS}/two")).status(), 404);
    assert_eq!(scene.proxy.get("/api/v1/namespaces/other/configmaps").status(), 503);
}

#[test]
fn a_gap_is_healed_with_the_clients_own_credentials_and_no_event_is_lost_meanwhile() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let lists = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&lists);
    let mut scene = Scene::scripted(&[], move |request, wire| {
        if request.target.contains("watch") {
            wire.begin_chunked()?;
            wire.chunk(event("MODIFIED", 106, "one"))?;
            let _ = wait.lock().expect("wait").recv_timeout(Duration::from_secs(20));
            wire.chunk(event("ADDED", 112, "late"))?;
            wire.peer_hangs_up_within(Duration::from_secs(20));
            return wire.cut();
        }
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            return wire.json(200, list(100, &["one", "lost"]));
        }
        // "lost" was deleted where nobody saw it; the watch is told of "late" while this is on its way.
        std::thread::sleep(Duration::from_millis(800));
        wire.json(200, list(106, &["one"]))
    });
    let token = "Authorization: Bearer t";
    let target = format!("{MAPS}?fieldSelector=metadata.name!%3Dx");
    let mut client = scene.proxy.client(None);
    assert_eq!(names(&client.get_with(&target, &[token]).json()), ["one", "lost"]);
    client.request("GET", &format!("{target}&watch=1&resourceVersion=105&timeoutSeconds=30"), &[token]);
    assert_eq!(client.head().expect("a head").status, 200);
    let mut buffer = Vec::new();
    client.event(&mut buffer).expect("an event").expect("one");
    eventually("it is listed anew", || lists.load(Ordering::SeqCst) == 2);
    go.send(()).expect("the upstream waits");
    client.event(&mut buffer).expect("an event").expect("one");
    eventually("the gap is healed", || scene.proxy.metric("lite_apiserver_gaps") == 0);
    let asked = scene.upstream.received();
    let relist = asked.last().expect("a request");
    assert_eq!((relist.header("authorization"), relist.common_name.as_deref()), (Some("Bearer t"), None));
    assert_eq!(relist.target, format!("{MAPS}?fieldSelector=metadata.name%21%3Dx"));
    assert_eq!(asked.len(), 3);
    assert_eq!(scene.proxy.metric("lite_apiserver_relists_total"), 1);
    scene.cut();
    let healed = scene.proxy.client(None).get_with(&target, &[token]).json();
    assert_eq!(
        (names(&healed), &healed["metadata"]["resourceVersion"]),
        (vec!["late".into(), "one".into()], &json!("112"))
    );
}

#[test]
fn a_gap_that_the_outage_keeps_open_leaves_the_last_state_that_was_whole() {
    let mut scene = Scene::scripted(&[], |request, wire| {
        if request.target.contains("watch") {
            wire.begin_chunked()?;
            wire.chunk(event("ADDED", 106, "after"))?;
            wire.peer_hangs_up_within(Duration::from_secs(20));
            return wire.cut();
        }
        wire.json(200, list(100, &["one"]))
    });
    scene.proxy.get(MAPS);
    eventually("the list is recorded", || scene.proxy.metric("lite_apiserver_record_views") == 1);
    let mut client = watch(&scene, &format!("{MAPS}?watch=1&resourceVersion=105"));
    client.event(&mut Vec::new()).expect("an event").expect("one");
    scene.cut();
    assert_eq!(scene.proxy.get(MAPS).text(), list(100, &["one"]), "as it was at 100, not a mix");
    assert_eq!(scene.proxy.get(&format!("{MAPS}/one")).status(), 200);
    // What is not in it may have been made since.
    assert_eq!(scene.proxy.get(&format!("{MAPS}/nowhere")).status(), 503);
    assert_eq!(scene.proxy.get(&format!("{MAPS}?labelSelector=a")).status(), 503);
}

/// Three configmaps in two namespaces.
fn labelled() -> String {
    let map = |namespace: &str, name: &str, version: u64, labels: &Value| json!({"metadata": {"name": name, "namespace": namespace, "uid": name, "resourceVersion": version.to_string(), "labels": labels}});
    let items = [
        map("shop", "a", 90, &json!({"app": "web", "tier": "1"})),
        map("shop", "b", 91, &json!({"app": "db"})),
        map("yard", "c", 92, &json!({"app": "web"})),
    ];
    json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "100"}, "items": items})
        .to_string()
}

#[test]
fn narrower_lists_and_watches_are_cut_out_of_a_wider_one() {
    let mut scene = Scene::scripted(&[], |request, wire| match request.path() {
        "/api/v1/configmaps" => wire.json(200, labelled()),
        // Recorded on its own, and older.
        "/api/v1/namespaces/yard/configmaps" => wire.json(200, list(99, &["old"])),
        _ => wire.json(200, list(101, &["newer"])),
    });
    for path in ["/api/v1/configmaps", "/api/v1/namespaces/yard/configmaps", "/api/v1/namespaces/new/configmaps"] {
        scene.proxy.get(path);
    }
    eventually("the lists are recorded", || scene.proxy.metric("lite_apiserver_record_views") == 3);
    scene.cut();
    for (target, want) in [
        (MAPS.to_owned(), &["a", "b"][..]),
        ("/api/v1/configmaps?labelSelector=app%3Dweb".to_owned(), &["a", "c"]),
        (format!("{MAPS}?labelSelector=app+in+(web,x),!none"), &["a"]),
        (format!("{MAPS}?labelSelector=app!%3Dweb"), &["b"]),
        ("/api/v1/configmaps?fieldSelector=metadata.namespace%3Dyard".to_owned(), &["c"]),
        (format!("{MAPS}?fieldSelector=metadata.name%3Db&labelSelector=app"), &["b"]),
        ("/api/v1/namespaces/none/configmaps".to_owned(), &[]),
        ("/api/v1/namespaces/yard/configmaps".to_owned(), &["c"]),
        ("/api/v1/namespaces/new/configmaps".to_owned(), &["newer"]),
    ] {
        let reply = scene.proxy.get(&target);
        assert_eq!(reply.status(), 200, "{target}: {}", reply.text());
        let got = reply.json();
        assert_eq!(names(&got), want, "{target}");
        let version = if want == ["newer"] { "101" } else { "100" };
        assert_eq!(got["metadata"]["resourceVersion"], version, "{target}");
    }
    for target in
        ["?fieldSelector=spec.nodeName%3De1", "?labelSelector=a%3E1", "?unknown=1", "?watch=1&fieldSelector=data.x%3Dy"]
    {
        assert_eq!(scene.proxy.get(&format!("/api/v1/configmaps{target}")).status(), 503, "{target}");
    }
    let mut client = watch(&scene, "/api/v1/configmaps?watch=1&labelSelector=app%3Dweb&allowWatchBookmarks=1");
    let mut buffer = Vec::new();
    let told: Vec<Value> = (0..3).map(|_| client.event(&mut buffer).expect("an event").expect("one")).collect();
    let shown: Vec<&Value> = told.iter().map(|e| &e["object"]["metadata"]["name"]).collect();
    assert_eq!(shown, [&json!("a"), &json!("c"), &Value::Null]);
    assert_eq!(told[2]["object"]["metadata"]["resourceVersion"], "100");
}

#[test]
fn a_lists_version_is_what_was_asked_for_or_the_answer_says_why_not() {
    let mut scene = Scene::scripted(&[], |_, wire| wire.json(200, list(100, &["one"])));
    scene.proxy.get(MAPS);
    eventually("the list is recorded", || scene.proxy.metric("lite_apiserver_record_views") == 1);
    scene.cut();
    let mut client = scene.proxy.client(Some(NODE));
    for (query, status, reason) in [
        ("", 200, ""),
        ("resourceVersion=", 200, ""),
        ("resourceVersion=0", 200, ""),
        ("resourceVersion=0&limit=500", 200, ""),
        ("resourceVersion=0&resourceVersionMatch=NotOlderThan", 200, ""),
        ("resourceVersion=99", 200, ""),
        ("resourceVersion=99&resourceVersionMatch=NotOlderThan&limit=5", 200, ""),
        ("resourceVersion=100&resourceVersionMatch=Exact", 200, ""),
        ("resourceVersion=100&limit=5", 200, ""),
        ("resourceVersion=99&resourceVersionMatch=Exact", 410, "Expired"),
        ("resourceVersion=101&resourceVersionMatch=Exact", 410, "Expired"),
        ("resourceVersion=99&limit=5", 410, "Expired"),
        ("continue=abc&limit=5", 410, "Expired"),
        ("resourceVersion=101", 504, "Timeout"),
        ("resourceVersion=101&resourceVersionMatch=NotOlderThan", 504, "Timeout"),
        ("resourceVersion=0&resourceVersionMatch=Exact", 422, "Invalid"),
        ("resourceVersionMatch=Exact", 422, "Invalid"),
        ("resourceVersionMatch=NotOlderThan", 422, "Invalid"),
        ("resourceVersion=5&resourceVersionMatch=Newest", 422, "Invalid"),
        ("resourceVersion=5&resourceVersionMatch=Exact&continue=abc", 422, "Invalid"),
    ] {
        let reply = client.get(&format!("{MAPS}?{query}"));
        assert_eq!(reply.status(), status, "{query}: {}", reply.text());
        if status != 200 {
            assert_eq!(reply.json()["reason"], reason, "{query}");
        }
    }
}

#[test]
fn what_cannot_be_recorded_reaches_the_client_and_the_record_stays_as_it_was() {
    let large = "y".repeat(40_000);
    let turn = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&turn);
    let bad = [
        list(101, &["one"])[..150].to_owned() + "}",
        list(102, &["one"])
            .replace("\"metadata\":{\"name\":\"one\"", &format!("\"x\":\"{large}\",\"metadata\":{{\"name\":\"one\"")),
        list(103, &["one"]).replace("\"name\":\"one\",", ""),
        list(104, &["one"]).replace("ConfigMapList", "").replace("\"kind\":\"\",", ""),
        "[]".to_owned(),
    ];
    let sent = bad.clone();
    let events = [
        event("MODIFIED", 105, "one"),
        event("MODIFIED", 106, "one").replace("\"metadata\"", &format!("\"x\":\"{large}\",\"metadata\"")),
        event("MODIFIED", 107, "one"),
    ]
    .concat();
    let told = events.clone();
    let mut scene = Scene::scripted(&["--max-object-size=16384"], move |request, wire| {
        if request.target.contains("watch") {
            wire.begin_chunked()?;
            wire.chunk(&told)?;
            return wire.end_chunked();
        }
        match count.fetch_add(1, Ordering::SeqCst) {
            0 => wire.json(200, list(100, &["one"])),
            n if n <= sent.len() => wire.json(200, &sent[n - 1]),
            _ => wire.json(200, list(107, &["one", "two"])),
        }
    });
    scene.proxy.get(MAPS);
    eventually("the list is recorded", || scene.proxy.metric("lite_apiserver_record_views") == 1);
    for (i, body) in bad.iter().enumerate() {
        assert_eq!(scene.proxy.get(MAPS).text(), *body, "{i}: the client gets what the upstream sent");
        eventually("it is counted", || scene.proxy.metric("lite_apiserver_not_recorded_total") > i as u64);
    }
    assert_eq!(scene.proxy.log().matches("is not recorded").count(), bad.len(), "one line each");
    let reply = scene.proxy.get(&format!("{MAPS}?watch=1&resourceVersion=100"));
    assert_eq!(reply.text(), events);
    // What the large event said is missing, and listed anew, though the watch has ended.
    eventually("the gap is healed", || {
        scene.proxy.metric("lite_apiserver_relists_total") == 1 && scene.proxy.metric("lite_apiserver_gaps") == 0
    });
    scene.cut();
    assert_eq!(scene.proxy.get(MAPS).text(), list(107, &["one", "two"]));
    assert_eq!(scene.proxy.get(&format!("{MAPS}/nowhere")).status(), 404, "it is complete again");
}

#[test]
fn events_out_of_order_have_the_view_listed_anew() {
    let turn = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&turn);
    let mut scene = Scene::scripted(&[], move |request, wire| {
        if request.target.contains("watch") {
            wire.begin_chunked()?;
            wire.chunk([event("ADDED", 103, "three"), event("ADDED", 102, "two")].concat())?;
            wire.peer_hangs_up_within(Duration::from_secs(20));
            return wire.cut();
        }
        match count.fetch_add(1, Ordering::SeqCst) {
            0 => wire.json(200, list(100, &["one"])),
            _ => wire.json(200, list(104, &["four", "three", "two", "one"])),
        }
    });
    scene.proxy.get(MAPS);
    eventually("the list is recorded", || scene.proxy.metric("lite_apiserver_record_views") == 1);
    let mut client = watch(&scene, &format!("{MAPS}?watch=1&resourceVersion=100"));
    let mut buffer = Vec::new();
    for name in ["three", "two"] {
        let told = client.event(&mut buffer).expect("an event").expect("one");
        assert_eq!(told["object"]["metadata"]["name"], name);
    }
    eventually("it is listed anew", || {
        turn.load(Ordering::SeqCst) == 2 && scene.proxy.metric("lite_apiserver_gaps") == 0
    });
    scene.cut();
    assert_eq!(names(&scene.proxy.get(MAPS).json()), ["four", "one", "three", "two"]);
}

/// The representations of one list, as `Accept` names them, with the kind that each answers.
const KINDS: [(&str, &str, &str); 5] = [
    ("application/json", "ConfigMapList", "v1"),
    ("application/json;as=Table;v=v1;g=meta.k8s.io", "Table", "meta.k8s.io/v1"),
    ("application/json;as=Table;v=v1beta1;g=meta.k8s.io", "Table", "meta.k8s.io/v1beta1"),
    ("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", "PartialObjectMetadataList", "meta.k8s.io/v1"),
    (
        "application/json;as=PartialObjectMetadataList;v=v1beta1;g=meta.k8s.io",
        "PartialObjectMetadataList",
        "meta.k8s.io/v1beta1",
    ),
];

#[test]
fn each_representation_is_recorded_on_its_own_and_the_clients_order_decides() {
    let mut scene = Scene::scripted(&[], |request, wire| {
        let accept = request.header("accept").unwrap_or_default().to_owned();
        if request.path() == "/apis" {
            return wire.answer(200, &accept, format!("{{\"kind\":\"APIGroupDiscoveryList\",\"it\":\"{accept}\"}}"));
        }
        let (_, kind, api_version) = KINDS.into_iter().find(|k| k.0 == accept).expect("one of them");
        let metadata = json!({"resourceVersion": "100"});
        let one = json!({"metadata": {"name": "one", "namespace": "shop", "uid": "u", "resourceVersion": "9"}});
        wire.json(
            200,
            if kind == "Table" {
                let row = json!({"cells": ["one"], "object": one});
                format!("{{\"kind\":\"Table\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"columnDefinitions\":[],\"rows\":[{row}]}}")
            } else {
                format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":[{one}]}}")
            },
        )
    });
    let read = |scene: &Scene, target: &str, accept: &str| {
        scene.proxy.client(Some(NODE)).get_with(target, &[&format!("Accept: {accept}")])
    };
    let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let v2beta1 = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
    let mut before = Vec::new();
    for (accept, ..) in KINDS.iter().skip(1) {
        before.push((MAPS, *accept, read(&scene, MAPS, accept).text()));
    }
    before.push(("/apis", v2beta1, read(&scene, "/apis", v2beta1).text()));
    eventually("all are recorded", || scene.proxy.metric("lite_apiserver_record_views") == 5);
    scene.cut();
    for (target, accept, text) in &before {
        let reply = read(&scene, target, accept);
        assert_eq!((reply.status(), &reply.text()), (200, text), "{accept}");
    }
    // Plain JSON and discovery v2 were never read: the next that the client takes is served, or 406.
    let (table, partial) = (KINDS[1].0, KINDS[3].0);
    for (target, accept, want) in [
        (MAPS, "application/json".to_owned(), None),
        (MAPS, "*/*".to_owned(), None),
        (MAPS, format!("application/json,{table}"), Some(0)),
        (MAPS, format!("{table};q=0.3,{partial};q=0.7"), Some(2)),
        (MAPS, format!("{table};q=0,{partial};q=0.1"), Some(2)),
        (MAPS, format!("{};stream=watch", table.replace(';', "; ")), Some(0)),
        (MAPS, "application/vnd.kubernetes.protobuf".to_owned(), None),
        ("/apis", v2.to_owned(), None),
        ("/apis", format!("{v2},{v2beta1},application/json"), Some(4)),
    ] {
        let reply = read(&scene, target, &accept);
        match want {
            Some(i) => assert_eq!(reply.text(), before[i].2, "{accept}"),
            None => assert_eq!(reply.status(), 406, "{accept}: {}", reply.text()),
        }
    }
    assert_eq!(read(&scene, "/api", "*/*").status(), 503, "never read at all");
    // A Table's rows are selected by the metadata that is in them.
    let cut = read(&scene, &format!("{MAPS}?fieldSelector=metadata.name%3Dtwo"), table).json();
    assert_eq!((&cut["kind"], &cut["rows"]), (&json!("Table"), &json!([])));
}
