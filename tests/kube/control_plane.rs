//! A real control plane on loopback: etcd, kube-apiserver with RBAC, and the controllers that a namespace needs to be
//! lived in. Its data is in a temporary folder; its processes end with the value.
//!
//! Absent on purpose: the scheduler and the node life-cycle controllers. Nothing may change behind a test's back between
//! two reads that are to be the same, and a node without a kubelet would be called lost.

use crate::kubectl::Kubectl;
use crate::support::pki::{Pair, Pki};
use crate::support::{TempDir, free_port};
use serde_json::json;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The administrator.
pub const ADMIN: &str = "kubernetes-admin";

/// The running control plane.
pub struct ControlPlane {
    kube: PathBuf,
    folder: TempDir,
    ca: PathBuf,
    address: String,
    port: u16,
    /// In the order in which they were started.
    running: Vec<Child>,
}

impl ControlPlane {
    /// Starts it on loopback, and waits until it serves.
    pub fn start(kube: &Path, pki: &Pki) -> ControlPlane {
        ControlPlane::start_at(kube, pki, "127.0.0.1")
    }

    /// Starts it with kube-apiserver at this address of the machine, or of the network namespace that this thread is in.
    pub fn start_at(kube: &Path, pki: &Pki, address: &str) -> ControlPlane {
        let (folder, port, etcd, etcd_peers) = (TempDir::new(), free_port(), free_port(), free_port());
        let (kube, address) = (kube.to_owned(), address.to_owned());
        let mut own = ControlPlane { kube, folder, ca: pki.ca(), address, port, running: Vec::new() };
        let (clients, peers) = (format!("http://127.0.0.1:{etcd}"), format!("http://127.0.0.1:{etcd_peers}"));
        own.run(
            "etcd",
            &[
                ("data-dir", own.folder.path().join("etcd").display().to_string()),
                ("listen-client-urls", clients.clone()),
                ("advertise-client-urls", clients.clone()),
                ("listen-peer-urls", peers.clone()),
                ("initial-advertise-peer-urls", peers.clone()),
                ("initial-cluster", format!("default={peers}")),
                ("unsafe-no-fsync", "true".to_owned()),
                ("log-level", "warn".to_owned()),
            ],
        );
        let tokens = pki.signing_key();
        let (serving, kubelet_client) =
            (pki.pair("kube-apiserver"), pki.member("kubelet-client", Some("system:masters")));
        own.run(
            "kube-apiserver",
            &[
                // Of a documentation network (RFC 5737): the endpoint of the service `kubernetes`; nobody connects to it.
                ("advertise-address", "192.0.2.1".to_owned()),
                ("bind-address", own.address.clone()),
                ("secure-port", port.to_string()),
                ("etcd-servers", clients),
                ("tls-cert-file", shown(&serving.cert)),
                ("tls-private-key-file", shown(&serving.key)),
                ("client-ca-file", shown(&own.ca)),
                ("kubelet-client-certificate", shown(&kubelet_client.cert)),
                ("kubelet-client-key", shown(&kubelet_client.key)),
                ("kubelet-preferred-address-types", "InternalIP".to_owned()),
                ("authorization-mode", "Node,RBAC".to_owned()),
                ("service-cluster-ip-range", "10.96.0.0/16".to_owned()),
                ("service-account-issuer", "https://kubernetes.default.svc.cluster.local".to_owned()),
                ("service-account-key-file", shown(&tokens.cert)),
                ("service-account-signing-key-file", shown(&tokens.key)),
            ],
        );
        let admin = own.kubeconfig(ADMIN, &pki.member(ADMIN, Some("system:masters")));
        own.await_ready(&Kubectl::new(&own.kube.clone(), admin));
        let controllers = "system:kube-controller-manager";
        let kubeconfig = own.kubeconfig("controllers", &pki.pair(controllers));
        own.run(
            "kube-controller-manager",
            &[
                ("kubeconfig", shown(&kubeconfig)),
                ("authentication-kubeconfig", shown(&kubeconfig)),
                ("authorization-kubeconfig", shown(&kubeconfig)),
                ("bind-address", "127.0.0.1".to_owned()),
                ("secure-port", free_port().to_string()),
                ("service-account-private-key-file", shown(&tokens.key)),
                ("root-ca-file", shown(&own.ca)),
                ("cluster-signing-cert-file", shown(&own.ca)),
                ("cluster-signing-key-file", shown(&pki.ca_key())),
                ("use-service-account-credentials", "true".to_owned()),
                ("leader-elect", "false".to_owned()),
                (
                    "controllers",
                    "serviceaccount-controller,serviceaccount-token-controller,\
                     root-ca-certificate-publisher-controller,\
                     certificatesigningrequest-signing-controller,deployment-controller,replicaset-controller"
                        .to_owned(),
                ),
            ],
        );
        own
    }

    /// Where kube-apiserver listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The administrator's kubeconfig, straight to kube-apiserver.
    pub fn admin(&self) -> PathBuf {
        self.folder.path().join(format!("{ADMIN}.kubeconfig"))
    }

    /// The same as [`ControlPlane::admin`], but the way goes through this port of the machine.
    pub fn admin_through(&self, port: u16) -> PathBuf {
        let text = fs::read_to_string(self.admin()).expect("a kubeconfig");
        let path = self.folder.path().join("through.kubeconfig");
        fs::write(&path, text.replace(&format!(":{}\"", self.port), &format!(":{port}\""))).expect("written");
        path
    }

    /// Waits for as long as a cold and busy machine may need.
    fn await_ready(&mut self, kubectl: &Kubectl) {
        let begun = Instant::now();
        while kubectl.run("get --raw /readyz").out != "ok" {
            let ended = self.running.iter_mut().any(|c| c.try_wait().is_ok_and(|e| e.is_some()));
            assert!(!ended && begun.elapsed() < Duration::from_secs(90), "the control plane does not come up");
        }
    }

    fn kubeconfig(&self, name: &str, pair: &Pair) -> PathBuf {
        let server = format!("https://{}:{}", self.address, self.port);
        // JSON is YAML.
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority": self.ca}}],
            "users": [{"name": "u", "user": {"client-certificate": pair.cert, "client-key": pair.key}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        });
        let path = self.folder.path().join(format!("{name}.kubeconfig"));
        fs::write(&path, config.to_string()).expect("written");
        path
    }

    fn run(&mut self, component: &str, flags: &[(&str, String)]) {
        let log = File::create(self.folder.path().join(format!("{component}.log"))).expect("a log");
        let child = Command::new(&self.kube)
            .arg(component)
            .args(flags.iter().map(|(flag, value)| format!("--{flag}={value}")))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn();
        self.running.push(child.unwrap_or_else(|e| panic!("{component} does not start: {e}")));
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // Killed, because kube-apiserver takes a minute to end while watches are open; its data goes with it.
        for mut child in self.running.drain(..).rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for component in ["etcd", "kube-apiserver", "kube-controller-manager"] {
                let log = fs::read_to_string(self.folder.path().join(format!("{component}.log"))).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(5).collect();
                eprintln!("the last of {component}'s log:");
                last.iter().rev().for_each(|line| eprintln!("  {line}"));
            }
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
