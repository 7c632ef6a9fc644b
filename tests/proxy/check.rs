//! `lite-apiserver check`: nothing wrong is found where nothing is, and each thing that can be wrong is found, once.

use crate::support::TempDir;
use crate::support::free_port;
use crate::support::pki::Pki;
use crate::support::proxy::{ADMIN, NODE, Proxy};
use crate::support::upstream::Upstream;
use crate::{PROGRAM, Scene};
use rcgen::{CertificateParams, DnType, Issuer, KeyPair, date_time_ymd};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A daemon's files, and the flags that name them.
struct Desk {
    folder: TempDir,
    pki: Pki,
    upstream: Upstream,
    flags: Vec<(&'static str, String)>,
}

/// One line of a report.
type Line = (String, String, String);

impl Desk {
    /// All of it right; `date`: what the upstream says that it is.
    fn new(date: &'static str) -> Desk {
        let folder = TempDir::new();
        let pki = Pki::new(&folder.path().join("pki"));
        let upstream = Upstream::start(&pki, move |request, wire| {
            let status = if request.common_name.as_deref() == Some("stranger") { 401 } else { 200 };
            wire.send(format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\nDate: {date}\r\n\r\n{{}}"))
        });
        let pairs = [NODE, ADMIN].map(|cn| pki.pair(cn)).map(|p| json!({"cert": p.cert, "key": p.key}));
        let list = folder.path().join("pairs.json");
        std::fs::write(&list, json!(pairs).to_string()).expect("written");
        let serving = pki.pair("lite-apiserver");
        let shown = |path: &Path| path.display().to_string();
        let flags = vec![
            ("ca-file", shown(&pki.ca())),
            ("tls-cert-file", shown(&serving.cert)),
            ("tls-private-key-file", shown(&serving.key)),
            ("kube-apiserver-url", format!("127.0.0.1:{}", upstream.port())),
            ("tls-config-file", shown(&list)),
            ("file-cache-path", shown(&folder.path().join("cache"))),
            ("cache-max-size", "1Mi".to_owned()),
            ("port", free_port().to_string()),
            ("admin-address", format!("127.0.0.1:{}", free_port())),
        ];
        Desk { folder, pki, upstream, flags }
    }

    fn set(&mut self, flag: &'static str, value: impl std::fmt::Display) {
        self.flags.retain(|(name, _)| *name != flag);
        self.flags.push((flag, value.to_string()));
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    }

    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("check").arg("--json").args(self.flags.iter().map(|(name, value)| format!("--{name}={value}")));
        command
    }

    /// What is found, and the exit code.
    fn check(&self) -> (Vec<Line>, Option<i32>) {
        report(&mut self.command())
    }

    /// All that is not ok; how it ended must fit.
    fn faults(&self) -> Vec<Line> {
        let (found, code) = self.check();
        let wrong = found.iter().any(|(level, ..)| level == "wrong");
        assert_eq!(code, Some(i32::from(wrong)), "{found:?}");
        found.into_iter().filter(|(level, ..)| level != "ok").collect()
    }
}

fn report(command: &mut Command) -> (Vec<Line>, Option<i32>) {
    let done = command.output().expect("the program runs");
    let report: Value = serde_json::from_slice(&done.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&done.stderr)));
    let text = |finding: &Value, name: &str| finding[name].as_str().expect("text").to_owned();
    let line = |f: &Value| (text(f, "level"), text(f, "subject"), format!("{}; {}", text(f, "says"), text(f, "cure")));
    // A temporary folder may be in memory: not what is tested here.
    let lines = report["findings"].as_array().expect("findings").iter().map(line);
    (lines.filter(|f| !f.2.contains("gone after a reboot")).collect(), done.status.code())
}

/// Exactly this is found to be amiss.
fn only(faults: &[Line], level: &str, subject: &str, part: &str) {
    let is_it = |f: &Line| f.0 == level && f.1 == subject && f.2.contains(part);
    assert!(faults.len() == 1 && is_it(&faults[0]), "{level} {subject} {part:?}: {faults:?}");
}

/// A certificate of this validity and its key, by the CA of `pki`.
fn certificate(pki: &Pki, cn: &str, names: &[&str], years: (i32, i32)) -> (String, String) {
    let mut params =
        CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).expect("names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, cn);
    (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
    let ca_key = KeyPair::from_pem(&std::fs::read_to_string(pki.ca_key()).expect("a key")).expect("a key");
    let ca = std::fs::read_to_string(pki.ca()).expect("a CA");
    let issuer = Issuer::from_ca_cert_pem(&ca, ca_key).expect("an issuer");
    let key = KeyPair::generate().expect("a key");
    (params.signed_by(&key, &issuer).expect("signed").pem(), key.serialize_pem())
}

/// RFC 9110's only form of a date, by the machine's clock.
fn now() -> &'static str {
    let out =
        Command::new("date").args(["-u", "+%a, %d %b %Y %H:%M:%S GMT"]).env("LC_ALL", "C").output().expect("date");
    String::from_utf8(out.stdout).expect("text").trim().to_owned().leak()
}

#[test]
fn where_all_is_well_nothing_is_amiss_and_nothing_is_changed() {
    let desk = Desk::new(now());
    let files = || {
        let mut all: Vec<_> =
            std::fs::read_dir(desk.folder.path()).expect("a folder").flatten().map(|e| e.path()).collect();
        all.sort();
        all
    };
    let before = files();
    let (found, code) = desk.check();
    assert!(found.iter().all(|(level, ..)| level == "ok") && code == Some(0), "{found:?}");
    for subject in
        ["serving", "client CA", "upstream CA", "key pair", "upstream", "credentials", "clock", "disk", "port"]
    {
        assert!(found.iter().any(|f| f.1 == subject), "{subject}: {found:?}");
    }
    assert_eq!(files(), before);
    assert!(desk.upstream.received().iter().all(|r| r.method == "GET"));

    // The same by a file of flags, and for people.
    let lines: String = desk.flags.iter().map(|(name, value)| format!("--{name}={value}\n")).collect();
    let file = desk.file("flags", &lines);
    let done = Command::new(PROGRAM).arg("check").arg("--config").arg(&file).output().expect("it runs");
    let said = String::from_utf8(done.stdout).expect("text");
    assert!(done.status.success() && said.ends_with(" 0 wrong\n"), "{said}");
    assert!(said.lines().all(|line| !line.starts_with("wrong")), "{said}");
    let help = Command::new(PROGRAM).args(["check", "--help"]).output().expect("it runs");
    assert!(help.stdout.starts_with(b"lite-apiserver check:"));
}

#[test]
fn a_daemon_that_runs_holds_its_ports_and_its_record() {
    let scene = Scene::scripted(&[], |_, wire| wire.json(200, "{}"));
    let mut command = Command::new(PROGRAM);
    command.args(["check", "--json"]).args(scene.proxy.flags());
    let (found, code) = report(&mut command);
    assert_eq!(code, Some(0), "{found:?}");
    let said = |part: &str| found.iter().filter(|f| f.0 == "ok" && f.2.contains(part)).count();
    assert_eq!((said("held by a lite-apiserver that runs"), said("lite-apiserver;")), (2, 1), "{found:?}");
}

#[test]
fn each_certificate_that_will_not_do_is_found() {
    let mut desk = Desk::new(now());
    let names = ["127.0.0.1"];
    let serving = |desk: &mut Desk, (cert, key): &(String, String)| {
        let (cert, key) = (desk.file("s.crt", cert), desk.file("s.key", key));
        desk.set("tls-cert-file", cert.display());
        desk.set("tls-private-key-file", key.display());
    };
    let good = certificate(&desk.pki, "x", &names, (2000, 2090));
    for (pair, part) in [
        (certificate(&desk.pki, "x", &names, (2000, 2001)), "expired at 2001-01-01T00:00:00Z; have it made anew"),
        (certificate(&desk.pki, "x", &names, (2080, 2090)), "valid from 2080-01-01T00:00:00Z only"),
        (certificate(&desk.pki, "x", &["10.0.0.1"], (2000, 2090)), "is not for 127.0.0.1, where the daemon listens"),
        ((good.0.clone(), certificate(&desk.pki, "x", &names, (2000, 2090)).1), "is not the key of the certificate in"),
        ((good.0.clone(), "no key".to_owned()), "holds no private key"),
    ] {
        serving(&mut desk, &pair);
        only(&desk.faults(), "wrong", "serving", part);
    }
    let other = Pki::new(&desk.folder.path().join("other"));
    serving(&mut desk, &certificate(&other, "x", &names, (2000, 2090)));
    only(&desk.faults(), "warning", "serving", "no CA that is known here has signed it");
    serving(&mut desk, &good);
    assert!(desk.faults().is_empty());

    let pairs = |desk: &mut Desk, (cert, key): &(String, String)| {
        let (cert, key) = (desk.file("p.crt", cert), desk.file("p.key", key));
        let list = desk.file("p.json", &json!([{"cert": cert, "key": key}]).to_string());
        desk.set("tls-config-file", list.display());
    };
    let pair = certificate(&desk.pki, NODE, &names, (2000, 2001));
    pairs(&mut desk, &pair);
    let faults = desk.faults();
    assert!(
        faults.iter().any(|f| f.0 == "wrong" && f.1 == "key pair" && f.2.contains("expired at 2001")),
        "{faults:?}"
    );
    let pair = certificate(&desk.pki, "stranger", &names, (2000, 2090));
    pairs(&mut desk, &pair);
    only(&desk.faults(), "wrong", "credentials", "stranger: 127.0.0.1");
    let list = desk.file("p.json", "[{]");
    desk.set("tls-config-file", list.display());
    only(&desk.faults(), "wrong", "key pair", "no valid JSON");
    desk.set("tls-config-file", "/nowhere.json");
    only(&desk.faults(), "wrong", "key pair", "`lite-apiserver setup` makes what a daemon needs");
}

#[test]
fn an_upstream_that_will_not_do_is_found() {
    let mut desk = Desk::new(now());
    let other = Pki::new(&desk.folder.path().join("other"));
    desk.set("apiserver-ca-file", other.ca().display());
    only(
        &desk.faults(),
        "wrong",
        "upstream",
        "signed by an unknown authority; name the CA that signed its certificate",
    );
    let desk = Desk::new(now());
    for (url, part) in [
        (format!("127.0.0.1:{}", free_port()), "; does kube-apiserver listen there?"),
        ("nobody.invalid:6443".to_owned(), "the name cannot be looked up"),
        (format!("127.0.0.1:{}", port_of(&desk)), "this is where the daemon itself listens"),
    ] {
        let mut desk = Desk::new(now());
        if part.contains("itself") {
            desk.set("port", url.rsplit(':').next().expect("a port"));
        }
        desk.set("kube-apiserver-url", url);
        only(&desk.faults(), "wrong", "upstream", part);
    }
}

fn port_of(desk: &Desk) -> String {
    desk.flags.iter().find(|(name, _)| *name == "port").expect("a port").1.clone()
}

#[test]
fn a_clock_that_is_wrong_is_found() {
    only(&Desk::new("Sun, 06 Nov 1994 08:49:37 GMT").faults(), "wrong", "clock", "ahead of the upstream's; set it");
    only(&Desk::new("Fri, 31 Dec 2088 08:49:37 GMT").faults(), "wrong", "clock", "behind the upstream's; set it");
}

#[test]
fn a_port_that_another_holds_is_found() {
    let mut desk = Desk::new(now());
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    desk.set("port", other.local_addr().expect("an address").port());
    let held = format!("held by process {}", std::process::id());
    only(&desk.faults(), "wrong", "port", &held);
    desk.set("port", free_port());
    let wide = certificate(&desk.pki, "x", &["127.0.0.1", "198.51.100.77"], (2000, 2090));
    let (cert, key) = (desk.file("s.crt", &wide.0), desk.file("s.key", &wide.1));
    desk.set("tls-cert-file", cert.display());
    desk.set("tls-private-key-file", key.display());
    desk.set("address", "198.51.100.77");
    only(&desk.faults(), "wrong", "port", "no interface of this machine has it");
    desk.flags.retain(|(name, _)| *name != "address");
    desk.set("dummy-interface", "lite0=198.51.100.77");
    assert!(desk.faults().is_empty());
}

#[test]
fn a_disk_that_will_not_do_is_found() {
    let mut desk = Desk::new(now());
    let shut = desk.folder.path().join("shut");
    std::fs::create_dir(&shut).expect("a folder");
    desk.set("file-cache-path", shut.join("cache").display());
    std::fs::set_permissions(&shut, std::fs::Permissions::from_mode(0o500)).expect("set");
    let mut command = desk.command();
    if rustix::process::geteuid().is_root() {
        // Root may write there: as nobody, who may read all the rest.
        open_to_all(desk.folder.path(), &shut);
        command.uid(65534).gid(65534);
    }
    let (found, code) = report(&mut command);
    let faults: Vec<_> = found.into_iter().filter(|f| f.0 != "ok").collect();
    only(&faults, "wrong", "disk", "may not be written by this user");
    assert_eq!(code, Some(1));
    std::fs::set_permissions(&shut, std::fs::Permissions::from_mode(0o700)).expect("set");

    let file = desk.file("file", "");
    desk.set("file-cache-path", file.join("cache").display());
    only(&desk.faults(), "wrong", "disk", "is no folder; name another place");
    desk.set("file-cache-path", desk.folder.path().join("cache").display());
    desk.set("cache-max-size", "900000Gi");
    only(&desk.faults(), "warning", "disk", "make room, or say --cache-max-size=");
}

/// Everything but `shut` can be read by everybody.
fn open_to_all(folder: &Path, shut: &Path) {
    let mode = |path: &Path, bits| std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits)).expect("set");
    mode(folder, 0o755);
    for path in std::fs::read_dir(folder).expect("a folder").flatten().map(|e| e.path()).filter(|path| path != shut) {
        if path.is_dir() { open_to_all(&path, shut) } else { mode(&path, 0o644) }
    }
}

#[test]
fn wrong_flags_are_named_with_their_place() {
    let mut desk = Desk::new(now());
    desk.flags.push(("prot", "1".to_owned()));
    let done = desk.command().output().expect("it runs");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!((done.status.code(), said.contains("did you mean --port?")), (Some(64), true), "{said}");
    let file = desk.file("flags", "# nothing yet\n");
    desk.flags = vec![("config", file.display().to_string())];
    only(&desk.faults(), "wrong", "flags", "--kube-apiserver-url is missing");
    desk.file(
        "flags",
        "--cache-max-size=much\n--kube-apiserver-url=h\n--ca-file=/c\n--tls-cert-file=/c\n--tls-private-key-file=/k\n",
    );
    only(&desk.faults(), "wrong", "flags", "flags:1: --cache-max-size: \"much\" is no size");
}

#[test]
fn the_daemon_says_of_its_file_of_flags_what_is_wrong_and_where() {
    let desk = Desk::new(now());
    let lines: String = desk.flags.iter().map(|(name, value)| format!("--{name}={value}\n")).collect();
    for (more, code, part) in [
        ("--prot=1", 64, "flags:10: --prot is no flag; did you mean --port?"),
        ("--timeout 3", 64, "flags:10: \"--timeout 3\" is not how a flag is written here; write --timeout=SPAN"),
        ("--timeout=soon", 64, "flags:10: --timeout: \"soon\" is no span of time"),
        ("--port=1", 64, "flags:10: --port is given twice; give it once"),
    ] {
        let file = desk.file("flags", &format!("{lines}{more}\n"));
        let done = Command::new(PROGRAM).arg("--config").arg(file).output().expect("it runs");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!((done.status.code(), said.contains(part)), (Some(code), true), "{more}: {said}");
    }
    let lines: String = lines.lines().filter(|l| !l.contains("-address")).map(|l| format!("{l}\n")).collect();
    let file = desk.file("flags", &lines.replace("--port=", "# "));
    let proxy = Proxy::start_with_flags(&[PROGRAM.to_owned()], desk.pki, &[&format!("--config={}", file.display())]);
    assert_eq!(proxy.get("/version").status(), 200);
}
