//! Certificates and their keys as values: read whole, found to fit together, shared by whoever uses them; and the clock by
//! which they are judged. Which files they come from, and when those are read again, is [`super::watch`]'s.

use super::error::{ConfigError, Exit};
use super::files;
use crate::identity::common_name;
use ring::digest::{Context, SHA256};
use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The time at which certificates are judged (design.md, "Verification time"): not simply the clock's.
#[derive(Clone)]
pub struct VerificationClock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl VerificationClock {
    /// A clock that is asked at every handshake in which a certificate is verified.
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }
}

impl TimeProvider for VerificationClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time((self.0)()))
    }
}

fn unix_time(at: SystemTime) -> UnixTime {
    // Before 1970 is 1970: certificates are then not yet valid, which is the right answer.
    UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

impl fmt::Debug for VerificationClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerificationClock")
    }
}

/// A certificate chain, and the key that belongs to its first certificate.
#[derive(Clone)]
pub struct Pair {
    /// Chain and key, as rustls takes them.
    pub key: Arc<CertifiedKey>,
    /// The subject CN of the certificate; `None`: it has none, or more than one.
    pub common_name: Option<String>,
    /// When the certificate's validity begins and ends; `None`: rustls can read it, we cannot.
    pub begins: Option<SystemTime>,
    /// See `begins`.
    pub expires: Option<SystemTime>,
}

impl PartialEq for Pair {
    /// A key that belongs to the same certificate is the same key.
    fn eq(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("common_name", &self.common_name).finish_non_exhaustive()
    }
}

impl Pair {
    /// Whether the certificate is for this address, as a client's TLS judges it.
    pub fn is_for(&self, address: IpAddr) -> bool {
        let parsed = self.key.cert.first().and_then(|first| ParsedCertificate::try_from(first).ok());
        parsed.is_some_and(|first| verify_server_name(&first, &ServerName::from(address)).is_ok())
    }

    /// Reads a certificate and its key.
    pub(super) fn read(files: &PairFiles) -> Result<Pair, ConfigError> {
        let chain = files::read(files.cert_what, &files.cert)?;
        Pair::from_pem(files, &chain, &files::read(files.key_what, &files.key)?)
    }

    /// The same from the files' contents.
    pub(super) fn from_pem(files: &PairFiles, chain: &[u8], key: &[u8]) -> Result<Pair, ConfigError> {
        let chain = certificates(files.cert_what, &files.cert, chain)?;
        let what = format!("{} {}", files.key_what, files.key.display());
        let wrong = |why: &str| ConfigError::new(Exit::Data, format!("{what}: {why}"));
        let private = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| wrong("holds no private key; a PEM file with BEGIN PRIVATE KEY is needed"))?;
        let signing = rustls::crypto::ring::sign::any_supported_type(&private)
            .map_err(|e| wrong(&format!("its key cannot be used: {e}")))?;
        let first = chain.first();
        let common_name = first.and_then(|der| common_name(der));
        let (begins, expires) = first.and_then(|der| validity(der)).unzip();
        let key = CertifiedKey::new(chain, signing);
        match key.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => {
                let cert = format!("{} {}", files.cert_what, files.cert.display());
                return Err(wrong(&format!("is not the key of the certificate in {cert}")));
            }
        }
        Ok(Pair { key: Arc::new(key), common_name, begins, expires })
    }
}

/// CAs that certificates must chain to.
#[derive(Debug, Clone)]
pub struct Roots {
    /// The CAs, as rustls takes them.
    pub store: Arc<RootCertStore>,
    /// Their subject CNs, and when the validity of each ends; of several with one CN the last to end.
    pub expiries: BTreeMap<String, SystemTime>,
}

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.expiries == other.expiries && self.store.roots == other.store.roots
    }
}

impl Roots {
    /// What tells each CA from every other: SHA-256 of its subject and public key, 32 hex digits of it.
    pub fn fingerprints(&self) -> BTreeSet<String> {
        let fingerprint = |root: &TrustAnchor<'_>| {
            let mut context = Context::new(&SHA256);
            context.update(&root.subject);
            context.update(&root.subject_public_key_info);
            context.finish().as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
        };
        self.store.roots.iter().map(fingerprint).collect()
    }

    /// Whether a client certificate chains to these at this time.
    pub fn signed_client(&self, chain: &[CertificateDer<'static>], at: SystemTime) -> bool {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.store), provider).build();
        match (verifier, chain.split_first()) {
            (Ok(verifier), Some((first, between))) => {
                verifier.verify_client_cert(first, between, unix_time(at)).is_ok()
            }
            _ => false,
        }
    }

    /// Whether a serving certificate chains to these at this time, whatever name it is for.
    pub fn signed_server(&self, chain: &[CertificateDer<'static>], at: SystemTime) -> bool {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
        chain.split_first().is_some_and(|(first, between)| {
            let parsed = ParsedCertificate::try_from(first);
            parsed.is_ok_and(|first| {
                verify_server_cert_signed_by_trust_anchor(&first, &self.store, between, unix_time(at), algorithms)
                    .is_ok()
            })
        })
    }

    /// Reads a file of CAs.
    pub(super) fn read(file: &Named) -> Result<Roots, ConfigError> {
        Roots::from_pem(file, &files::read(file.what, &file.path)?)
    }

    /// The same from the file's contents.
    pub(super) fn from_pem(file: &Named, text: &[u8]) -> Result<Roots, ConfigError> {
        let mut store = RootCertStore::empty();
        let mut expiries = BTreeMap::new();
        for der in certificates(file.what, &file.path, text)? {
            if let Some((_, expires)) = validity(&der) {
                let last = expiries.entry(common_name(&der).unwrap_or_default()).or_insert(expires);
                *last = expires.max(*last);
            }
            store.add(der).map_err(|e| {
                let why = format!("{} {}: holds a certificate that is no CA: {e}", file.what, file.path.display());
                ConfigError::new(Exit::Data, why)
            })?;
        }
        Ok(Roots { store: Arc::new(store), expiries })
    }
}

/// Every certificate in use, all of one moment.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// What clients are shown.
    pub serving: Arc<Pair>,
    /// The CAs of client certificates; `None`: no client certificate is asked for.
    pub client_roots: Option<Arc<Roots>>,
    /// The CAs of the upstream's certificate; `None` with `--insecure`.
    pub upstream_roots: Option<Arc<Roots>>,
    /// What may be shown to the upstream, by the CN of the certificate.
    pub pairs: BTreeMap<String, Arc<Pair>>,
    /// The pairs that are listed, those that could not be read too.
    pub(super) listed: Arc<Vec<PairFiles>>,
    /// What was read of each pair, by its certificate's file.
    pub(super) by_file: BTreeMap<PathBuf, Arc<Pair>>,
}

impl Certificates {
    /// Whether these are the very same as `other`.
    pub(super) fn are(&self, other: &Certificates) -> bool {
        let same = |a: &Option<Arc<Roots>>, b: &Option<Arc<Roots>>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        let pairs = self.pairs.len() == other.pairs.len()
            && self.pairs.iter().all(|(name, a)| other.pairs.get(name).is_some_and(|b| Arc::ptr_eq(a, b)));
        Arc::ptr_eq(&self.serving, &other.serving)
            && same(&self.client_roots, &other.client_roots)
            && same(&self.upstream_roots, &other.upstream_roots)
            && pairs
    }

    /// When each ends: what it is for, its CN, the end of its validity.
    pub fn expiries(&self) -> Vec<(&'static str, String, SystemTime)> {
        let pair = |purpose, pair: &Pair| {
            let name = pair.common_name.clone().unwrap_or_default();
            pair.expires.map(|expires| (purpose, name, expires))
        };
        let mut all: Vec<_> = pair("serving", &self.serving).into_iter().collect();
        for (purpose, roots) in [("client-ca", &self.client_roots), ("upstream-ca", &self.upstream_roots)] {
            let expiries = roots.iter().flat_map(|roots| &roots.expiries);
            all.extend(expiries.map(|(name, expires)| (purpose, name.clone(), *expires)));
        }
        all.extend(self.pairs.values().filter_map(|own| pair("pair", own)));
        all
    }
}

/// A file, and by which flag (or field of a file) it was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) what: &'static str,
    pub(super) path: PathBuf,
}

/// The two files of a pair, and by which flags they were named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PairFiles {
    pub(super) cert_what: &'static str,
    pub(super) cert: PathBuf,
    pub(super) key_what: &'static str,
    pub(super) key: PathBuf,
}

impl PairFiles {
    /// Two files that one flag (or file) names.
    pub(super) fn of(what: &'static str, cert: PathBuf, key: PathBuf) -> PairFiles {
        PairFiles { cert_what: what, cert, key_what: what, key }
    }
}

/// The certificates in a PEM file; at least one.
fn certificates(what: &str, path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let wrong = |why: String| ConfigError::new(Exit::Data, format!("{what} {}: {why}", path.display()));
    let found: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|e| wrong(format!("no valid PEM: {e}")))?;
    if found.is_empty() {
        return Err(wrong("holds no certificate; a PEM file with BEGIN CERTIFICATE is needed".to_owned()));
    }
    Ok(found)
}

/// When a certificate's validity begins and ends (RFC 5280 section 4.1.2.5).
fn validity(der: &[u8]) -> Option<(SystemTime, SystemTime)> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let time =
        |seconds: i64| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    let of = certificate.validity();
    Some((time(of.not_before.timestamp())?, time(of.not_after.timestamp())?))
}

/// The CN of the first certificate in `chain`, PEM.
pub(crate) fn client_name(chain: &[u8]) -> Option<String> {
    common_name(certificates("", Path::new(""), chain).ok()?.first()?)
}

/// Whether the client certificate in `chain`, PEM, chains to the CAs in `roots`, PEM, at the time when it was made: what the
/// clock says does not matter. `None`: one of them cannot be read.
pub(crate) fn verifies_client(chain: &[u8], roots: &[u8]) -> Option<bool> {
    let of = |path: &str| Named { what: "", path: PathBuf::from(path) };
    let roots = Roots::from_pem(&of(""), roots).ok()?;
    let chain = certificates("", Path::new(""), chain).ok()?;
    let (begins, _) = validity(chain.first()?)?;
    Some(roots.signed_client(&chain, begins))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Certificates {
        /// Certificates out of PEM texts, for the tests of other rooms: each pair a certificate and its key.
        pub(crate) fn of_pem(
            serving: (&str, &str),
            client_roots: Option<&str>,
            upstream_roots: Option<&str>,
            pairs: &[(String, String)],
        ) -> Certificates {
            let pair = |(cert, key): (&str, &str)| {
                let files = PairFiles::of("a test", PathBuf::new(), PathBuf::new());
                Arc::new(Pair::from_pem(&files, cert.as_bytes(), key.as_bytes()).expect("a pair"))
            };
            let roots = |text: &str| {
                Arc::new(
                    Roots::from_pem(&Named { what: "a test", path: PathBuf::new() }, text.as_bytes()).expect("CAs"),
                )
            };
            let pairs = pairs.iter().map(|(cert, key)| pair((cert, key)));
            Certificates {
                serving: pair(serving),
                client_roots: client_roots.map(roots),
                upstream_roots: upstream_roots.map(roots),
                pairs: pairs.map(|pair| (pair.common_name.clone().unwrap_or_default(), pair)).collect(),
                listed: Arc::default(),
                by_file: BTreeMap::new(),
            }
        }
    }
}
