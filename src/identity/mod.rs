//! Who asked: a client certificate, a bearer token, or nobody, becomes an [`Identity`]; the identity as the upstream
//! sees it becomes the scope under which answers are recorded. Pure; the [`Ledger`] of accepted tokens is bytes in,
//! bytes out, and holds hashes only.
//!
//! It never decides whether a token is good: only the upstream does, and [`Ledger::accept`] remembers that it did.

mod ledger;
mod token;

pub use ledger::{Acceptance, Ledger};
pub use token::{Claims, TokenHash, bearer};

use ring::digest;

/// Who a request's client proved to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// A verified certificate whose CN has a key pair here.
    Certificate {
        /// The subject CN.
        common_name: String,
    },
    /// A bearer token; whether it is good is for the upstream to say.
    Token {
        /// SHA-256 of the token.
        hash: TokenHash,
        /// What it says of itself, if it is a JWT.
        claims: Option<Claims>,
    },
    /// No certificate that has a key pair here, and no token.
    Anonymous,
}

/// The identity and what it pretends to be, as the upstream will see both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who the client proved to be.
    pub identity: Identity,
    /// The `Impersonate-*` fields in one canonical line; empty without them.
    pub impersonated: String,
}

/// The scope in which discovery documents are shared between authenticated clients (design.md, "Who is asking").
pub const SHARED_SCOPE: &str = "authenticated";

impl Caller {
    /// Identifies the client of one request.
    ///
    /// `certificate` is the DER of its verified certificate; `has_pair` says whether a CN has a key pair here;
    /// `headers` are the request's fields.
    pub fn new(certificate: Option<&[u8]>, has_pair: impl Fn(&str) -> bool, headers: &[(String, Vec<u8>)]) -> Caller {
        let common_name = certificate.and_then(common_name).filter(|cn| has_pair(cn));
        let identity = match (common_name, bearer(headers)) {
            (Some(common_name), _) => Identity::Certificate { common_name },
            (None, Some(token)) => Identity::Token { hash: TokenHash::of(token), claims: Claims::read(token) },
            (None, None) => Identity::Anonymous,
        };
        Caller { identity, impersonated: impersonation(headers) }
    }

    /// The scope of this caller's record; `None` while the upstream has not accepted its token.
    pub fn scope(&self, ledger: &Ledger) -> Option<String> {
        let base = match &self.identity {
            Identity::Certificate { common_name } => format!("cert:{}", word(common_name.as_bytes())),
            Identity::Token { hash, .. } => ledger.scope_of(hash)?.to_owned(),
            Identity::Anonymous => "anonymous".to_owned(),
        };
        Some(if self.impersonated.is_empty() { base } else { format!("{base} as {}", self.impersonated) })
    }

    /// Whether this caller takes part in [`SHARED_SCOPE`]: the upstream takes it for somebody (once its token is
    /// accepted), and as itself. Who impersonates may be refused for that alone, discovery included.
    pub fn shares_discovery(&self) -> bool {
        self.identity != Identity::Anonymous && self.impersonated.is_empty()
    }
}

/// The subject CN of a certificate in DER; `None` where there is none, or more than one: which of them the upstream
/// would read is not ours to guess.
pub fn common_name(der: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?.to_owned();
    names.next().is_none().then_some(name)
}

/// Bytes that a client chose, as one word of a scope: no two values give the same word, and none holds a blank, `=` or
/// `|`, with which a scope's parts are joined.
fn word(bytes: &[u8]) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b":-._/@".contains(&b);
    bytes.iter().map(|&b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02x}") }).collect()
}

/// `Impersonate-User`, `-Uid`, `-Group` and `-Extra-*` in one line that is the same for the same meaning
/// (`staging/src/k8s.io/apiserver/pkg/endpoints/filters/impersonation.go`). Values are hashed where they are long, so
/// that a scope stays short.
fn impersonation(headers: &[(String, Vec<u8>)]) -> String {
    let mut parts: Vec<String> = headers
        .iter()
        .filter_map(|(name, value)| {
            let name = name.to_ascii_lowercase();
            let what = name.strip_prefix("impersonate-")?;
            Some(format!("{}={}", word(what.as_bytes()), word(value)))
        })
        .collect();
    parts.sort();
    let line = parts.join(" ");
    if line.len() > 200 {
        format!("sha256:{}", hex(digest::digest(&digest::SHA256, line.as_bytes()).as_ref()))
    } else {
        line
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect()
    }

    fn certificate(cn: &str) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("params");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(rcgen::DnType::CommonName, cn);
        let key = rcgen::KeyPair::generate().expect("key");
        params.self_signed(&key).expect("certificate").der().to_vec()
    }

    #[test]
    fn a_certificate_with_a_pair_beats_a_token() {
        let der = certificate("system:node:edge1");
        let with = headers(&[("Authorization", "Bearer t")]);
        let caller = Caller::new(Some(&der), |cn| cn == "system:node:edge1", &with);
        assert_eq!(caller.scope(&Ledger::default()).as_deref(), Some("cert:system:node:edge1"));
        // Without a pair here the token counts, and without a token it is nobody, whatever the proxy holds.
        let caller = Caller::new(Some(&der), |_| false, &with);
        assert!(matches!(caller.identity, Identity::Token { .. }));
        assert_eq!(caller.scope(&Ledger::default()), None, "not accepted yet");
        let caller = Caller::new(Some(&der), |_| false, &[]);
        assert_eq!(caller.scope(&Ledger::default()).as_deref(), Some("anonymous"));
    }

    #[test]
    fn impersonation_is_part_of_the_scope() {
        let plain = Caller::new(None, |_| false, &[]);
        let one = Caller::new(None, |_| false, &headers(&[("Impersonate-User", "a"), ("Impersonate-Group", "g")]));
        let same = Caller::new(None, |_| false, &headers(&[("impersonate-group", "g"), ("IMPERSONATE-USER", "a")]));
        let other = Caller::new(None, |_| false, &headers(&[("Impersonate-User", "a")]));
        let ledger = Ledger::default();
        assert_eq!(one.scope(&ledger), same.scope(&ledger));
        assert_ne!(one.scope(&ledger), other.scope(&ledger));
        assert_ne!(one.scope(&ledger), plain.scope(&ledger));
        // A value cannot be written so that it looks like two fields.
        let forged = Caller::new(None, |_| false, &headers(&[("Impersonate-Group", "g user=a")]));
        assert_ne!(forged.scope(&ledger), one.scope(&ledger));
    }
}
