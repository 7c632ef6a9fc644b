//! The node: a machine of namespaces that can be booted, and whose power can be taken. It runs containerd, lite-apiserver,
//! kubelet and kube-proxy; the latter two know no other kube-apiserver than lite-apiserver at 127.0.0.1:51003. Its disk, a
//! folder, outlasts the power. The power goes by SIGKILL to every process at once: what was written stays, as on a disk
//! that is done with it.

use crate::control_plane::{ADMIN, write_kubeconfig};
use crate::machine::{child_of, remove_cgroups, run};
use crate::parts;
use crate::support::pki::Pki;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The node's name, and its address: of a documentation network (RFC 5737), as the cloud's is.
pub const NAME: &str = "edge1";
pub const CLOUD: &str = "198.51.100.1";
const EDGE: &str = "198.51.100.2";

/// The service's address (`manifests/demo.yaml`).
pub const SERVICE: &str = "10.96.0.50";

const PROXY: &str = "https://127.0.0.1:51003";
const ADMIN_PORT: u16 = 51004;
const SOCKET: &str = "/run/containerd/containerd.sock";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How lite-apiserver runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum As {
    /// Started before the kubelet, as a unit or an init script does.
    Unit,
    /// By the kubelet: a static pod in the node's own network.
    Pod,
}

/// What to run the node with.
pub struct Setup<'a> {
    pub kube: &'a Path,
    pub lite: &'a Path,
    pub port: u16,
    pub pki: &'a Pki,
    pub lite_as: As,
    pub watch_list: bool,
}

/// The node; its power goes with the value.
pub struct Edge {
    kube: PathBuf,
    lite: PathBuf,
    flags: Vec<String>,
    folder: PathBuf,
    lite_as: As,
    watch_list: bool,
    power: Option<Power>,
}

/// What there is while the power is on.
struct Power {
    /// `unshare`, whose child is the node's first process.
    unshare: Child,
    init: u32,
    /// Each by its `nsenter`, whose child it is.
    services: BTreeMap<&'static str, Child>,
}

/// What one pod's echo server told: the values by their names.
pub type Told = BTreeMap<String, String>;

impl Edge {
    /// Puts on the node's disk, in `folder`, what a person installs there.
    pub fn install(folder: &Path, setup: &Setup<'_>) -> Edge {
        let (pki, folder) = (setup.pki, folder.to_owned());
        let file = |name: &str| folder.join(name);
        fs::create_dir_all(&folder).expect("a folder");
        let user = format!("system:node:{NAME}");
        let pairs = [(&user[..], Some("system:nodes")), ("system:kube-proxy", None), (ADMIN, Some("system:masters"))];
        let pairs = pairs.map(|(cn, group)| pki.member(cn, group));
        for (name, pair) in ["kubelet", "kube-proxy", "kubectl"].iter().zip(&pairs) {
            write_kubeconfig(&file(&format!("{name}.kubeconfig")), PROXY, &pki.ca(), pair);
        }
        let listed: Vec<_> = pairs.iter().map(|p| json!({"cert": p.cert, "key": p.key})).collect();
        fs::write(file("pairs.json"), json!(listed).to_string()).expect("written");
        let (serving, kubelet) = (pki.pair("lite-apiserver"), pki.pair("kubelet-serving"));
        let flags = [
            ("ca-file", shown(&pki.ca())),
            ("tls-cert-file", shown(&serving.cert)),
            ("tls-private-key-file", shown(&serving.key)),
            ("apiserver-ca-file", shown(&pki.ca())),
            ("kube-apiserver-url", CLOUD.to_owned()),
            ("kube-apiserver-port", setup.port.to_string()),
            ("tls-config-file", shown(&file("pairs.json"))),
            ("file-cache-path", shown(&file("lite-cache"))),
            ("heal-endpoints", "true".to_owned()),
        ];
        let flags: Vec<String> = flags.iter().map(|(flag, value)| format!("--{flag}={value}")).collect();
        write(&file("containerd.toml"), &containerd());
        write(&file("etc/cni/net.d/10-bridge.conflist"), &cni());
        write(&file("resolv.conf"), "nameserver 10.96.0.10\n");
        write(&file("kubelet.yaml"), &kubelet_config(&pki.ca(), &kubelet.cert, &kubelet.key, &file("resolv.conf")));
        write(&file("kube-proxy.yaml"), &kube_proxy_config(&file("kube-proxy.kubeconfig")));
        let manifests = file("etc/kubernetes/manifests");
        write(&manifests.join("static.yaml"), include_str!("manifests/static.yaml"));
        let mut images = parts::images(&folder);
        if setup.lite_as == As::Pod {
            images.push(parts::dynamic_image(&folder, "lite-apiserver", setup.lite));
            write(&manifests.join("lite-apiserver.yaml"), &lite_pod(&flags, &folder, &pki.ca()));
        }
        let (kube, lite) = (setup.kube.to_owned(), setup.lite.to_owned());
        let (lite_as, watch_list) = (setup.lite_as, setup.watch_list);
        let mut own = Edge { kube, lite, flags, folder, lite_as, watch_list, power: None };
        // A first boot, for the images: what a factory does.
        own.power_on();
        own.start_containerd();
        for image in images {
            own.ctr(&["images", "import", &shown(&image)]);
        }
        own.power_off();
        own
    }

    /// Power; containerd and lite-apiserver, neither of which waits for the other; then all else. When containerd
    /// answered.
    pub fn boot(&mut self) -> Instant {
        self.power_on();
        if self.lite_as == As::Unit {
            let flags = self.flags.clone();
            self.start("lite-apiserver", &shown(&self.lite.clone()), &flags);
        }
        self.start_containerd();
        let up = Instant::now();
        while self.lite_as == As::Unit && self.page("/healthz").is_none() {
            assert!(up.elapsed() < Duration::from_secs(20), "lite-apiserver does not serve: {}", self.logs());
            std::thread::sleep(Duration::from_millis(5));
        }
        let kube = shown(&self.kube.clone());
        let file = |name: &str| shown(&self.folder.join(name));
        let mut kubelet = vec![
            "kubelet".to_owned(),
            format!("--config={}", file("kubelet.yaml")),
            format!("--kubeconfig={}", file("kubelet.kubeconfig")),
            format!("--hostname-override={NAME}"),
            format!("--node-ip={EDGE}"),
        ];
        if self.watch_list {
            kubelet.push("--feature-gates=WatchListClient=true".to_owned());
        }
        let proxy = ["kube-proxy".to_owned(), format!("--config={}", file("kube-proxy.yaml"))];
        for (name, arguments) in [("kubelet", &kubelet[..]), ("kube-proxy", &proxy)] {
            // As a unit is: a kubelet that comes before containerd has found all its containers ends at once.
            let again = ["-c", r#"while :; do "$@"; sleep 0.1; done"#, name, &kube].map(str::to_owned);
            self.start(name, "sh", &[&again, arguments].concat());
        }
        up
    }

    fn power_on(&mut self) {
        assert!(self.power.is_none(), "it is on");
        let log = self.log("init");
        let unshare = Command::new("unshare")
            .args([
                "--pid",
                "--mount",
                "--net",
                "--fork",
                "--mount-proc",
                "--propagation=private",
                "--kill-child",
                "--",
            ])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node/init.sh"))
            .arg(&self.folder)
            .arg(parts::programs())
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("unshare starts");
        let begun = Instant::now();
        let patience = |what: &str| {
            assert!(begun.elapsed() < Duration::from_secs(20), "the node does not boot: {what}");
            std::thread::sleep(Duration::from_millis(5));
        };
        let init = loop {
            if let Some(pid) = child_of(unshare.id()) {
                break pid;
            }
            patience("no first process");
        };
        while !Path::new(&format!("/proc/{init}/root/run/ready")).exists() {
            patience(&fs::read_to_string(self.folder.join("init.log")).unwrap_or_default());
        }
        self.power = Some(Power { unshare, init, services: BTreeMap::new() });
        // The cable is the cloud's as well: what it is (cut or whole) is said by its end there.
        let cut = self.is_cut();
        run("ip", &["link", "add", "cloud", "type", "veth", "peer", "name", "edge", "netns", &init.to_string()]);
        run("ip", &["addr", "add", &format!("{CLOUD}/24"), "dev", "cloud"]);
        for arguments in [
            &["addr", "add", &format!("{EDGE}/24"), "dev", "edge"][..],
            &["link", "set", "edge", "up"],
            &["route", "add", "default", "via", CLOUD],
        ] {
            self.on_node(|| run("ip", arguments));
        }
        if !cut {
            run("ip", &["link", "set", "cloud", "up"]);
        }
    }

    /// The power goes: every process at once.
    pub fn power_off(&mut self) {
        let Some(mut power) = self.power.take() else { return };
        let first = rustix::process::Pid::from_raw(power.init.cast_signed()).expect("a pid");
        let _ = rustix::process::kill_process(first, rustix::process::Signal::KILL);
        let _ = power.unshare.wait();
        power.services.values_mut().for_each(|child| drop(child.wait()));
        // Goes with the node's network, but not at once.
        let _ = Command::new("ip").args(["link", "del", "cloud"]).stderr(Stdio::null()).status();
        remove_cgroups();
    }

    /// Cuts the cable: its far end is dead, nobody tells the node.
    pub fn cut(&self) {
        write(&self.folder.join("cut"), "");
        run("ip", &["link", "set", "cloud", "down"]);
    }

    pub fn heal(&self) {
        fs::remove_file(self.folder.join("cut")).expect("it was cut");
        run("ip", &["link", "set", "cloud", "up"]);
    }

    fn is_cut(&self) -> bool {
        self.folder.join("cut").exists()
    }

    fn start_containerd(&mut self) {
        let config = shown(&self.folder.join("containerd.toml"));
        self.start("containerd", "containerd", &["--config".to_owned(), config]);
        let begun = Instant::now();
        while self.try_ctr(&["version"]).is_none() {
            assert!(begun.elapsed() < Duration::from_secs(30), "containerd does not come up: {}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn start(&mut self, name: &'static str, program: &str, arguments: &[String]) {
        let log = self.log(name);
        let mut command = self.inside(program);
        command.args(arguments).stdout(log.try_clone().expect("a log")).stderr(log);
        let child = command.spawn().unwrap_or_else(|e| panic!("{name} does not start: {e}"));
        self.power.as_mut().expect("power").services.insert(name, child);
    }

    /// A command in the node's namespaces.
    pub fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init().to_string(), "--mount", "--pid", "--net", "--", program]);
        command.env_clear().env("PATH", PATH).env("HOME", "/nowhere").stdin(Stdio::null());
        if self.watch_list {
            command.env("KUBE_FEATURE_WatchListClient", "true");
        }
        command
    }

    fn init(&self) -> u32 {
        self.power.as_ref().expect("power").init
    }

    fn try_ctr(&self, arguments: &[&str]) -> Option<String> {
        let mut command = self.inside("ctr");
        let ended = command.args(["--address", SOCKET, "--namespace", "k8s.io"]).args(arguments).output();
        let ended = ended.expect("ctr starts");
        ended.status.success().then(|| String::from_utf8_lossy(&ended.stdout).into_owned())
    }

    fn ctr(&self, arguments: &[&str]) -> String {
        self.try_ctr(arguments).unwrap_or_else(|| panic!("ctr {}: {}", arguments.join(" "), self.logs()))
    }

    /// Does something in the node's network; threads and processes that it starts are there, too.
    pub fn on_node<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        let network = File::open(format!("/proc/{}/ns/net", self.init())).expect("the node's network");
        let there = || {
            let kind = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(network.as_fd(), Some(kind)).expect("root enters it");
            what()
        };
        std::thread::scope(|threads| threads.spawn(there).join()).expect("what is done on the node succeeds")
    }

    /// `curl` on the node; what it printed, the reason where it failed.
    pub fn curl(&self, url: &str) -> String {
        let mut command = self.inside("curl");
        let ended = command.args(["-sS", "-m", "3", url]).output().expect("curl starts");
        String::from_utf8_lossy(if ended.status.success() { &ended.stdout } else { &ended.stderr }).into_owned()
    }

    /// What answers, each by its pod's name: asked at every address that a pod has or had, and at the node's own.
    pub fn answers(&self) -> BTreeMap<String, Told> {
        // host-local keeps a file for each address.
        let entries = fs::read_dir(self.folder.join("cni/networks/lite")).into_iter().flatten().flatten();
        let pods = entries.filter_map(|e| e.file_name().to_str()?.parse::<IpAddr>().ok());
        let mut addresses: Vec<SocketAddr> = pods.map(|ip| (ip, 8080).into()).collect();
        addresses.extend([8081, 8082].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        let told = self.on_node(|| {
            std::thread::scope(|threads| {
                let asked: Vec<_> = addresses.iter().map(|a| threads.spawn(|| ask(*a, "/"))).collect();
                asked.into_iter().filter_map(|t| t.join().expect("asked")).collect::<Vec<_>>()
            })
        });
        let fields = |text: String| -> Told {
            let lines = text.lines().filter_map(|l| l.split_once('='));
            lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        told.into_iter().map(fields).filter_map(|told| Some((told.get("POD_NAME")?.clone(), told))).collect()
    }

    /// A page of lite-apiserver's admin endpoint.
    pub fn page(&self, path: &str) -> Option<String> {
        self.on_node(|| ask((Ipv4Addr::LOCALHOST, ADMIN_PORT).into(), path))
    }

    /// The sum of a metric's samples.
    pub fn metric(&self, name: &str) -> u64 {
        let page = self.page("/metrics").unwrap_or_default();
        let samples = page.lines().filter(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
        samples.filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// lite-apiserver's resident memory now, and of it what is its own (not of its files), in bytes.
    pub fn memory(&self) -> (u64, u64) {
        let pid = match self.lite_as {
            As::Unit => child_of(self.power.as_ref().expect("power").services["lite-apiserver"].id()),
            As::Pod => process_of("/lite-apiserver"),
        };
        let Some(pid) = pid else { return (0, 0) };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let of = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|l| l.strip_prefix(name))?;
            line.trim().trim_end_matches(" kB").parse().ok()
        };
        (of("VmRSS:").unwrap_or_default() << 10, of("RssAnon:").unwrap_or_default() << 10)
    }

    /// The kubeconfig of the person at the node.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubectl.kubeconfig")
    }

    fn log(&self, name: &str) -> File {
        let path = self.folder.join(format!("{name}.log"));
        File::options().create(true).append(true).open(path).expect("a log")
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        let mut said = String::new();
        for name in ["init", "containerd", "lite-apiserver", "kubelet", "kube-proxy"] {
            let log = fs::read_to_string(self.folder.join(format!("{name}.log"))).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(12).collect();
            said.push_str(&format!("\nthe end of {name}'s log:\n"));
            last.iter().rev().for_each(|line| said.push_str(&format!("  {line}\n")));
        }
        said
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        self.power_off();
    }
}

/// GET in plain HTTP; the body of a 200. Half a second is long on one machine.
fn ask(address: SocketAddr, path: &str) -> Option<String> {
    let patience = Duration::from_millis(500);
    let mut socket = TcpStream::connect_timeout(&address, patience).ok()?;
    socket.set_read_timeout(Some(patience)).ok()?;
    write!(socket, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    socket.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    head.contains(" 200 ").then(|| body.to_owned())
}

/// The process that runs this program of an image.
fn process_of(program: &str) -> Option<u32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.into_iter().find(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|b| *b == 0).next() == Some(program.as_bytes())
    })
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn containerd() -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"#
    )
}

fn cni() -> String {
    let ipam =
        json!({"type": "host-local", "ranges": [[{"subnet": "10.244.1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]});
    let bridge = json!({
        "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": ipam,
    });
    json!({"cniVersion": "0.4.0", "name": "lite", "plugins": [bridge]}).to_string()
}

fn kubelet_config(ca: &Path, certificate: &Path, key: &Path, resolver: &Path) -> String {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": ca}},
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs", "failCgroupV1": false, "failSwapOn": false,
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "clusterDNS": ["10.96.0.10"], "clusterDomain": "cluster.local", "resolvConf": resolver,
        "staticPodPath": "/etc/kubernetes/manifests",
        "tlsCertFile": certificate, "tlsPrivateKeyFile": key,
        // The disk is the machine's: how full it is, is no matter of the node's.
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "50Mi"},
        "imageGCHighThresholdPercent": 100,
    })
    .to_string()
}

fn kube_proxy_config(kubeconfig: &Path) -> String {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": "iptables", "clusterCIDR": "10.244.0.0/16", "hostnameOverride": NAME,
        "clientConnection": {"kubeconfig": kubeconfig},
        // What would be set for the whole machine.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    })
    .to_string()
}

/// lite-apiserver as a static pod: its files are where they are on the node.
fn lite_pod(flags: &[String], folder: &Path, ca: &Path) -> String {
    let pki = ca.parent().expect("a folder");
    let volumes = json!([
        {"name": "node", "hostPath": {"path": folder}},
        {"name": "pki", "hostPath": {"path": pki}},
    ]);
    let mounts = json!([
        {"name": "node", "mountPath": folder},
        {"name": "pki", "mountPath": pki, "readOnly": true},
    ]);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "lite-apiserver", "namespace": "kube-system"},
        "spec": {
            "hostNetwork": true, "priorityClassName": "system-node-critical",
            "containers": [{
                "name": "lite-apiserver", "image": "localhost/lite-apiserver:1", "imagePullPolicy": "IfNotPresent",
                "args": flags, "volumeMounts": mounts,
            }],
            "volumes": volumes,
        },
    })
    .to_string()
}
