//! From root to somebody who may do less, once what only root may do is done. Linux keeps credentials by thread, and new
//! threads inherit them: this is done while there is one thread only.

use crate::config::{Config, RunAs, StoreConfig};
use crate::failed::{Failed, failed};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Uid, chownat, fchown, fstat, mkdirat, openat};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// Gives what root has made to whom `config` says, and goes on as that user and group.
pub(super) fn lower(config: &Config) -> Result<(), Failed> {
    let Some(to) = config.run_as else { return Ok(()) };
    if let Some(uid) = to.uid.filter(|_| geteuid().is_root()) {
        let record = match &config.store {
            StoreConfig::File(path) => Some(path.as_path()),
            // A file is not given with the folder around it, which may be anybody's, unless that is made for it.
            #[cfg(feature = "redb")]
            StoreConfig::Redb(path) => path.parent().filter(|folder| !folder.exists()),
            #[cfg(feature = "fjall")]
            StoreConfig::Fjall(path) => Some(path.as_path()),
            StoreConfig::Memory => None,
        };
        for folder in record.into_iter().chain(config.data_dir.as_deref()) {
            match give_folder(folder, Uid::from_raw(uid), Gid::from_raw(to.gid)) {
                // The record cannot be opened either, and memory stands in.
                Err(e) if !super::is_of_the_disk(e) => {
                    return Err(failed(73, format!("{}: cannot be given to user {uid}: {e}", folder.display())));
                }
                _ => {}
            }
        }
    }
    become_them(to)
}

fn become_them(to: RunAs) -> Result<(), Failed> {
    let (uid, gid) = (to.uid.map_or_else(geteuid, Uid::from_raw), Gid::from_raw(to.gid));
    if (geteuid(), getegid()) == (uid, gid) {
        return Ok(());
    }
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(failed(70, format!("{threads} threads run already; each would keep its privileges")));
    }
    // In this order: who is no longer root may change neither groups.
    let lowered = set_thread_groups(&[])
        .and_then(|()| set_thread_res_gid(gid, gid, gid))
        .and_then(|()| set_thread_res_uid(uid, uid, uid))
        .and_then(|()| set_no_new_privs(true));
    lowered.map_err(|e| {
        let (uid, gid) = (uid.as_raw(), gid.as_raw());
        failed(
            77,
            format!(
                "--user, --group: cannot go on as user {uid} and group {gid}: {e}; start as root, or leave them out"
            ),
        )
    })
}

/// Makes a folder, and those above it that are missing, and gives them and all that root made in it away.
fn give_folder(folder: &Path, uid: Uid, gid: Gid) -> Result<(), Errno> {
    let missing: Vec<&Path> =
        folder.ancestors().take_while(|above| !above.as_os_str().is_empty() && !above.exists()).collect();
    for above in missing.into_iter().rev() {
        mkdirat(CWD, above, Mode::RWXU)?;
        chownat(CWD, above, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    give(openat(CWD, folder, flags, Mode::empty())?.as_fd(), uid, gid)
}

/// Gives an open file away, and what is in it if it is a folder. Who owns the folder already may have put anything there:
/// links are not followed, and nothing is given that has a second name elsewhere.
fn give(file: BorrowedFd<'_>, uid: Uid, gid: Gid) -> Result<(), Errno> {
    let seen = fstat(file)?;
    let kind = FileType::from_raw_mode(seen.st_mode);
    if kind == FileType::Directory {
        for entry in Dir::read_from(file)? {
            let entry = entry?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            match openat(file, entry.file_name(), flags, Mode::empty()) {
                Ok(inner) => give(inner.as_fd(), uid, gid)?,
                // A link, a socket: not ours.
                Err(Errno::LOOP | Errno::NXIO | Errno::NOENT) => {}
                Err(e) => return Err(e),
            }
        }
    } else if kind != FileType::RegularFile || seen.st_nlink != 1 {
        return Ok(());
    }
    if seen.st_uid == uid.as_raw() { Ok(()) } else { fchown(file, Some(uid), Some(gid)) }
}
