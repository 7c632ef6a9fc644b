//! The node: a machine of namespaces that can be booted, and whose power can be taken. It runs containerd, lite-apiserver,
//! kubelet and kube-proxy; the latter two know no other kube-apiserver than lite-apiserver at 127.0.0.1:51003, and pods are
//! led to it. Its disk, a folder, outlasts the power. The power goes by SIGKILL to every process at once: what was written stays, as on a disk
//! that is done with it.

use crate::control_plane::{ADMIN, write_kubeconfig};
use crate::machine::{child_of, remove_cgroups, run};
use crate::support::pki::{Pair, Pki};
use crate::{parts, settings};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The node's name, its kubelet's, and that one's group.
pub const NAME: &str = "edge1";
pub const KUBELET: &str = "system:node:edge1";
pub const NODES: &str = "system:nodes";

/// The cloud's address, and the node's: of a documentation network (RFC 5737).
pub const CLOUD: &str = "198.51.100.1";
const EDGE: &str = "198.51.100.2";

/// The service's address (`manifests/demo.yaml`).
pub const SERVICE: &str = "10.96.0.50";

const PROXY: &str = "https://127.0.0.1:51003";
const ADMIN_PORT: u16 = 51004;
/// Where pods find lite-apiserver.
pub const FOR_PODS: &str = "169.254.20.51";
/// Where the kubelet keeps its client certificates, and the one in use with its key.
pub const CERTIFICATES: &str = "/var/lib/kubelet/pki";
const CURRENT: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";

pub const SOCKET: &str = "/run/containerd/containerd.sock";
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
    /// What lite-apiserver serves with.
    pub serving: &'a Pair,
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
        let pairs = [(KUBELET, Some(NODES)), ("system:kube-proxy", None), (ADMIN, Some("system:masters"))];
        let mut pairs = pairs.map(|(cn, group)| pki.member(cn, group));
        let first = pairs[0].texts();
        pairs[0] = Pair { cert: CURRENT.into(), key: CURRENT.into() };
        for (name, pair) in ["kubelet", "kube-proxy", "kubectl"].iter().zip(&pairs) {
            write_kubeconfig(&file(&format!("{name}.kubeconfig")), PROXY, &pki.ca(), pair);
        }
        let listed: Vec<_> = pairs.iter().map(|p| json!({"cert": p.cert, "key": p.key})).collect();
        fs::write(file("pairs.json"), json!(listed).to_string()).expect("written");
        let (serving, kubelet) = (setup.serving, pki.pair("kubelet-serving"));
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
            ("dummy-interface", format!("{}={FOR_PODS}", interface_for_pods())),
            ("rewrite-kubernetes-service", "true".to_owned()),
        ];
        let flags: Vec<String> = flags.iter().map(|(flag, value)| format!("--{flag}={value}")).collect();
        write(&file("containerd.toml"), &settings::containerd());
        write(&file("etc/cni/net.d/10-bridge.conflist"), &settings::cni());
        write(&file("resolv.conf"), "nameserver 10.96.0.10\n");
        let kubelet = settings::kubelet_config(&pki.ca(), &kubelet.cert, &kubelet.key, &file("resolv.conf"));
        write(&file("kubelet.yaml"), &kubelet);
        write(&file("kube-proxy.yaml"), &settings::kube_proxy_config(&file("kube-proxy.kubeconfig")));
        let manifests = file("etc/kubernetes/manifests");
        write(&manifests.join("static.yaml"), include_str!("manifests/static.yaml"));
        let mut images = parts::images(&folder);
        if setup.lite_as == As::Pod {
            images.push(parts::dynamic_image(&folder, "lite-apiserver", setup.lite));
            write(&manifests.join("lite-apiserver.yaml"), &settings::lite_pod(&flags, &folder, &pki.ca()));
        }
        let (kube, lite) = (setup.kube.to_owned(), setup.lite.to_owned());
        let (lite_as, watch_list) = (setup.lite_as, setup.watch_list);
        let mut own = Edge { kube, lite, flags, folder, lite_as, watch_list, power: None };
        own.give_certificate("first", &first);
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

    /// Lays a client certificate and its key where the kubelet has its own, as the kubelet does
    /// (`certificate_store.go`): a file that a link leads to.
    pub fn give_certificate(&self, name: &str, (certificate, key): &(String, String)) {
        let folder = self.folder.join("kubelet/pki");
        let path = client_certificate(name);
        write(&folder.join(path.file_name().expect("a name")), &format!("{certificate}{key}"));
        let (link, current) = (folder.join("link"), folder.join("kubelet-client-current.pem"));
        std::os::unix::fs::symlink(path, &link).expect("a link");
        fs::rename(link, current).expect("renamed");
    }

    /// Which file has the kubelet's client certificate.
    pub fn certificate(&self) -> PathBuf {
        fs::read_link(self.folder.join("kubelet/pki/kubelet-client-current.pem")).expect("a link")
    }

    /// Kills the kubelet, which is started again.
    pub fn restart_kubelet(&self) {
        let service = self.power.as_ref().expect("power").services["kubelet"].id();
        // nsenter, the shell, the kubelet.
        let kubelet =
            child_of(service).and_then(child_of).and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        let _ = rustix::process::kill_process(kubelet.expect("a kubelet"), rustix::process::Signal::KILL);
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
        told.iter().map(|text| fields(text)).filter_map(|told| Some((told.get("POD_NAME")?.clone(), told))).collect()
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

/// The values of lines `name=value`.
pub fn fields(text: &str) -> Told {
    let lines = text.lines().filter_map(|l| l.split_once('='));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
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

/// Where the kubelet keeps the client certificate of this name.
pub fn client_certificate(name: &str) -> PathBuf {
    Path::new(CERTIFICATES).join(format!("kubelet-client-{name}.pem"))
}

/// An interface for the address at which pods find lite-apiserver: of its own where this kernel has such, else loopback's.
fn interface_for_pods() -> &'static str {
    let ip = |arguments: &[&str]| Command::new("ip").args(arguments).stderr(Stdio::null()).status();
    let made = ip(&["link", "add", "probe", "type", "dummy"]).is_ok_and(|s| s.success());
    if made {
        run("ip", &["link", "del", "probe"]);
    }
    if made { "lite0" } else { "lo" }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}
