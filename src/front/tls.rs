//! The TLS side of the front: PEM files become a rustls `ServerConfig` that can be swapped while connections run.
//! Reads files when told to; never watches them, and never decides what a certificate's subject means.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig};

use crate::config::Serving;

/// The time at which client certificates are judged (design.md, "Verification time"): not simply the clock's.
pub type VerificationClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The current TLS configuration; handshakes take it as it is when they begin.
pub struct Tls {
    current: RwLock<Arc<ServerConfig>>,
    clock: VerificationClock,
}

impl Tls {
    /// Reads the files. `clock` is asked at every handshake in which a client certificate is verified.
    pub fn load(files: &Serving, clock: VerificationClock) -> Result<Self, TlsError> {
        let config = server_config(files, &clock)?;
        Ok(Self { current: RwLock::new(Arc::new(config)), clock })
    }

    /// Reads the files again. On an error the old configuration stays. Sessions of the old configuration cannot be
    /// resumed in the new one: its ticket keys are its own, so that a client CA that was removed is removed at once.
    /// Connections that exist already stay.
    pub fn reload(&self, files: &Serving) -> Result<(), TlsError> {
        let config = Arc::new(server_config(files, &self.clock)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Why there is no TLS configuration.
#[derive(Debug)]
pub enum TlsError {
    /// The file has no PEM item of the kind that is needed, or cannot be read.
    File {
        /// The file.
        path: PathBuf,
        /// What was looked for in it.
        wanted: &'static str,
        /// What is wrong.
        cause: String,
    },
    /// The certificate and the key were read but cannot be served: not a pair, or of an unknown kind.
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        cause: rustls::Error,
    },
    /// The cryptographic provider failed (no random numbers).
    Provider(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, wanted, cause } => write!(f, "{}: no usable {wanted}: {cause}", path.display()),
            Self::Pair { certificate, key, cause } => {
                write!(f, "{} and {} are no usable pair: {cause}", certificate.display(), key.display())
            }
            Self::Provider(cause) => write!(f, "TLS cannot be set up: {cause}"),
        }
    }
}

impl std::error::Error for TlsError {}

fn server_config(files: &Serving, clock: &VerificationClock) -> Result<ServerConfig, TlsError> {
    let chain = certificates(&files.cert_file, "certificate")?;
    let key = PrivateKeyDer::from_pem_file(&files.key_file).map_err(|cause| TlsError::File {
        path: files.key_file.clone(),
        wanted: "private key",
        cause: cause.to_string(),
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_details(Arc::clone(&provider), Arc::new(Clock(Arc::clone(clock))))
        .with_safe_default_protocol_versions()
        .map_err(|cause| TlsError::Provider(cause.to_string()))?;
    let builder = match &files.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(client_roots(path)?), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|cause| TlsError::File {
                    path: path.clone(),
                    wanted: "client CA certificate",
                    cause: cause.to_string(),
                })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|cause| TlsError::Pair {
        certificate: files.cert_file.clone(),
        key: files.key_file.clone(),
        cause,
    })?;
    // No h2: client-go offers it first and takes what it gets. `curl --http1.0` offers nothing but `http/1.0`.
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
    // Tickets carry the session, so that resumption costs no memory here; one is enough for a keep-alive client.
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(|cause| TlsError::Provider(cause.to_string()))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(config)
}

fn client_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, "client CA certificate")? {
        roots.add(certificate).map_err(|cause| TlsError::File {
            path: path.to_owned(),
            wanted: "client CA certificate",
            cause: cause.to_string(),
        })?;
    }
    Ok(roots)
}

fn certificates(path: &Path, wanted: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault = |cause: String| TlsError::File { path: path.to_owned(), wanted, cause };
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|cause| fault(cause.to_string()))?;
    if chain.is_empty() { Err(fault("no CERTIFICATE block".to_owned())) } else { Ok(chain) }
}

struct Clock(VerificationClock);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        // Before 1970 is 1970: certificates are then not yet valid, which is the right answer.
        let since = (self.0)().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Some(UnixTime::since_unix_epoch(since))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
