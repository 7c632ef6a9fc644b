//! Tells whoever started the daemon how it is, by the protocol of sd_notify(3): a datagram to the socket that
//! `NOTIFY_SOCKET` names. systemd's, with `Type=notify` and `WatchdogSec=`; where nothing is named, nothing is said.
//!
//! Refuses to be more than a messenger: that the daemon is well is said by who has just seen that it is.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// Whom to tell, and how often.
pub(super) struct Notify {
    socket: Option<UnixDatagram>,
    /// How often `WATCHDOG=1` is said: twice as often as systemd wants it, as sd_watchdog_enabled(3) advises.
    every: Option<Duration>,
    next: Instant,
    status: String,
}

impl Notify {
    /// As the environment says: `NOTIFY_SOCKET`, a path or, behind `@`, an abstract name; `WATCHDOG_USEC`, microseconds,
    /// which counts where `WATCHDOG_PID` is this process or is not said.
    pub(super) fn from_environment(environment: &dyn Fn(&str) -> Option<String>) -> Notify {
        let socket = environment("NOTIFY_SOCKET").filter(|name| !name.is_empty()).and_then(|name| {
            let connected = connect(&name);
            connected.inspect_err(|e| log::warn!("NOTIFY_SOCKET {name} cannot be reached: {e}")).ok()
        });
        let meant = environment("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let span = environment("WATCHDOG_USEC").and_then(|span| span.parse().ok()).map(Duration::from_micros);
        let every = span.filter(|span| meant && !span.is_zero()).map(|span| span / 2);
        Notify { socket, every, next: Instant::now(), status: String::new() }
    }

    /// The daemon serves.
    pub(super) fn ready(&self) {
        self.say("READY=1");
    }

    /// The daemon ends.
    pub(super) fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// The daemon has just been seen to be well, and this is how it is, in a few words.
    pub(super) fn well(&mut self, status: &str) {
        if self.status != status {
            status.clone_into(&mut self.status);
            self.say(&format!("STATUS={status}"));
        }
        let now = Instant::now();
        if let Some(every) = self.every.filter(|_| now >= self.next) {
            self.next = now + every;
            self.say("WATCHDOG=1");
        }
    }

    fn say(&self, what: &str) {
        if let Some(Err(e)) = self.socket.as_ref().map(|socket| socket.send(what.as_bytes())) {
            log::debug!("{what} could not be said: {e}");
        }
    }
}

fn connect(name: &str) -> io::Result<UnixDatagram> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A manager that does not read must not hold the daemon up.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(socket: &UnixDatagram) -> Vec<String> {
        let mut bytes = [0; 512];
        let next = || {
            let length = socket.recv(&mut bytes).ok()?;
            Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
        };
        std::iter::from_fn(next).collect()
    }

    fn notify(name: &str, usec: &str, pid: Option<&str>) -> Notify {
        Notify::from_environment(&|asked| match asked {
            "NOTIFY_SOCKET" => Some(name.to_owned()),
            "WATCHDOG_USEC" => Some(usec.to_owned()),
            "WATCHDOG_PID" => pid.map(str::to_owned),
            _ => None,
        })
    }

    #[test]
    fn what_systemd_wants_to_know_is_said_once() {
        let name = format!("lite-apiserver-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).expect("a name")).expect("bound");
        manager.set_nonblocking(true).expect("set");
        let mut notify = notify(&format!("@{name}"), "3600000000", None);
        notify.ready();
        notify.well("the link is up");
        notify.well("the link is up");
        notify.well("the link is down");
        notify.stopping();
        let wanted = ["READY=1", "STATUS=the link is up", "WATCHDOG=1", "STATUS=the link is down", "STOPPING=1"];
        assert_eq!(said(&manager), wanted);
    }

    #[test]
    fn a_watchdog_is_fed_twice_in_its_time_and_only_our_own() {
        let every = |usec: &str, pid: Option<&str>| notify("", usec, pid).every;
        let own = std::process::id().to_string();
        assert_eq!(every("30000000", None), Some(Duration::from_secs(15)));
        assert_eq!(every("30000000", Some(&own)), Some(Duration::from_secs(15)));
        assert_eq!(every("30000000", Some("1")), None);
        assert_eq!(every("0", None), None);
        assert_eq!(every("soon", None), None);
    }

    #[test]
    fn a_socket_that_is_not_there_is_no_reason_to_fail() {
        notify("/nowhere/notify", "1", None).ready();
    }
}
