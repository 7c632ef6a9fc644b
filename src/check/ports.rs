//! The addresses: free, or held by a daemon of ours, which says so itself; else by whom. One that is free is bound for a
//! moment, which is how the system is asked.

use super::Report;
use crate::admin;
use crate::config::Inspection;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

const SUBJECT: &str = "port";

/// How long our daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// `holder`: who has the record open.
pub(super) fn look(at: &Inspection, holder: Option<&str>, report: &mut Report) {
    let daemon = at.admin.is_some_and(is_our_daemon) || at.admin.is_none() && holder.is_some();
    for address in at.listen.iter().copied().chain(at.admin) {
        let made = at.dummy_interfaces.iter().any(|dummy| dummy.address == address.ip());
        match TcpListener::bind(address).map_err(|e| e.kind()) {
            Ok(_) => report.ok(SUBJECT, format!("{address}: free")),
            Err(io::ErrorKind::AddrInUse) if daemon => {
                report.ok(SUBJECT, format!("{address}: held by a lite-apiserver that runs, and answers"));
            }
            Err(io::ErrorKind::AddrInUse) => {
                let who = listener(address.port()).unwrap_or_else(|| "another process".to_owned());
                let cure = "stop that one, or choose another: --port, --address, --admin-address";
                report.wrong(SUBJECT, format!("{address}: held by {who}"), cure);
            }
            Err(io::ErrorKind::AddrNotAvailable) if made => {
                report.ok(SUBJECT, format!("{address}: the daemon makes an interface for it"));
            }
            Err(io::ErrorKind::AddrNotAvailable) => {
                let cure = "name an address that one has, or let one be made: --dummy-interface";
                report.wrong(SUBJECT, format!("{address}: no interface of this machine has it"), cure);
            }
            Err(io::ErrorKind::PermissionDenied) => {
                let cure = "start as root with --user, or choose a port above 1023";
                report.wrong(SUBJECT, format!("{address}: this user may not bind it"), cure);
            }
            Err(e) => report.wrong(SUBJECT, format!("{address}: cannot be bound: {e}"), "choose another"),
        }
    }
}

/// Whether a daemon of ours answers at this admin address.
fn is_our_daemon(address: SocketAddr) -> bool {
    admin::is_well(address, PATIENCE)
        && admin::ask(address, "/metrics", PATIENCE).is_ok_and(|page| page.contains("lite_apiserver_"))
}

/// Which process listens on a port, as `/proc/net/tcp` has it (proc_pid_net(5)).
fn listener(port: u16) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let end = format!(":{port:04X}");
    let inode = tables.iter().flat_map(|table| table.lines()).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // 0A: LISTEN.
        let is_it = fields.get(1)?.ends_with(&end) && *fields.get(3)? == "0A";
        is_it.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]"))).flatten()
    })?;
    let has_it = |process: &Path| {
        let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == inode.as_str()))
    };
    let process = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path()).find(|path| has_it(path))?;
    let name = fs::read_to_string(process.join("comm")).ok()?;
    Some(format!("process {}, {}", process.file_name()?.to_string_lossy(), name.trim_end()))
}
