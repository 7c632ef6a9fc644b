//! One CA, and certificates by it, as PEM files.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What every certificate is made for: loopback, where the link laboratory has its cloud and its edge, this machine as an
/// emulated box sees it, and a name that nobody can look up.
const NAMES: [&str; 6] = ["127.0.0.1", "localhost", "198.51.100.1", "198.51.100.2", "10.0.2.2", "apiserver.invalid"];

/// A CA whose files are in one folder.
pub struct Pki {
    folder: PathBuf,
    params: CertificateParams,
    key: KeyPair,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Pair {
    /// Both, as PEM.
    pub fn texts(&self) -> (String, String) {
        let read = |path| std::fs::read_to_string(path).expect("PEM");
        (read(&self.cert), read(&self.key))
    }
}

impl Pki {
    /// Makes the CA in `folder`.
    pub fn new(folder: &Path) -> Pki {
        std::fs::create_dir_all(folder).expect("the folder");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a CA");
        std::fs::write(folder.join("ca.crt"), certificate.pem()).expect("write");
        Pki { folder: folder.to_owned(), params, key }
    }

    /// The CA's certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// Its key, for somebody else who signs.
    pub fn ca_key(&self) -> PathBuf {
        let path = self.folder.join("ca.key");
        std::fs::write(&path, self.key.serialize_pem()).expect("write");
        path
    }

    /// A certificate for 127.0.0.1 and localhost, and for a client of this CN.
    pub fn pair(&self, cn: &str) -> Pair {
        self.member(cn, None)
    }

    /// Another certificate and key for the same CN, as PEM: what comes after [`Pki::pair`].
    pub fn renewed(&self, cn: &str) -> (String, String) {
        let mut params = CertificateParams::new(NAMES.map(str::to_owned)).expect("names");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, cn);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).expect("signed");
        (certificate.pem(), key.serialize_pem())
    }

    /// The certificate that a request asks for, as PEM.
    pub fn signed(&self, request: &str) -> String {
        let request = CertificateSigningRequestParams::from_pem(request).expect("a request");
        request.signed_by(&Issuer::from_params(&self.params, &self.key)).expect("signed").pem()
    }

    /// The same for a client whose certificate also has an O, its group.
    pub fn member(&self, cn: &str, group: Option<&str>) -> Pair {
        let file = |end: &str| self.folder.join(format!("{}.{end}", cn.replace([':', '/'], "-")));
        let (cert, key) = (file("crt"), file("key"));
        if !cert.exists() {
            let mut params = CertificateParams::new(NAMES.map(str::to_owned)).expect("names");
            params.distinguished_name = DistinguishedName::new();
            if let Some(group) = group {
                params.distinguished_name.push(DnType::OrganizationName, group);
            }
            params.distinguished_name.push(DnType::CommonName, cn);
            let pair = KeyPair::generate().expect("a key");
            let certificate = params.signed_by(&pair, &Issuer::from_params(&self.params, &self.key)).expect("signed");
            std::fs::write(&cert, certificate.pem()).expect("write");
            std::fs::write(&key, pair.serialize_pem()).expect("write");
        }
        Pair { cert, key }
    }

    /// Another for the same client, as PEM, that began a day ago and ends after `left`.
    pub fn ending(&self, cn: &str, group: &str, left: Duration) -> (String, String) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let (epoch, mut params) = (rcgen::date_time_ymd(1970, 1, 1), CertificateParams::default());
        params.not_before = epoch + now.saturating_sub(Duration::from_secs(86_400));
        params.not_after = epoch + (now + left);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.distinguished_name.push(DnType::CommonName, cn);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).expect("signed");
        (certificate.pem(), key.serialize_pem())
    }

    /// The key that signs tokens: the public half, and the private one.
    pub fn signing_key(&self) -> Pair {
        let (public, private) = (self.folder.join("tokens.pub"), self.folder.join("tokens.key"));
        if !private.exists() {
            let key = KeyPair::generate().expect("a key");
            std::fs::write(&public, key.public_key_pem()).expect("write");
            std::fs::write(&private, key.serialize_pem()).expect("write");
        }
        Pair { cert: public, key: private }
    }
}
