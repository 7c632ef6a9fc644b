//! The services, by the commands that a person would type: printed, or run where that was asked for.

use super::node::Kind;
use super::root::Root;
use crate::admin;
use crate::failed::{Failed, failed};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long the daemon may take until it answers.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where packages and people put units (systemd.unit(5)).
const UNITS: [&str; 3] = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
const UCI: &str = "/etc/config/lite-apiserver";
const ENABLE: &str = "uci set lite-apiserver.main.enabled=1; uci commit lite-apiserver";
const SCRIPT: &str = "/etc/init.d/lite-apiserver";

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
    /// Why the daemon's service would not start, and the cure.
    obstacle: Option<String>,
}

impl Services {
    pub(super) fn of(kind: Kind, has_kube_proxy: bool, root: &Root) -> Services {
        let init = if root.has("/run/systemd/system") {
            Init::Systemd
        } else if root.has(SCRIPT) {
            Init::Scripts { can_enable: is_openwrt(root) }
        } else {
            Init::Unknown
        };
        let clients = match kind {
            Kind::K3s => vec!["k3s-agent"],
            Kind::Plain if has_kube_proxy => vec!["kubelet", "kube-proxy"],
            Kind::Plain | Kind::Kubeadm => vec!["kubelet"],
        };
        let unit = |folder: &&str| root.has(Path::new(folder).join("lite-apiserver.service"));
        let cure = "install the service, or leave out --restart";
        let obstacle = match init {
            Init::Systemd if !UNITS.iter().any(unit) => {
                Some(format!("lite-apiserver.service is neither in {}; {cure}", UNITS.join(" nor in ")))
            }
            Init::Unknown => Some(format!("neither systemd nor {SCRIPT} is here; {cure}")),
            Init::Scripts { can_enable: true } if !is_enabled(root) => {
                Some(format!("{UCI} does not say option enabled '1'; {ENABLE}"))
            }
            _ => None,
        };
        Services { init, clients, obstacle }
    }

    /// Whether the daemon's service can be started.
    pub(super) fn can_start(&self) -> Result<(), Failed> {
        self.obstacle.as_ref().map_or(Ok(()), |why| Err(failed(71, format!("setup: --restart: {why}"))))
    }

    /// What a person has to say first, so that the daemon's service starts.
    pub(super) fn to_enable(&self) -> Option<&'static str> {
        let is_openwrt = self.init == Init::Scripts { can_enable: true };
        Some(ENABLE).filter(|_| is_openwrt && self.obstacle.is_some())
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

/// Whether the service is configured by UCI; `/var` is in memory there.
pub(super) fn is_openwrt(root: &Root) -> bool {
    root.has("/etc/rc.common")
}

/// Whether UCI says so, in a word that `config_get_bool` of OpenWrt takes.
fn is_enabled(root: &Root) -> bool {
    let text = root.read(Path::new(UCI)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let option = |line: &str| {
        let (words, value) = line.trim().rsplit_once([' ', '\t'])?;
        let is_it = words.split_whitespace().map(unquoted).eq(["option", "enabled"]);
        is_it.then(|| unquoted(value).to_owned())
    };
    let last = text.lines().filter_map(option).next_back();
    last.is_some_and(|value| ["1", "on", "true", "yes", "enabled"].contains(&value.as_str()))
}

fn unquoted(word: &str) -> &str {
    word.trim_matches(['\'', '"'])
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
    let answers = || match admin {
        Some(admin) => admin::is_well(admin, PATIENCE),
        None => TcpStream::connect_timeout(&address, PATIENCE).is_ok(),
    };
    let begun = Instant::now();
    while !answers() {
        if begun.elapsed() > PATIENCE {
            let why = format!("lite-apiserver does not answer at {address}, so its clients were not restarted");
            return Err(failed(69, format!("setup: {why}; look into its log, and at `lite-apiserver check`")));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_service_that_is_not_there_is_named() {
        let folder = std::env::temp_dir().join(format!("services-{}", std::process::id()));
        let root = Root(folder.clone());
        let write = |path: &str, text: &str| {
            let at = root.at(path);
            fs::create_dir_all(at.parent().expect("a folder")).expect("a folder");
            fs::write(at, text).expect("written");
        };
        let obstacle = || {
            let services = Services::of(Kind::Plain, false, &root);
            (services.can_start().err().map(|e| (e.exit, e.message)), services.to_enable())
        };
        let named = |part: &str| {
            let (error, enable) = obstacle();
            let (exit, message) = error.expect(part);
            assert!(exit == 71 && message.contains(part), "{part}: {message}");
            enable
        };
        assert_eq!(named("neither systemd nor /etc/init.d/lite-apiserver is here; install the service"), None);
        write(SCRIPT, "");
        assert_eq!(obstacle(), (None, None));
        write("/etc/rc.common", "");
        for text in ["", "config lite-apiserver 'main'\n\toption enabled '0'\n", "#option enabled '1'\n"] {
            write(UCI, text);
            assert_eq!(named("does not say option enabled '1'; uci set"), Some(ENABLE), "{text}");
        }
        for text in ["\toption enabled '1'\n", "option enabled 0\noption  enabled\t\"true\"\n", "option 'enabled' 1"] {
            write(UCI, text);
            assert_eq!(obstacle(), (None, None), "{text}");
        }
        write("/run/systemd/system/x", "");
        assert_eq!(named("lite-apiserver.service is neither in /etc/systemd/system nor in"), None);
        write("/lib/systemd/system/lite-apiserver.service", "");
        assert_eq!(obstacle(), (None, None));
        let _ = fs::remove_dir_all(folder);
    }
}
