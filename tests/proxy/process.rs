//! The process: what it says of a wrong command line, how it stops, and the one command with a kubeconfig.

use crate::support::client::{self, Client};
use crate::support::pki::{Pair, Pki};
use crate::support::proxy::{NODE, Proxy};
use crate::support::upstream::Upstream;
use crate::support::{TempDir, eventually, free_port};
use crate::{MAPS, PROGRAM, Scene, list};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

fn run(folder: &Path, line: &str) -> Output {
    let mut command = Command::new(PROGRAM);
    command.current_dir(folder).args(line.split_whitespace()).env_remove("RUST_LOG").env("HOME", folder);
    command.output().expect("the program runs")
}

#[test]
fn bad_input_dies_at_once_with_a_code_and_one_line() {
    let folder = TempDir::new();
    let at = folder.path();
    let pki = Pki::new(at);
    let (serving, other) = (pki.pair("lite-apiserver"), pki.pair("other"));
    let write = |name: &str, text: &str| std::fs::write(at.join(name), text).expect("write");
    write("empty", "");
    write("pairs.json", "[{\"cert\": \"other.crt\"}]");
    write("swapped.json", &serde_json::json!([{"cert": other.cert, "key": serving.key}]).to_string());
    write("k", "current-context: x\n");
    write(
        "exec",
        "{clusters: [{name: c, cluster: {server: 'https://h'}}], users: [{name: u, user: {exec: {command: aws}}}], contexts: [{name: x, context: {cluster: c, user: u}}], current-context: x}",
    );
    let good = "--ca-file=ca.crt --tls-cert-file=lite-apiserver.crt --tls-private-key-file=lite-apiserver.key --kube-apiserver-url=127.0.0.1 --file-cache-path=cache --admin-address=";
    let good = format!("{good} --port={}", free_port());
    let without =
        |flag: &str| good.split(' ').filter(|f| !f.starts_with(&format!("--{flag}="))).collect::<Vec<_>>().join(" ");
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let busy = busy.local_addr().expect("an address").port();
    let table = [
        ("--prot 1".to_owned(), 64, "--prot is no flag; did you mean --port?"),
        (format!("{good} serve"), 64, "\"serve\" is not expected"),
        (format!("{} --port=0", without("port")), 64, "a number from 1 to 65535"),
        (format!("{good} --timeout soon"), 64, "--timeout"),
        (format!("{good} --port 99999"), 64, "--port"),
        (format!("{good} --max-connections=0"), 64, "--max-connections"),
        (format!("{good} --port 1"), 64, "--port is given twice"),
        (format!("{good} --cache-type=pebble"), 64, "use fjall"),
        (format!("{good} --cache-type=floppy"), 64, "--cache-type"),
        (format!("{good} --profiling"), 64, "is not supported yet"),
        (format!("{good} --url-mux-cache=/api"), 64, "is not supported yet"),
        (without("ca-file"), 64, "--ca-file"),
        (without("kube-apiserver-url"), 64, "--kube-apiserver-url"),
        (without("tls-cert-file"), 64, "--tls-cert-file"),
        (format!("{good} --kubeconfig k"), 65, "\"x\""),
        (format!("{} --ca-file=nowhere.crt", without("ca-file")), 66, "nowhere.crt"),
        (format!("{} --ca-file=empty", without("ca-file")), 65, "empty"),
        (format!("{good} --tls-config-file=nowhere.json"), 66, "nowhere.json"),
        (format!("{good} --tls-config-file=pairs.json"), 65, "pairs.json"),
        (format!("{good} --tls-config-file=swapped.json"), 65, "other.crt"),
        ("--kubeconfig=nowhere".to_owned(), 66, "nowhere"),
        ("--kubeconfig=k --data-dir=d".to_owned(), 65, "\"x\""),
        ("--kubeconfig=exec --data-dir=d".to_owned(), 65, "\"exec\""),
        (format!("{} --file-cache-path=empty/x", without("file-cache-path")), 73, "empty/x"),
        (format!("{} --port={busy}", without("port")), 69, "127.0.0.1"),
        (format!("{} --admin-address=127.0.0.1:{busy}", without("admin-address")), 69, "--admin-address"),
    ];
    let mut wrong = String::new();
    for (line, code, part) in table {
        let output = run(at, &line);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = said.lines().last().unwrap_or_default();
        let named = last.starts_with("lite-apiserver: ") && last.contains(part);
        if output.status.code() != Some(code) || !named || (code == 64 && said.lines().count() != 1) {
            wrong += &format!("{line}\n  wanted {code} {part:?}, got {:?} {said}\n", output.status.code());
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn help_and_version_are_printed_and_end_well() {
    let folder = TempDir::new();
    for (flag, part) in [
        ("--help", "--kube-apiserver-url HOST"),
        ("-h", "Exit codes"),
        ("--version", env!("CARGO_PKG_VERSION")),
        ("--help-markdown", "| `--port N` | `51003` |"),
    ] {
        let output = run(folder.path(), flag);
        assert!(output.status.success() && output.stderr.is_empty(), "{flag}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(part), "{flag}: {output:?}");
    }
}

#[test]
fn a_second_daemon_does_not_touch_the_first_ones_record() {
    let scene = Scene::scripted(&[], |_, wire| wire.json(200, "{}"));
    let cache = scene.proxy.folder.path().join("cache");
    let folder = TempDir::new();
    let pki = Pki::new(folder.path());
    pki.pair("lite-apiserver");
    let line = "--ca-file=ca.crt --tls-cert-file=lite-apiserver.crt --tls-private-key-file=lite-apiserver.key --kube-apiserver-url=h --admin-address=";
    let output = run(folder.path(), &format!("{line} --port={} --file-cache-path={}", free_port(), cache.display()));
    assert_eq!(output.status.code(), Some(69), "{output:?}");
}

#[test]
fn sigterm_lets_what_is_in_flight_end_and_exits_0() {
    let mut scene = Scene::scripted(&[], |request, wire| {
        if request.target.contains("watch") {
            wire.begin_chunked()?;
            wire.chunk(crate::event("ADDED", 101, "one"))?;
            wire.peer_hangs_up_within(Duration::from_secs(20));
            return wire.cut();
        }
        std::thread::sleep(Duration::from_millis(1500));
        wire.json(200, list(100, &["one"]))
    });
    let mut watch = scene.proxy.client(Some(NODE));
    watch.request("GET", &format!("{MAPS}?watch=1&resourceVersion=100"), &[]);
    assert_eq!(watch.head().expect("a head").status, 200);
    let mut buffer = Vec::new();
    assert!(watch.event(&mut buffer).expect("an event").is_some());
    let mut slow = scene.proxy.client(Some(NODE));
    slow.request("GET", MAPS, &[]);
    eventually("it is upstream", || scene.upstream.received().len() == 2);
    let (status, took) = scene.proxy.terminate();
    assert_eq!(status.code(), Some(0), "{}", scene.proxy.log());
    println!("stopped in {took:?}");
    assert_eq!(slow.reply().expect("the answer in flight").text(), list(100, &["one"]));
    assert!(watch.event(&mut buffer).expect("a clean end").is_none());
    // What was recorded on the way out is there on the next start, with what the watch, which began before, had told.
    scene.upstream.cut();
    scene.proxy.boot();
    scene.proxy.await_link(false);
    assert_eq!(scene.proxy.get(MAPS).text(), list(101, &["one"]));
}

/// A daemon that was started by one flag; ended when dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A syslog daemon that is restarted, `lite-apiserver 2>&1 | logger` whose logger is killed.
#[test]
fn nobody_who_reads_the_log_is_no_reason_to_end() {
    let folder = TempDir::new();
    let pki = Pki::new(&folder.path().join("pki"));
    let upstream = Upstream::start(&pki, |_, wire| wire.json(200, "{}"));
    // The pipe's reader goes after the first line.
    let script = r#"mkfifo "$0"; head -n 1 < "$0" > /dev/null & exec 2> "$0"; exec "$@""#;
    let pipe = folder.path().join("pipe").display().to_string();
    let program = ["sh", "-c", script, &pipe, PROGRAM].map(str::to_owned);
    let proxy = Proxy::start_program(&program, pki, upstream.port(), &["--log-level=debug"]);
    for _ in 0..3 {
        // Each is told in the log.
        proxy.hang_up();
        assert_eq!(proxy.client(Some(NODE)).get(MAPS).status(), 200);
    }
    assert_eq!(proxy.metric("lite_apiserver_panics_total"), 0);
}

#[test]
fn systemd_is_told_how_the_daemon_is() {
    let folder = TempDir::new();
    let pki = Pki::new(&folder.path().join("pki"));
    let mut upstream = Upstream::start(&pki, |_, wire| wire.json(200, "{}"));
    let path = folder.path().join("notify");
    let systemd = UnixDatagram::bind(&path).expect("a socket");
    systemd.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let heard = |wanted: &str| {
        let mut bytes = [0; 512];
        let mut all = Vec::new();
        loop {
            let length = systemd.recv(&mut bytes).unwrap_or_else(|e| panic!("{wanted} in vain ({e}): {all:?}"));
            let said = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if said.starts_with(wanted) {
                return;
            }
            all.push(said);
        }
    };
    let program = ["env", &format!("NOTIFY_SOCKET={}", path.display()), "WATCHDOG_USEC=2000000", PROGRAM];
    let program = program.map(str::to_owned);
    let mut proxy = Proxy::start_program(&program, pki, upstream.port(), &[]);
    heard("READY=1");
    heard("STATUS=the link to the cluster is up");
    heard("WATCHDOG=1");
    upstream.cut();
    proxy.client(None).get("/livez");
    heard("STATUS=the link to the cluster is down since ");
    heard("WATCHDOG=1");
    assert!(proxy.terminate().0.success());
    heard("STOPPING=1");
}

#[test]
fn one_kubeconfig_is_enough_and_its_credentials_stay_with_its_owner() {
    let folder = TempDir::new();
    let at = folder.path();
    let pki = Pki::new(&at.join("pki"));
    let upstream = Upstream::start(&pki, |request, wire| {
        let who = request.common_name.clone().unwrap_or_else(|| "nobody".to_owned());
        wire.answer(200, "text/plain", who)
    });
    let admin = pki.pair("admin");
    let kubeconfig = format!(
        "{{clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{}', certificate-authority: '{}'}}}}], users: [{{name: u, user: {{client-certificate: '{}', client-key: '{}'}}}}], contexts: [{{name: x, context: {{cluster: c, user: u, namespace: shop}}}}], current-context: x}}",
        upstream.port(),
        pki.ca().display(),
        admin.cert.display(),
        admin.key.display()
    );
    std::fs::write(at.join("config"), kubeconfig).expect("write");
    let port = free_port();
    let start = || {
        let mut command = Command::new(PROGRAM);
        command.current_dir(at).args([
            "--kubeconfig=config",
            "--data-dir=data",
            "--admin-address=",
            &format!("--port={port}"),
        ]);
        let daemon = Daemon(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts"));
        eventually("it serves", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        daemon
    };
    let first = start();
    let data = at.join("data");
    let names = files_in(&data);
    let made = || names.iter().map(|path| std::fs::read(path).expect("a file")).collect::<Vec<_>>();
    for path in &names {
        let mode = std::fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
    }
    assert!(names.len() >= 4, "{names:?}");
    let before = made();
    let text = std::fs::read_to_string(data.join("client.kubeconfig")).expect("client.kubeconfig");
    let config: serde_json::Value = serde_json::from_str(&text).expect("kubeconfig, as JSON");
    let cluster = &config["clusters"][0]["cluster"];
    assert_eq!(cluster["server"], format!("https://127.0.0.1:{port}"));
    assert_eq!(config["contexts"][0]["context"]["namespace"], "shop");
    let user = &config["users"][0]["user"];
    let file = |name: &str| std::path::PathBuf::from(user[name].as_str().expect(name));
    let same = Pair { cert: file("client-certificate"), key: file("client-key") };
    let ca = std::path::PathBuf::from(cluster["certificate-authority"].as_str().expect("a CA"));
    let ask = |pair| {
        Client::try_connect(port, &client::tls(&ca, pair))
            .expect("the kubeconfig's CA is the server's")
            .get("/healthz")
            .text()
    };
    assert_eq!(ask(Some(&same)), "admin");
    assert_eq!(ask(None), "nobody", "a client without credentials never gets the kubeconfig's");
    drop(first);
    let _second = start();
    assert!(before == made(), "what was made once is kept");
}

/// Every file below a folder but those of the record, which come and go.
fn files_in(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten().map(|e| e.path());
    let (folders, mut files): (Vec<_>, Vec<_>) = entries.partition(|p| p.is_dir());
    let folders = folders.iter().filter(|f| !f.ends_with("cache"));
    files.extend(folders.flat_map(|f| files_in(f)));
    files
}
