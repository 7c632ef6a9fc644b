//! Pods through the proxy: the endpoints of the Service `kubernetes` lead to it, for who asks, online and in the dark; what
//! is recorded is what the upstream said; and the certificate that `lite-apiserver cert` asks for is one that pods trust.

use crate::support::client::{self, Client};
use crate::support::pki::{Pair, Pki};
use crate::support::proxy::{NODE, Proxy};
use crate::support::upstream::{Received, Upstream, Wire};
use crate::support::{TempDir, protobuf};
use crate::{PROGRAM, Scene};
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

const ALL: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const OWN: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const FLAG: &str = "--rewrite-kubernetes-service=169.254.20.51:51003";
const PROTOBUF: &str = "Accept: application/vnd.kubernetes.protobuf";

/// As kube-apiserver 1.34 has it in a list.
fn bare(version: u64, address: &str) -> String {
    format!(
        r#"{{"metadata":{{"name":"kubernetes","namespace":"default","uid":"u","resourceVersion":"{version}","generation":1,"labels":{{"kubernetes.io/service-name":"kubernetes"}},"managedFields":[{{"manager":"kube-apiserver","operation":"Update","apiVersion":"discovery.k8s.io/v1","time":"2026-11-25T18:24:00Z","fieldsType":"FieldsV1","fieldsV1":{{"f:endpoints":{{}}}}}}]}},"addressType":"IPv4","endpoints":[{{"addresses":["{address}"],"conditions":{{"ready":true}}}}],"ports":[{{"name":"https","protocol":"TCP","port":6443}}]}}"#
    )
}

fn whole(version: u64, address: &str) -> String {
    bare(version, address).replacen('{', r#"{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","#, 1)
}

/// Beside it one of a Service that is called the same elsewhere.
fn list() -> String {
    let other = bare(3, "10.1.0.9").replace("\"default\"", "\"shop\"").replace("\"u\"", "\"v\"");
    let own = bare(5, "192.0.2.1");
    format!(
        r#"{{"kind":"EndpointSliceList","apiVersion":"discovery.k8s.io/v1","metadata":{{"resourceVersion":"9"}},"items":[{own},{other}]}}"#
    )
}

fn events() -> String {
    format!("{{\"type\":\"MODIFIED\",\"object\":{}}}\n", whole(11, "192.0.2.2"))
}

fn script(request: &Received, wire: &mut Wire) -> io::Result<()> {
    if request.target.contains("watch") {
        wire.begin_chunked()?;
        // Chunks end where events do not.
        events().as_bytes().chunks(100).try_for_each(|piece| wire.chunk(piece))?;
        return wire.end_chunked();
    }
    match request.path() {
        ALL | OWN => wire.json(200, list()),
        path if path == format!("{OWN}/kubernetes") => wire.json(200, whole(5, "192.0.2.1")),
        _ => wire.json(404, r#"{"kind":"Status","apiVersion":"v1","code":404,"reason":"NotFound"}"#),
    }
}

/// What an object says of where it leads.
fn leads(slice: &Value) -> (&Value, &Value, &Value) {
    assert_eq!(slice["endpoints"].as_array().map(Vec::len), Some(1), "{slice}");
    (&slice["endpoints"][0]["addresses"][0], &slice["ports"][0]["port"], &slice["metadata"]["resourceVersion"])
}

fn is_led(slice: &Value, version: &str) {
    assert_eq!(leads(slice), (&"169.254.20.51".into(), &51003.into(), &version.into()), "{slice}");
    assert_eq!(slice["ports"][0]["name"], "https");
}

fn cache(scene: &Scene, line: &str) -> String {
    let root = scene.proxy.cache().display().to_string();
    let said = Command::new(PROGRAM)
        .arg("cache")
        .args(line.split(' '))
        .args(["--file-cache-path", &root])
        .output()
        .expect("the program starts");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8_lossy(&said.stdout).into_owned()
}

#[test]
fn the_service_kubernetes_leads_here_online_and_in_the_dark() {
    let mut scene = Scene::scripted(&[FLAG], script);
    let mut client = scene.proxy.client(Some(NODE));
    let read = |client: &mut Client| {
        let listed = client.get(ALL);
        assert_eq!((listed.status(), listed.header("content-length")), (200, Some(list().len().to_string().as_str())));
        listed.json()
    };
    let listed = read(&mut client);
    is_led(&listed["items"][0], "5");
    let other = serde_json::from_str::<Value>(&list()).expect("JSON")["items"][1].clone();
    assert_eq!(listed["items"][1], other, "somebody else's Service is left as it is");
    let one = client.get(&format!("{OWN}/kubernetes"));
    assert_eq!(one.body.len(), whole(5, "192.0.2.1").len());
    is_led(&one.json(), "5");
    let watched = client.get(&format!("{ALL}?watch=1&resourceVersion=9"));
    is_led(&serde_json::from_slice::<Value>(&watched.body).expect("one event")["object"], "11");

    scene.cut();
    let mut client = scene.proxy.client(Some(NODE));
    let listed = client.get(ALL).json();
    is_led(&listed["items"][0], "11");
    assert_eq!(listed["items"][1], other);
    is_led(&client.get(&format!("{OWN}/kubernetes")).json(), "11");
    is_led(&client.get(OWN).json()["items"][0], "11");
    let anew = client.get(&format!("{ALL}?watch=1&timeoutSeconds=1"));
    let mut events =
        serde_json::Deserializer::from_slice(&anew.body).into_iter::<Value>().map(|e| e.expect("an event"));
    let own = events.find(|e| e["object"]["metadata"]["namespace"] == "default").expect("its event");
    is_led(&own["object"], "11");

    // The record has the cluster's word: so it is shown, and so it is served once the flag is gone.
    let shown = cache(&scene, &format!("show {ALL}"));
    assert!(
        shown.contains("192.0.2.2") && shown.contains("managedFields") && !shown.contains("169.254.20.51"),
        "{shown}"
    );
    scene.proxy.kill();
    scene.proxy.add_flags(&["--timeout=2"]);
    scene.proxy.drop_flag("--rewrite-kubernetes-service");
    scene.proxy.boot();
    let mut client = scene.proxy.client(Some(NODE));
    let told: Value = client.get(ALL).json()["items"][0].clone();
    assert_eq!(leads(&told), (&"192.0.2.2".into(), &6443.into(), &"11".into()));
    assert!(told["metadata"]["managedFields"].is_array());
}

#[test]
fn without_the_flag_and_where_it_is_not_asked_for_all_is_as_it_came() {
    let scene = Scene::scripted(&[], script);
    assert_eq!(scene.proxy.get(ALL).text(), list());
    let scene = Scene::scripted(&[FLAG], |_, wire| wire.json(200, list()));
    assert_eq!(scene.proxy.get("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices").text(), list());
    assert_eq!(scene.proxy.get("/api/v1/services").text(), list());
}

#[test]
fn in_protobuf_too() {
    let slice = include_bytes!("../../src/record/rewrite/samples/slices.pb").to_vec();
    let event = include_bytes!("../../src/record/rewrite/samples/slice-event.pb").to_vec();
    let (listed, told) = (slice.clone(), event.clone());
    let mut scene = Scene::scripted(&[FLAG], move |request, wire| {
        if !request.target.contains("watch") {
            return wire.answer(200, "application/vnd.kubernetes.protobuf", &listed);
        }
        wire.send("HTTP/1.1 200 OK\r\nContent-Type: application/vnd.kubernetes.protobuf;stream=watch\r\n")?;
        wire.send("Transfer-Encoding: chunked\r\n\r\n")?;
        told.chunks(40).try_for_each(|piece| wire.chunk(piece))?;
        wire.end_chunked()
    });
    // An endpoint's message, and a port's.
    let endpoint = protobuf::message(&[(1, b"169.254.20.51"), (2, b"\x08\x01")]);
    let port = [protobuf::message(&[(1, b"https"), (2, b"TCP")]), b"\x18\xbb\x8e\x03".to_vec()].concat();
    let led = protobuf::message(&[(2, &endpoint), (3, &port), (4, b"IPv4")]);
    let holds = |body: &[u8], part: &[u8]| body.windows(part.len()).any(|w| w == part);
    let is_led = |body: &[u8], length: usize| {
        assert!(holds(body, &led) && !holds(body, b"192.0.2.1"), "{}", String::from_utf8_lossy(body));
        assert_eq!(body.len(), length);
    };
    let mut client = scene.proxy.client(Some(NODE));
    is_led(&client.get_with(ALL, &[PROTOBUF]).body, slice.len());
    is_led(&client.get_with(&format!("{ALL}?watch=1&resourceVersion=201"), &[PROTOBUF]).body, event.len());
    scene.cut();
    let mut client = scene.proxy.client(Some(NODE));
    is_led(&client.get_with(ALL, &[PROTOBUF]).body, slice.len());
    let path = format!("{OWN}/kubernetes");
    is_led(
        &client.get_with(&path, &[PROTOBUF]).body,
        include_bytes!("../../src/record/rewrite/samples/slice.pb").len(),
    );
    is_led(&client.get_with(&format!("{ALL}?watch=1&timeoutSeconds=1"), &[PROTOBUF]).body, event.len());
}

#[test]
fn what_cannot_be_led_is_passed_on_and_said() {
    let six = list().replace("IPv4", "IPv6");
    let told = six.clone();
    let scene = Scene::scripted(&[FLAG], move |_, wire| wire.json(200, &told));
    assert_eq!(scene.proxy.get(ALL).text(), six);
    assert_eq!(scene.proxy.get(ALL).text(), six);
    let log = scene.proxy.log();
    assert_eq!(log.matches("its addresses are of the other IP family").count(), 1, "{log}");
}

fn cert(folder: &TempDir, line: &str) -> Output {
    let arguments = line.split(' ').filter(|a| !a.is_empty());
    Command::new(PROGRAM).arg("cert").args(arguments).current_dir(folder.path()).output().expect("the program starts")
}

#[test]
fn the_certificate_that_is_asked_for_is_one_that_pods_trust() {
    let folder = TempDir::new();
    let pki = Pki::new(&folder.path().join("pki"));
    let line = "--service-ip 10.96.0.1 --address 169.254.20.51 --node-name edge1";
    let said = cert(&folder, line);
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success() && text.contains("-copy_extensions copy"), "{text}{said:?}");
    let file = |name: &str| folder.path().join(name);
    let mode = std::fs::metadata(file("lite-apiserver.key")).expect("a key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let request = std::fs::read_to_string(file("lite-apiserver.csr")).expect("a request");
    // The same key once more: a certificate is renewed.
    let key = std::fs::read(file("lite-apiserver.key")).expect("a key");
    assert!(cert(&folder, line).status.success());
    assert_eq!(std::fs::read(file("lite-apiserver.key")).expect("a key"), key);
    assert_eq!(cert(&folder, "").status.code(), Some(64));

    std::fs::write(file("lite-apiserver.crt"), pki.signed(&request)).expect("write");
    let serving = Pair { cert: file("lite-apiserver.crt"), key: file("lite-apiserver.key") };
    let upstream = Upstream::start(&pki, script);
    let flags = [
        format!("--tls-cert-file={}", serving.cert.display()),
        format!("--tls-private-key-file={}", serving.key.display()),
        "--address=127.0.0.1".to_owned(),
        "--address=127.0.0.2".to_owned(),
        FLAG.to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let proxy = Proxy::start_program(&[PROGRAM.to_owned()], pki, upstream.port(), &flags);
    let tls = client::tls(&proxy.pki.ca(), None);
    for name in
        ["10.96.0.1", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "kubernetes", "169.254.20.51"]
    {
        let named = ServerName::try_from(name).expect("a name");
        let mut pod = Client::try_connect_as(([127, 0, 0, 2], proxy.port).into(), &tls, named).expect(name);
        is_led(&pod.get_with(&format!("{OWN}/kubernetes"), &["Authorization: Bearer t"]).json(), "5");
    }
    let stranger = ServerName::try_from("example.com").expect("a name");
    assert!(Client::try_connect_as(([127, 0, 0, 2], proxy.port).into(), &tls, stranger).is_err());
}
