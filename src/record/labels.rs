//! Labels of an object that is kept, by which a selector is evaluated.

use super::{Encoding, Malformed, json, protobuf};

/// `metadata.labels` of an object as it is kept, in the order in which they stand. Not of a Table's row.
///
/// # Errors
/// It is no object of this encoding, or its labels are not text.
pub fn labels(encoding: Encoding, object: &[u8]) -> Result<Vec<(String, String)>, Malformed> {
    match encoding {
        Encoding::Json => json::labels(object),
        Encoding::Protobuf => protobuf::labels(object),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_the_same_in_both_encodings() {
        let want = [("app".to_owned(), "w\"b".to_owned()), ("b".to_owned(), String::new())];
        let json = br#"{"labels":{"no":"no"},"metadata":{"annotations":{"no":"no"},"name":"a","labels":{"app":"w\"b","b":""}}}"#;
        assert_eq!(labels(Encoding::Json, json).as_deref(), Ok(&want[..]));
        let protobuf = b"\x0a\x1f\x0a\x01a\x5a\x0a\x0a\x03app\x12\x03w\"b\x5a\x05\x0a\x01b\x12\x00\x62\x07\x0a\x02no\x12\x01x\x5a\x00\x12\x08\x5a\x06\x0a\x01c\x12\x01d";
        assert_eq!(labels(Encoding::Protobuf, protobuf).as_deref(), Ok(&want[..]));
        for none in [&br#"{"metadata":{}}"#[..], b"{}", br#"{"metadata":{"labels":null}}"#] {
            assert_eq!(labels(Encoding::Json, none), Ok(Vec::new()));
        }
        assert_eq!(labels(Encoding::Protobuf, b""), Ok(Vec::new()));
        assert_eq!(labels(Encoding::Protobuf, &protobuf[..9]), Err(Malformed::Syntax));
        assert_eq!(labels(Encoding::Json, br#"{"metadata":{"labels":{"a":1}}}"#), Err(Malformed::Syntax));
    }
}
