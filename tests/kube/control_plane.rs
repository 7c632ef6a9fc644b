//! A real control plane on loopback: etcd, kube-apiserver with RBAC, and the controllers that a namespace needs to be
//! lived in. Its data is in a temporary folder; its processes end with the value.
//!
//! Absent on purpose, unless the whole is asked for: the scheduler and the node life-cycle controllers. Nothing may change
//! behind a test's back between two reads that are to be the same, and a node without a kubelet would be called lost.

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

/// What a namespace needs to be lived in.
const CONTROLLERS: &str = "serviceaccount-controller,serviceaccount-token-controller,\
                           root-ca-certificate-publisher-controller,\
                           certificatesigningrequest-signing-controller,deployment-controller,replicaset-controller";

/// How a controller is told whom to ask: for its work, and about who asks it.
const KUBECONFIGS: [&str; 3] = ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"];

/// The running control plane.
pub struct ControlPlane {
    kube: PathBuf,
    folder: TempDir,
    ca: PathBuf,
    address: String,
    port: u16,
    /// What kube-apiserver is started with, but for its port.
    apiserver: Vec<(&'static str, String)>,
    /// In the order in which they were started.
    running: Vec<Child>,
    environment: Environment,
}

/// Variables that every component has set.
type Environment = &'static [(&'static str, &'static str)];

/// One more kube-apiserver on the same etcd; killed when dropped.
#[allow(dead_code, reason = "not every test binary has several")]
pub struct Another {
    pub port: u16,
    command: Command,
    running: Option<Child>,
}

#[allow(dead_code, reason = "not every test binary has several")]
impl Another {
    /// As a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again; it serves some seconds later.
    pub fn revive(&mut self) {
        self.running = Some(self.command.spawn().expect("kube-apiserver starts"));
    }
}

impl Drop for Another {
    fn drop(&mut self) {
        self.kill();
    }
}

impl ControlPlane {
    /// Starts it on loopback, and waits until it serves.
    pub fn start(kube: &Path, pki: &Pki) -> ControlPlane {
        ControlPlane::start_at(kube, pki, "127.0.0.1")
    }

    /// Starts it with kube-apiserver at this address of the machine, or of the network namespace that this thread is in.
    pub fn start_at(kube: &Path, pki: &Pki, address: &str) -> ControlPlane {
        let mut own = ControlPlane::serve(kube, pki, address, "192.0.2.1", &[], &[]);
        own.run_controllers(pki, CONTROLLERS, &[]);
        own
    }

    /// The same with what a cluster has whose nodes are real: the scheduler, and all controllers. A node that is not heard
    /// of for 20 s (instead of 50) is called lost.
    #[allow(dead_code, reason = "not every test binary has nodes")]
    pub fn start_whole(kube: &Path, pki: &Pki, address: &str, environment: Environment) -> ControlPlane {
        let further = [("enable-admission-plugins", "NodeRestriction"), ("allow-privileged", "true")];
        let mut own = ControlPlane::serve(kube, pki, address, address, &further, environment);
        own.run_controllers(pki, "*", &[("node-monitor-grace-period", "20s".to_owned())]);
        let kubeconfig = shown(&own.kubeconfig("scheduler", &pki.pair("system:kube-scheduler")));
        let mut flags: Vec<_> = KUBECONFIGS.iter().map(|flag| (*flag, kubeconfig.clone())).collect();
        flags.push(("bind-address", "127.0.0.1".to_owned()));
        flags.push(("secure-port", free_port().to_string()));
        flags.push(("leader-elect", "false".to_owned()));
        own.run("kube-scheduler", &flags);
        own
    }

    /// etcd and kube-apiserver, which serves at one address and says that the service `kubernetes` is at another.
    fn serve(
        kube: &Path,
        pki: &Pki,
        address: &str,
        advertised: &str,
        further: &[(&'static str, &str)],
        environment: Environment,
    ) -> ControlPlane {
        let (folder, port, etcd, etcd_peers) = (TempDir::new(), free_port(), free_port(), free_port());
        let (kube, address) = (kube.to_owned(), address.to_owned());
        let (running, ca) = (Vec::new(), pki.ca());
        let mut own = ControlPlane { kube, folder, ca, address, port, apiserver: Vec::new(), running, environment };
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
        own.apiserver = vec![
            // Where tests have no pods: of a documentation network (RFC 5737), nobody connects to it.
            ("advertise-address", advertised.to_owned()),
            ("bind-address", own.address.clone()),
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
        ];
        own.apiserver.extend(further.iter().map(|(flag, value)| (*flag, (*value).to_owned())));
        own.run("kube-apiserver", &[own.apiserver.clone(), vec![("secure-port", port.to_string())]].concat());
        let admin = own.kubeconfig(ADMIN, &pki.member(ADMIN, Some("system:masters")));
        own.await_ready(&Kubectl::new(&own.kube.clone(), admin));
        own
    }

    #[allow(dead_code, reason = "not every test binary has several")]
    /// Starts one more kube-apiserver; it serves some seconds later.
    pub fn another(&self) -> Another {
        let port = free_port();
        let flags = [self.apiserver.as_slice(), &[("secure-port", port.to_string())]].concat();
        let mut another =
            Another { port, command: self.command("kube-apiserver", &flags, &port.to_string()), running: None };
        another.revive();
        another
    }

    fn run_controllers(&mut self, pki: &Pki, which: &str, further: &[(&'static str, String)]) {
        let kubeconfig = shown(&self.kubeconfig("controllers", &pki.pair("system:kube-controller-manager")));
        let mut flags: Vec<_> = KUBECONFIGS.iter().map(|flag| (*flag, kubeconfig.clone())).collect();
        flags.extend([
            ("bind-address", "127.0.0.1".to_owned()),
            ("secure-port", free_port().to_string()),
            ("service-account-private-key-file", shown(&pki.signing_key().key)),
            ("root-ca-file", shown(&self.ca)),
            ("cluster-signing-cert-file", shown(&self.ca)),
            ("cluster-signing-key-file", shown(&pki.ca_key())),
            ("use-service-account-credentials", "true".to_owned()),
            ("leader-elect", "false".to_owned()),
            ("controllers", which.to_owned()),
        ]);
        flags.extend_from_slice(further);
        self.run("kube-controller-manager", &flags);
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
        let path = self.folder.path().join(format!("{name}.kubeconfig"));
        write_kubeconfig(&path, &format!("https://{}:{}", self.address, self.port), &self.ca, pair);
        path
    }

    fn command(&self, component: &str, flags: &[(&str, String)], log: &str) -> Command {
        let log = File::create(self.folder.path().join(format!("{log}.log"))).expect("a log");
        let mut command = Command::new(&self.kube);
        command
            .arg(component)
            .args(flags.iter().map(|(flag, value)| format!("--{flag}={value}")))
            .envs(self.environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        command
    }

    fn run(&mut self, component: &str, flags: &[(&str, String)]) {
        let child = self.command(component, flags, component).spawn();
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
            for component in ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
                let log = fs::read_to_string(self.folder.path().join(format!("{component}.log"))).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(5).collect();
                eprintln!("the last of {component}'s log:");
                last.iter().rev().for_each(|line| eprintln!("  {line}"));
            }
        }
    }
}

/// Writes a kubeconfig that leads to `server` with a client certificate.
pub fn write_kubeconfig(path: &Path, server: &str, ca: &Path, pair: &Pair) {
    // JSON is YAML.
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority": ca}}],
        "users": [{"name": "u", "user": {"client-certificate": pair.cert, "client-key": pair.key}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    });
    fs::write(path, config.to_string()).expect("written");
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
