//! How a fuzzer's bytes are read: the first two say in which encoding and in which pieces the rest comes.

use lite_apiserver::record::Encoding;
use std::sync::LazyLock;

/// Which encoding all of it is in, whatever the bytes say: JSON takes to mutation more readily, and crowds protobuf out.
static ONLY: LazyLock<Option<Encoding>> =
    LazyLock::new(|| match std::env::var("LITE_FUZZ_ENCODING").unwrap_or_default().as_str() {
        "" => None,
        "json" => Some(Encoding::Json),
        "protobuf" => Some(Encoding::Protobuf),
        other => panic!("LITE_FUZZ_ENCODING={other}: json or protobuf"),
    });

/// A body, and how it comes.
pub struct Input<'a> {
    pub encoding: Encoding,
    /// Bytes at a time, at least 1.
    pub piece: usize,
    pub body: &'a [u8],
}

impl<'a> Input<'a> {
    /// `None`: too short to be one.
    pub fn new(data: &'a [u8]) -> Option<Input<'a>> {
        let [encoding, piece, body @ ..] = data else { return None };
        let encoding = if encoding & 1 == 0 { Encoding::Json } else { Encoding::Protobuf };
        let encoding = ONLY.unwrap_or(encoding);
        Some(Input { encoding, piece: usize::from(*piece).max(1), body })
    }
}
