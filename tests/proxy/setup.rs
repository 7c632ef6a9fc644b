//! `lite-apiserver setup` on a fabricated node: made, applied, served through by the real daemon with the very files that were
//! made, and taken back byte for byte.

use crate::PROGRAM;
use crate::support::client::{Client, tls_of};
use crate::support::pki::{Pair, Pki};
use crate::support::proxy::NODE;
use crate::support::upstream::{Received, Upstream, Wire};
use crate::support::{TempDir, eventually, free_port};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const MAPS: &str = "/api/v1/namespaces/shop/configmaps";

/// A node's root directory, before anybody has set anything up.
struct Node {
    folder: TempDir,
    pki: Pki,
    /// Who signs for clients, where that is another.
    clients: Pki,
}

/// Every file below a folder: kind, mode, and what is in it or where it leads.
type Tree = BTreeMap<PathBuf, (u32, Vec<u8>)>;

fn tree(folder: &Path) -> Tree {
    let mut found = Tree::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(&folder).expect("a folder").flatten().map(|e| e.path()) {
            let seen = path.symlink_metadata().expect("metadata");
            let content = if seen.is_symlink() {
                std::fs::read_link(&path).expect("a link").as_os_str().as_encoded_bytes().to_vec()
            } else if seen.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else {
                std::fs::read(&path).expect("a file")
            };
            found.insert(path, (seen.mode(), content));
        }
    }
    found
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("set");
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn kubeconfig(server: &str, ca: &str, user: &str) -> String {
    format!(
        "# A person's remark\napiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    {ca}\n    server: {server}\n  name: edge\n\
         contexts:\n- context:\n    cluster: edge\n    user: node\n  name: node@edge\ncurrent-context: node@edge\n\
         users:\n- name: node\n  user:\n    {user}\n"
    )
}

impl Node {
    fn new() -> Node {
        let folder = TempDir::new();
        let pki = Pki::new(&folder.path().join("pki"));
        let clients = Pki::new(&folder.path().join("clients"));
        std::fs::create_dir_all(folder.path().join("root/etc")).expect("a folder");
        Node { folder, pki, clients }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Where a path of the node is.
    fn at(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    fn inline_ca(&self) -> String {
        format!("certificate-authority-data: {}", STANDARD.encode(read(&self.pki.ca())))
    }

    /// As kubeadm leaves a node: certificate and key in one file, to which a link leads.
    fn kubeadm(port: u16) -> Node {
        Node::new().by_kubeadm(port)
    }

    fn by_kubeadm(self, port: u16) -> Node {
        let node = self;
        let (cert, key) = node.pki.member(NODE, Some("system:nodes")).texts();
        write(&node.at("/var/lib/kubelet/pki/kubelet-client-2026.pem"), &format!("{cert}{key}"));
        let current = "/var/lib/kubelet/pki/kubelet-client-current.pem";
        symlink("kubelet-client-2026.pem", node.at(current)).expect("a link");
        let user = format!("client-certificate: {current}\n    client-key: {current}");
        let server = format!("https://127.0.0.1:{port}");
        write(&node.at("/etc/kubernetes/kubelet.conf"), &kubeconfig(&server, &node.inline_ca(), &user));
        write(&node.at("/etc/kubernetes/pki/ca.crt"), &read(&node.pki.ca()));
        node
    }

    /// As a k3s agent does: another CA for clients than for servers, and its own load balancer in between.
    fn by_k3s(self, port: u16) -> Node {
        let node = self;
        let agent = "/var/lib/rancher/k3s/agent";
        write(&node.at(&format!("{agent}/server-ca.crt")), &read(&node.pki.ca()));
        write(&node.at(&format!("{agent}/client-ca.crt")), &read(&node.clients.ca()));
        for (file, name, cn) in [("kubelet", "kubelet", NODE), ("kubeproxy", "kube-proxy", "system:kube-proxy")] {
            let (cert, key) = node.clients.pair(cn).texts();
            write(&node.at(&format!("{agent}/client-{name}.crt")), &cert);
            write(&node.at(&format!("{agent}/client-{name}.key")), &key);
            let ca = format!("certificate-authority: {agent}/server-ca.crt");
            let user =
                format!("client-certificate: {agent}/client-{name}.crt\n    client-key: {agent}/client-{name}.key");
            let text = kubeconfig(&format!("https://127.0.0.1:{port}"), &ca, &user);
            write(&node.at(&format!("{agent}/{file}.kubeconfig")), &text);
        }
        node
    }

    fn setup(&self, line: &str) -> Output {
        let mut command = Command::new(PROGRAM);
        command.arg("setup").arg("--root").arg(self.root()).args(line.split_whitespace());
        command.output().expect("the program runs")
    }

    /// The same where it must succeed; what it says.
    fn set_up(&self, line: &str) -> String {
        let done = self.setup(line);
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("text")
    }
}

/// Goes through the proxy as what reads this kubeconfig does: `root` is where its paths begin.
fn client_of(kubeconfig: &Path, root: &Path) -> Client {
    let config: Value = serde_json::from_str(&read(kubeconfig)).expect("JSON");
    let decode = |value: &Value| String::from_utf8(STANDARD.decode(value.as_str().expect("data")).expect("base64"));
    let cluster = &config["clusters"][0]["cluster"];
    let ca = decode(&cluster["certificate-authority-data"]).expect("PEM");
    let user = &config["users"][0]["user"];
    let part = |name: &str| match user[name].as_str() {
        Some(path) => read(&root.join(path.trim_start_matches('/'))),
        None => decode(&user[format!("{name}-data")]).expect("PEM"),
    };
    let server = cluster["server"].as_str().and_then(|s| s.strip_prefix("https://127.0.0.1:")).expect("here");
    let port = server.parse().expect("a port");
    Client::try_connect(port, &tls_of(&ca, Some(&(part("client-certificate"), part("client-key"))))).expect("connected")
}

/// Says who asked.
fn echo(request: &Received, wire: &mut Wire) -> io::Result<()> {
    wire.json(200, serde_json::json!({"who": request.common_name}).to_string())
}

fn who(kubeconfig: &Path, root: &Path) -> String {
    let reply = client_of(kubeconfig, root).get(MAPS);
    assert_eq!(reply.status(), 200, "{}", reply.text());
    reply.json()["who"].as_str().unwrap_or_default().to_owned()
}

struct Daemon(Child);

impl Daemon {
    fn start(mut command: Command, admin: u16) -> Daemon {
        let mut daemon = Daemon(command.stdin(Stdio::null()).spawn().expect("the daemon starts"));
        eventually("the daemon answers", || {
            assert!(daemon.0.try_wait().expect("a child").is_none(), "the daemon ended");
            answers(admin)
        });
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether `/healthz` is there.
fn answers(admin: u16) -> bool {
    use std::io::{Read as _, Write as _};
    let ask = || -> io::Result<String> {
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", admin))?;
        write!(socket, "GET /healthz HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        Ok(text)
    };
    ask().is_ok_and(|page| page.contains(" 200 "))
}

/// A plain kubelet, whose files are wherever a person put them: no other root, and no rights.
#[test]
fn a_plain_node_goes_through_the_proxy_and_back() {
    let node = Node::new();
    let upstream = Upstream::start(&node.pki, echo);
    let home = node.folder.path().join("home");
    let (kubelet, proxy) = (home.join("kubelet.kubeconfig"), home.join("kube-proxy.kubeconfig"));
    let server = format!("https://127.0.0.1:{}", upstream.port());
    let user =
        |pair: &Pair| format!("client-certificate: {}\n    client-key: {}", pair.cert.display(), pair.key.display());
    // Paths from the kubeconfig's own folder, and everything within it: both are right.
    write(&kubelet, &kubeconfig(&server, "certificate-authority: ../pki/ca.crt", &user(&node.pki.pair(NODE))));
    let (cert, key) = node.pki.pair("system:kube-proxy").texts();
    let (cert, key) = (STANDARD.encode(cert), STANDARD.encode(key));
    let inline = format!("client-certificate-data: {cert}\n    client-key-data: {key}");
    write(&proxy, &kubeconfig(&server, &node.inline_ca(), &inline));
    std::fs::set_permissions(&proxy, std::fs::Permissions::from_mode(0o644)).expect("set");
    let (port, admin) = (free_port(), free_port());
    let etc = home.join("etc");
    let record = home.join("cache");
    let flags =
        format!("# mine\n--port={port}\n--admin-address=127.0.0.1:{admin}\n--file-cache-path={}\n", record.display());
    write(&etc.join("flags"), &flags);
    let before = tree(&home);

    let run = |line: &str| {
        let mut command = Command::new(PROGRAM);
        command.arg("setup").arg("--directory").arg(&etc).args(line.split_whitespace());
        let done =
            command.arg("--kubelet-kubeconfig").arg(&kubelet).arg("--kube-proxy-kubeconfig").arg(&proxy).output();
        let done = done.expect("the program runs");
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("text")
    };
    // Looking at it changes no kubeconfig.
    let said = run("");
    assert!(said.contains("run this again with --apply") && said.contains("restart kubelet and kube-proxy"), "{said}");
    for path in [&kubelet, &proxy] {
        assert_eq!(before.get(path), tree(&home).get(path));
    }
    let made = tree(&home);
    run("");
    assert_eq!(tree(&home), made, "a second run changes nothing");
    assert!(run("--apply").contains("The proxy is in between"));
    let applied = tree(&home);
    for line in ["", "--apply"] {
        let said = run(line);
        assert!(said.contains("The proxy is in between") && !said.contains("\nchanged"), "{said}");
        assert_eq!(tree(&home), applied, "a further run changes nothing");
    }
    let seen = |path: &Path| std::fs::metadata(path).expect("there").mode() & 0o7777;
    assert_eq!((seen(&proxy), seen(&kubelet), seen(&etc.join("pki"))), (0o644, 0o600, 0o700));
    assert!(tree(&etc).iter().all(|(path, (mode, _))| path.is_dir() || mode & 0o7777 == 0o600), "0600");
    assert!(read(&etc.join("flags")).starts_with(&flags));

    let mut command = Command::new(PROGRAM);
    command.arg(format!("--config={}", etc.join("flags").display()));
    let daemon = Daemon::start(command, admin);
    assert_eq!(who(&kubelet, Path::new("/")), NODE);
    assert_eq!(who(&proxy, Path::new("/")), "system:kube-proxy");
    drop(daemon);

    let said = run("--undo");
    assert!(said.contains(&format!("restored  {}", kubelet.display())), "{said}");
    let mut after = tree(&home);
    after.retain(|path, _| !path.starts_with(&record));
    assert_eq!(after, before, "byte for byte, mode for mode");
    assert!(run("--undo").contains("nothing to take back"));
}

/// kubeadm's layout in an image: what is written are the paths of the node, not ours.
#[test]
fn kubeadms_layout_is_known() {
    let node = Node::kubeadm(6443);
    let before = tree(&node.root());
    let said = node.set_up("--apply");
    assert!(
        said.contains("kubeadm's (/etc/kubernetes/kubelet.conf)") && said.contains("kube-system/kube-proxy"),
        "{said}"
    );
    let pairs: Value = serde_json::from_str(&read(&node.at("/etc/lite-apiserver/tls-config.json"))).expect("JSON");
    let current = "/var/lib/kubelet/pki/kubelet-client-current.pem";
    assert_eq!(pairs, serde_json::json!([{"cert": current, "key": current}]));
    let flags = read(&node.at("/etc/lite-apiserver/flags"));
    for line in [
        "--kube-apiserver-url=https://127.0.0.1:6443",
        "--apiserver-ca-file=/etc/lite-apiserver/cluster-ca.crt",
        "--ca-file=/etc/lite-apiserver/cluster-ca.crt",
        "--tls-cert-file=/etc/lite-apiserver/pki/serving.crt",
        "--tls-config-file=/etc/lite-apiserver/tls-config.json",
        "--file-cache-path=/var/lib/lite-apiserver/cache",
    ] {
        assert!(flags.lines().any(|l| l == line), "{line}: {flags}");
    }
    let conf: Value = serde_json::from_str(&read(&node.at("/etc/kubernetes/kubelet.conf"))).expect("JSON");
    assert_eq!(conf["clusters"][0]["cluster"]["server"], "https://127.0.0.1:51003");
    assert_eq!(conf["users"][0]["user"]["client-key"], current);
    let kept = node.at("/etc/kubernetes/kubelet.conf.before-lite-apiserver");
    assert_eq!(read(&kept).into_bytes(), before[&node.at("/etc/kubernetes/kubelet.conf")].1);
    let applied = tree(&node.root());
    node.set_up("--apply");
    assert_eq!(tree(&node.root()), applied);
    node.set_up("--undo");
    assert_eq!(tree(&node.root()), before);
}

/// k3s writes its kubeconfigs anew at each start: they are left alone, and its own configuration names others.
#[test]
fn k3s_layout_is_known() {
    let node = Node::new().by_k3s(6444);
    let before = tree(&node.root());
    let said = node.set_up("");
    assert!(said.contains("a k3s agent") && said.contains("does not boot in the\ndark"), "{said}");
    assert!(!node.at("/etc/rancher").exists(), "nothing of k3s is touched before --apply");
    node.set_up("--apply");
    let drop_in = read(&node.at("/etc/rancher/k3s/config.yaml.d/lite-apiserver.yaml"));
    for line in ["kubelet-arg+:\n  - \"kubeconfig=/etc/lite-apiserver/kubelet.kubeconfig\"", "kube-proxy-arg+:"] {
        assert!(drop_in.contains(line), "{drop_in}");
    }
    let flags = read(&node.at("/etc/lite-apiserver/flags"));
    let agent = "/var/lib/rancher/k3s/agent";
    for line in [
        "--kube-apiserver-url=https://127.0.0.1:6444".to_owned(),
        format!("--apiserver-ca-file={agent}/server-ca.crt"),
        format!("--ca-file={agent}/client-ca.crt"),
    ] {
        assert!(flags.lines().any(|l| l == line), "{line}: {flags}");
    }
    node.set_up("--undo");
    assert_eq!(tree(&node.root()), before);
}

#[test]
fn what_cannot_be_set_up_is_named() {
    let nobody = Node::new();
    let foreign = Node::kubeadm(6443);
    let stranger = Pki::new(&foreign.folder.path().join("stranger"));
    let (cert, key) = stranger.pair(NODE).texts();
    write(&foreign.at("/var/lib/kubelet/pki/kubelet-client-2026.pem"), &format!("{cert}{key}"));
    let looped = Node::kubeadm(51003);
    let misspelt = Node::kubeadm(6443);
    write(&misspelt.at("/etc/lite-apiserver/flags"), "--prot=1\n");
    let two_ways = Node::kubeadm(6443);
    write(&two_ways.at("/etc/lite-apiserver/flags"), "--kubeconfig=/k\n");
    let exec = Node::kubeadm(6443);
    let ca = exec.inline_ca();
    write(&exec.at("/etc/kubernetes/kubelet.conf"), &kubeconfig("https://h", &ca, "exec: {command: aws}"));
    for (node, code, part) in [
        (&nobody, 66, "join the node to its cluster first"),
        (&foreign, 78, "name the one that has with --client-ca-file"),
        (&looped, 78, "points at the proxy already"),
        (&misspelt, 64, "/etc/lite-apiserver/flags:1: --prot is no flag; did you mean --port?"),
        (&two_ways, 78, "says --kubeconfig"),
        (&exec, 65, "\"exec\", which lite-apiserver does not use"),
    ] {
        let before = tree(&node.root());
        let done = node.setup("--apply");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!((done.status.code(), said.contains(part)), (Some(code), true), "{part}: {said}");
        assert_eq!(tree(&node.root()), before, "{part}: nothing was begun");
    }
}

/// Somebody else wrote to the files in the meantime.
#[test]
fn what_was_changed_since_is_not_lost() {
    let node = Node::kubeadm(6443);
    let (flags, conf) = (node.at("/etc/lite-apiserver/flags"), node.at("/etc/kubernetes/kubelet.conf"));
    write(&flags, "# of the package\n");
    node.set_up("--apply");
    // A flag that is said outside setup's part counts, and is not said twice.
    write(&flags, &format!("--port=6000\n{}", read(&flags)));
    let said = node.set_up("");
    assert!(said.contains("run this again with --apply") && !said.contains("is in between"), "{said}");
    let said = node.set_up("--apply");
    assert!(said.contains("changed   /etc/kubernetes/kubelet.conf") && read(&conf).contains("https://127.0.0.1:6000"));
    write(&conf, "theirs");
    let changed = tree(&node.root());
    let done = node.setup("--undo");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!((done.status.code(), said.contains("/etc/kubernetes/kubelet.conf: changed since")), (Some(65), true));
    assert_eq!(tree(&node.root()), changed, "nothing is taken back by halves");
    let before = node.at("/etc/kubernetes/kubelet.conf.before-lite-apiserver");
    std::fs::rename(&before, &conf).expect("put back by hand");
    node.set_up("--undo");
    assert_eq!(read(&flags), "--port=6000\n# of the package\n");
    assert!(read(&conf).contains("A person's remark") && !node.at("/etc/lite-apiserver/setup.json").exists());

    // What was there before is lost: the kubelet goes through the proxy until a person changes that.
    node.set_up("--apply");
    std::fs::remove_file(&before).expect("removed");
    let applied = tree(&node.root());
    let done = node.setup("--undo");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!((done.status.code(), said.contains("/etc/kubernetes/kubelet.conf: ")), (Some(65), true), "{said}");
    assert_eq!(tree(&node.root()), applied);
}

/// A file that setup made is a person's, once a person has written to it.
#[test]
fn what_was_written_into_a_file_of_setups_own_is_kept() {
    let node = Node::kubeadm(6443);
    node.set_up("--apply");
    let pairs = node.at("/etc/lite-apiserver/tls-config.json");
    let own = read(&pairs);
    write(&pairs, "theirs");
    node.set_up("--apply");
    assert_eq!(
        (read(&pairs), read(&node.at("/etc/lite-apiserver/tls-config.json.before-lite-apiserver"))),
        (own, "theirs".to_owned())
    );
    node.set_up("--undo");
    assert_eq!(read(&pairs), "theirs");
}

#[test]
fn an_apply_that_fails_half_way_keeps_the_nodes_own() {
    let node = Node::kubeadm(6443);
    let before = read(&node.at("/etc/kubernetes/kubelet.conf"));
    node.set_up("--apply");
    write(&node.at("/etc/lite-apiserver/flags"), "--port=6000\n");
    let obstacle = node.at("/etc/kubernetes/kubelet.conf.lite-apiserver-new");
    std::fs::create_dir(&obstacle).expect("a folder");
    assert_eq!(node.setup("--apply").status.code(), Some(73));
    std::fs::remove_dir(&obstacle).expect("removed");
    node.set_up("--apply");
    assert!(read(&node.at("/etc/lite-apiserver/flags")).contains("--kube-apiserver-url=https://127.0.0.1:6443\n"));
    node.set_up("--undo");
    assert_eq!(read(&node.at("/etc/kubernetes/kubelet.conf")), before);
}

/// A kubeconfig that holds the kubelet's first certificate within itself, and a kubelet that has renewed it; links as the kubelet
/// makes them, and a folder that is elsewhere by one: they lead to where the node sees it.
#[test]
fn a_kubelet_that_renews_and_links_of_the_node() {
    let node = Node::kubeadm(6443);
    let (cert, key) = node.pki.member(NODE, Some("system:nodes")).texts();
    let (cert, key) = (STANDARD.encode(cert), STANDARD.encode(key));
    let inline = format!("client-certificate-data: {cert}\n    client-key-data: {key}");
    let text = kubeconfig("https://127.0.0.1:6443", &node.inline_ca(), &inline);
    write(&node.at("/etc/kubernetes/kubelet.conf"), &text);
    let current = "/var/lib/kubelet/pki/kubelet-client-current.pem";
    std::fs::remove_file(node.at(current)).expect("removed");
    symlink("/var/lib/kubelet/pki/kubelet-client-2026.pem", node.at(current)).expect("a link");
    std::fs::create_dir(node.at("/data")).expect("a folder");
    std::fs::rename(node.at("/etc"), node.at("/data/etc")).expect("moved");
    symlink("/data/etc", node.at("/etc")).expect("a link");
    let before = tree(&node.root());
    node.set_up("--apply");
    let listed = |node: &Node| -> Value {
        serde_json::from_str(&read(&node.at("/data/etc/lite-apiserver/tls-config.json"))).expect("JSON")
    };
    assert_eq!(listed(&node), serde_json::json!([{"cert": current, "key": current}]));
    node.set_up("--undo");
    assert_eq!(tree(&node.root()), before);
    // Another node's.
    let (cert, key) = node.pki.pair("somebody").texts();
    write(&node.at("/var/lib/kubelet/pki/kubelet-client-2026.pem"), &format!("{cert}{key}"));
    node.set_up("--apply");
    assert_eq!(listed(&node)[0]["cert"], "/etc/lite-apiserver/kubelet.crt");
}

/// OpenWrt: /var is in memory, and the service starts once UCI says so.
#[test]
fn openwrt_is_known() {
    let node = Node::kubeadm(6443);
    write(&node.at("/etc/rc.common"), "");
    write(&node.at("/etc/init.d/lite-apiserver"), "");
    let uci = node.at("/etc/config/lite-apiserver");
    write(&uci, "config lite-apiserver 'main'\n\toption enabled '0'\n");
    let command = "  uci set lite-apiserver.main.enabled=1; uci commit lite-apiserver\n";
    let said = node.set_up("--apply");
    assert!(said.contains(command), "{said}");
    let flags = read(&node.at("/etc/lite-apiserver/flags"));
    assert!(flags.contains("\n--file-cache-path=/etc/lite-apiserver/data/cache\n"), "{flags}");
    write(&uci, "config lite-apiserver 'main'\n\toption enabled '1'\n");
    assert!(!node.set_up("").contains("uci set"));
}

/// As a person does it on the node itself: no flags but those of the README, services and all, in a root directory of its own.
#[cfg(feature = "as-root")]
mod in_a_root_of_its_own {
    use super::*;

    /// A program with the libraries that it needs.
    fn install(node: &Node, program: &str, to: &str) {
        let copy = |from: &str, to: &str| {
            let to = node.at(to);
            std::fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
            std::fs::copy(from, to).expect("copied");
        };
        copy(program, to);
        let needed = Command::new("ldd").arg(program).output().expect("ldd runs");
        for word in String::from_utf8_lossy(&needed.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
            copy(word, word);
        }
    }

    fn inside(node: &Node, words: &[&str]) -> Command {
        assert!(rustix::process::geteuid().is_root(), "start this test as root");
        let mut command = Command::new("chroot");
        command.arg(node.root()).args(words).env_clear().env("PATH", "/bin:/usr/bin:/sbin:/usr/sbin");
        command
    }

    fn run(node: &Node, words: &[&str]) -> (Option<i32>, String) {
        let done = inside(node, words).output().expect("it runs");
        let said = [done.stdout, done.stderr].concat();
        (done.status.code(), String::from_utf8(said).expect("text"))
    }

    /// Ends what a script started.
    struct ByPid<'n>(&'n Node);

    impl ByPid<'_> {
        fn end(&self) {
            let text = std::fs::read_to_string(self.0.at("/pid")).unwrap_or_default();
            let pid = text.trim().parse().ok().and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }

    impl Drop for ByPid<'_> {
        fn drop(&mut self) {
            self.end();
        }
    }

    fn whole_circle(node: &Node, clients: &[(&str, &str)]) {
        let admin = free_port();
        for (program, to) in [(PROGRAM, "/usr/bin/lite-apiserver"), ("/bin/sh", "/bin/sh")] {
            install(node, program, to);
        }
        std::fs::create_dir_all(node.at("/dev")).expect("a folder");
        write(&node.at("/dev/null"), "");
        let flags = format!("# of the package\n--port={}\n--admin-address=127.0.0.1:{admin}\n", free_port());
        write(&node.at("/etc/lite-apiserver/flags"), &flags);
        let script = "#!/bin/sh\necho \"lite-apiserver $1\" >> /done\n[ \"$1\" = restart ] || exit 0\n\
                      /usr/bin/lite-apiserver --config /etc/lite-apiserver/flags > /log 2>&1 &\necho $! > /pid\n";
        for (name, text) in [
            ("lite-apiserver", script),
            ("kubelet", "#!/bin/sh\necho \"kubelet $1\" >> /done\n"),
            ("k3s-agent", "#!/bin/sh\necho \"k3s-agent $1\" >> /done\n"),
        ] {
            let path = node.at(&format!("/etc/init.d/{name}"));
            write(&path, text);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
        }
        let before = tree(&node.root());
        let daemon = ByPid(node);
        let (code, said) = run(node, &["/usr/bin/lite-apiserver", "setup", "--apply", "--restart"]);
        let log = std::fs::read_to_string(node.at("/log")).unwrap_or_default();
        assert_eq!(code, Some(0), "{said}\n{log}");
        let done = read(&node.at("/done"));
        assert!(done.starts_with("lite-apiserver restart\n") && done.lines().count() == 2, "{done}");
        for (kubeconfig, cn) in clients {
            assert_eq!(who(&node.at(kubeconfig), &node.root()), *cn);
        }
        let (code, said) = run(node, &["/usr/bin/lite-apiserver", "check"]);
        assert_eq!((code, said.contains("0 wrong")), (Some(0), true), "{said}");
        let (code, said) = run(node, &["/usr/bin/lite-apiserver", "setup", "--undo", "--restart"]);
        assert_eq!(code, Some(0), "{said}");
        assert!(read(&node.at("/done")).ends_with("restart\nlite-apiserver stop\n"));
        daemon.end();
        let mut after = tree(&node.root());
        after.retain(|path, _| {
            !["done", "pid", "log", "var/lib/lite-apiserver"].iter().any(|p| path.starts_with(node.at(p)))
        });
        let changed: Vec<_> =
            before.iter().filter(|(path, was)| after.get(*path) != Some(was)).map(|(p, _)| p).collect();
        assert!(changed.is_empty() && after.len() == before.len(), "{changed:?}");
    }

    /// What cannot be restarted is told before anything is written.
    #[test]
    fn a_service_that_cannot_start() {
        let node = Node::kubeadm(6443);
        install(&node, PROGRAM, "/usr/bin/lite-apiserver");
        let refused = |part: &str| {
            let before = tree(&node.root());
            let (code, said) = run(&node, &["/usr/bin/lite-apiserver", "setup", "--apply", "--restart"]);
            assert_eq!((code, said.contains(part)), (Some(71), true), "{said}");
            assert_eq!(tree(&node.root()), before, "{part}: nothing was begun");
        };
        refused("neither systemd nor /etc/init.d/lite-apiserver is here");
        write(&node.at("/etc/init.d/lite-apiserver"), "");
        write(&node.at("/etc/rc.common"), "");
        refused("/etc/config/lite-apiserver does not say option enabled '1'; uci set");
        std::fs::create_dir_all(node.at("/run/systemd/system")).expect("a folder");
        refused("lite-apiserver.service is neither in /etc/systemd/system nor in");
    }

    #[test]
    fn kubeadm() {
        let node = Node::new();
        let upstream = Upstream::start(&node.pki, echo);
        whole_circle(&node.by_kubeadm(upstream.port()), &[("/etc/kubernetes/kubelet.conf", NODE)]);
    }

    #[test]
    fn k3s() {
        let node = Node::new();
        let upstream = Upstream::start(&node.pki, echo);
        upstream.take_clients_of(&node.clients, &node.pki);
        let node = node.by_k3s(upstream.port());
        let proxy = ("/etc/lite-apiserver/kube-proxy.kubeconfig", "system:kube-proxy");
        whole_circle(&node, &[("/etc/lite-apiserver/kubelet.kubeconfig", NODE), proxy]);
    }
}
