//! nginx, twice: as the upstream that both proxies stand before, and as the rival. Debian's program with a configuration
//! and a folder of our own; no service is started or touched.

use crate::processes;
use crate::support::pki::{Pair, Pki};
use crate::support::{TempDir, free_port};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running nginx; ended when dropped.
pub struct Nginx {
    pub port: u16,
    master: Child,
    folder: TempDir,
}

/// `proxy_buffering`.
#[derive(Clone, Copy)]
pub enum Buffering {
    /// The default.
    On,
    /// What watches need: else nginx keeps events back until a buffer is full.
    Off,
}

/// Where nginx is, if it is installed.
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders.map(|f| f.join("nginx")).find(|p| p.is_file())
}

impl Nginx {
    /// A server of static files.
    pub fn upstream(program: &Path, pki: &Pki, root: &Path) -> Nginx {
        let server = format!("root {};\n    default_type application/json;", root.display());
        let http = "open_file_cache max=100 inactive=10m;\n  open_file_cache_valid 10m;";
        Nginx::start(program, pki, http, &server)
    }

    /// A reverse proxy that does what ours does: TLS with a verified client certificate on both sides, the upstream's
    /// certificate verified, connections and TLS sessions kept.
    pub fn rival(program: &Path, pki: &Pki, upstream: u16, node: &Pair, buffering: Buffering) -> Nginx {
        let http = format!(
            "upstream cloud {{\n    server 127.0.0.1:{upstream};\n    keepalive 64;\n    keepalive_requests 100000000;\n  }}
  map $http_upgrade $wish {{ default upgrade; '' ''; }}"
        );
        let buffering = match buffering {
            Buffering::On => "on",
            Buffering::Off => "off",
        };
        let server = format!(
            "location / {{
      proxy_pass https://cloud;
      proxy_http_version 1.1;
      proxy_set_header Connection $wish;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Host localhost:{upstream};
      proxy_ssl_certificate {};
      proxy_ssl_certificate_key {};
      proxy_ssl_trusted_certificate {};
      proxy_ssl_verify on;
      proxy_ssl_name localhost;
      proxy_ssl_protocols TLSv1.2 TLSv1.3;
      proxy_ssl_session_reuse on;
      proxy_buffering {buffering};
      proxy_read_timeout 10m;
    }}",
            node.cert.display(),
            node.key.display(),
            pki.ca().display()
        );
        Nginx::start(program, pki, &http, &server)
    }

    fn start(program: &Path, pki: &Pki, http: &str, server: &str) -> Nginx {
        let (folder, port) = (TempDir::new(), free_port());
        let pair = pki.pair("nginx");
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|what| format!("  {what}_temp_path {}/{what};\n", folder.path().display()))
            .concat();
        let configuration = format!(
            "daemon off;
worker_processes 2;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
{temporary}  access_log off;
  keepalive_timeout 10m;
  keepalive_requests 100000000;
  {http}
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {};
    ssl_certificate_key {};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:s:1m;
    ssl_client_certificate {};
    ssl_verify_client optional;
    {server}
  }}
}}
",
            pair.cert.display(),
            pair.key.display(),
            pki.ca().display(),
            folder = folder.path().display(),
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, configuration).expect("written");
        let mut master = Command::new(program)
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx starts");
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = master.try_wait().expect("waited for");
            let log = || std::fs::read_to_string(folder.path().join("error.log")).unwrap_or_default();
            assert!(ended.is_none(), "nginx ended: {}", log());
            assert!(start.elapsed() < Duration::from_secs(20), "nginx does not serve: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
        Nginx { port, master, folder }
    }

    /// The master and its workers.
    pub fn family(&self) -> Vec<u32> {
        processes::family(self.master.id())
    }

    /// What it complained of.
    pub fn complaints(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Fast shutdown: the master takes its workers with it, as SIGKILL would not.
        let pid = rustix::process::Pid::from_child(&self.master);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.master.wait();
    }
}
