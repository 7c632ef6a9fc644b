//! Started as root, the proxy goes on as somebody who may do less. These tests need root (`--features as-root`).

use crate::support::eventually;
use crate::support::pki::Pki;
use crate::support::proxy::{NODE, Proxy};
use crate::support::upstream::Upstream;
use crate::support::{TempDir, client};
use crate::{MAPS, PROGRAM, list};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Nobody's number, in every distribution; the group is one that it is not in.
const USER: u32 = 65534;
const GROUP: u32 = 4711;

fn need_root() {
    assert!(rustix::process::geteuid().is_root(), "start this test as root");
}

fn everything_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten().map(|e| e.path());
    let below = |path: PathBuf| {
        let inner = if path.is_dir() { everything_below(&path) } else { Vec::new() };
        [path].into_iter().chain(inner)
    };
    entries.flat_map(below).collect()
}

/// A line of `/proc/PID/status`.
fn status(pid: u32, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("/proc");
    let line = text.lines().find_map(|l| l.strip_prefix(name)).expect("the line");
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn it_goes_on_as_the_user_on_a_record_that_root_began() {
    need_root();
    let folder = TempDir::new();
    let pki = Pki::new(&folder.path().join("pki"));
    let mut upstream = Upstream::start(&pki, |_, wire| wire.json(200, list(100, &["one"])));
    let cache = folder.path().join("made/by/root");
    let record = format!("--file-cache-path={}", cache.display());
    let program = [PROGRAM.to_owned()];
    let mut proxy = Proxy::start_program(&program, pki, upstream.port(), &[&record]);
    assert_eq!(proxy.get(MAPS).status(), 200);
    assert_eq!(status(proxy.pid(), "Uid:")[1], "0");
    proxy.terminate();
    assert!(everything_below(&cache).iter().all(|p| std::fs::metadata(p).expect("metadata").uid() == 0));
    // The folders above are whoever's they were: this is the administrator's to do.
    for above in [folder.path().to_owned(), folder.path().join("made"), folder.path().join("made/by")] {
        std::fs::set_permissions(&above, PermissionsExt::from_mode(0o755)).expect("permissions");
    }
    // Something that is not the record's: a second name of it must not give it away.
    let precious = folder.path().join("precious");
    std::fs::write(&precious, "root's").expect("write");
    std::fs::hard_link(&precious, cache.join("hard")).expect("a link");
    std::os::unix::fs::symlink(&precious, cache.join("soft")).expect("a link");

    proxy.add_flags(&[&format!("--user={USER}"), &format!("--group={GROUP}")]);
    proxy.boot();
    let pid = proxy.pid();
    assert_eq!(status(pid, "Uid:"), [USER; 4].map(|n| n.to_string()));
    assert_eq!(status(pid, "Gid:"), [GROUP; 4].map(|n| n.to_string()));
    assert_eq!(status(pid, "Groups:"), [""; 0]);
    assert_eq!((&*status(pid, "CapPrm:")[0], &*status(pid, "CapEff:")[0]), ("0000000000000000", "0000000000000000"));
    assert_eq!(status(pid, "NoNewPrivs:"), ["1"]);
    assert_eq!(status(pid, "Umask:"), ["0077"]);
    // All threads, those too that serve.
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).expect("/proc").flatten() {
        let text = std::fs::read_to_string(task.path().join("status")).expect("/proc");
        assert!(text.lines().any(|l| l.starts_with("Uid:") && !l.contains("\t0")), "{text}");
    }
    assert_eq!(std::fs::metadata(&precious).expect("metadata").uid(), 0);
    // It reads what root recorded, and writes more.
    upstream.cut();
    proxy.client(None).get("/livez");
    proxy.await_link(false);
    assert_eq!(proxy.get(MAPS).text(), list(100, &["one"]));
    upstream.heal();
    proxy.await_link(true);
    let other = "/api/v1/namespaces/other/configmaps";
    assert_eq!(proxy.get(other).status(), 200);
    eventually("it is recorded", || proxy.metric("lite_apiserver_record_views") == 2);
    proxy.terminate();
    for path in everything_below(&cache).iter().filter(|p| !p.ends_with("hard") && !p.ends_with("soft")) {
        let seen = std::fs::metadata(path).expect("metadata");
        let mode = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!((seen.uid(), seen.mode() & 0o777), (USER, mode), "{}", path.display());
    }
    assert!(!proxy.log().contains("denied"), "{}", proxy.log());
}

#[test]
fn with_a_kubeconfig_all_that_is_made_is_the_users() {
    need_root();
    let folder = TempDir::new();
    let at = folder.path();
    let pki = Pki::new(&at.join("pki"));
    let upstream = Upstream::start(&pki, |_, wire| wire.json(200, list(100, &["one"])));
    let pair = pki.pair(NODE);
    let kubeconfig = format!(
        "{{clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{}', certificate-authority: '{}'}}}}], users: [{{name: u, user: {{client-certificate: '{}', client-key: '{}'}}}}], contexts: [{{name: x, context: {{cluster: c, user: u}}}}], current-context: x}}",
        upstream.port(),
        pki.ca().display(),
        pair.cert.display(),
        pair.key.display()
    );
    let path = at.join("config");
    std::fs::write(&path, kubeconfig).expect("write");
    let proxy =
        Proxy::start_with_kubeconfig(&[PROGRAM.to_owned()], pki, &path, &[&format!("--user={USER}"), "--group=0"]);
    let tls = client::tls(&proxy.data().join("pki/ca.crt"), Some(&pair));
    let mut asked = client::Client::try_connect(proxy.port, &tls).expect("connected");
    assert_eq!(asked.get(MAPS).status(), 200);
    eventually("it is recorded", || proxy.metric("lite_apiserver_record_views") == 1);
    for path in everything_below(&proxy.data()) {
        assert_eq!(std::fs::metadata(&path).expect("metadata").uid(), USER, "{}", path.display());
    }
}

#[test]
fn whoever_is_unknown_or_not_permitted_is_told_so() {
    need_root();
    let folder = TempDir::new();
    let at = folder.path();
    let pki = Pki::new(at);
    pki.pair("lite-apiserver");
    let port = crate::support::free_port();
    let line = format!(
        "--ca-file=ca.crt --tls-cert-file=lite-apiserver.crt --tls-private-key-file=lite-apiserver.key --kube-apiserver-url=127.0.0.1 --cache-type=memory --admin-address= --port={port}"
    );
    std::fs::set_permissions(at, PermissionsExt::from_mode(0o755)).expect("permissions");
    for file in std::fs::read_dir(at).expect("a folder").flatten() {
        chown(file.path(), Some(USER), None).expect("chown");
    }
    // A copy that anybody may run: the build's own folder may be root's alone.
    let program = at.join("program");
    std::fs::copy(PROGRAM, &program).expect("copied");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("permissions");
    let run = |uid: u32, flags: &str| {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(&program);
        command.current_dir(at).args(line.split(' ').chain(flags.split(' '))).uid(uid).gid(uid);
        let output = command.output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (uid, flags, code, words) in [
        (0, "--user=no-such-user", 67, "\"no-such-user\" is not in /etc/passwd"),
        (0, "--user=65534 --group=no-such-group", 67, "\"no-such-group\" is not in /etc/group"),
        (0, "--user=1234567", 64, "add --group"),
        (USER, "--user=root", 77, "cannot go on as user 0"),
        (USER, "--group=4711", 77, "start as root"),
    ] {
        let (got, said) = run(uid, flags);
        assert!(got == Some(code) && said.contains(words), "{uid} {flags}: {got:?} {said}");
    }
}
