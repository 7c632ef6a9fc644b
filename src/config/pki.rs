//! The serving CA and certificate of `--kubeconfig` mode and of `lite-apiserver setup`: made once, kept in one folder, 0600.

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
pub(crate) struct ServingFiles {
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl ServingFiles {
    fn at(folder: &Path) -> ServingFiles {
        let at = |name: &str| folder.join(name);
        ServingFiles { ca: at("ca.crt"), cert: at("serving.crt"), key: at("serving.key") }
    }
}

/// Where in a data directory they are, or will be.
pub(super) fn in_data_dir(data: &Path) -> ServingFiles {
    ServingFiles::at(&data.join("pki"))
}

/// All files in `folder`: those of [`ServingFiles`], the CA's key, and what the certificate was made for.
pub(crate) const FILES: [&str; 5] = ["ca.crt", "ca.key", "serving.crt", "serving.key", "serving.names"];

/// Sees to it that `folder`, which `what` names, has a CA, and a certificate by it for `addresses` and the names that clients on a node use.
pub(crate) fn serving(what: &str, folder: &Path, addresses: &[IpAddr]) -> Result<ServingFiles, ConfigError> {
    files::make_folder(what, folder)?;
    let made = ServingFiles::at(folder);
    let (ca_key_file, names_file) = (folder.join("ca.key"), folder.join("serving.names"));
    let wrong = |e: rcgen::Error| {
        ConfigError::new(Exit::Config, format!("{what} {}: a certificate cannot be made: {e}", folder.display()))
    };

    if !(made.ca.exists() && ca_key_file.exists()) {
        let key = KeyPair::generate().map_err(wrong)?;
        let certificate = ca_params().self_signed(&key).map_err(wrong)?;
        files::write(what, &ca_key_file, key.serialize_pem().as_bytes())?;
        files::write(what, &made.ca, certificate.pem().as_bytes())?;
        // What an earlier CA signed is of no use.
        let _ = fs::remove_file(&names_file);
    }
    let names = names(addresses);
    let wanted = names.join("\n");
    let current =
        fs::read_to_string(&names_file).is_ok_and(|held| held == wanted) && made.cert.exists() && made.key.exists();
    if !current {
        let pem = String::from_utf8_lossy(&files::read(what, &ca_key_file)?).into_owned();
        let ca_key = KeyPair::from_pem(&pem).map_err(wrong)?;
        let params = ca_params();
        let issuer = Issuer::from_params(&params, ca_key);
        let key = KeyPair::generate().map_err(wrong)?;
        let certificate = serving_params(names).map_err(wrong)?.signed_by(&key, &issuer).map_err(wrong)?;
        files::write(what, &made.key, key.serialize_pem().as_bytes())?;
        files::write(what, &made.cert, certificate.pem().as_bytes())?;
        // Last: where it is missing, certificate and key are made anew together.
        files::write(what, &names_file, wanted.as_bytes())?;
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
