//! PEM files become rustls client configurations, one per credentials. Everything is read when the program starts, so
//! that a bad file stops it before anything is bound.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::config::{KeyPairFiles, UpstreamConfig};

/// Why there can be no upstream; each names the file or value that is to blame.
#[derive(Debug)]
pub enum UpstreamError {
    /// A PEM file cannot be read, or holds nothing of what it should hold.
    Pem {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No CA is given, and the upstream's certificate is to be verified.
    NoCa,
    /// A certificate and a key do not belong together, or are of no supported kind.
    KeyPair {
        /// The certificate's file.
        cert: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The host (or `tls-server-name`) is neither a DNS name nor an IP address.
    Name(String),
    /// The operating system refused what is needed to start (a descriptor, a thread).
    System(std::io::Error),
    /// The crypto library refused its own defaults.
    Tls(rustls::Error),
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem { file, why } => write!(f, "{}: {why}", file.display()),
            Self::NoCa => f.write_str("no CA for the upstream's certificate (give one, or say --insecure)"),
            Self::KeyPair { cert, why } => write!(f, "{} and its key: {why}", cert.display()),
            Self::Name(name) => write!(f, "{name:?} is neither a host name nor an IP address"),
            Self::System(e) => write!(f, "{e}"),
            Self::Tls(e) => write!(f, "TLS: {e}"),
        }
    }
}

impl std::error::Error for UpstreamError {}

/// The name that the upstream's certificate must carry.
pub(super) fn server_name(config: &UpstreamConfig) -> Result<ServerName<'static>, UpstreamError> {
    let name = config.tls_server_name.as_ref().unwrap_or(&config.host);
    ServerName::try_from(name.clone()).map_err(|_| UpstreamError::Name(name.clone()))
}

/// How the upstream's certificate is judged; made once, shared by the configurations of all credentials.
pub(super) struct Trust {
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
}

impl Trust {
    /// Reads the CAs; with `--insecure` says so loudly, once, and trusts everybody.
    pub(super) fn new(config: &UpstreamConfig) -> Result<Self, UpstreamError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = if config.insecure {
            log::warn!(
                "INSECURE: the certificate of {} is not verified; whoever answers there gets every token and secret",
                config.host
            );
            Arc::new(Anyone(Arc::clone(&provider)))
        } else {
            let file = config.ca_file.as_deref().ok_or(UpstreamError::NoCa)?;
            let mut roots = RootCertStore::empty();
            for ca in certificates(file)? {
                roots.add(ca).map_err(|e| UpstreamError::Pem { file: file.into(), why: e.to_string() })?;
            }
            WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
                .build()
                .map_err(|e| UpstreamError::Pem { file: file.into(), why: e.to_string() })?
        };
        Ok(Self { provider, verifier })
    }

    /// A configuration that shows `pair`, or no certificate. Each has its own session cache: a resumed session would carry
    /// the identity of the first one.
    pub(super) fn client(&self, pair: Option<&KeyPairFiles>) -> Result<Arc<ClientConfig>, UpstreamError> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(UpstreamError::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&self.verifier));
        let mut config = match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let key = PrivateKeyDer::from_pem_file(&pair.key)
                    .map_err(|e| UpstreamError::Pem { file: pair.key.clone(), why: pem_words(&e, "private key") })?;
                builder
                    .with_client_auth_cert(certificates(&pair.cert)?, key)
                    .map_err(|e| UpstreamError::KeyPair { cert: pair.cert.clone(), why: e.to_string() })?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, UpstreamError> {
    let bad = |why| UpstreamError::Pem { file: file.into(), why };
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).and_then(Iterator::collect).map_err(|e| bad(pem_words(&e, "certificate")));
    let found = found?;
    if found.is_empty() { Err(bad("holds no PEM certificate".into())) } else { Ok(found) }
}

fn pem_words(e: &rustls::pki_types::pem::Error, wanted: &str) -> String {
    match e {
        rustls::pki_types::pem::Error::Io(e) => e.to_string(),
        rustls::pki_types::pem::Error::NoItemsFound => format!("holds no PEM {wanted}"),
        other => format!("is no PEM {wanted}: {other:?}"),
    }
}

/// `--insecure`: any certificate will do. Signatures are still checked: whoever shows a certificate holds its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
