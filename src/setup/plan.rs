//! What is to be written: from the node's kubeconfigs and what the file of flags says already to files as they must be. Writes
//! none of them, but for the CA and the serving certificate, which are made once and read again.

use super::command::Wanted;
use super::ledger::Ledger;
use super::node::{Kind, Node};
use super::root::Root;
use super::services::is_openwrt;
use super::{WHAT, wrong};
use crate::config::{
    ConfigError, Exit, Kubeconfig, SERVING_FILES, Source, client_name, flags_in, make_serving, parse_kubeconfig,
    server_for_clients, verifies_client,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Between these two lines the file of flags is setup's.
const BEGIN: &str = "# Written by `lite-apiserver setup`, anew each time, down to the line that says so. Write above or below:\n\
                     # a flag that is there is left out here.\n";
const END: &str = "# Down to here.\n";

/// Where the record is, unless the file of flags says otherwise.
const DATA: &str = "/var/lib/lite-apiserver";

/// The same where `/var` is in memory: `data_dir` of the package's UCI file, which its jail lets the daemon write to.
const OPENWRT_DATA: &str = "/etc/lite-apiserver/data";

/// Where the kubelet keeps the certificate that it renews, with its key (`certificate_store.go`); what its kubeconfig holds
/// within itself is only its first.
const KUBELET_CURRENT: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";

/// k3s reads what is in this folder after its `config.yaml` (since 1.21); `+` adds to what that says.
const K3S_DROP_IN: &str = "/etc/rancher/k3s/config.yaml.d/lite-apiserver.yaml";

/// What is to be written, each as the node sees it.
#[derive(Debug)]
pub(super) struct Plan {
    /// In setup's own folder.
    pub(super) made: Vec<(PathBuf, Vec<u8>)>,
    /// What puts the proxy in between.
    pub(super) applied: Vec<(PathBuf, Vec<u8>)>,
    /// The kubeconfigs for clients: whose, and where.
    pub(super) kubeconfigs: Vec<(&'static str, PathBuf)>,
    /// Where clients find the daemon.
    pub(super) server: String,
    /// Where it finds the cluster.
    pub(super) upstream: String,
    /// Its admin endpoint; `None`: it has none.
    pub(super) admin: Option<SocketAddr>,
}

/// The file of flags without what is setup's.
pub(super) fn outside(text: &str) -> String {
    let Some((before, rest)) = text.split_once(BEGIN) else { return text.to_owned() };
    format!("{before}{}", rest.split_once(END).map_or("", |(_, after)| after))
}

/// What the file of flags says by itself.
struct Flags {
    file: PathBuf,
    outside: String,
    values: Vec<(&'static str, String)>,
}

impl Flags {
    fn read(directory: &Path, root: &Root) -> Result<Flags, ConfigError> {
        let file = directory.join("flags");
        let text = if root.has(&file) { root.read(&file)? } else { Vec::new() };
        let outside = outside(&String::from_utf8_lossy(&text));
        let values = flags_in(&file, &outside)?;
        let own = Flags { file, outside, values };
        if own.last("kubeconfig").is_some() {
            let why = "says --kubeconfig; take it out: setup says the same by other flags";
            return Err(wrong(Exit::Config, format!("{} {why}", own.file.display())));
        }
        Ok(own)
    }

    fn all<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f str> {
        self.values.iter().filter(move |(flag, _)| *flag == name).map(|(_, value)| value.as_str())
    }

    fn last(&self, name: &str) -> Option<&str> {
        self.values.iter().rfind(|(flag, _)| *flag == name).map(|(_, value)| value.as_str())
    }

    /// The addresses that are listened on, each at the port.
    fn listen(&self) -> Result<Vec<SocketAddr>, ConfigError> {
        let unclear = |flag: &str, text: &str| {
            wrong(Exit::Data, format!("{}: --{flag}: {text:?} cannot be used", self.file.display()))
        };
        let port = self.last("port").unwrap_or("51003");
        let port: u16 = port.parse().map_err(|_| unclear("port", port))?;
        let addresses = self.all("address").flat_map(|value| value.split(',')).map(|text| ("address", text.trim()));
        let dummies = self.all("dummy-interface").filter_map(|value| value.split_once('='));
        let dummies = dummies.map(|(_, ip)| ("dummy-interface", ip.split_once('/').map_or(ip, |(address, _)| address)));
        let read = |(flag, text): (&str, &str)| text.parse::<IpAddr>().map_err(|_| unclear(flag, text));
        let mut found = addresses.map(read).collect::<Result<Vec<_>, _>>()?;
        if found.is_empty() {
            found.push(Ipv4Addr::LOCALHOST.into());
        }
        found.extend(dummies.map(read).collect::<Result<Vec<_>, _>>()?);
        Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }

    /// The file with these flags in setup's part; those that it has by itself are left out.
    fn with(&self, flags: &[(&'static str, String)]) -> Vec<u8> {
        let mut text = self.outside.clone();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(BEGIN);
        for (name, value) in flags.iter().filter(|(name, _)| self.last(name).is_none()) {
            text.push_str(&format!("--{name}={value}\n"));
        }
        text.push_str(END);
        text.into_bytes()
    }
}

/// One client, as its kubeconfig had it before.
struct Client {
    name: &'static str,
    path: PathBuf,
    read: Kubeconfig,
}

impl Plan {
    pub(super) fn make(node: &Node, wanted: &Wanted, root: &Root, ledger: &mut Ledger) -> Result<Plan, ConfigError> {
        let directory = &wanted.directory;
        let at = |name: &str| directory.join(name);
        let flags = Flags::read(directory, root)?;
        let listen = flags.listen()?;
        let server = server_for_clients(*listen.first().unwrap_or(&SocketAddr::from(([127, 0, 0, 1], 51003))));
        let clients = clients(node, &server, ledger)?;
        let Some(kubelet) = clients.first() else { return Err(wrong(Exit::Config, "there is no kubelet")) };
        let mut made = Vec::new();

        let cluster_ca = match &kubelet.read.certificate_authority {
            Some(Source::File(path)) => Some(path.clone()),
            Some(Source::Inline(text)) => {
                made.push((at("cluster-ca.crt"), text.clone()));
                Some(at("cluster-ca.crt"))
            }
            None => None,
        };
        let (pairs, kubelet_pair) = pairs(&clients, root, directory, &mut made)?;
        let client_ca = client_ca(wanted, &flags, kubelet, kubelet_pair.as_deref(), cluster_ca.as_deref(), root)?;
        let own_certificate = flags.last("tls-cert-file").is_none();
        if own_certificate {
            let folder = at("pki");
            ledger.make_folder(&folder)?;
            let ips: Vec<IpAddr> = listen.iter().map(SocketAddr::ip).collect();
            make_serving(WHAT, &root.through(&folder), &ips)?;
            ledger.adopt(SERVING_FILES.map(|name| folder.join(name)))?;
        }
        let mut kubeconfigs = Vec::new();
        for client in &clients {
            // The cluster's CA, too: it may sign the serving certificate one day, for the sake of pods.
            let mut roots = if own_certificate { root.read(&at("pki/ca.crt"))? } else { Vec::new() };
            match &client.read.certificate_authority {
                Some(Source::File(path)) => roots.extend(root.read(path)?),
                Some(Source::Inline(text)) => roots.extend(text),
                None => {}
            }
            let ca = Source::Inline(roots);
            let text = client.read.pointed_at(Some(&server), Some(&ca), client.read.pair.as_ref());
            let path = at(&format!("{}.kubeconfig", client.name));
            kubeconfigs.push((client.name, path.clone()));
            made.push((path, text.into_bytes()));
        }
        made.push((at("tls-config.json"), format!("{:#}\n", Value::from(pairs)).into_bytes()));

        let path = |path: PathBuf| path.to_string_lossy().into_owned();
        let mut own = vec![("kube-apiserver-url", kubelet.read.server.clone())];
        own.extend(cluster_ca.map(|ca| ("apiserver-ca-file", path(ca))));
        own.extend(client_ca.map(|ca| ("ca-file", path(ca))));
        if kubelet.read.insecure {
            own.push(("insecure", "true".to_owned()));
        }
        if own_certificate {
            own.push(("tls-cert-file", path(at("pki/serving.crt"))));
            own.push(("tls-private-key-file", path(at("pki/serving.key"))));
        }
        own.push(("tls-config-file", path(at("tls-config.json"))));
        let data = if is_openwrt(root) { OPENWRT_DATA } else { DATA };
        own.extend(match flags.last("cache-type").unwrap_or("file") {
            "redb" | "bolt" => Some(("bolt-cache-file", format!("{data}/cache.redb"))),
            "fjall" | "badger" => Some(("badger-cache-path", format!("{data}/cache.fjall"))),
            "memory" => None,
            _ => Some(("file-cache-path", format!("{data}/cache"))),
        });
        made.push((flags.file.clone(), flags.with(&own)));

        let applied = applied(node.kind, &clients, &made, directory);
        let admin = flags.last("admin-address").unwrap_or("127.0.0.1:51004").parse().ok();
        Ok(Plan { made, applied, kubeconfigs, server, upstream: kubelet.read.server.clone(), admin })
    }
}

/// Reads the kubeconfigs, as they were before they were changed; the kubelet's first.
fn clients(node: &Node, server: &str, ledger: &Ledger) -> Result<Vec<Client>, ConfigError> {
    let named = [
        ("kubelet", Some(&node.kubelet)),
        ("kube-proxy", node.kube_proxy.as_ref()),
        ("kubectl", node.kubectl.as_ref()),
    ];
    let mut clients = Vec::new();
    for (name, path) in named.into_iter().filter_map(|(name, path)| Some((name, path?.clone()))) {
        let read = parse_kubeconfig(WHAT, &path, ledger.original(&path)?, None)?;
        let refuse = |why: &str| Err(wrong(Exit::Config, format!("{}: {why}", path.display())));
        if read.server == server {
            return refuse(
                "points at the proxy already, and what it was before is not known; put the cluster's address back",
            );
        }
        if name == "kubelet" && read.tls_server_name.is_some() {
            return refuse(
                "has tls-server-name, which no flag of the daemon can say; name the cluster as its certificate does",
            );
        }
        if name == "kubelet" && read.proxy_url.is_some() {
            return refuse(
                "has proxy-url; take it out, and set HTTPS_PROXY in the environment of lite-apiserver's service",
            );
        }
        clients.push(Client { name, path, read });
    }
    Ok(clients)
}

/// The entries of `tls-config.json`, and the kubelet's certificate. What a kubeconfig holds within itself gets files.
fn pairs(
    clients: &[Client],
    root: &Root,
    directory: &Path,
    made: &mut Vec<(PathBuf, Vec<u8>)>,
) -> Result<(Vec<Value>, Option<Vec<u8>>), ConfigError> {
    let (mut entries, mut kubelet, mut names) = (Vec::new(), None, BTreeSet::new());
    for client in clients {
        let Some(pair) = &client.read.pair else { continue };
        let current = if client.name == "kubelet" { current_pair(&pair.0, root) } else { None };
        let (cert, key) = current.as_ref().unwrap_or(pair);
        let mut place = |source: &Source, end: &str| match source {
            Source::File(path) => path.clone(),
            Source::Inline(text) => {
                let path = directory.join(format!("{}.{end}", client.name));
                made.push((path.clone(), text.clone()));
                path
            }
        };
        let chain = match cert {
            Source::File(path) => root.read(path)?,
            Source::Inline(text) => text.clone(),
        };
        let (cert, key) = (place(cert, "crt"), place(key, "key"));
        let name = client_name(&chain).ok_or_else(|| {
            let why = "its client certificate has no single CN, by which the daemon chooses";
            wrong(Exit::Data, format!("{}: {why}", client.path.display()))
        })?;
        if client.name == "kubelet" {
            kubelet = Some(chain);
        }
        // One pair is enough for all who show one name.
        if names.insert(name) {
            entries.push(json!({"cert": cert.to_string_lossy(), "key": key.to_string_lossy()}));
        }
    }
    Ok((entries, kubelet))
}

/// The pair that a kubelet renews, where its kubeconfig holds a certificate of the same name within itself.
fn current_pair(cert: &Source, root: &Root) -> Option<(Source, Source)> {
    let Source::Inline(text) = cert else { return None };
    let current = root.read(Path::new(KUBELET_CURRENT)).ok()?;
    let name = client_name(&current)?;
    let file = || Source::File(KUBELET_CURRENT.into());
    (client_name(text)? == name).then(|| (file(), file()))
}

/// The CA of client certificates: k3s has another one than for servers.
fn client_ca(
    wanted: &Wanted,
    flags: &Flags,
    kubelet: &Client,
    certificate: Option<&[u8]>,
    cluster_ca: Option<&Path>,
    root: &Root,
) -> Result<Option<PathBuf>, ConfigError> {
    if flags.last("ca-file").is_some() {
        return Ok(None);
    }
    if let Some(named) = &wanted.client_ca {
        root.read(named)?;
        return Ok(Some(named.clone()));
    }
    let inline = match &kubelet.read.certificate_authority {
        Some(Source::Inline(text)) => Some(text.clone()),
        _ => None,
    };
    let beside = kubelet.path.parent().map(|folder| folder.join("client-ca.crt"));
    let kubeadm = PathBuf::from("/etc/kubernetes/pki/ca.crt");
    let candidates = [cluster_ca.map(Path::to_owned), beside, Some(kubeadm)].into_iter().flatten();
    let signed = |path: &PathBuf| {
        let text = if Some(path.as_path()) == cluster_ca { inline.clone() } else { None };
        let text = text.or_else(|| root.read(path).ok());
        match (certificate, text) {
            (Some(certificate), Some(text)) => verifies_client(certificate, &text) == Some(true),
            (None, text) => text.is_some(),
            _ => false,
        }
    };
    candidates.into_iter().find(signed).map(Some).ok_or_else(|| {
        let why =
            "no CA that is known here has signed its client certificate; name the one that has with --client-ca-file";
        wrong(Exit::Config, format!("{}: {why}", kubelet.path.display()))
    })
}

/// What puts the proxy in between.
fn applied(kind: Kind, clients: &[Client], made: &[(PathBuf, Vec<u8>)], directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let own = |client: &Client| directory.join(format!("{}.kubeconfig", client.name));
    let changed = clients.iter().filter(|client| client.name != "kubectl");
    if kind == Kind::K3s {
        let mut text = "# Made by `lite-apiserver setup`; --undo takes it away.\n".to_owned();
        for client in changed {
            text.push_str(&format!("{}-arg+:\n  - \"kubeconfig={}\"\n", client.name, own(client).display()));
        }
        return vec![(K3S_DROP_IN.into(), text.into_bytes())];
    }
    let content = |client: &Client| made.iter().find(|(path, _)| *path == own(client)).map(|(_, text)| text.clone());
    changed.filter_map(|client| Some((client.path.clone(), content(client)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(text: &str) -> Flags {
        let outside = outside(text);
        let values = flags_in(Path::new("flags"), &outside).expect("flags");
        Flags { file: "flags".into(), outside, values }
    }

    #[test]
    fn the_file_of_flags_keeps_what_others_wrote() {
        let own = [("port", "1".to_owned()), ("user", "a".to_owned())];
        for text in ["", "# mine\n--user=b\n", "--user=b"] {
            let once = String::from_utf8(flags(text).with(&own)).expect("text");
            assert_eq!(once.contains("--user=a"), text.is_empty(), "{once}");
            assert!(once.contains("\n--port=1\n") && once.starts_with(text), "{once}");
            let again = String::from_utf8(flags(&once).with(&own)).expect("text");
            assert_eq!(again, once);
            let more = format!("{once}--port=2\n");
            let moved = String::from_utf8(flags(&more).with(&own)).expect("text");
            assert!(!moved.contains("--port=1") && moved.contains("--port=2"), "{moved}");
            assert_eq!(outside(&once).trim_end(), text.trim_end());
        }
    }

    #[test]
    fn the_addresses_are_those_of_the_daemon() {
        let listen =
            |text: &str| flags(text).listen().map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(listen(""), Ok(vec!["127.0.0.1:51003".to_owned()]));
        let text = "--address=::1,10.0.0.1\n--dummy-interface=lite0=169.254.20.51/16\n--port=7\n";
        assert_eq!(listen(text), Ok(["[::1]:7", "10.0.0.1:7", "169.254.20.51:7"].map(str::to_owned).into()));
        assert!(listen("--address=here\n").is_err() && listen("--port=x\n").is_err());
    }
}
