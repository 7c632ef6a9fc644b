//! The machine as a sandbox: the demonstration runs again as the first process of namespaces of its own (processes, mounts,
//! network), so that all that it starts ends with it, however it ends. What namespaces do not hold, namely what a kubelet
//! sets for the whole machine and the cgroups of pods, is put back from outside.

use crate::bed;
use crate::support::TempDir;
use rustix::process::Pid;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, fs};

/// Set within the sandbox.
const WITHIN: &str = "LITE_NODE_WITHIN";

/// What a kubelet sets for the whole machine (`setupKernelTunables` in its `container_manager_linux.go`).
const SET_BY_KUBELET: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Does `story` within the sandbox; its exit code. Outside it this prepares what needs the machine's own network, starts the
/// same program again, and waits for it.
pub fn sandboxed(prepare: impl FnOnce(), story: impl FnOnce() -> i32) -> i32 {
    if env::var_os(WITHIN).is_some() {
        run("mount", &["-t", "tmpfs", "run", "/run"]);
        run("ip", &["link", "set", "lo", "up"]);
        return story();
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("a real node needs root: for namespaces, mounts, cgroups and iptables");
        return 1;
    }
    prepare();
    // Two at a time would take each other's settings for the machine's own, and share the cgroups of pods.
    let lock = File::create(bed::place().join("node.lock")).expect("a file");
    lock.lock().expect("a lock");
    let before: BTreeMap<PathBuf, String> = SET_BY_KUBELET
        .iter()
        .map(|name| Path::new("/proc/sys").join(name))
        .filter_map(|path| Some((path.clone(), fs::read_to_string(path).ok()?)))
        .collect();
    // Removed from outside, whatever becomes of those within.
    let files = TempDir::new();
    let asked_to_end = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&asked_to_end)).expect("a signal");
    }
    let mut child = Command::new("unshare")
        .args(["--pid", "--mount", "--net", "--fork", "--mount-proc", "--propagation=private", "--kill-child", "--"])
        .arg(env::current_exe().expect("this program"))
        .args(env::args_os().skip(1))
        .env(WITHIN, "1")
        .env("TMPDIR", files.path())
        .stdin(Stdio::null())
        // Not the terminal's: ^C is for the one outside.
        .process_group(0)
        .spawn()
        .expect("unshare (util-linux) starts");
    let ended = loop {
        if let Some(status) = child.try_wait().expect("waited") {
            break status.code().unwrap_or(1);
        }
        if asked_to_end.load(Ordering::SeqCst)
            && let Some(first) = child_of(child.id()).and_then(|pid| Pid::from_raw(pid.cast_signed()))
        {
            let _ = rustix::process::kill_process(first, rustix::process::Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    for (path, value) in before {
        if fs::read_to_string(&path).is_ok_and(|now| now != value) {
            fs::write(&path, value).unwrap_or_else(|e| eprintln!("{} is not as it was: {e}", path.display()));
        }
    }
    remove_cgroups();
    ended
}

/// Removes the cgroups of pods, once their processes are gone.
pub fn remove_cgroups() {
    for _ in 0..50 {
        let left = cgroups_of_pods();
        // The innermost first.
        left.iter().rev().for_each(|folder| drop(fs::remove_dir(folder)));
        if left.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(40));
    }
    eprintln!("cgroups that stay: {:?}", cgroups_of_pods());
}

fn cgroups_of_pods() -> Vec<PathBuf> {
    let folders = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
    };
    let root = Path::new("/sys/fs/cgroup");
    let mut found: Vec<PathBuf> =
        folders(root).into_iter().map(|c| c.join("kubepods")).filter(|p| p.exists()).collect();
    found.extend(Some(root.join("kubepods")).filter(|p| p.exists()));
    let mut next = 0;
    while next < found.len() {
        found.extend(folders(&found[next]));
        next += 1;
    }
    found
}

/// The first child of a process.
pub fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Runs a command that must succeed; what it printed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let ended = Command::new(program).args(arguments).output();
    let ended = ended.unwrap_or_else(|e| panic!("{program} does not start: {e}"));
    let err = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{program} {}: {err}", arguments.join(" "));
    String::from_utf8_lossy(&ended.stdout).into_owned()
}
