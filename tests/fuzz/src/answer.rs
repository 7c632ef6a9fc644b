//! The upstream's answers: however the bytes are cut, the same is read or refused; a body that is taken for whole is as long
//! as its length says, or what a reader that has all of it before it makes of its chunks.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lite_apiserver::upstream::fuzzing::answer;

fuzz_target!(|data: &[u8]| {
    let [piece, bytes @ ..] = data else { return };
    let head_only = piece & 0x40 != 0;
    let whole = answer(bytes, bytes.len().max(1), head_only);
    let pieces = answer(bytes, usize::from(piece & 0x3f).max(1), head_only);
    assert_eq!(whole.is_some(), pieces.is_some(), "whole {whole:?}, in pieces of {piece} {pieces:?}");
    let (Some(read), Some(again)) = (whole, pieces) else { return };
    assert_eq!((&read.status, &read.headers), (&again.status, &again.headers));
    assert_eq!(read.body.is_ok(), again.body.is_ok(), "whole {read:?}, in pieces of {piece} {again:?}");
    assert!((100..1000).contains(&read.status));
    let fields = |wanted: &str| -> Vec<&[u8]> {
        read.headers.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_slice()).collect()
    };
    for (name, value) in &read.headers {
        assert!(!name.is_empty() && !value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)), "{name:?}: {value:?}");
    }
    let Ok(body) = &read.body else { return };
    assert_eq!(Ok(body), again.body.as_ref());
    let bodiless = head_only || matches!(read.status, 100..=199 | 204 | 304);
    match (fields("transfer-encoding").as_slice(), fields("content-length").as_slice()) {
        _ if bodiless => assert!(body.is_empty()),
        ([_, ..], _) => {
            assert!(windows(bytes).any(|rest| judged(rest).as_ref() == Some(body)), "{body:?}");
        }
        ([], [length, ..]) => {
            let length = std::str::from_utf8(length).ok().and_then(|l| l.trim().parse::<usize>().ok());
            assert_eq!(length, Some(body.len()));
        }
        _ => {}
    }
});

/// What follows each line of a head that may be the last.
fn windows(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    (0..bytes.len()).filter(|at| bytes[*at] == b'\n').map(|at| &bytes[at + 1..])
}

/// RFC 9112 section 7.1, read leniently.
fn judged(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|w| w == b"\r\n")?;
        let size = bytes[..end].split(|b| *b == b';').next()?.trim_ascii();
        let size = usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
        bytes = &bytes[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size..)?.strip_prefix(b"\r\n")?;
    }
}
