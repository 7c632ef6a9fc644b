//! Watches: however the bytes are cut, the same events come out, and together with what is left they are the bytes.
#![no_main]

mod input;

use input::Input;
use libfuzzer_sys::fuzz_target;
use lite_apiserver::record::{Encoding, EventKind, WatchReader};

const LONGEST_OBJECT: usize = 4096;

/// What became of a watch.
#[derive(Debug, PartialEq)]
struct Read {
    /// Kind, and name and bytes of the objects, of each event.
    events: Vec<(EventKind, Vec<(String, Vec<u8>)>)>,
    /// Whether it was a watch to its end.
    sound: bool,
    /// All that was handed out, in order.
    passed_on: Vec<u8>,
}

fn read(encoding: Encoding, body: &[u8], piece: usize) -> Read {
    let mut reader = WatchReader::new(encoding, LONGEST_OBJECT);
    let mut read = Read { events: Vec::new(), sound: true, passed_on: Vec::new() };
    let mut pieces = body.chunks(piece);
    for bytes in pieces.by_ref() {
        reader.push(bytes);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => {
                    read.passed_on.extend_from_slice(frame.raw);
                    let objects = frame.items().map(|i| (i.facts.name.clone(), i.bytes.to_vec())).collect();
                    read.events.push((frame.event.kind, objects));
                }
                Ok(None) => break,
                Err(_) => {
                    read.sound = false;
                    break;
                }
            }
        }
        if !read.sound {
            break;
        }
        read.passed_on.extend_from_slice(&reader.take_blanks());
    }
    read.passed_on.extend_from_slice(&reader.take_rest());
    read.passed_on.extend(pieces.flatten());
    read
}

fuzz_target!(|data: &[u8]| {
    let Some(Input { encoding, piece, body }) = Input::new(data) else { return };
    let whole = read(encoding, body, body.len().max(1));
    let pieces = read(encoding, body, piece);
    assert_eq!(whole, pieces, "cut into pieces of {piece} it is another watch");
    assert_eq!(whole.passed_on, body, "the client is sent what the upstream sent");
});
