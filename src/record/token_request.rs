//! The token in a TokenRequest's answer (`staging/src/k8s.io/api/authentication/v1/generated.proto`): the one thing of a
//! body that is read beside metadata, because what the upstream mints through us is known to be good.

use super::{Encoding, protobuf};

/// `status.token` of a TokenRequest; `None` where there is none, or the body is no such thing.
pub fn minted_token(encoding: Encoding, body: &[u8]) -> Option<String> {
    match encoding {
        Encoding::Json => {
            let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
            Some(answer.get("status")?.get("token")?.as_str()?.to_owned())
        }
        // TokenRequest{3: status{1: token}}
        Encoding::Protobuf => protobuf::text_at(body, [3, 1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minted_token_is_found_in_both_encodings() {
        let json =
            br#"{"kind":"TokenRequest","spec":{"token":"no"},"status":{"token":"t.t","expirationTimestamp":"x"}}"#;
        assert_eq!(minted_token(Encoding::Json, json).as_deref(), Some("t.t"));
        let protobuf = b"k8s\0\x0a\x02\x0a\x00\x12\x0f\x0a\x00\x12\x02\x0a\x00\x1a\x07\x0a\x03t.t\x12\x00";
        assert_eq!(minted_token(Encoding::Protobuf, protobuf).as_deref(), Some("t.t"));
        for end in 0..protobuf.len() {
            assert_eq!(minted_token(Encoding::Protobuf, &protobuf[..end]), None, "at {end}");
        }
        assert_eq!(minted_token(Encoding::Protobuf, json), None);
        assert_eq!(minted_token(Encoding::Json, protobuf), None);
    }
}
