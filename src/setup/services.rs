//! The services, by the commands that a person would type: printed, or run where that was asked for.

use super::ledger::Root;
use super::node::Kind;
use crate::failed::{Failed, failed};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long the daemon may take until it answers.
const PATIENCE: Duration = Duration::from_secs(20);

/// What starts services here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Init {
    Systemd,
    /// Scripts in `/etc/init.d`; OpenWrt's can be enabled.
    Scripts {
        can_enable: bool,
    },
    Unknown,
}

/// The services of this node, in the order in which they are restarted.
#[derive(Debug)]
pub(super) struct Services {
    init: Init,
    clients: Vec<&'static str>,
}

impl Services {
    pub(super) fn of(kind: Kind, has_kube_proxy: bool, root: &Root) -> Services {
        let there = |path: &str| root.at(path).exists();
        let init = if there("/run/systemd/system") {
            Init::Systemd
        } else if there("/etc/init.d/lite-apiserver") {
            Init::Scripts { can_enable: there("/etc/rc.common") }
        } else {
            Init::Unknown
        };
        let clients = match kind {
            Kind::K3s => vec!["k3s-agent"],
            Kind::Plain if has_kube_proxy => vec!["kubelet", "kube-proxy"],
            Kind::Plain | Kind::Kubeadm => vec!["kubelet"],
        };
        Services { init, clients }
    }

    /// What starts the daemon, and what has its clients begin anew once it serves.
    pub(super) fn to_use(&self) -> (Vec<String>, Vec<String>) {
        let daemon = match self.init {
            Init::Systemd => vec!["systemctl enable lite-apiserver", "systemctl restart lite-apiserver"],
            Init::Scripts { can_enable: true } => {
                vec!["/etc/init.d/lite-apiserver enable", "/etc/init.d/lite-apiserver restart"]
            }
            Init::Scripts { can_enable: false } => vec!["/etc/init.d/lite-apiserver restart"],
            Init::Unknown => vec![],
        };
        (daemon.into_iter().map(str::to_owned).collect(), self.of_clients())
    }

    /// What has the clients begin anew, and what ends the daemon then.
    pub(super) fn to_leave(&self) -> (Vec<String>, Vec<String>) {
        let daemon = match self.init {
            Init::Systemd => vec!["systemctl disable --now lite-apiserver"],
            Init::Scripts { can_enable: true } => {
                vec!["/etc/init.d/lite-apiserver disable", "/etc/init.d/lite-apiserver stop"]
            }
            Init::Scripts { can_enable: false } => vec!["/etc/init.d/lite-apiserver stop"],
            Init::Unknown => vec![],
        };
        (self.of_clients(), daemon.into_iter().map(str::to_owned).collect())
    }

    fn of_clients(&self) -> Vec<String> {
        let command = |name: &&str| match self.init {
            Init::Systemd => Some(format!("systemctl restart {name}")),
            Init::Scripts { .. } => Some(format!("/etc/init.d/{name} restart")),
            Init::Unknown => None,
        };
        self.clients.iter().filter_map(command).collect()
    }

    /// For people where there is no command to print: what is to be restarted.
    pub(super) fn names(&self) -> String {
        self.clients.join(" and ")
    }

    pub(super) fn are_known(&self) -> bool {
        self.init != Init::Unknown
    }
}

/// Runs commands, each after the one before has succeeded.
pub(super) fn run(commands: &[String]) -> Result<(), Failed> {
    for command in commands {
        let mut words = command.split(' ');
        let Some(program) = words.next() else { continue };
        // What a script starts in the background must not hold our own output open.
        let mut command_line = Command::new(program);
        command_line.args(words).stdin(Stdio::null()).stdout(Stdio::null());
        match command_line.status() {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(failed(71, format!("setup: {command}: {status}; look into its log"))),
            Err(e) => return Err(failed(71, format!("setup: {command}: {e}"))),
        }
    }
    Ok(())
}

/// Waits until the daemon serves: by its admin endpoint, or where it has none by its port.
pub(super) fn await_daemon(admin: Option<SocketAddr>, server: &str) -> Result<(), Failed> {
    let address = admin.or_else(|| server.strip_prefix("https://").and_then(|address| address.parse().ok()));
    let Some(address) = address else { return Ok(()) };
    let answers = || -> io::Result<bool> {
        let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
        if admin.is_none() {
            return Ok(true);
        }
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        socket.take(4096).read_to_string(&mut text)?;
        Ok(text.lines().next().is_some_and(|first| first.contains(" 200")))
    };
    let begun = Instant::now();
    while !answers().unwrap_or(false) {
        if begun.elapsed() > PATIENCE {
            let why = format!("lite-apiserver does not answer at {address}, so its clients were not restarted");
            return Err(failed(69, format!("setup: {why}; look into its log, and at `lite-apiserver check`")));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
