//! The disk under the record: whether it can be written, has room, and lasts; and who has the record open. Writes nothing:
//! what may be written is what the system says may be.

use super::Report;
use crate::config::{Inspection, StoreConfig};
use crate::store;
use rustix::fs::{Access, access, statfs, statvfs};
use rustix::io::Errno;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

const SUBJECT: &str = "disk";

/// With less, no record can be begun.
const LEAST: u64 = 1 << 20;

/// Looks at the disk; who has the record open.
pub(super) fn look(at: &Inspection, report: &mut Report) -> Option<String> {
    let (store, most) = &at.store;
    let (flag, root, lock) = match store {
        StoreConfig::Memory => {
            report.ok(SUBJECT, "--cache-type memory: nothing is kept that outlasts the process");
            return None;
        }
        StoreConfig::File(root) => ("--file-cache-path", root.clone(), root.join("lock")),
        #[cfg(feature = "redb")]
        StoreConfig::Redb(file) => {
            let mut lock = file.clone().into_os_string();
            lock.push(".lock");
            ("--bolt-cache-file", file.parent().unwrap_or(Path::new(".")).to_owned(), PathBuf::from(lock))
        }
        #[cfg(feature = "fjall")]
        StoreConfig::Fjall(root) => ("--badger-cache-path", root.clone(), root.join("lock")),
    };
    let holder = store::holder(&lock);
    let folder = nearest(&root);
    let place = format!("{flag} {}", root.display());
    if writable(&place, &folder, report) {
        room(&place, &folder, used(&root), *most, report);
    }
    if let Some(who) = &holder {
        report.ok(SUBJECT, format!("{place}: open: {who}"));
    }
    holder
}

/// The folder itself, or the nearest above it that is there.
fn nearest(root: &Path) -> PathBuf {
    let absolute = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
    absolute.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(Path::new("/")).to_owned()
}

fn writable(place: &str, folder: &Path, report: &mut Report) -> bool {
    if !folder.is_dir() {
        report.wrong(SUBJECT, format!("{place}: {} is no folder", folder.display()), "name another place");
        return false;
    }
    match access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => true,
        Err(Errno::ROFS) => {
            let says = format!("{place}: {} is on a read-only file system", folder.display());
            report.wrong(SUBJECT, says, "name a place that can be written, or mount it so");
            false
        }
        Err(Errno::ACCESS | Errno::PERM) => {
            let says = format!("{place}: {} may not be written by this user", folder.display());
            report.wrong(SUBJECT, says, "give it to the daemon's user, and check as that user");
            false
        }
        Err(e) => {
            report.wrong(SUBJECT, format!("{place}: {}: {e}", folder.display()), "name another place");
            false
        }
    }
}

fn room(place: &str, folder: &Path, used: u64, most: u64, report: &mut Report) {
    let kind = statfs(folder).map_or("a file system that cannot be told", |fs| file_system(fs.f_type.cast_into()));
    let seen = match statvfs(folder) {
        Ok(seen) => seen,
        Err(e) => {
            return report.warning(SUBJECT, format!("{place}: {kind}; its room cannot be told: {e}"), "look at it");
        }
    };
    let free = seen.f_bavail.saturating_mul(seen.f_frsize);
    let says = format!("{place}: {kind}, {} free, the record has {}", size(free), size(used));
    let wanted = most.saturating_sub(used);
    if free < LEAST || seen.f_files > 0 && seen.f_favail == 0 {
        report.wrong(SUBJECT, format!("{says}: full"), "make room; until then nothing new is recorded");
    } else if most > 0 && free < wanted {
        let cure = format!("make room, or say --cache-max-size={}Ki", (used + free / 2) >> 10);
        report.warning(SUBJECT, format!("{says} and may grow to {}", size(most)), cure);
    } else if matches!(kind, "tmpfs" | "ramfs") {
        report.warning(SUBJECT, format!("{says}: gone after a reboot"), "name a place that lasts");
    } else if matches!(kind, "NFS" | "CIFS" | "9p" | "FUSE") {
        let cure = "name a place on a local disk: while the network is away, so is this";
        report.warning(SUBJECT, says, cure);
    } else {
        report.ok(SUBJECT, says);
    }
}

/// A machine word, whose type differs from one architecture to the next, as what it is: 32 bits are enough for a magic number.
trait CastInto {
    fn cast_into(self) -> u32;
}

impl<T: TryInto<i64>> CastInto for T {
    fn cast_into(self) -> u32 {
        self.try_into().map_or(0, |word: i64| word.cast_unsigned() as u32)
    }
}

/// By its magic number (linux/magic.h).
fn file_system(magic: u32) -> &'static str {
    match magic {
        0xEF53 => "ext4",
        0x5846_5342 => "XFS",
        0x9123_683E => "btrfs",
        0xF2F5_2010 => "f2fs",
        0x2405_1905 => "UBIFS",
        0x72B6 => "JFFS2",
        0x794C_7630 => "overlayfs",
        0x0102_1994 => "tmpfs",
        0x8584_58F6 => "ramfs",
        0x6969 => "NFS",
        0xFF53_4D42 | 0xFE53_4D42 | 0x517B => "CIFS",
        0x0102_1997 => "9p",
        0x6573_5546 => "FUSE",
        0x4D44 => "FAT",
        0x7371_7368 => "squashfs",
        0x2FC1_2FC1 => "ZFS",
        _ => "another file system",
    }
}

/// What is used on disk below a folder, in bytes.
fn used(folder: &Path) -> u64 {
    let mut folders = vec![folder.to_owned()];
    let mut sum = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(seen) = entry.metadata() else { continue };
            sum += seen.blocks() * 512;
            if seen.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    sum
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{}Ki", bytes >> 10),
        1_048_576..10_737_418_240 => format!("{}Mi", bytes >> 20),
        _ => format!("{}Gi", bytes >> 30),
    }
}
