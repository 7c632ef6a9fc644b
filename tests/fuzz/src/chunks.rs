//! Chunked bodies: however the bytes are cut, the same body comes out and the same bytes are left; and a reader that has
//! all of it before it and looks at nothing twice reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lite_apiserver::front::fuzzing::chunked;

fuzz_target!(|data: &[u8]| {
    let [piece, room, bytes @ ..] = data else { return };
    let whole = chunked(bytes, bytes.len().max(1), bytes.len().max(1));
    let pieces = chunked(bytes, usize::from(*piece).max(1), usize::from(*room).max(1));
    assert_eq!(whole.is_ok(), pieces.is_ok(), "whole {whole:?}, in pieces of {piece} {pieces:?}");
    if let (Ok(whole), Ok(pieces)) = (whole, pieces) {
        assert_eq!(whole, pieces, "cut into pieces of {piece} it is another body");
        let (body, taken, done) = whole;
        assert!(!done || judged(&bytes[..taken]).is_some_and(|(judged, left)| judged == body && left == 0));
        assert!(done || taken == bytes.len(), "what is not ended takes all that there is");
    }
});

/// RFC 9112 section 7.1, read leniently: the body, and how many bytes are left after its last line.
fn judged(mut bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    loop {
        let line = line(&mut bytes)?;
        let size = std::str::from_utf8(line.split(|b| *b == b';').next()?).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            break;
        }
        body.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size..)?.strip_prefix(b"\r\n")?;
    }
    while !line(&mut bytes)?.is_empty() {}
    Some((body, bytes.len()))
}

fn line<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = bytes.windows(2).position(|w| w == b"\r\n")?;
    let line = &bytes[..end];
    *bytes = &bytes[end + 2..];
    Some(line)
}
