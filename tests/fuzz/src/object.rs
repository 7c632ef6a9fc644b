//! Single objects: however the bytes are cut, the same is known of them; what is whole JSON to us is JSON to serde, and
//! says the same of itself there. Labels and minted tokens are read from the same bytes.
#![no_main]

mod input;

use input::Input;
use libfuzzer_sys::fuzz_target;
use lite_apiserver::record::{Encoding, Facts, Malformed, ObjectReader, labels, minted_token};

fn read(encoding: Encoding, body: &[u8], piece: usize) -> Result<Facts, Malformed> {
    let mut reader = ObjectReader::new(encoding);
    for bytes in body.chunks(piece) {
        reader.feed(bytes)?;
    }
    reader.finish()?;
    Ok(reader.facts().clone())
}

fuzz_target!(|data: &[u8]| {
    let Some(Input { encoding, piece, body }) = Input::new(data) else { return };
    let whole = read(encoding, body, body.len().max(1));
    let pieces = read(encoding, body, piece);
    assert_eq!(whole.is_ok(), pieces.is_ok(), "whole {whole:?}, in pieces of {piece} {pieces:?}");
    let _ = labels(encoding, body);
    let _ = minted_token(encoding, body);
    let (Ok(whole), Ok(pieces)) = (whole, pieces) else { return };
    assert_eq!(whole, pieces, "cut into pieces of {piece} it is another object");
    if let (Encoding::Json, Ok(value)) = (encoding, serde_json::from_slice::<serde_json::Value>(body)) {
        for (place, ours) in [
            ("/kind", &whole.type_meta.kind),
            ("/metadata/name", &whole.name),
            ("/metadata/namespace", &whole.namespace),
            ("/metadata/uid", &whole.uid),
            ("/metadata/resourceVersion", &whole.resource_version),
        ] {
            let theirs = value.pointer(place).and_then(|v| v.as_str()).unwrap_or_default();
            // A longer one than any may be is not read.
            if theirs.len() < 200 {
                assert_eq!(theirs, ours, "{place}");
            }
        }
    }
});
