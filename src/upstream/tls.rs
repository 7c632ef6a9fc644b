//! Certificates become rustls client configurations, one per credentials. Reads no files.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

use crate::config::{Pair, Roots, ServerConfig, UpstreamConfig, VerificationClock};

/// Why there can be no upstream; each names the file or value that is to blame.
#[derive(Debug)]
pub enum UpstreamError {
    /// No CA is given, and the upstream's certificate is to be verified.
    NoCa,
    /// The CAs cannot be used.
    Roots(String),
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
            Self::NoCa => f.write_str("no CA for the upstream's certificate (give one, or say --insecure)"),
            Self::Roots(why) => write!(f, "the CAs of the upstream's certificate cannot be used: {why}"),
            Self::Name(name) => write!(f, "{name:?} is neither a host name nor an IP address"),
            Self::System(e) => write!(f, "{e}"),
            Self::Tls(e) => write!(f, "TLS: {e}"),
        }
    }
}

impl std::error::Error for UpstreamError {}

/// The name that a server's certificate must carry.
pub(super) fn server_name(
    config: &UpstreamConfig,
    server: &ServerConfig,
) -> Result<ServerName<'static>, UpstreamError> {
    let name = config.tls_server_name.as_ref().unwrap_or(&server.host);
    ServerName::try_from(name.clone()).map_err(|_| UpstreamError::Name(name.clone()))
}

/// How the upstream's certificate is judged; shared by the configurations of all credentials.
pub(super) struct Trust {
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
    clock: VerificationClock,
}

impl Trust {
    /// Trusts what chains to `roots`; everybody where `insecure`.
    pub(super) fn new(insecure: bool, roots: Option<&Roots>, clock: &VerificationClock) -> Result<Self, UpstreamError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = if insecure {
            Arc::new(Anyone(Arc::clone(&provider)))
        } else {
            let roots = roots.ok_or(UpstreamError::NoCa)?;
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots.store), Arc::clone(&provider))
                .build()
                .map_err(|e| UpstreamError::Roots(e.to_string()))?
        };
        Ok(Self { provider, verifier, clock: clock.clone() })
    }

    /// A configuration that shows `pair`, or no certificate. Each has its own session cache: a resumed session would carry
    /// the identity of the first one.
    pub(super) fn client(&self, pair: Option<&Pair>) -> Result<Arc<ClientConfig>, UpstreamError> {
        let builder = ClientConfig::builder_with_details(Arc::clone(&self.provider), Arc::new(self.clock.clone()))
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(UpstreamError::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&self.verifier));
        let mut config = match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&pair.key)))),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
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
