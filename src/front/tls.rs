//! The TLS side of the front: certificates become a rustls `ServerConfig` that can be replaced while connections run.
//! Reads no files, and never decides what a certificate's subject means.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;

use crate::config::{Certificates, Pair, Roots, VerificationClock};

/// The current TLS configuration; handshakes take it as it is when they begin.
pub struct Tls {
    current: RwLock<Current>,
    clock: VerificationClock,
}

struct Current {
    config: Arc<ServerConfig>,
    /// What it was made of.
    serving: Arc<Pair>,
    client_roots: Option<Arc<Roots>>,
}

impl Tls {
    /// A configuration of these certificates. `clock` is asked at every handshake in which a client certificate is verified.
    pub fn new(certificates: &Certificates, clock: VerificationClock) -> Result<Self, TlsError> {
        Ok(Self { current: RwLock::new(Current::new(certificates, &clock)?), clock })
    }

    /// Replaces the configuration, unless it is of these certificates already; on an error the old one stays. Sessions of
    /// the old configuration cannot be resumed in the new one: its ticket keys are its own, so that a client CA that was
    /// removed is removed at once. Connections that exist already stay.
    pub fn replace(&self, certificates: &Certificates) -> Result<(), TlsError> {
        if self.current.read().unwrap_or_else(PoisonError::into_inner).is_of(certificates) {
            return Ok(());
        }
        let next = Current::new(certificates, &self.clock)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).config)
    }
}

impl Current {
    fn new(of: &Certificates, clock: &VerificationClock) -> Result<Self, TlsError> {
        let config = Arc::new(server_config(&of.serving, of.client_roots.as_deref(), clock)?);
        Ok(Self { config, serving: Arc::clone(&of.serving), client_roots: of.client_roots.clone() })
    }

    fn is_of(&self, certificates: &Certificates) -> bool {
        Arc::ptr_eq(&self.serving, &certificates.serving)
            && match (&self.client_roots, &certificates.client_roots) {
                (Some(own), Some(other)) => Arc::ptr_eq(own, other),
                (own, other) => own.is_none() && other.is_none(),
            }
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
    /// The client CAs cannot be used.
    Roots(String),
    /// The cryptographic provider failed (no random numbers).
    Provider(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Roots(cause) => write!(f, "the CAs of client certificates cannot be used: {cause}"),
            Self::Provider(cause) => write!(f, "TLS cannot be set up: {cause}"),
        }
    }
}

impl std::error::Error for TlsError {}

fn server_config(
    serving: &Pair,
    client_roots: Option<&Roots>,
    clock: &VerificationClock,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_details(Arc::clone(&provider), Arc::new(clock.clone()))
        .with_safe_default_protocol_versions()
        .map_err(|cause| TlsError::Provider(cause.to_string()))?;
    let builder = match client_roots {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots.store), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|cause| TlsError::Roots(cause.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&serving.key))));
    // No h2: client-go offers it first and takes what it gets. `curl --http1.0` offers nothing but `http/1.0`.
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
    // Tickets carry the session, so that resumption costs no memory here; one is enough for a keep-alive client.
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(|cause| TlsError::Provider(cause.to_string()))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(config)
}
