//! Lists: however the bytes are cut, the same comes out; what is taken for a list is one to serde, with as many objects;
//! and what is put together again from the objects is the same list.
#![no_main]

mod input;

use input::Input;
use libfuzzer_sys::fuzz_target;
use lite_apiserver::record::{Encoding, Envelope, ListReader, Malformed};

const LONGEST_OBJECT: usize = 4096;

/// A list as it was split.
#[derive(Debug, PartialEq)]
struct Split {
    envelope: Envelope,
    /// Name, bytes and flags of each object.
    objects: Vec<(String, Vec<u8>, u32)>,
}

fn split(encoding: Encoding, body: &[u8], piece: usize) -> Result<Split, Malformed> {
    let mut reader = ListReader::new(encoding, LONGEST_OBJECT);
    let mut objects = Vec::new();
    for bytes in body.chunks(piece) {
        reader.feed(bytes, &mut |_, item| {
            objects.push((item.facts.name.clone(), item.bytes.to_vec(), item.flags));
        })?;
    }
    Ok(Split { envelope: reader.finish()?, objects })
}

fuzz_target!(|data: &[u8]| {
    let Some(Input { encoding, piece, body }) = Input::new(data) else { return };
    let whole = split(encoding, body, body.len().max(1));
    let pieces = split(encoding, body, piece);
    match (whole, pieces) {
        (Ok(whole), Ok(pieces)) => {
            assert_eq!(whole, pieces, "cut into pieces of {piece} it is another list");
            judged(encoding, body, &whole);
            put_together(encoding, &whole);
        }
        (Err(_), Err(_)) => {}
        (whole, pieces) => panic!("whole {whole:?}, in pieces of {piece} {pieces:?}"),
    }
});

/// What serde makes of it.
fn judged(encoding: Encoding, body: &[u8], list: &Split) {
    if encoding != Encoding::Json {
        return;
    }
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) else { return };
    let items = value.get("items").or_else(|| value.get("rows"));
    let count = items.and_then(|i| i.as_array()).map_or(0, Vec::len);
    assert_eq!(count, list.objects.len(), "serde counts other objects");
}

/// Written again and split again, nothing is lost.
fn put_together(encoding: Encoding, list: &Split) {
    let Some(envelope) = Envelope::decode(&list.envelope.encode()) else { panic!("an envelope is not kept") };
    assert_eq!(envelope, list.envelope);
    let mut sizes = envelope.sizes();
    for (_, bytes, flags) in &list.objects {
        sizes.add(bytes.len() as u64, *flags);
    }
    let mut writer = envelope.list(envelope.resource_version(), sizes);
    let length = writer.length();
    let mut text = Vec::new();
    writer.head(&mut text);
    for (_, bytes, flags) in &list.objects {
        writer.object(bytes, *flags, &mut text);
    }
    writer.tail(&mut text);
    assert_eq!(text.len() as u64, length, "the length that was promised");
    let again = split(encoding, &text, text.len().max(1)).expect("what was written is a list");
    let names = |split: &Split| split.objects.iter().map(|(name, ..)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&again), names(list));
    assert_eq!(again.envelope.resource_version(), list.envelope.resource_version());
}
