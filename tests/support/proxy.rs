//! The real binary, started as a user starts it.

use super::client::{Client, Reply};
use super::pki::Pki;
use super::{TempDir, eventually, free_port};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The identities that have a key pair here.
pub const NODE: &str = "system:node:edge1";
pub const ADMIN: &str = "admin";

/// One proxy with its files; ended when dropped.
pub struct Proxy {
    program: Vec<String>,
    pub folder: TempDir,
    pub pki: Pki,
    pub port: u16,
    pub admin: u16,
    flags: Vec<String>,
    child: Option<Child>,
}

impl Proxy {
    /// Starts `program` (and leading arguments) in front of an upstream on this port, with `extra` flags.
    pub fn start_program(program: &[String], pki: Pki, upstream: u16, extra: &[&str]) -> Proxy {
        let mut proxy = Proxy::new(program, pki);
        let pairs: Vec<_> = [NODE, ADMIN]
            .iter()
            .map(|cn| proxy.pki.pair(cn))
            .map(|p| serde_json::json!({"cert": p.cert, "key": p.key}))
            .collect();
        let pairs_file = proxy.folder.path().join("pairs.json");
        std::fs::write(&pairs_file, serde_json::Value::from(pairs).to_string()).expect("write");
        let serving = proxy.pki.pair("lite-apiserver");
        let flags = [
            ("ca-file", proxy.pki.ca().display().to_string()),
            ("tls-cert-file", serving.cert.display().to_string()),
            ("tls-private-key-file", serving.key.display().to_string()),
            ("apiserver-ca-file", proxy.pki.ca().display().to_string()),
            ("kube-apiserver-url", "127.0.0.1".to_owned()),
            ("kube-apiserver-port", upstream.to_string()),
            ("tls-config-file", pairs_file.display().to_string()),
            ("file-cache-path", proxy.folder.path().join("cache").display().to_string()),
        ];
        let elsewhere = |flag: &str| extra.iter().any(|e| e.starts_with(&format!("--{flag}=")));
        let flags = flags.into_iter().filter(|(flag, _)| !elsewhere(flag));
        proxy.flags.extend(flags.map(|(flag, value)| format!("--{flag}={value}")));
        proxy.add_flags(extra);
        proxy.boot();
        proxy
    }

    /// Starts `program` as a person with a kubeconfig does; what it makes is in [`Proxy::data`].
    pub fn start_with_kubeconfig(program: &[String], pki: Pki, kubeconfig: &Path, extra: &[&str]) -> Proxy {
        let mut proxy = Proxy::new(program, pki);
        proxy.flags.push(format!("--kubeconfig={}", kubeconfig.display()));
        proxy.flags.push(format!("--data-dir={}", proxy.data().display()));
        proxy.add_flags(extra);
        proxy.boot();
        proxy
    }

    /// Starts `program` with these flags, and its ports.
    pub fn start_with_flags(program: &[String], pki: Pki, flags: &[&str]) -> Proxy {
        let mut proxy = Proxy::new(program, pki);
        proxy.add_flags(flags);
        proxy.boot();
        proxy
    }

    /// What it was started with.
    pub fn flags(&self) -> &[String] {
        &self.flags
    }

    fn new(program: &[String], pki: Pki) -> Proxy {
        let (port, admin) = (free_port(), free_port());
        let flags = vec![format!("--port={port}"), format!("--admin-address=127.0.0.1:{admin}")];
        Proxy { program: program.to_vec(), folder: TempDir::new(), pki, port, admin, flags, child: None }
    }

    /// Where the proxy keeps what it makes from a kubeconfig.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Where the record is, unless a flag says otherwise.
    pub fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// Further flags, for the next start.
    pub fn add_flags(&mut self, extra: &[&str]) {
        self.flags.extend(extra.iter().map(|e| (*e).to_owned()));
    }

    /// The next start does without this flag.
    pub fn drop_flag(&mut self, name: &str) {
        self.flags.retain(|flag| flag.split('=').next() != Some(name));
    }

    /// Starts it, again with the same files.
    pub fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_file()).expect("a log");
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]);
        command.args(&self.flags).stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        self.child = Some(command.spawn().expect("the proxy starts"));
    }

    /// Starts it, again with the same files, and waits until it serves.
    pub fn boot(&mut self) {
        self.spawn();
        let start = Instant::now();
        // Its sockets are there before it serves, and before it is who it is to be; the admin endpoint answers last.
        while !self.try_page("/healthz").is_ok_and(|page| page.contains(" 200 ")) {
            let ended = self.child.as_mut().and_then(|c| c.try_wait().ok().flatten());
            // The system has given its port to a connection of a test beside this one, for as long as that lasts.
            if ended.is_some_and(|_| self.log().lines().last().is_some_and(|last| last.contains("in use"))) {
                std::thread::sleep(Duration::from_millis(100));
                self.spawn();
            } else {
                assert!(ended.is_none(), "the proxy ended: {}", self.log());
            }
            assert!(start.elapsed() < Duration::from_secs(20), "the proxy does not serve: {}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// SIGKILL, as a power cut does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        let pid = rustix::process::Pid::from_raw(self.pid().cast_signed()).expect("running");
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("SIGHUP");
    }

    /// SIGTERM; how it ended, and how long that took.
    pub fn terminate(&mut self) -> (ExitStatus, Duration) {
        let mut child = self.child.take().expect("running");
        let start = Instant::now();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("SIGTERM");
        (child.wait().expect("ended"), start.elapsed())
    }

    /// A connection as this identity, or without a certificate.
    pub fn client(&self, cn: Option<&str>) -> Client {
        Client::connect(self.port, &self.pki, cn)
    }

    /// One GET as the node.
    pub fn get(&self, target: &str) -> Reply {
        self.client(Some(NODE)).get(target)
    }

    /// A page of the admin endpoint.
    pub fn page(&self, path: &str) -> String {
        self.try_page(path).expect("the admin endpoint")
    }

    fn try_page(&self, path: &str) -> io::Result<String> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.admin))?;
        write!(socket, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        Ok(text)
    }

    /// The sum of a metric's samples.
    pub fn metric(&self, name: &str) -> u64 {
        self.try_metric(name).expect("the admin endpoint")
    }

    /// The same; `None` where nobody answers.
    pub fn try_metric(&self, name: &str) -> Option<u64> {
        let page = self.try_page("/metrics").ok().filter(|page| page.contains(" 200 "))?;
        let samples = page.lines().filter(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
        Some(samples.filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    }

    /// The most memory that it ever had resident, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("/proc");
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("VmHWM");
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kibibytes << 10
    }

    /// Waits until the proxy has found the link down, or up.
    pub fn await_link(&self, up: bool) {
        eventually(if up { "the link is up" } else { "the link is down" }, || {
            self.metric("lite_apiserver_link_up") == u64::from(up)
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("the proxy's log:\n{}", self.log());
        }
    }
}
