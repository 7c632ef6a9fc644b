//! The few file operations that an engine needs, as traits, so that a simulated disk (one that loses power, fills up or
//! fails) can be put below the file engine, which never touches `std::fs` itself.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock, syncfs};
use rustix::io::Errno;

/// A directory tree on which files can be made durable. Paths are whole paths.
///
/// What the file engine assumes of it, and no more: what was written is there when `sync_data` has returned; a file's
/// or directory's name is there when `sync_dir` of its directory has returned; all is there when `sync_all` has. Before
/// that, any part of it may be there or not after a power loss, in any order, torn anywhere. A rename is seen whole or not
/// at all.
pub trait Disk: Send + Sync + 'static {
    /// Makes a directory of mode 0700; fails if there is one.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;
    /// Makes a file of mode 0600, for reading and writing; fails if there is one.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing; only for reading where nothing can be written.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes all durable that is in the file system of a directory, whoever wrote it.
    fn sync_all(&self, path: &Path) -> io::Result<()>;
    /// Takes the lock that this file stands for, until the returned value is dropped; `WouldBlock` if it is taken.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
}

/// Makes a directory, and what is above it as far as it is missing, and makes their names durable.
pub(super) fn make_dirs(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let above = above(dir);
    let mut made = disk.create_dir(dir);
    if matches!(&made, Err(error) if error.kind() == io::ErrorKind::NotFound && above != dir) {
        make_dirs(disk, above)?;
        made = disk.create_dir(dir);
    }
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => match disk.sync_dir(above) {
            // Who may add to a directory need not be allowed to read it.
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
            _ => Ok(()),
        },
    }
}

/// The directory that a path is in.
pub(super) fn above(path: &Path) -> &Path {
    path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// An open file.
#[expect(clippy::len_without_is_empty, reason = "a file's length is a system call, and nobody asks for emptiness")]
pub trait DiskFile: Send + Sync {
    /// Reads some bytes at an offset; 0 at the end of the file.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all bytes at an offset. After an error any part of them may have been written.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// The file's length.
    fn len(&self) -> io::Result<u64>;
    /// Cuts the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes contents and length durable.
    fn sync_data(&self) -> io::Result<()>;
}

/// How long a lock is waited for: whoever held it may just be ending, or be a child of it that has not come to `exec`.
const LINGERS: Duration = Duration::from_secs(1);

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

/// No link is followed in a file's last component: whoever could plant one could have us write through it.
fn options() -> OpenOptions {
    let mut options = File::options();
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
    options.read(true).write(true).mode(0o600).custom_flags(flags);
    options
}

impl Disk for OsDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(options().create_new(true).open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        match options().open(path) {
            // What cannot be written can still be recalled.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                Ok(Arc::new(options().write(false).open(path)?))
            }
            opened => Ok(Arc::new(opened?)),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn sync_all(&self, path: &Path) -> io::Result<()> {
        Ok(syncfs(File::open(path)?)?)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = match options().create(true).open(path) {
            // A disk that has turned read-only still has the record on it.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => options().write(false).open(path),
            opened => opened,
        }?;
        let begun = Instant::now();
        while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != Errno::WOULDBLOCK || begun.elapsed() > LINGERS {
                return Err(error.into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(Box::new(file))
    }
}

impl DiskFile for File {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, out, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}
