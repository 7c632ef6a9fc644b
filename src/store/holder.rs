//! Who has a record open, as others can tell.

use std::os::linux::fs::MetadataExt as _;
use std::path::Path;

/// Which process holds the lock that this file stands for, as `/proc/locks` has it (proc_locks(5)).
pub fn holder(lock: &Path) -> Option<String> {
    let seen = std::fs::metadata(lock).ok()?;
    let device = seen.st_dev();
    let place = format!("{:02x}:{:02x}:{}", rustix::fs::major(device), rustix::fs::minor(device), seen.st_ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let pid = locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1) == Some(&"FLOCK") && fields.get(5) == Some(&place.as_str())).then(|| fields[4].to_owned())
    })?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("process {pid}, {}", name.trim_end()))
}
