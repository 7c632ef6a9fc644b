//! Request heads: however the bytes are cut, the same is read or refused; what is read can be written in one way only, and
//! that way reads as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lite_apiserver::front::{BodyLength, RequestHead, fuzzing::request_head};

fuzz_target!(|data: &[u8]| {
    let [piece, bytes @ ..] = data else { return };
    let whole = request_head(bytes, bytes.len().max(1));
    let pieces = request_head(bytes, usize::from(*piece).max(1));
    assert_eq!(whole, pieces, "cut into pieces of {piece} it is another head");
    let Some(Ok((length, head))) = whole else { return };
    assert!(bytes[..length].ends_with(b"\r\n\r\n"));
    harmless(&head);
    let again = written(&head);
    match request_head(again.as_slice(), again.len()) {
        Some(Ok((length, read))) => assert_eq!((length, read), (again.len(), head)),
        other => panic!("written again it is {other:?}"),
    }
});

/// Nothing in it can end a line or a head, or be framed in two ways.
fn harmless(head: &RequestHead) {
    assert!(!head.method.is_empty() && head.method.bytes().all(|b| b.is_ascii_graphic()), "{:?}", head.method);
    let origin = head.target.starts_with('/') || (head.target == "*" && head.method == "OPTIONS");
    assert!(origin && head.target.bytes().all(|b| b.is_ascii_graphic() && b != b'#'), "{:?}", head.target);
    for (name, value) in &head.headers {
        assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':'), "{name:?}");
        assert!(!value.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f), "{name:?}: {value:?}");
    }
    let count = |wanted: &str| head.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(wanted)).count();
    let framing = (count("content-length"), count("transfer-encoding"));
    match head.body {
        BodyLength::None => assert_eq!(framing, (0, 0)),
        BodyLength::Exact(_) => assert_eq!(framing, (1, 0)),
        BodyLength::Chunked => assert_eq!(framing, (0, 1)),
    }
    assert!(count("host") <= 1);
}

/// HTTP/1.0 where there is no `Host`, as it must have been.
fn written(head: &RequestHead) -> Vec<u8> {
    let version = if head.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("host")) { 1 } else { 0 };
    let mut bytes = format!("{} {} HTTP/1.{version}\r\n", head.method, head.target).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}
