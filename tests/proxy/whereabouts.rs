//! `--heal-endpoints`: a node that has booted in the dark has its pods at other addresses than are recorded. Its kubelet says
//! so in status patches, which are refused; and EndpointSlices lead to where the pods are, for as long as the link is down.

use crate::Scene;
use crate::support::client::{Client, Reply};
use crate::support::eventually;
use crate::support::protobuf::{event, field, fields, message, unknown};
use crate::support::proxy::{ADMIN, NODE};
use crate::support::upstream::{Received, Wire};
use serde_json::{Value, json};
use std::io;

const FLAG: &str = "--heal-endpoints";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/web-x";
/// As a kubelet asks.
const PODS: &str = "/api/v1/pods?fieldSelector=spec.nodeName%3Dedge1";
const KUBELET: &str = "Accept: application/vnd.kubernetes.protobuf,application/json";
const PROTOBUF: &str = "Accept: application/vnd.kubernetes.protobuf";

fn pod(name: &str, node: &str, address: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "resourceVersion": "50"},
        "spec": {"nodeName": node},
        "status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-25T18:24:00Z"}],
        },
    })
}

/// The second is not this node's.
fn pods() -> String {
    let items = [pod("a", "edge1", "10.244.1.5"), pod("b", "edge1", "10.244.1.6"), pod("c", "edge2", "10.244.2.5")];
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "100"}, "items": items}).to_string()
}

fn endpoint(name: &str, node: &str, address: &str) -> Value {
    json!({
        "addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false}, "nodeName": node,
        "targetRef": {"kind": "Pod", "namespace": "shop", "name": name, "uid": format!("uid-{name}")},
    })
}

fn slice(name: &str, endpoints: &[Value]) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "60"}, "addressType": "IPv4",
        "endpoints": endpoints, "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
    })
}

fn web() -> Value {
    let endpoints = [
        endpoint("a", "edge1", "10.244.1.5"),
        endpoint("b", "edge1", "10.244.1.6"),
        endpoint("c", "edge2", "10.244.2.5"),
    ];
    slice("web-x", &endpoints)
}

fn slices() -> String {
    let other = slice("other-x", &[endpoint("d", "edge2", "10.244.2.6")]);
    json!({
        "kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": {"resourceVersion": "100"},
        "items": [other, web()],
    })
    .to_string()
}

fn script(request: &Received, wire: &mut Wire) -> io::Result<()> {
    if request.target.contains("watch") {
        wire.begin_chunked()?;
        return wire.end_chunked();
    }
    match request.path() {
        SLICES => wire.json(200, slices()),
        "/api/v1/pods" => wire.json(200, pods()),
        _ => wire.json(404, r#"{"kind":"Status","apiVersion":"v1","code":404,"reason":"NotFound"}"#),
    }
}

/// The status patch of a pod that lives at another address now, as kubelet 1.34 sends it.
fn patch(uid: &str, was: &str, now: &str) -> String {
    json!({
        "metadata": {"uid": uid},
        "status": {
            "$setElementOrder/conditions": [{"type": "Ready"}], "$setElementOrder/podIPs": [{"ip": now}],
            "conditions": [{"lastTransitionTime": "2026-11-25T19:24:00Z", "type": "Ready"}],
            "podIP": now, "podIPs": [{"ip": now}, {"$patch": "delete", "ip": was}],
        },
    })
    .to_string()
}

fn send_as(client: &mut Client, pod: &str, headers: &[&str], kind: &str, body: &str) -> Reply {
    let lines: String = headers.iter().map(|h| format!("{h}\r\n")).collect();
    client.send(format!(
        "PATCH /api/v1/namespaces/shop/pods/{pod}/status HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\n{lines}Content-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    client.reply().expect("an answer")
}

/// As the kubelet does: it reads the pod first.
fn patched(scene: &Scene, pod: &str, body: &str) {
    let mut client = scene.proxy.client(Some(NODE));
    assert_eq!(client.get_with(&format!("/api/v1/namespaces/shop/pods/{pod}"), &[KUBELET]).status(), 200);
    let refused = send_as(&mut client, pod, &[KUBELET], "application/strategic-merge-patch+json", body);
    assert_eq!(refused.status(), 503, "{}", refused.text());
    assert!(refused.text().contains("nothing was changed"), "{}", refused.text());
}

fn addresses(slice: &Value) -> Vec<&str> {
    let endpoints = slice["endpoints"].as_array().expect("endpoints");
    endpoints.iter().map(|e| e["addresses"][0].as_str().expect("an address")).collect()
}

fn ready(slice: &Value) -> Vec<bool> {
    let endpoints = slice["endpoints"].as_array().expect("endpoints");
    endpoints.iter().map(|e| e["conditions"]["ready"].as_bool().expect("ready")).collect()
}

fn listed(scene: &Scene) -> Value {
    let all = scene.proxy.client(Some(ADMIN)).get(SLICES);
    assert_eq!(all.header("content-length"), Some(all.body.len().to_string().as_str()));
    let all = all.json();
    let recorded: Value = serde_json::from_str(&slices()).expect("JSON");
    assert_eq!((&all["metadata"], &all["items"][0]), (&recorded["metadata"], &recorded["items"][0]));
    all["items"][1].clone()
}

fn hold(scene: &Scene, query: &str) -> Client {
    let mut client = scene.proxy.client(Some(ADMIN));
    client.request("GET", &format!("{SLICES}?watch=1&{query}"), &[]);
    assert_eq!(client.head().expect("a head").status, 200);
    client
}

fn recorded(flags: &[&str]) -> Scene {
    let scene = Scene::scripted(flags, script);
    assert_eq!(scene.proxy.client(Some(NODE)).get_with(PODS, &[KUBELET]).text(), pods());
    assert_eq!(scene.proxy.client(Some(ADMIN)).get(SLICES).text(), slices());
    eventually("both are recorded", || scene.proxy.metric("lite_apiserver_record_views") == 2);
    scene
}

#[test]
fn endpoints_lead_to_where_the_pods_are_until_the_link_is_back() {
    let mut scene = recorded(&[FLAG]);
    scene.cut();
    assert_eq!(listed(&scene), web());
    let mut held = hold(&scene, "allowWatchBookmarks=true&resourceVersion=100");

    // Two pods have exchanged their addresses; of one it is known first, and its new address is no more the other's.
    patched(&scene, "a", &patch("uid-a", "10.244.1.5", "10.244.1.6"));
    let now = listed(&scene);
    assert_eq!(addresses(&now), ["10.244.1.6", "10.244.2.5"]);
    let mut buffer = Vec::new();
    let mut next = |held: &mut Client| held.event(&mut buffer).expect("an event").expect("one");
    let told = next(&mut held);
    assert_eq!((&told["type"], &told["object"]["kind"]), (&json!("MODIFIED"), &json!("EndpointSlice")));
    assert_eq!(addresses(&told["object"]), addresses(&now));
    let bookmark = next(&mut held);
    assert_eq!(
        (&bookmark["type"], &bookmark["object"]["metadata"]["resourceVersion"]),
        (&json!("BOOKMARK"), &json!("100")),
        "the client's position is the list's"
    );
    patched(&scene, "b", &patch("uid-b", "10.244.1.6", "10.244.1.5"));
    let now = listed(&scene);
    assert_eq!((addresses(&now), ready(&now)), (vec!["10.244.1.6", "10.244.1.5", "10.244.2.5"], vec![true; 3]));
    let again = next(&mut held);
    assert_eq!(addresses(&again["object"]), addresses(&now));
    let version = |event: &Value| event["object"]["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    let (first, second) = (version(&told), version(&again));
    assert!(first != second && first.as_deref() != Some("60"), "informers take them for changes: {first:?} {second:?}");
    next(&mut held);

    // However it is asked for.
    assert_eq!(scene.proxy.client(Some(ADMIN)).get(SLICE).json()["endpoints"], now["endpoints"]);
    let mut all = hold(&scene, "");
    let mut begun = Vec::new();
    let added: Vec<Value> = (0..2).map(|_| all.event(&mut begun).expect("an event").expect("one")).collect();
    assert_eq!((&added[1]["type"], &added[1]["object"]["endpoints"]), (&json!("ADDED"), &now["endpoints"]));
    let mut goes_on = hold(&scene, "resourceVersion=100");
    let told = goes_on.event(&mut Vec::new()).expect("an event").expect("one");
    assert_eq!((&told["type"], &told["object"]["endpoints"]), (&json!("MODIFIED"), &now["endpoints"]));

    // A pod that is not ready any more, and one that has no address yet.
    let not = json!({"type": "Ready", "status": "False"});
    let unready = json!({"metadata": {"uid": "uid-a"}, "status": {"conditions": [not]}}).to_string();
    patched(&scene, "a", &unready);
    let bare = json!({"metadata": {"uid": "uid-b"}, "status": {"conditions": [not], "podIP": null, "podIPs": null}});
    patched(&scene, "b", &bare.to_string());
    let now = listed(&scene);
    assert_eq!((addresses(&now), ready(&now)), (vec!["10.244.1.5", "10.244.2.5"], vec![false, true]));
    // As they are recorded, again.
    for name in ["a", "b"] {
        patched(&scene, name, &json!({"metadata": {"uid": format!("uid-{name}")}, "status": {}}).to_string());
    }
    assert_eq!(listed(&scene)["endpoints"], web()["endpoints"]);
    loop {
        let told = next(&mut held);
        if told["type"] == "MODIFIED" && told["object"]["endpoints"] == web()["endpoints"] {
            break;
        }
    }

    // The record is as it was; what is known does not outlast the process, and a kubelet says it again.
    patched(&scene, "a", &patch("uid-a", "10.244.1.5", "10.244.1.123"));
    scene.proxy.kill();
    scene.proxy.boot();
    scene.proxy.await_link(false);
    assert_eq!(listed(&scene), web());
    patched(&scene, "a", &patch("uid-a", "10.244.1.5", "10.244.1.123"));
    assert_eq!(addresses(&listed(&scene)), ["10.244.1.123", "10.244.1.6", "10.244.2.5"]);
    assert_eq!(scene.proxy.metric("lite_apiserver_moved_pods"), 1);

    // The link is back: who was told what the cluster does not say has to list again, others go on.
    let mut told = hold(&scene, "resourceVersion=100");
    assert_eq!(told.event(&mut Vec::new()).expect("an event").expect("one")["type"], "MODIFIED");
    let mut untold = scene.proxy.client(Some(NODE));
    untold.request("GET", &format!("{PODS}&watch=1&resourceVersion=100"), &[KUBELET]);
    assert_eq!(untold.head().expect("a head").status, 200);
    scene.heal();
    assert_eq!(scene.proxy.client(Some(ADMIN)).get(SLICES).text(), slices());
    assert_eq!(scene.proxy.metric("lite_apiserver_moved_pods"), 0);
    assert!(untold.event(&mut Vec::new()).expect("a clean end").is_none());
    let mut buffer = Vec::new();
    let expired = told.event(&mut buffer).expect("an event").expect("one");
    assert_eq!((&expired["type"], &expired["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert!(told.event(&mut buffer).expect("a clean end").is_none());
    scene.cut();
    assert_eq!(listed(&scene), web(), "of the next outage nothing is known");
}

#[test]
fn a_link_that_is_lost_again_makes_nobody_list_what_is_not_so() {
    let mut scene = recorded(&[FLAG]);
    scene.cut();
    patched(&scene, "a", &patch("uid-a", "10.244.1.5", "10.244.1.123"));
    let mut held = hold(&scene, "resourceVersion=100");
    let mut buffer = Vec::new();
    let told = held.event(&mut buffer).expect("an event").expect("one");
    assert_eq!(addresses(&told["object"]), ["10.244.1.123", "10.244.1.6", "10.244.2.5"]);
    scene.heal();
    scene.cut();
    // What it holds is better than what is recorded, which is all that there is.
    assert!(held.event(&mut buffer).expect("a clean end").is_none());
    let mut goes_on = hold(&scene, "resourceVersion=100");
    scene.heal();
    // It may still hold it, which this outage knows nothing of.
    let expired = goes_on.event(&mut Vec::new()).expect("an event").expect("one");
    assert_eq!((&expired["type"], &expired["object"]["code"]), (&json!("ERROR"), &json!(410)));
}

#[test]
fn only_the_node_says_where_its_own_pods_are() {
    let mut scene = recorded(&[FLAG]);
    // The node's own, but it was not shown it.
    assert_eq!(scene.proxy.get("/api/v1/namespaces/shop/pods/never").status(), 404);
    scene.cut();
    let kind = "application/strategic-merge-patch+json";
    let mine = patch("uid-a", "10.244.1.5", "10.244.1.66");
    let long = mine.replacen('{', &format!("{{{}", " ".repeat(1 << 20)), 1);
    let impersonating = "Impersonate-User: system:node:edge1";
    for (who, pod, headers, kind, body) in [
        (Some(ADMIN), "a", vec![], kind, mine.as_str()),
        (None, "a", vec![], kind, &mine),
        (None, "a", vec!["Authorization: Bearer t"], kind, &mine),
        (Some(NODE), "a", vec![impersonating], kind, &mine),
        (Some(ADMIN), "a", vec![impersonating], kind, &mine),
        (Some(NODE), "a", vec![], "application/merge-patch+json", &mine),
        (Some(NODE), "a", vec![], kind, &mine.replace("uid-a", "uid-new")),
        (Some(NODE), "a", vec![], kind, &mine.replace("10.244.1.66", "10.244.1.666")),
        (Some(NODE), "a", vec![], kind, "not JSON"),
        (Some(NODE), "a", vec![], kind, &long),
        (Some(NODE), "b", vec![], kind, &mine),
        (Some(NODE), "c", vec![], kind, &patch("uid-c", "10.244.2.5", "10.244.1.66")),
        (Some(NODE), "never", vec![], kind, &mine),
    ] {
        let reply = send_as(&mut scene.proxy.client(who), pod, &headers, kind, body);
        assert_eq!(reply.status(), 503, "{who:?} {pod}: {}", reply.text());
        assert_eq!(listed(&scene), web(), "{who:?} {pod} {headers:?} {kind}");
    }
    assert_eq!(scene.proxy.metric("lite_apiserver_moved_pods"), 0);
    patched(&scene, "a", &mine);
    assert_eq!(addresses(&listed(&scene))[0], "10.244.1.66", "but the node itself is believed");
}

#[test]
fn without_the_flag_nobody_is_listened_to() {
    let mut scene = recorded(&[]);
    scene.cut();
    patched(&scene, "a", &patch("uid-a", "10.244.1.5", "10.244.1.66"));
    assert_eq!(listed(&scene), web());
}

fn pb_meta(name: &str, version: &str) -> Vec<u8> {
    message(&[(1, name.as_bytes()), (3, b"shop"), (5, format!("uid-{name}").as_bytes()), (6, version.as_bytes())])
}

fn pb_list(api_version: &str, kind: &str, item: &[u8]) -> Vec<u8> {
    let meta = message(&[(1, b""), (2, b"100"), (3, b"")]);
    unknown(api_version, kind, &message(&[(1, &meta), (2, item)]))
}

fn pb_slice(version: &str, address: &str) -> Vec<u8> {
    let target = message(&[(1, b"Pod"), (2, b"shop"), (3, b"a"), (4, b"uid-a")]);
    let endpoint = message(&[(1, address.as_bytes()), (2, b"\x08\x01\x10\x01\x18\x00"), (4, &target), (6, b"edge1")]);
    message(&[(1, &pb_meta("web-x", version)), (2, &endpoint), (3, b"\x0a\x00\x18\x90\x3f"), (4, b"IPv4")])
}

/// What kubelet and kube-proxy really speak.
#[test]
fn in_protobuf_too() {
    let condition = message(&[(1, b"Ready"), (2, b"True")]);
    let address = message(&[(1, b"10.0.0.5")]);
    let status = message(&[(1, b"Running"), (2, &condition), (6, b"10.0.0.5"), (12, &address)]);
    let pod = message(&[(1, &pb_meta("a", "50")), (2, &message(&[(10, b"edge1")])), (3, &status)]);
    let pods = pb_list("v1", "PodList", &pod);
    let slices = pb_list("discovery.k8s.io/v1", "EndpointSliceList", &pb_slice("60", "10.0.0.5"));
    let told = slices.clone();
    let mut scene = Scene::scripted(&[FLAG], move |request, wire| {
        let body = if request.path() == SLICES { &told } else { &pods };
        wire.answer(200, "application/vnd.kubernetes.protobuf", body)
    });
    assert_eq!(scene.proxy.client(Some(NODE)).get_with(PODS, &[KUBELET]).status(), 200);
    assert_eq!(scene.proxy.client(Some(ADMIN)).get_with(SLICES, &[PROTOBUF]).body, slices);
    eventually("both are recorded", || scene.proxy.metric("lite_apiserver_record_views") == 2);
    scene.cut();
    let mut held = scene.proxy.client(Some(ADMIN));
    held.request("GET", &format!("{SLICES}?watch=1&resourceVersion=100"), &[PROTOBUF]);
    assert_eq!(held.head().expect("a head").status, 200);
    patched(&scene, "a", &patch("uid-a", "10.0.0.5", "10.244.100.100"));
    let mut client = scene.proxy.client(Some(ADMIN));
    let listed = client.get_with(SLICES, &[PROTOBUF]).body;
    let list = field(&listed[4..], 2).expect("a list");
    let found = fields(list, 2).expect("items");
    let version = field(field(found[0], 1).expect("metadata"), 6).expect("a version");
    let version = String::from_utf8_lossy(version).into_owned();
    assert!(version != "60", "{version}");
    let now = pb_slice(&version, "10.244.100.100");
    assert_eq!(listed, pb_list("discovery.k8s.io/v1", "EndpointSliceList", &now));
    let whole = unknown("discovery.k8s.io/v1", "EndpointSlice", &now);
    assert_eq!(client.get_with(SLICE, &[PROTOBUF]).body, whole);
    let mut got = Vec::new();
    while got.len() < event("MODIFIED", &whole).len() {
        got.extend(held.chunk().expect("a chunk"));
    }
    assert_eq!(got, event("MODIFIED", &whole));
}
