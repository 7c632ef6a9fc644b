//! A status patch, and a slice that is corrected by what it says: nothing panics; what was JSON is JSON; what is corrected
//! stays as it is. Of two lines the first is the patch.
#![no_main]

mod input;

use input::Input;
use libfuzzer_sys::fuzz_target;
use lite_apiserver::record::{Encoding, Learned, Pod, PodStatus, StatusPatch, Whereabouts};
use serde_json::Value;

/// Of `uid-a` as the seeds have it.
fn recorded() -> Pod {
    let addresses = vec![[10, 0, 0, 5].into()];
    Pod {
        namespace: "shop".to_owned(),
        name: "a".to_owned(),
        uid: "uid-a".to_owned(),
        node: "edge1".to_owned(),
        host_network: false,
        status: PodStatus { phase: "Running".to_owned(), ready: true, addresses },
    }
}

fuzz_target!(|data: &[u8]| {
    let Some(Input { encoding, piece, body }) = Input::new(data) else { return };
    let _ = Pod::read(encoding, body);
    let _ = Pod::read_body(encoding, body);
    let (patch, slice) = match body.iter().position(|b| *b == b'\n') {
        Some(end) if encoding == Encoding::Json => (&body[..end], &body[end + 1..]),
        _ => (&b""[..], body),
    };
    let torn = &slice[..slice.len().min(piece)];
    let said = StatusPatch::read(patch).and_then(|patch| patch.apply(&recorded().status));
    let moved = PodStatus { addresses: vec![[10, 244, 100, 100].into()], ..recorded().status };
    let mut known = Whereabouts::default();
    for status in [moved, said.unwrap_or_default()] {
        if let Learned::News(news) = known.learn(&recorded(), status) {
            known = news;
        }
        let Some(once) = known.correct(encoding, slice, None, false) else { continue };
        if encoding == Encoding::Json && serde_json::from_slice::<Value>(slice).is_ok() {
            assert!(serde_json::from_slice::<Value>(&once).is_ok(), "{}", String::from_utf8_lossy(&once));
        }
        let twice = known.correct(encoding, &once, None, true).expect("it is a slice still");
        assert_eq!(twice, once, "it is corrected");
        known.correct(encoding, slice, Some(400), false);
        known.correct_body(encoding, body);
        known.correct(encoding, torn, Some(400), false);
    }
});
