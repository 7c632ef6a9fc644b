use super::*;
use crate::record::protobuf::wire;
use serde_json::{Value, json};

const BOTH: [Encoding; 2] = [Encoding::Json, Encoding::Protobuf];

fn pod(uid: &str, address: &str) -> Pod {
    Pod {
        namespace: "shop".into(),
        name: format!("web-{uid}"),
        uid: uid.into(),
        node: "edge1".into(),
        host_network: false,
        status: status(true, &[address]),
    }
}

fn status(ready: bool, addresses: &[&str]) -> PodStatus {
    let addresses = addresses.iter().map(|a| a.parse().expect("an address")).collect();
    PodStatus { phase: "Running".into(), ready, addresses }
}

/// What is known once these pods have been told of.
fn known(told: &[(Pod, PodStatus)]) -> Whereabouts {
    told.iter().fold(Whereabouts::default(), |known, (recorded, now)| match known.learn(recorded, now.clone()) {
        Learned::News(known) => known,
        other => panic!("{other:?}"),
    })
}

fn endpoint(uid: &str, node: &str, address: &str) -> Value {
    json!({
        "addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false}, "hostname": "h",
        "nodeName": node, "targetRef": {"kind": "Pod", "namespace": "shop", "name": format!("web-{uid}"), "uid": uid},
        "zone": "z",
    })
}

fn slice(endpoints: &[Value]) -> Value {
    json!({
        "metadata": {"name": "web-x", "namespace": "shop", "uid": "s", "resourceVersion": "300"},
        "endpoints": endpoints, "ports": [{"name": "", "protocol": "TCP", "port": 8080}], "addressType": "IPv4",
    })
}

fn encoded(encoding: Encoding, slice: &Value) -> Vec<u8> {
    match encoding {
        // Blanks and all, as a person might have sent it.
        Encoding::Json => serde_json::to_vec_pretty(slice).expect("JSON"),
        Encoding::Protobuf => to_protobuf(slice),
    }
}

fn decoded(encoding: Encoding, bytes: &[u8]) -> Value {
    match encoding {
        Encoding::Json => {
            serde_json::from_slice(bytes).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(bytes)))
        }
        Encoding::Protobuf => from_protobuf(bytes),
    }
}

fn text<'v>(value: &'v Value, name: &str) -> &'v [u8] {
    value[name].as_str().unwrap_or_default().as_bytes()
}

/// A port, and a field that nothing knows yet.
const PORT: &[u8] = b"\x0a\x00\x12\x03TCP\x18\x90\x3f";
const NEW: &[u8] = b"\xc2\x3e\x03new";

fn to_protobuf(slice: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let mut metadata = Vec::new();
    for (number, name) in [(1, "name"), (3, "namespace"), (5, "uid"), (6, "resourceVersion")] {
        wire::put(number, text(&slice["metadata"], name), &mut metadata);
    }
    metadata.extend_from_slice(b"\x38\x02");
    wire::put(1, &metadata, &mut out);
    for endpoint in slice["endpoints"].as_array().expect("endpoints") {
        let mut message = Vec::new();
        for address in endpoint["addresses"].as_array().expect("addresses") {
            wire::put(1, address.as_str().expect("text").as_bytes(), &mut message);
        }
        let mut conditions = Vec::new();
        for (tag, name) in [(8, "ready"), (16, "serving"), (24, "terminating")] {
            if let Some(is) = endpoint["conditions"][name].as_bool() {
                conditions.extend_from_slice(&[tag, is.into()]);
            }
        }
        wire::put(2, &conditions, &mut message);
        wire::put(3, text(endpoint, "hostname"), &mut message);
        let mut target = Vec::new();
        for (number, name) in [(1, "kind"), (2, "namespace"), (3, "name"), (4, "uid")] {
            wire::put(number, text(&endpoint["targetRef"], name), &mut target);
        }
        wire::put(4, &target, &mut message);
        wire::put(6, text(endpoint, "nodeName"), &mut message);
        wire::put(7, text(endpoint, "zone"), &mut message);
        message.extend_from_slice(NEW);
        wire::put(2, &message, &mut out);
    }
    wire::put(3, PORT, &mut out);
    wire::put(4, text(slice, "addressType"), &mut out);
    out.extend_from_slice(NEW);
    out
}

fn from_protobuf(bytes: &[u8]) -> Value {
    let fields = |message: &[u8]| -> Vec<(u32, Vec<u8>)> {
        wire::fields(message).map(|f| f.expect("a field")).map(|f| (f.number, message[f.content].to_vec())).collect()
    };
    let text = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes).into_owned());
    let mut slice = slice(&[]);
    slice["ports"] = Value::Null;
    let mut new = 0;
    for (number, content) in fields(bytes) {
        match number {
            1 => {
                for (number, content) in fields(&content) {
                    match number {
                        6 => slice["metadata"]["resourceVersion"] = text(&content),
                        7 => assert_eq!(content, [2], "the generation"),
                        _ => {}
                    }
                }
            }
            2 => {
                let (mut endpoint, mut addresses) = (endpoint("", "", ""), Vec::new());
                endpoint["conditions"] = json!({});
                for (number, content) in fields(&content) {
                    match number {
                        1 => addresses.push(text(&content)),
                        2 => fields(&content).iter().for_each(|(number, value)| {
                            let name = ["ready", "serving", "terminating"][*number as usize - 1];
                            endpoint["conditions"][name] = (value[0] == 1).into();
                        }),
                        4 => fields(&content).iter().for_each(|(number, value)| {
                            let name = ["kind", "namespace", "name", "uid"][*number as usize - 1];
                            endpoint["targetRef"][name] = text(value);
                        }),
                        6 => endpoint["nodeName"] = text(&content),
                        1000.. => new += 1,
                        _ => {}
                    }
                }
                endpoint["addresses"] = addresses.into();
                slice["endpoints"].as_array_mut().expect("endpoints").push(endpoint);
            }
            3 if content == PORT => slice["ports"] = json!([{"name": "", "protocol": "TCP", "port": 8080}]),
            4 => slice["addressType"] = text(&content),
            1000.. => new += 1,
            _ => panic!("field {number}"),
        }
    }
    assert_eq!(new, 1 + slice["endpoints"].as_array().map_or(0, Vec::len), "what nothing knows yet stays");
    slice
}

/// What comes out in both encodings, at no version of its own.
fn corrected(known: &Whereabouts, slice: &Value) -> Option<Value> {
    let [json, protobuf] = BOTH.map(|encoding| {
        let bytes = known.correct(encoding, &encoded(encoding, slice), None, false)?;
        Some(decoded(encoding, &bytes))
    });
    assert_eq!(json, protobuf, "both encodings say the same");
    json
}

#[test]
fn the_test_reads_what_it_writes() {
    let all = slice(&[endpoint("a", "edge1", "10.0.0.5"), endpoint("b", "edge2", "10.0.0.6")]);
    assert_eq!(from_protobuf(&to_protobuf(&all)), all);
}

#[test]
fn endpoints_are_where_their_pods_are_also_where_those_have_exchanged_addresses() {
    let recorded = [
        endpoint("a", "edge1", "10.244.1.5"),
        endpoint("b", "edge1", "10.244.1.6"),
        endpoint("c", "edge2", "10.244.2.5"),
        json!({"addresses": ["192.0.2.1"], "conditions": {"ready": true}, "hostname": "h", "nodeName": "", "zone": "z",
               "targetRef": {"kind": "", "namespace": "", "name": "", "uid": ""}}),
    ];
    let known = known(&[
        (pod("a", "10.244.1.5"), status(true, &["10.244.1.6"])),
        (pod("b", "10.244.1.6"), status(true, &["fd00::7", "10.244.1.5"])),
    ]);
    let mut want = slice(&recorded);
    want["endpoints"][0]["addresses"] = json!(["10.244.1.6"]);
    want["endpoints"][1]["addresses"] = json!(["10.244.1.5"]);
    assert_eq!(corrected(&known, &slice(&recorded)), Some(want));
    // Longer than it was, by more than a length's one byte counts.
    let recorded: Vec<Value> = (0..40).map(|i| endpoint(&format!("p{i}"), "edge1", "10.0.0.1")).collect();
    let told: Vec<_> =
        (0..40).map(|i| (pod(&format!("p{i}"), "10.0.0.1"), status(true, &["10.244.100.100"]))).collect();
    let mut want = slice(&recorded);
    for i in 0..40 {
        want["endpoints"][i]["addresses"] = json!(["10.244.100.100"]);
    }
    assert_eq!(corrected(&super::tests::known(&told), &slice(&recorded)), Some(want));
}

#[test]
fn of_each_family_the_addresses_of_its_slices() {
    let known = known(&[(pod("a", "10.0.0.5"), status(true, &["10.0.0.9", "fd00::9"]))]);
    let mut six = slice(&[endpoint("a", "edge1", "fd00::5")]);
    six["addressType"] = "IPv6".into();
    let mut want = six.clone();
    want["endpoints"][0]["addresses"] = json!(["fd00::9"]);
    assert_eq!(corrected(&known, &six), Some(want));
    six["addressType"] = "FQDN".into();
    assert_eq!(corrected(&known, &six), None);
    // It has none of this family any more, or none that an endpoint may have.
    for addresses in [&["fd00::9"][..], &[], &["127.0.0.1", "169.254.1.1", "0.0.0.0"]] {
        let known = super::tests::known(&[(pod("a", "10.0.0.5"), status(true, addresses))]);
        assert_eq!(corrected(&known, &slice(&[endpoint("a", "edge1", "10.0.0.5")])), Some(slice(&[])));
    }
}

#[test]
fn an_endpoint_is_as_ready_as_its_pod_and_none_where_that_has_ended() {
    let recorded = slice(&[endpoint("a", "edge1", "10.0.0.5")]);
    let with = |conditions: Value| {
        let mut slice = recorded.clone();
        slice["endpoints"][0]["conditions"] = conditions;
        slice
    };
    let told = |ready| known(&[(pod("a", "10.0.0.5"), status(ready, &["10.0.0.9"]))]);
    for (held, ready, now) in [
        (json!({"ready": true, "serving": true, "terminating": false}), false, json!([false, false, false])),
        (json!({"ready": false, "serving": false, "terminating": false}), true, json!([true, true, false])),
        // The Service publishes addresses that are not ready.
        (json!({"ready": true, "serving": false, "terminating": false}), true, json!([true, true, false])),
        (json!({"ready": true, "serving": false, "terminating": false}), false, json!([true, false, false])),
        (json!({"ready": false, "serving": true, "terminating": true}), true, json!([false, true, true])),
        // Of a controller that knows only this.
        (json!({"ready": true}), false, json!([false, null, null])),
        (json!({}), true, json!([true, null, null])),
    ] {
        let endpoint = corrected(&told(ready), &with(held.clone())).expect("corrected")["endpoints"][0].take();
        let conditions = ["ready", "serving", "terminating"].map(|name| endpoint["conditions"][name].clone());
        assert_eq!((json!(conditions), &endpoint["addresses"]), (now, &json!(["10.0.0.9"])), "{held}");
    }
    let over = PodStatus { phase: "Failed".into(), ..status(false, &["10.0.0.5"]) };
    assert_eq!(corrected(&known(&[(pod("a", "10.0.0.5"), over)]), &recorded), Some(slice(&[])));
}

#[test]
fn an_address_that_another_pod_of_the_node_has_by_now_is_nobody_elses() {
    let recorded = slice(&[endpoint("a", "edge1", "10.0.0.5"), endpoint("b", "edge2", "10.0.0.5")]);
    let told = (pod("c", "10.0.0.7"), status(true, &["10.0.0.5"]));
    // Not another node's endpoint, whatever this one's pods have.
    assert_eq!(
        corrected(&known(std::slice::from_ref(&told)), &recorded),
        Some(slice(&[endpoint("b", "edge2", "10.0.0.5")]))
    );
    // The node's own address is many pods'.
    let host = Pod { host_network: true, ..told.0.clone() };
    assert_eq!(corrected(&known(&[(host, told.1)]), &recorded), None);
}

#[test]
fn what_does_not_name_the_very_pod_is_left_as_it_is() {
    let known = known(&[(pod("a", "10.0.0.5"), status(true, &["10.0.0.9"]))]);
    let with = |name: &str, value: &str| {
        let mut slice = slice(&[endpoint("a", "edge1", "10.0.0.5")]);
        slice["endpoints"][0]["targetRef"][name] = value.into();
        slice
    };
    for (name, value) in [("uid", "other"), ("name", "other"), ("namespace", "other"), ("kind", "Node")] {
        assert_eq!(corrected(&known, &with(name, value)), None, "{name}");
    }
    for odd in [&b"{}"[..], b"[]", b"", b"{\"metadata\":{},\"addressType\":\"IPv4\",\"endpoints\":null}", b"\x0a\xff"] {
        for encoding in BOTH {
            assert_eq!(known.correct(encoding, odd, Some(9), false), None, "{odd:?}");
        }
    }
    let whole = to_protobuf(&slice(&[endpoint("a", "edge1", "10.0.0.5")]));
    for cut in 1..whole.len() {
        // Where a field ends, it may still be a slice.
        drop(known.correct(Encoding::Protobuf, &whole[..cut], Some(9), false));
    }
}

#[test]
fn what_is_told_anew_is_learned_and_it_stays_known_until_it_is_forgotten() {
    let recorded = pod("a", "10.0.0.5");
    let nothing = Whereabouts::default();
    let told = nothing.learn(&recorded, recorded.status.clone());
    assert!(matches!(told, Learned::News(_)), "somebody may have been told otherwise by a process before");
    let moved = known(&[(recorded.clone(), status(true, &["10.0.0.9"]))]);
    assert!(matches!(moved.learn(&recorded, status(true, &["10.0.0.9"])), Learned::Nothing));
    let Learned::News(back) = moved.learn(&recorded, recorded.status.clone()) else { panic!("news") };
    let slice = slice(&[endpoint("a", "edge1", "10.0.0.5")]);
    assert_eq!(corrected(&back, &slice), Some(slice.clone()), "who was told otherwise has to be told");
    assert_eq!((back.len(), back.forgotten().is_empty()), (1, true));
    assert_eq!(corrected(&back.forgotten(), &slice), None);

    let many = (0..MOST).map(|i| (pod(&i.to_string(), "10.0.0.5"), status(false, &[])));
    let full = known(&many.collect::<Vec<_>>());
    assert!(matches!(full.learn(&recorded, status(false, &[])), Learned::TooMany));
    assert!(matches!(full.learn(&pod("7", "10.0.0.5"), status(true, &["10.0.0.9"])), Learned::News(_)));
}

#[test]
fn each_correction_has_a_version_of_its_own_and_none_is_past_the_lists() {
    for (own, list) in [(300, 1000), (300, 302), (300, 300), (300, 0)] {
        let mut known = Whereabouts::default();
        let mut seen = vec![own];
        for i in 1..20 {
            let Learned::News(next) = known.learn(&pod("a", "10.0.0.5"), status(true, &[&format!("10.0.1.{i}")]))
            else {
                panic!("news")
            };
            known = next;
            let version: u64 = known.version(&own.to_string(), list).expect("a version").parse().expect("a number");
            assert!(version <= list.max(own) && !seen.contains(&version), "{version} of {own} in {list}: {seen:?}");
            seen.push(version);
        }
    }
    let known = known(&[(pod("a", "10.0.0.5"), status(true, &["10.0.0.9"]))]);
    assert_eq!(known.version("abc", 9), None);
    let slice = slice(&[endpoint("a", "edge1", "10.0.0.5")]);
    for encoding in BOTH {
        let bytes = known.correct(encoding, &encoded(encoding, &slice), Some(1000), false).expect("corrected");
        assert_eq!(decoded(encoding, &bytes)["metadata"]["resourceVersion"], "301");
    }
    // By itself, in what a whole answer is.
    let mut body = b"k8s\0\x0a\x04\x0a\x02v1".to_vec();
    wire::put(2, &to_protobuf(&slice), &mut body);
    body.extend_from_slice(b"\x1a\x00\x22\x00");
    let whole = known.correct_body(Encoding::Protobuf, &body).expect("corrected");
    let message = protobuf::message(&whole).expect("a body");
    assert_eq!((&whole[..10], &whole[message.end..]), (&body[..10], &b"\x1a\x00\x22\x00"[..]));
    assert_eq!(from_protobuf(&whole[message])["metadata"]["resourceVersion"], "299");
    let text = known.correct_body(Encoding::Json, slice.to_string().as_bytes()).expect("corrected");
    assert_eq!(decoded(Encoding::Json, &text)["metadata"]["resourceVersion"], "299");
}

#[test]
fn in_json_all_that_is_not_an_endpoint_stays_as_it_came() {
    let known = known(&[(pod("a", "10.0.0.5"), status(true, &["10.0.0.9"]))]);
    let endpoints = json!([endpoint("a", "edge1", "10.0.0.5")]).to_string();
    let before = format!(
        "{{\"kind\":\"EndpointSlice\", \"odd\":1.50e3,\"metadata\":{{\"name\":\"w\",\"resourceVersion\":\"300\" }},\"addressType\" : \"IPv4\",\"endpoints\":{endpoints} ,\"ports\":null}}\n"
    );
    let after = known.correct(Encoding::Json, before.as_bytes(), Some(1000), false).expect("corrected");
    let want = before.replace("\"300\"", "\"301\"").replace(&endpoints, &endpoints.replace("10.0.0.5", "10.0.0.9"));
    assert_eq!(String::from_utf8_lossy(&after), want);
    let twice = before.replace("\"ports\"", "\"endpoints\"");
    assert_eq!(known.correct(Encoding::Json, twice.as_bytes(), None, false), None, "it can be read in two ways");
}
