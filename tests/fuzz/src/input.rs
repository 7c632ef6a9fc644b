//! How a fuzzer's bytes are read: the first two say in which encoding and in which pieces the rest comes.

use lite_apiserver::record::Encoding;

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
        Some(Input { encoding, piece: usize::from(*piece).max(1), body })
    }
}
