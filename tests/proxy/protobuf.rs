//! Kubernetes' protobuf, which kubelet and kube-proxy speak: recorded, kept current by a watch, and given back byte for byte.

use crate::support::protobuf::{event, message, unknown};
use crate::support::proxy::NODE;
use crate::{MAPS, Scene};

const PROTOBUF: &str = "Accept: application/vnd.kubernetes.protobuf";

fn body(kind: &str, raw: &[u8]) -> Vec<u8> {
    unknown("v1", kind, raw)
}

fn map(version: &str, name: &str) -> Vec<u8> {
    let meta = message(&[(1, name.as_bytes()), (3, b"shop"), (5, name.as_bytes()), (6, version.as_bytes())]);
    message(&[(1, &meta), (2, b"\x0a\x01k\x12\x01v")])
}

fn list(version: &str, maps: &[Vec<u8>]) -> Vec<u8> {
    let meta = message(&[(1, b""), (2, version.as_bytes()), (3, b"")]);
    let items = maps.iter().map(|m| (2, m.as_slice()));
    body("ConfigMapList", &message(&[(1, meta.as_slice())].into_iter().chain(items).collect::<Vec<_>>()))
}

fn frame(kind: &str, object: &[u8]) -> Vec<u8> {
    event(kind, &body("ConfigMap", object))
}

fn bookmark(version: &str) -> Vec<u8> {
    frame("BOOKMARK", &message(&[(1, &message(&[(6, version.as_bytes())]))]))
}

#[test]
fn what_a_watch_told_is_in_the_list_and_the_objects_of_the_outage() {
    let mut scene = Scene::scripted(&[], |request, wire| {
        if !request.target.contains("watch") {
            let whole = list("9", &[map("5", "a"), map("6", "b")]);
            return wire.answer(200, "application/vnd.kubernetes.protobuf", whole);
        }
        wire.send("HTTP/1.1 200 OK\r\nContent-Type: application/vnd.kubernetes.protobuf;stream=watch\r\n")?;
        wire.send("Transfer-Encoding: chunked\r\n\r\n")?;
        let all = [frame("DELETED", &map("10", "a")), frame("MODIFIED", &map("11", "b")), bookmark("12")].concat();
        // Chunks end where events do not.
        all.chunks(40).try_for_each(|piece| wire.chunk(piece))?;
        wire.end_chunked()
    });
    let mut client = scene.proxy.client(Some(NODE));
    assert_eq!(client.get_with(MAPS, &[PROTOBUF]).body, list("9", &[map("5", "a"), map("6", "b")]));
    let watched = client.get_with(&format!("{MAPS}?watch=1&resourceVersion=9"), &[PROTOBUF]);
    assert_eq!(
        watched.body,
        [frame("DELETED", &map("10", "a")), frame("MODIFIED", &map("11", "b")), bookmark("12")].concat()
    );
    scene.cut();

    let mut client = scene.proxy.client(Some(NODE));
    let whole = client.get_with(MAPS, &[PROTOBUF]);
    assert_eq!(whole.header("content-type"), Some("application/vnd.kubernetes.protobuf"));
    assert_eq!(whole.body, list("12", &[map("11", "b")]));
    let one = client.get_with(&format!("{MAPS}/b"), &[PROTOBUF]);
    assert_eq!((one.status(), one.body), (200, body("ConfigMap", &map("11", "b"))));
    let gone = client.get_with(&format!("{MAPS}/a"), &[PROTOBUF]);
    assert_eq!((gone.status(), gone.header("content-type")), (404, Some("application/vnd.kubernetes.protobuf")));
    assert!(gone.body.starts_with(b"k8s\0\x0a\x0c\x0a\x02v1\x12\x06Status"), "{}", gone.text());
    // A JSON client is told what there is.
    assert_eq!(client.get(MAPS).status(), 406);

    let anew = client.get_with(&format!("{MAPS}?watch=1&timeoutSeconds=1"), &[PROTOBUF]);
    assert_eq!(anew.header("content-type"), Some("application/vnd.kubernetes.protobuf;stream=watch"));
    assert_eq!(anew.body, frame("ADDED", &map("11", "b")));
    let old = client.get_with(&format!("{MAPS}?watch=1&resourceVersion=9"), &[PROTOBUF]);
    assert!(old.body[4..].starts_with(b"\x0a\x05ERROR\x12"), "{}", old.text());
    assert!(old.text().contains("Expired"), "{}", old.text());
}

#[test]
fn what_is_no_protobuf_is_passed_on_and_leaves_the_record_as_it_was() {
    let good = list("9", &[map("5", "a")]);
    let torn = good[..good.len() - 10].to_vec();
    let (kept, broken) = (good.clone(), torn.clone());
    let mut scene = Scene::scripted(&[], move |request, wire| {
        let body = if request.target.contains("broken") { &broken } else { &kept };
        wire.answer(200, "application/vnd.kubernetes.protobuf", body)
    });
    let mut client = scene.proxy.client(Some(NODE));
    assert_eq!(client.get_with(MAPS, &[PROTOBUF]).body, good);
    // The same view: `timeout` selects nothing.
    assert_eq!(client.get_with(&format!("{MAPS}?timeout=broken"), &[PROTOBUF]).body, torn);
    assert_eq!(client.get_with("/api/v1/namespaces/broken/configmaps", &[PROTOBUF]).body, torn);
    scene.cut();
    let mut client = scene.proxy.client(Some(NODE));
    assert_eq!(client.get_with(MAPS, &[PROTOBUF]).body, good);
    assert_eq!(client.get_with("/api/v1/namespaces/broken/configmaps", &[PROTOBUF]).status(), 503);
}
