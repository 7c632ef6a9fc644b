//! The serving CA and certificate of `--kubeconfig` mode: made once, kept in the data directory, 0600.

use super::error::{ConfigError, Exit};
use super::files;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// What was made, or found.
pub(super) struct ServingFiles {
    pub(super) ca: PathBuf,
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

/// Sees to it that `folder` has a CA, and a certificate by it for `addresses` and the names that clients on a node use.
pub(super) fn serving(folder: &Path, addresses: &[IpAddr]) -> Result<ServingFiles, ConfigError> {
    const WHAT: &str = "--data-dir";
    files::make_folder(WHAT, folder)?;
    let at = |name: &str| folder.join(name);
    let made = ServingFiles { ca: at("ca.crt"), cert: at("serving.crt"), key: at("serving.key") };
    let (ca_key_file, names_file) = (at("ca.key"), at("serving.names"));
    let wrong = |e: rcgen::Error| {
        ConfigError::new(Exit::Config, format!("{WHAT} {}: a certificate cannot be made: {e}", folder.display()))
    };

    if !(made.ca.exists() && ca_key_file.exists()) {
        let key = KeyPair::generate().map_err(wrong)?;
        let certificate = ca_params().self_signed(&key).map_err(wrong)?;
        files::write(WHAT, &ca_key_file, key.serialize_pem().as_bytes())?;
        files::write(WHAT, &made.ca, certificate.pem().as_bytes())?;
        // What an earlier CA signed is of no use.
        let _ = fs::remove_file(&names_file);
    }
    let names = names(addresses);
    let wanted = names.join("\n");
    let current =
        fs::read_to_string(&names_file).is_ok_and(|held| held == wanted) && made.cert.exists() && made.key.exists();
    if !current {
        let pem = String::from_utf8_lossy(&files::read(WHAT, &ca_key_file)?).into_owned();
        let ca_key = KeyPair::from_pem(&pem).map_err(wrong)?;
        let params = ca_params();
        let issuer = Issuer::from_params(&params, ca_key);
        let key = KeyPair::generate().map_err(wrong)?;
        let certificate = serving_params(names).map_err(wrong)?.signed_by(&key, &issuer).map_err(wrong)?;
        files::write(WHAT, &made.key, key.serialize_pem().as_bytes())?;
        files::write(WHAT, &made.cert, certificate.pem().as_bytes())?;
        // Last: where it is missing, certificate and key are made anew together.
        files::write(WHAT, &names_file, wanted.as_bytes())?;
    }
    Ok(made)
}

fn names(addresses: &[IpAddr]) -> Vec<String> {
    let mut names: Vec<String> =
        ["127.0.0.1", "::1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
            .map(str::to_owned)
            .into();
    names.extend(addresses.iter().filter(|a| !a.is_unspecified()).map(ToString::to_string));
    names.sort();
    names.dedup();
    names
}

/// Valid from 1970, because edge boxes boot there, and for longer than they last.
fn dates(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(2099, 12, 31);
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "lite-apiserver serving CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    dates(&mut params);
    params
}

fn serving_params(names: Vec<String>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "lite-apiserver");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    dates(&mut params);
    Ok(params)
}
