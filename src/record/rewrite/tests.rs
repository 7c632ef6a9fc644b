//! The samples are what kube-apiserver 1.34.2 sent.

use super::*;
use crate::record::protobuf::wire;
use serde_json::{Value, json};

const ALL: usize = 1 << 20;

const SLICE: &[u8] = include_bytes!("samples/slice.json");
const SLICES: &[u8] = include_bytes!("samples/slices.json");
const SLICE_EVENT: &[u8] = include_bytes!("samples/slice-event.json");
const ENDPOINTS: &[u8] = include_bytes!("samples/endpoints.json");
const SLICE_PB: &[u8] = include_bytes!("samples/slice.pb");
const SLICES_PB: &[u8] = include_bytes!("samples/slices.pb");
const SLICE_EVENT_PB: &[u8] = include_bytes!("samples/slice-event.pb");
const ENDPOINTS_PB: &[u8] = include_bytes!("samples/endpoints.pb");

fn here() -> Destination {
    Destination { address: "169.254.20.51".to_owned(), port: 51003 }
}

fn rewriter(encoding: Encoding, shape: BodyShape, kind: EndpointsKind) -> Rewriter {
    Rewriter::new(encoding, shape, kind, here(), ALL)
}

/// What comes out, in pieces of this length, and why it is as it was.
fn passed(mut rewriter: Rewriter, body: &[u8], piece: usize) -> (Vec<u8>, Option<NotRewritten>) {
    let mut out = Vec::new();
    for bytes in body.chunks(piece) {
        rewriter.feed(bytes, &mut out);
    }
    rewriter.finish(&mut out);
    (out, rewriter.why_not())
}

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(bytes)))
}

/// The object as it is to come out.
fn led(mut object: Value) -> Value {
    object["metadata"].as_object_mut().expect("metadata").remove("managedFields").expect("managedFields");
    if object.get("subsets").is_some() {
        object["subsets"] = json!([{
            "addresses": [{"ip": "169.254.20.51"}],
            "ports": [{"name": "https", "port": 51003, "protocol": "TCP"}],
        }]);
    } else {
        object["endpoints"] = json!([{"addresses": ["169.254.20.51"], "conditions": {"ready": true}}]);
        object["ports"] = json!([{"name": "https", "protocol": "TCP", "port": 51003}]);
    }
    object
}

#[test]
fn in_json_it_leads_here_however_it_comes() {
    use EndpointsKind::{Legacy, Slice};
    let pretty = serde_json::to_vec_pretty(&json_of(SLICE)).expect("JSON");
    let (mut list, mut event) = (json_of(SLICES), json_of(SLICE_EVENT));
    list["items"][0] = led(list["items"][0].take());
    event["object"] = led(event["object"].take());
    for (body, shape, kind, expected) in [
        (SLICE, BodyShape::Object, Slice, led(json_of(SLICE))),
        (&pretty, BodyShape::Object, Slice, led(json_of(SLICE))),
        (ENDPOINTS, BodyShape::Object, Legacy, led(json_of(ENDPOINTS))),
        (SLICES, BodyShape::List, Slice, list),
        (SLICE_EVENT, BodyShape::Events, Slice, event),
    ] {
        for piece in 1..=body.len() {
            let (out, why_not) = passed(rewriter(Encoding::Json, shape, kind), body, piece);
            assert_eq!((json_of(&out), why_not), (expected.clone(), None), "{shape:?} in pieces of {piece}");
            assert_eq!(out.len(), body.len());
        }
    }
}

/// A message as its fields: number and content.
fn fields(message: &[u8]) -> Vec<(u32, &[u8])> {
    wire::fields(message).map(|f| f.expect("a field")).map(|f| (f.number, &message[f.content])).collect()
}

fn field(message: &[u8], number: u32) -> &[u8] {
    fields(message).into_iter().find(|f| f.0 == number).expect("the field").1
}

/// What is to be known of a slice's or Endpoints' message: its metadata, and what is not.
fn check(before: &[u8], after: &[u8], kind: EndpointsKind) {
    let kept = |message| fields(field(message, 1)).into_iter().filter(|f| f.0 != 17).collect::<Vec<_>>();
    assert_eq!(fields(field(after, 1)), kept(before), "the metadata but for managedFields");
    assert!(fields(field(before, 1)).iter().any(|f| f.0 == 17), "the sample has managedFields");
    let mut rest = fields(after);
    rest.retain(|f| f.0 != 1 && f.0 != 1000);
    // 51003 as a varint.
    let port = b"\xbb\x8e\x03";
    let want: Vec<(u32, Vec<u8>)> = match kind {
        EndpointsKind::Slice => vec![
            (2, b"\x0a\x0d169.254.20.51\x12\x02\x08\x01".to_vec()),
            (3, [b"\x0a\x05https\x12\x03TCP\x18".as_slice(), port].concat()),
            (4, b"IPv4".to_vec()),
        ],
        EndpointsKind::Legacy => {
            let subset = [b"\x0a\x0f\x0a\x0d169.254.20.51\x1a\x10\x0a\x05https\x10".as_slice(), port, b"\x1a\x03TCP"];
            vec![(2, subset.concat())]
        }
    };
    let rest: Vec<(u32, Vec<u8>)> = rest.into_iter().map(|(n, c)| (n, c.to_vec())).collect();
    assert_eq!(rest, want);
}

#[test]
fn in_protobuf_it_leads_here_however_it_comes() {
    use EndpointsKind::{Legacy, Slice};
    let message = |body: &[u8]| body[protobuf::message(body).expect("a body")].to_vec();
    for (body, shape, kind) in [
        (SLICE_PB, BodyShape::Object, Slice),
        (ENDPOINTS_PB, BodyShape::Object, Legacy),
        (SLICES_PB, BodyShape::List, Slice),
        (SLICE_EVENT_PB, BodyShape::Events, Slice),
    ] {
        let object = |body: &[u8]| match shape {
            BodyShape::Object => message(body),
            BodyShape::List => field(&message(body), 2).to_vec(),
            BodyShape::Events => message(field(field(&body[4..], 2), 1)),
        };
        let before = object(body);
        let at = body.windows(before.len()).position(|w| w == before).expect("within");
        for piece in 1..=body.len() {
            let (out, why_not) = passed(rewriter(Encoding::Protobuf, shape, kind), body, piece);
            assert_eq!((out.len(), why_not), (body.len(), None), "{shape:?} in pieces of {piece}");
            check(&before, &object(&out), kind);
            assert_eq!((&out[..at], &out[at + before.len()..]), (&body[..at], &body[at + before.len()..]));
        }
    }
}

/// Whatever room there is, it is filled, or the object is as it was.
#[test]
fn it_is_as_long_as_it_was_whatever_room_there_is() {
    let (mut changed, mut short) = (0, 0);
    for length in 0..600 {
        let filling = vec![b'x'; length];
        let entry = json!([{"manager": String::from_utf8_lossy(&filling)}]);
        let mut object = json_of(SLICE);
        object["metadata"]["managedFields"] = entry;
        let text = object.to_string().into_bytes();
        let out = json::with_endpoints(&text, EndpointsKind::Slice, &here()).expect("room").expect("changed");
        assert_eq!((out.len(), json_of(&out)), (text.len(), led(object)));

        let message = &SLICE_PB[protobuf::message(SLICE_PB).expect("a body")];
        let mut metadata = Vec::new();
        for (number, content) in fields(field(message, 1)) {
            // `generation` is a varint.
            if number == 7 {
                metadata.extend_from_slice(b"\x38\x01");
            } else if number != 17 {
                wire::put(number, content, &mut metadata);
            }
        }
        wire::put(17, &filling, &mut metadata);
        let mut before = Vec::new();
        wire::put(1, &metadata, &mut before);
        for (number, content) in fields(message).into_iter().filter(|f| f.0 != 1) {
            wire::put(number, content, &mut before);
        }
        match protobuf::with_endpoints(&before, EndpointsKind::Slice, &here()) {
            Ok(Some(after)) => {
                assert_eq!(after.len(), before.len(), "at {length}");
                assert_eq!(field(field(&after, 2), 1), b"169.254.20.51");
                changed += 1;
            }
            other => {
                assert_eq!(other, Err(NotRewritten::NoRoom), "at {length}");
                short += 1;
            }
        }
    }
    assert_eq!((changed, short), (600, 0), "an empty entry makes room enough");
}

#[test]
fn all_else_passes_byte_for_byte() {
    let other = |namespace: &str, name: &str| {
        let mut object = json_of(SLICE);
        object["metadata"]["namespace"] = namespace.into();
        object["metadata"]["name"] = name.into();
        object.to_string().into_bytes()
    };
    let partial = br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"kubernetes","namespace":"default","managedFields":[{"manager":"a"}]}}"#;
    let table = br#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"9"},"columnDefinitions":[],"rows":[{"cells":["kubernetes","192.0.2.1"],"object":{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"kubernetes","namespace":"default"}}}]}"#;
    let status = br#"{"kind":"Status","apiVersion":"v1","metadata":{},"code":404}"#;
    let bookmark = b"{\"type\":\"BOOKMARK\",\"object\":{\"kind\":\"EndpointSlice\",\"apiVersion\":\"discovery.k8s.io/v1\",\"metadata\":{\"name\":\"\",\"resourceVersion\":\"9\"}}}\n\n";
    let error = b"{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"code\":410}}\n";
    let half = &SLICES[..SLICES.len() - 200];
    let odd = b"[1,2,3]".as_slice();
    for (body, shape) in [
        (other("kube-system", "kubernetes").as_slice(), BodyShape::Object),
        (&other("default", "kubernetes2"), BodyShape::Object),
        (partial, BodyShape::Object),
        (status, BodyShape::Object),
        (table, BodyShape::Object),
        (table, BodyShape::List),
        (half, BodyShape::List),
        (odd, BodyShape::List),
        (bookmark, BodyShape::Events),
        (error, BodyShape::Events),
        (odd, BodyShape::Events),
        (&SLICE_EVENT[..300], BodyShape::Events),
    ] {
        for piece in [1, 7, 64, body.len()] {
            let (out, _) = passed(rewriter(Encoding::Json, shape, EndpointsKind::Slice), body, piece);
            assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(body), "{shape:?}");
        }
    }
    // What is longer than is held.
    for (encoding, shape, body) in
        [(Encoding::Json, BodyShape::Object, SLICE), (Encoding::Protobuf, BodyShape::List, SLICES_PB)]
    {
        let small = Rewriter::new(encoding, shape, EndpointsKind::Slice, here(), 100);
        let (out, why_not) = passed(small, body, 50);
        assert_eq!((out.as_slice(), why_not), (body, Some(NotRewritten::Malformed(Malformed::TooLarge))));
    }
}

#[test]
fn what_stands_beside_it_stays_and_is_not_held_back() {
    let beside = |name: &str| json!({"metadata": {"name": name, "namespace": "shop", "uid": name}, "addressType": "IPv4", "endpoints": null, "ports": null});
    let mut list = json_of(SLICES);
    let own = list["items"][0].take();
    list["items"] = json!([beside("a"), own, beside("b")]);
    let text = list.to_string();
    list["items"][1] = led(list["items"][1].take());
    let mut rewriter = rewriter(Encoding::Json, BodyShape::List, EndpointsKind::Slice);
    let mut out = Vec::new();
    let first = text.find("shop").expect("the first") + 120;
    rewriter.feed(&text.as_bytes()[..first], &mut out);
    assert!(
        String::from_utf8_lossy(&out).contains("\"uid\":\"a\""),
        "the first object is passed on before the list ends"
    );
    rewriter.feed(&text.as_bytes()[first..], &mut out);
    rewriter.finish(&mut out);
    assert_eq!((json_of(&out), out.len()), (list, text.len()));
}

#[test]
fn why_it_is_as_it_was_is_told() {
    let six = Destination { address: "fd00::51".to_owned(), port: 51003 };
    let with = |to: &Destination, body: &[u8], encoding| {
        let rewriter = Rewriter::new(encoding, BodyShape::Object, EndpointsKind::Slice, to.clone(), ALL);
        let (out, why_not) = passed(rewriter, body, 64);
        assert_eq!(out, body);
        why_not
    };
    assert_eq!(with(&six, SLICE, Encoding::Json), Some(NotRewritten::OtherFamily));
    assert_eq!(with(&six, SLICE_PB, Encoding::Protobuf), Some(NotRewritten::OtherFamily));
    let mut bare = json_of(SLICE);
    bare["metadata"].as_object_mut().expect("metadata").remove("managedFields");
    assert_eq!(with(&here(), bare.to_string().as_bytes(), Encoding::Json), Some(NotRewritten::NoRoom));
}
