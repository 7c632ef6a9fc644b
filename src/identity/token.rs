//! Bearer tokens: found, hashed, and, where they are JWTs, asked what they say of themselves.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// SHA-256 of a bearer token: all of it that is ever kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenHash(pub(super) [u8; 32]);

impl TokenHash {
    /// Hashes a token.
    pub fn of(token: &str) -> TokenHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        TokenHash(hash)
    }
}

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sha256:{}", super::hex(&self.0))
    }
}

/// What a JWT says of itself. Nobody has verified it: it names a scope only once the upstream has accepted the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `iss`
    pub issuer: String,
    /// `sub`
    pub subject: String,
    /// `exp`, as a moment; `None`: it does not expire.
    pub expires: Option<SystemTime>,
}

impl Claims {
    /// Reads the payload of a JWT (RFC 7519); `None` where the token is none, or lacks `iss` or `sub`.
    pub fn read(token: &str) -> Option<Claims> {
        let mut parts = token.split('.');
        let (_, payload, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else { return None };
        let payload: Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?).ok()?;
        let text = |name: &str| payload.get(name).and_then(Value::as_str).map(str::to_owned);
        let expires = payload.get("exp").and_then(Value::as_f64).filter(|s| (0.0..1e11).contains(s));
        Some(Claims {
            issuer: text("iss")?,
            subject: text("sub")?,
            expires: expires.map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(s)),
        })
    }

    /// The scope that the token's bearer has once the upstream accepted the token.
    pub fn scope(&self) -> String {
        format!("token:{}|{}", super::word(self.issuer.as_bytes()), super::word(self.subject.as_bytes()))
    }
}

/// The bearer token of a request (RFC 6750 section 2.1), read exactly as kube-apiserver reads it
/// (`staging/src/k8s.io/apiserver/pkg/authentication/request/bearertoken/bearertoken.go`): the first field counts, the
/// scheme's name is case-insensitive, and the token ends at the next blank, so that it is empty, and no token at all,
/// after two blanks. A reading of our own would be a leak: what is no token there is answered as nobody's, which would
/// count here as the acceptance of a token whose claims anybody can write.
pub fn bearer(headers: &[(String, Vec<u8>)]) -> Option<&str> {
    let (_, value) = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case("authorization"))?;
    let mut parts = std::str::from_utf8(value).ok()?.trim().split(' ');
    let (scheme, token) = (parts.next()?, parts.next()?);
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jwt_is_read_and_anything_else_is_not() {
        // {"iss":"https://i","sub":"system:serviceaccount:x:s","exp":1700000000}
        let payload = "eyJpc3MiOiJodHRwczovL2kiLCJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6eDpzIiwiZXhwIjoxNzAwMDAwMDAwfQ";
        let claims = Claims::read(&format!("h.{payload}.s")).expect("claims");
        assert_eq!(claims.scope(), "token:https://i|system:serviceaccount:x:s");
        assert_eq!(claims.expires, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)));
        for other in ["", "a.b", "a.!.c", "a.e30.c", "opaque", &format!("h.{payload}.s.t")] {
            assert_eq!(Claims::read(other), None, "{other}");
        }
    }

    #[test]
    fn the_bearer_scheme_is_case_insensitive() {
        let with = |v: &str| vec![("AUTHORIZATION".to_owned(), v.as_bytes().to_vec())];
        assert_eq!(bearer(&with(" bEARER abc ")), Some("abc"));
        assert_eq!(bearer(&with("Basic abc")), None);
        assert_eq!(bearer(&with("Bearer ")), None);
        assert_eq!(bearer(&[]), None);
    }

    /// Whoever reads more into the field than kube-apiserver does takes the claims of a forged token for accepted.
    #[test]
    fn a_token_is_what_kube_apiserver_takes_for_one() {
        let with = |v: &str| vec![("Authorization".to_owned(), v.as_bytes().to_vec())];
        assert_eq!(bearer(&with("Bearer  abc")), None);
        assert_eq!(bearer(&with("Bearer\tabc")), None);
        assert_eq!(bearer(&with("Bearer own a.b.c")), Some("own"));
        let two = [with("Basic x"), with("Bearer abc")].concat();
        assert_eq!(bearer(&two), None, "the first field counts");
    }
}
