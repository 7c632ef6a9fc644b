//! Files that the configuration names: read now, so that what is wrong with them is said before anything is bound.

use super::error::{ConfigError, Exit};
use crate::identity::common_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::KeyPairFiles;

/// Reads a file that `what` (a flag, or a field of a file) names.
pub(super) fn read(what: &str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    fs::read(path).map_err(|e| ConfigError::unreadable(what, path, &e))
}

/// The certificates in a PEM file; at least one.
pub(super) fn certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let text = read(what, path)?;
    let wrong = |why: String| ConfigError::new(Exit::Data, format!("{what} {}: {why}", path.display()));
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|e| wrong(format!("no valid PEM: {e}")))?;
    if found.is_empty() {
        return Err(wrong("holds no certificate; a PEM file with BEGIN CERTIFICATE is needed".to_owned()));
    }
    Ok(found)
}

/// Checks that a certificate and a key are there and belong together; returns the certificate's CN, if it has one.
pub(super) fn pair(cert_what: &str, cert: &Path, key_what: &str, key: &Path) -> Result<Option<String>, ConfigError> {
    let chain = certificates(cert_what, cert)?;
    let text = read(key_what, key)?;
    let wrong = |why: String| ConfigError::new(Exit::Data, format!("{key_what} {}: {why}", key.display()));
    let private = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| wrong("holds no private key; a PEM file with BEGIN PRIVATE KEY is needed".to_owned()))?;
    let signing = rustls::crypto::ring::sign::any_supported_type(&private)
        .map_err(|e| wrong(format!("its key cannot be used: {e}")))?;
    let end_entity = chain.first().cloned();
    let certified = rustls::sign::CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(_) => return Err(wrong(format!("is not the key of the certificate in {cert_what} {}", cert.display()))),
    }
    Ok(end_entity.and_then(|der| common_name(&der)))
}

/// Reads `--tls-config-file`.
pub(super) fn pairs(path: &Path) -> Result<Vec<KeyPairFiles>, ConfigError> {
    const WHAT: &str = "--tls-config-file";
    let text = read(WHAT, path)?;
    let wrong = |why: String| {
        ConfigError::new(
            Exit::Data,
            format!("{WHAT} {}: {why}; it must be JSON: [{{\"cert\": path, \"key\": path}}]", path.display()),
        )
    };
    let json: serde_json::Value = serde_json::from_slice(&text).map_err(|e| wrong(format!("no valid JSON: {e}")))?;
    let entries = json.as_array().ok_or_else(|| wrong("it is no list".to_owned()))?;
    let (mut found, mut names) = (Vec::new(), HashSet::new());
    for (i, entry) in entries.iter().enumerate() {
        let field = |name: &str| {
            entry
                .get(name)
                .and_then(serde_json::Value::as_str)
                .map(PathBuf::from)
                .ok_or_else(|| wrong(format!("entry {i} has no {name:?}")))
        };
        let (cert, key) = (field("cert")?, field("key")?);
        let common_name = pair(WHAT, &cert, WHAT, &key)?.ok_or_else(|| {
            ConfigError::new(
                Exit::Data,
                format!(
                    "{WHAT} {}: the certificate {} has no single CN, by which it is chosen",
                    path.display(),
                    cert.display()
                ),
            )
        })?;
        if !names.insert(common_name.clone()) {
            let message = format!("{WHAT} {}: two pairs have the CN {common_name:?}; keep one", path.display());
            return Err(ConfigError::new(Exit::Data, message));
        }
        found.push(KeyPairFiles { common_name, cert, key });
    }
    Ok(found)
}

/// Makes a folder, 0700, and those above it.
pub(super) fn make_folder(what: &str, path: &Path) -> Result<(), ConfigError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| ConfigError::unmakable(what, path, &e))
}

/// Writes a file, 0600, as a whole or not at all; a file that already holds these bytes is left alone.
pub(super) fn write(what: &str, path: &Path, bytes: &[u8]) -> Result<(), ConfigError> {
    if fs::read(path).is_ok_and(|held| held == bytes) {
        return Ok(());
    }
    let beside = path.with_extension("new");
    let put = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    };
    put().map_err(|e| ConfigError::unmakable(what, path, &e))
}
