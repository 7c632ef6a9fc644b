//! The ledger of accepted tokens: which token, by its hash, the upstream has accepted, and for whom it took it.
//!
//! It is one small text, a line a token, so that it can be kept whole or not at all; the oldest in use go when it
//! is full.

use super::token::{Claims, TokenHash};
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// As many tokens as are remembered. A node's pods have a handful each, renewed hourly.
const MOST: usize = 4096;

/// How long past its expiry a token is still taken, as kube-apiserver's own validator allows for clocks that differ
/// (`pkg/serviceaccount/claims.go` takes none, go-jose's default is a minute).
const LEEWAY: Duration = Duration::from_secs(60);

/// What the upstream's acceptance of a token said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acceptance {
    scope: String,
    expires: Option<SystemTime>,
    used: SystemTime,
}

/// The accepted tokens.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    tokens: HashMap<TokenHash, Acceptance>,
}

impl Ledger {
    /// Remembers that the upstream accepted this token. True when that is news, and the ledger ought to be kept again.
    pub fn accept(&mut self, hash: TokenHash, claims: Option<&Claims>, now: SystemTime) -> bool {
        if let Some(known) = self.tokens.get_mut(&hash) {
            // Use within the same ten minutes is not worth a write to flash.
            let news = now.duration_since(known.used).is_ok_and(|d| d > Duration::from_secs(600));
            if news {
                known.used = now;
            }
            return news;
        }
        let scope = claims.map_or_else(|| format!("token:{hash:?}"), Claims::scope);
        self.tokens.insert(hash, Acceptance { scope, expires: claims.and_then(|c| c.expires), used: now });
        if self.tokens.len() > MOST
            && let Some(oldest) = self.tokens.iter().min_by_key(|(_, a)| a.used).map(|(h, _)| *h)
        {
            self.tokens.remove(&oldest);
        }
        true
    }

    /// The upstream answered 401: the token is nobody's any more. True when it was somebody's.
    pub fn forget(&mut self, hash: &TokenHash) -> bool {
        self.tokens.remove(hash).is_some()
    }

    /// The scope of an accepted token.
    pub fn scope_of(&self, hash: &TokenHash) -> Option<&str> {
        self.tokens.get(hash).map(|a| a.scope.as_str())
    }

    /// Whether an accepted token was still good at the moment by which things are judged.
    pub fn is_good_at(&self, hash: &TokenHash, judged_at: SystemTime) -> bool {
        self.tokens.get(hash).is_some_and(|a| a.expires.is_none_or(|e| judged_at <= e + LEEWAY))
    }

    /// The ledger as text: `hash expires used scope` a line, times in seconds since 1970, `-` for never.
    pub fn encode(&self) -> Vec<u8> {
        let seconds = |t: SystemTime| t.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let mut lines: Vec<String> = self
            .tokens
            .iter()
            .map(|(hash, a)| {
                let expires = a.expires.map_or("-".to_owned(), |e| seconds(e).to_string());
                format!("{} {expires} {} {}\n", super::hex(&hash.0), seconds(a.used), a.scope)
            })
            .collect();
        lines.sort();
        lines.concat().into_bytes()
    }

    /// Reads what [`Ledger::encode`] wrote; a line that it would not have written is nobody's token.
    pub fn decode(bytes: &[u8]) -> Ledger {
        let moment =
            |s: &str| s.parse::<u64>().ok().and_then(|s| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(s)));
        let line = |line: &str| {
            let mut parts = line.splitn(4, ' ');
            let (hash, expires, used, scope) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
            let expires = if expires == "-" { None } else { Some(moment(expires)?) };
            Some((TokenHash(unhex(hash)?), Acceptance { scope: scope.to_owned(), expires, used: moment(used)? }))
        };
        Ledger { tokens: String::from_utf8_lossy(bytes).lines().filter_map(line).collect() }
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn claims(expires: u64) -> Claims {
        Claims { issuer: "i".into(), subject: "s a".into(), expires: Some(at(expires)) }
    }

    #[test]
    fn what_was_accepted_survives_and_is_judged_by_its_expiry() {
        let mut ledger = Ledger::default();
        let (jwt, opaque) = (TokenHash::of("jwt"), TokenHash::of("opaque"));
        assert!(ledger.accept(jwt, Some(&claims(1000)), at(10)));
        assert!(!ledger.accept(jwt, Some(&claims(1000)), at(11)), "no news");
        assert!(ledger.accept(opaque, None, at(10)));
        let ledger = Ledger::decode(&ledger.encode());
        assert_eq!(ledger.scope_of(&jwt), Some("token:i|s%20a"));
        assert_eq!(ledger.scope_of(&opaque), Some(format!("token:{opaque:?}").as_str()));
        assert!(ledger.is_good_at(&jwt, at(1060)));
        assert!(!ledger.is_good_at(&jwt, at(1061)));
        assert!(ledger.is_good_at(&opaque, at(1 << 40)));
    }

    #[test]
    fn a_forged_token_with_the_same_claims_is_nobodys() {
        let mut ledger = Ledger::default();
        ledger.accept(TokenHash::of("real"), Some(&claims(1000)), at(10));
        assert_eq!(ledger.scope_of(&TokenHash::of("forged")), None);
        assert!(ledger.forget(&TokenHash::of("real")));
        assert_eq!(ledger.scope_of(&TokenHash::of("real")), None);
    }

    #[test]
    fn damage_loses_tokens_and_makes_up_none() {
        let mut ledger = Ledger::default();
        ledger.accept(TokenHash::of("a"), Some(&claims(1000)), at(10));
        let whole = ledger.encode();
        for cut in 0..whole.len() - 1 {
            let read = Ledger::decode(&whole[..cut]);
            assert!(read.tokens.keys().all(|h| *h == TokenHash::of("a")));
        }
        assert!(Ledger::decode(b"zz - - x\n\xff\xff").tokens.is_empty());
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let mut ledger = Ledger::default();
        for i in 0..(MOST as u64 + 10) {
            ledger.accept(TokenHash::of(&i.to_string()), None, at(i));
        }
        assert_eq!(ledger.tokens.len(), MOST);
        assert_eq!(ledger.scope_of(&TokenHash::of("0")), None);
    }
}
