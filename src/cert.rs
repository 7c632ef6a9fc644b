//! `lite-apiserver cert`: makes the key of a serving certificate that pods trust, and the request for it; says how to have it
//! signed. It signs nothing, and speaks to nobody.
//!
//! Pods trust the cluster's CA (`ca.crt` beside their token, which is the configmap `kube-root-ca.crt`), and call the API by
//! the clusterIP of the Service `kubernetes` or by one of its names; all of these are asked for. The subject is that of the
//! node's kubelet, `system:node:NAME` of `system:nodes`, because the only signer of Kubernetes for serving certificates is
//! the kubelet's (`kubernetes.io/kubelet-serving`), which takes no other
//! (`pkg/apis/certificates/helpers.go`, `ValidateKubeletServingCSR`). It is good for nothing but serving.

use crate::failed::{Failed, failed};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use serde_json::json;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const HELP: &str = "\
lite-apiserver cert: makes a key, and the request for a serving certificate that pods trust

usage: lite-apiserver cert --service-ip IP [--address IP]... [flags]

  --service-ip IP        the clusterIP of the Service kubernetes, by which pods call the API; twice where it has two:
                         kubectl get service kubernetes -o jsonpath='{.spec.clusterIPs}'
  --address IP           an address that the daemon listens on, as it was told; may be given several times
  --name NAME            a further DNS name; may be given several times
  --cluster-domain NAME  the cluster's DNS domain (default: cluster.local)
  --node-name NAME       the node's name (default: the machine's, in lower case)
  --output DIR           where the files are put (default: here)
  -h, --help             this text

It writes lite-apiserver.key (0600; one that is there is used again), lite-apiserver.csr, and the same request as a
CertificateSigningRequest in lite-apiserver-csr.json; and prints the two ways to have it signed.

Exit codes (sysexits.h): 0 done; 64 wrong command line; 65 the key that is there is none; 70 internal error; 73 a file cannot
be made; 77 not permitted.
";

/// What is asked for.
#[derive(Debug, Default)]
struct Wanted {
    node: String,
    addresses: Vec<IpAddr>,
    names: Vec<String>,
    folder: PathBuf,
}

/// Does what the arguments after `cert` say.
///
/// # Errors
/// What is wrong, and the cure. Exit codes: 64 wrong command line, 65 the key that is there is none, 70 internal error, 73 a
/// file cannot be made, 77 not permitted.
pub fn run(arguments: impl IntoIterator<Item = OsString>, out: &mut dyn Write) -> Result<(), Failed> {
    let text = match parse(arguments)? {
        None => HELP.to_owned(),
        Some(wanted) => make(&wanted)?,
    };
    // A reader that has gone has read enough.
    let _ = out.write_all(text.as_bytes());
    Ok(())
}

fn usage(message: impl Into<String>) -> Failed {
    failed(64, format!("cert: {}; `lite-apiserver cert --help` says more", message.into()))
}

/// Reads the arguments; `None`: help is asked for.
fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<Wanted>, Failed> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut wanted = Wanted::default();
    let (mut services, mut more, mut domain) = (Vec::new(), Vec::new(), "cluster.local".to_owned());
    while let Some(argument) = parser.next().map_err(|e| usage(e.to_string()))? {
        let text = |parser: &mut lexopt::Parser| match parser.value().map(OsString::into_string) {
            Ok(Ok(value)) if !value.is_empty() => Ok(value),
            _ => Err(usage("a flag lacks its value")),
        };
        let ip = |text: String| text.parse::<IpAddr>().map_err(|_| usage(format!("{text:?} is no IP address")));
        match argument {
            lexopt::Arg::Short('h') | lexopt::Arg::Long("help") => return Ok(None),
            lexopt::Arg::Long("service-ip") => services.push(ip(text(&mut parser)?)?),
            lexopt::Arg::Long("address") => wanted.addresses.push(ip(text(&mut parser)?)?),
            lexopt::Arg::Long("name") => more.push(text(&mut parser)?),
            lexopt::Arg::Long("cluster-domain") => domain = text(&mut parser)?,
            lexopt::Arg::Long("node-name") => wanted.node = text(&mut parser)?,
            lexopt::Arg::Long("output") => wanted.folder = text(&mut parser)?.into(),
            other => return Err(usage(other.unexpected().to_string())),
        }
    }
    if services.is_empty() {
        return Err(usage("--service-ip is missing: pods call the API by the clusterIP of the Service kubernetes"));
    }
    if wanted.node.is_empty() {
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        wanted.node = name.trim().to_lowercase();
    }
    if wanted.node.is_empty() {
        return Err(usage("--node-name is missing: the machine has no name"));
    }
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    wanted.addresses.extend(services.into_iter().chain(loopback));
    wanted.addresses.retain(|ip| !ip.is_unspecified());
    wanted.names =
        ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned).into();
    wanted.names.push(format!("kubernetes.default.svc.{domain}"));
    wanted.names.extend(more);
    Ok(Some(wanted))
}

/// Makes the files, and says what to do with them.
fn make(wanted: &Wanted) -> Result<String, Failed> {
    let wrong = |e: rcgen::Error| failed(70, format!("cert: the request cannot be made: {e}"));
    let at = |name: &str| wanted.folder.join(name);
    let (key_file, csr_file, object_file) =
        (at("lite-apiserver.key"), at("lite-apiserver.csr"), at("lite-apiserver-csr.json"));
    if !wanted.folder.as_os_str().is_empty() {
        fs::create_dir_all(&wanted.folder).map_err(|e| unmakable(&wanted.folder, &e))?;
    }
    let key = match fs::read_to_string(&key_file) {
        Ok(pem) => KeyPair::from_pem(&pem).map_err(|e| {
            failed(65, format!("cert: {}: this is no key that is understood: {e}; move it away", key_file.display()))
        })?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let key = KeyPair::generate().map_err(wrong)?;
            write(&key_file, &key.serialize_pem(), 0o600)?;
            key
        }
        Err(e) => return Err(unmakable(&key_file, &e)),
    };
    let mut names: Vec<String> = wanted.addresses.iter().map(ToString::to_string).chain(wanted.names.clone()).collect();
    names.sort();
    names.dedup();
    let mut params = CertificateParams::new(names.clone()).map_err(|e| usage(format!("a name cannot be used: {e}")))?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{}", wanted.node));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let csr = params.serialize_request(&key).and_then(|csr| csr.pem()).map_err(wrong)?;
    let object_name = format!("lite-apiserver-{}", wanted.node);
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": object_name},
        "spec": {
            "request": STANDARD.encode(&csr),
            "signerName": "kubernetes.io/kubelet-serving",
            "usages": ["digital signature", "server auth"],
        },
    });
    write(&csr_file, &csr, 0o644)?;
    write(&object_file, &format!("{object:#}\n"), 0o644)?;
    let (key, csr, object) = (key_file.display(), csr_file.display(), object_file.display());
    let crt = at("lite-apiserver.crt");
    let crt = crt.display();
    Ok(format!(
        "{key}: the key; it stays on this node\n\
         {csr}: the request, for {}\n\
         {object}: the same for kubectl\n\
         \n\
         Have it signed by the cluster's CA. On a control-plane machine, with OpenSSL 3:\n\
         \n  \
         openssl x509 -req -in {csr} -CA /etc/kubernetes/pki/ca.crt -CAkey /etc/kubernetes/pki/ca.key \\\n    \
         -CAcreateserial -days 365 -copy_extensions copy -out {crt}\n\
         \n\
         Or as an administrator, where kube-controller-manager signs for kubelets with the CA that pods trust (kubeadm does):\n\
         \n  \
         kubectl create -f {object}\n  \
         kubectl certificate approve {object_name}\n  \
         kubectl get csr {object_name} -o jsonpath='{{.status.certificate}}' | base64 -d > {crt}\n\
         \n\
         Then start the daemon with\n\
         \n  \
         --tls-cert-file {crt} --tls-private-key-file {key} --rewrite-kubernetes-service\n",
        names.join(", ")
    ))
}

fn unmakable(path: &Path, e: &io::Error) -> Failed {
    let exit = if e.kind() == io::ErrorKind::PermissionDenied { 77 } else { 73 };
    failed(exit, format!("cert: {}: cannot be made: {e}", path.display()))
}

/// Writes a file anew.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), Failed> {
    let put = || {
        // Another file's mode, or a link to somewhere else, is not taken over.
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    put().map_err(|e| unmakable(path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Option<Wanted>, Failed> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, message) in [
            ("", "--service-ip is missing"),
            ("--service-ip kubernetes", "\"kubernetes\" is no IP address"),
            ("--service-ip", "a flag lacks its value"),
            ("--service-ip 10.96.0.1 --days 3", "invalid option '--days'"),
            ("10.96.0.1", "unexpected argument"),
        ] {
            let error = read(line).map(drop).expect_err(line);
            assert_eq!((error.exit, error.message.contains(message)), (64, true), "{line}: {}", error.message);
        }
    }

    #[test]
    fn all_by_which_pods_call_the_api_is_asked_for() {
        assert!(read("--help").expect("help").is_none());
        assert!(HELP.lines().all(|l| l.len() <= 130), "{HELP}");
        let line = "--service-ip 10.96.0.1 --service-ip fd00::1 --address 0.0.0.0 --address 169.254.20.51 --name api.edge \
                    --cluster-domain example.org --node-name edge1 --output d";
        let wanted = read(line).expect("read").expect("no help");
        let addresses: Vec<String> = wanted.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["169.254.20.51", "10.96.0.1", "fd00::1", "127.0.0.1", "::1"]);
        assert!(wanted.names.ends_with(&["kubernetes.default.svc.example.org".into(), "api.edge".into()]));
        assert_eq!((wanted.node.as_str(), wanted.folder), ("edge1", "d".into()));
    }
}
