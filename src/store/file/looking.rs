//! Looking at a record without touching it, while a daemon may be writing it: a [`FileStore`] that takes no lock and
//! whose disk refuses every change, and a check of every byte.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;

use super::super::{Disk, DiskFile, StoreError, ViewKey};
use super::format::BadHeader;
use super::scan::{self, Scan};
use super::{FileOptions, FileStore, layout};

/// The operating system's files, to be read only.
pub(in crate::store) struct Unchanged;

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Disk for Unchanged {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        Err(if fs::metadata(path)?.is_dir() { io::ErrorKind::AlreadyExists } else { io::ErrorKind::NotADirectory }
            .into())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
    }

    fn create(&self, _: &Path) -> io::Result<Arc<dyn DiskFile>> {
        refused()
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
        Ok(Arc::new(File::options().read(true).custom_flags(flags).open(path)?))
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        refused()
    }

    fn remove_file(&self, _: &Path) -> io::Result<()> {
        refused()
    }

    fn remove_dir(&self, _: &Path) -> io::Result<()> {
        refused()
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _: &Path) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }
}

impl FileStore {
    /// Opens a record to look at it: nothing in the directory is changed, and whoever else has it open is not disturbed.
    /// What is written meanwhile may or may not be seen; each view is a state that existed. Whatever writes fails.
    pub fn look(root: &Path) -> Result<Self, StoreError> {
        Self::open_on(
            Arc::new(Unchanged),
            FileOptions { root: root.to_owned(), flush_interval: Duration::from_secs(1) },
        )
    }
}

/// One file of a record, as [`verify`] found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Where it is.
    pub path: PathBuf,
    /// Whose file it is, where its header can be read.
    pub key: Option<ViewKey>,
    /// How long it is.
    pub bytes: u64,
    /// What it is.
    pub condition: Condition,
}

/// What a file turned out to be, every byte of it read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// What it should be; a torn end, which no one has been told of, is left out.
    Whole,
    /// Its successor counts; it goes when that is durable.
    Replaced,
    /// Nothing was ever committed in it.
    Empty,
    /// Set aside by an earlier look: the newest few are kept in `damaged`.
    SetAside,
    /// Not what it should be, and why. The daemon sets it aside when it meets it.
    Damaged(&'static str),
}

/// Reads every file of a record, and changes nothing. Fails where a directory cannot be read.
pub fn verify(root: &Path) -> io::Result<Vec<Checked>> {
    let mut found = Vec::new();
    for (name, path) in entries(root)? {
        match name.to_str() {
            Some(layout::LOCK) => {}
            Some(layout::DAMAGED) => {
                for (_, path) in entries(&path)? {
                    found.push(checked(path, None, Condition::SetAside));
                }
            }
            Some(scope) if layout::is_hash(scope) && path.is_dir() => {
                for (_, fan) in entries(&path)? {
                    for (_, folder) in entries(&fan)? {
                        verify_folder(root, &folder, &mut found)?;
                    }
                }
            }
            _ => found.push(checked(path, None, Condition::Damaged("not a file of ours"))),
        }
    }
    Ok(found)
}

fn checked(path: PathBuf, key: Option<ViewKey>, condition: Condition) -> Checked {
    let bytes = fs::symlink_metadata(&path).map_or(0, |m| m.len());
    Checked { path, key, bytes, condition }
}

/// What is in a directory, in order; nothing where it has gone meanwhile.
fn entries(dir: &Path) -> io::Result<Vec<(OsString, PathBuf)>> {
    let listed = match Unchanged.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut entries: Vec<_> = listed.into_iter().map(|name| (name.clone(), dir.join(name))).collect();
    entries.sort();
    Ok(entries)
}

fn verify_folder(root: &Path, folder: &Path, found: &mut Vec<Checked>) -> io::Result<()> {
    let files = entries(folder)?;
    for (name, path) in &files {
        let Some((view, seq)) = layout::parse_file_name(name) else {
            found.push(checked(path.clone(), None, Condition::Damaged("not a file of ours")));
            continue;
        };
        let is_newest = |other: &(OsString, PathBuf)| {
            layout::parse_file_name(&other.0).is_none_or(|(other, number)| other != view || number <= seq)
        };
        let newest = files.iter().all(is_newest);
        // Once more where it is found damaged: it may have been written to meanwhile.
        let mut read = verify_file(path);
        if matches!(read, Ok((_, Condition::Damaged(_)))) {
            read = verify_file(path);
        }
        let (key, condition) = match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => (None, Condition::Damaged("it cannot be read")),
            Ok(read) => read,
        };
        let is_at_home = key
            .as_ref()
            .is_none_or(|key| layout::folder(root, &key.scope, &key.path) == *folder && layout::name(key) == view);
        let condition = match condition {
            _ if !is_at_home => Condition::Damaged("another view's file"),
            Condition::Whole if !newest => Condition::Replaced,
            condition => condition,
        };
        found.push(checked(path.clone(), key, condition));
    }
    Ok(())
}

fn verify_file(path: &Path) -> io::Result<(Option<ViewKey>, Condition)> {
    let file = Unchanged.open(path)?;
    let key = match scan::header(&*file)? {
        Ok((header, ..)) => Some(header.key),
        Err(BadHeader::Version(_)) => return Ok((None, Condition::Damaged("of another version"))),
        Err(_) => None,
    };
    Ok(match scan::scan(&*file)? {
        Scan::Committed(_) => (key, Condition::Whole),
        Scan::Nothing => (key, Condition::Empty),
        Scan::Damaged(why) => (key, Condition::Damaged(why)),
    })
}
