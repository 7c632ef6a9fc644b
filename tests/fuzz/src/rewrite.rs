//! The endpoints of the Service `kubernetes`, led elsewhere: nothing becomes longer or shorter; what was JSON is JSON; and what
//! is led already stays as it is.
#![no_main]

mod input;

use input::Input;
use libfuzzer_sys::fuzz_target;
use lite_apiserver::record::{BodyShape, Destination, EndpointsKind, Rewriter};

fuzz_target!(|data: &[u8]| {
    let Some(Input { encoding, piece, body }) = Input::new(data) else { return };
    let shape = match data[0] >> 1 & 3 {
        1 => BodyShape::List,
        2 => BodyShape::Events,
        _ => BodyShape::Object,
    };
    let kind = if data[0] & 8 == 0 { EndpointsKind::Slice } else { EndpointsKind::Legacy };
    let passed = |body: &[u8], piece: usize| {
        let to = Destination { address: "169.254.20.51".to_owned(), port: 51003 };
        let mut rewriter = Rewriter::new(encoding, shape, kind, to, 4096);
        let mut out = Vec::new();
        for bytes in body.chunks(piece) {
            rewriter.feed(bytes, &mut out);
        }
        rewriter.finish(&mut out);
        assert_eq!(out.len(), body.len());
        out
    };
    let out = passed(body, piece);
    assert_eq!(passed(&out, piece), out, "it is led once");
    if serde_json::from_slice::<serde_json::Value>(body).is_ok() {
        assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok(), "{}", String::from_utf8_lossy(&out));
    }
});
