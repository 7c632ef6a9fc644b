//! A disk on which nothing is changed, for an engine that cannot be opened without writing: what it writes to a file stays
//! in memory, and is seen by it alone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::fs::{FlockOperation, flock};

use super::file::Unchanged;
use super::{Disk, DiskFile, lock};

/// What is kept at a time of what was written.
const BLOCK: usize = 4096;

/// The operating system's files, with what is written to them in memory.
pub(super) struct Overlay;

impl Disk for Overlay {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        Unchanged.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        Unchanged.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Unchanged.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let below = Unchanged.open(path)?;
        let written = Mutex::new(Written { length: below.len()?, blocks: HashMap::new() });
        Ok(Arc::new(OverlaidFile { below, written }))
    }

    /// Only what is damaged is moved, and that it is.
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::InvalidData, "it is damaged, or none of ours; the daemon will set it aside"))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        Unchanged.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        Unchanged.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        Unchanged.sync_dir(path)
    }

    fn sync_all(&self, path: &Path) -> io::Result<()> {
        Unchanged.sync_all(path)
    }

    /// The daemon's own lock, where there is one: nobody else may write while it is looked.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Box::new(())),
            opened => {
                let file = opened?;
                flock(&file, FlockOperation::NonBlockingLockShared)?;
                Ok(Box::new(file))
            }
        }
    }
}

struct OverlaidFile {
    below: Arc<dyn DiskFile>,
    written: Mutex<Written>,
}

struct Written {
    length: u64,
    blocks: HashMap<u64, Box<[u8; BLOCK]>>,
}

impl OverlaidFile {
    /// Fills a block with what is on the disk, and nothing past its end.
    fn read_below(&self, number: u64, block: &mut [u8; BLOCK]) -> io::Result<()> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.below.read_at(&mut block[filled..], number * BLOCK as u64 + filled as u64)? {
                0 => break,
                n => filled += n,
            }
        }
        Ok(())
    }
}

impl DiskFile for OverlaidFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let written = lock(&self.written);
        let (number, from) = (offset / BLOCK as u64, (offset % BLOCK as u64) as usize);
        let left = usize::try_from(written.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let n = out.len().min(left).min(BLOCK - from);
        if let Some(block) = written.blocks.get(&number) {
            out[..n].copy_from_slice(&block[from..from + n]);
        } else if n > 0 {
            // Below, the file may end earlier; what is between reads as zeros.
            let read = self.below.read_at(&mut out[..n], offset)?;
            out[read..n].fill(0);
            return Ok(if read > 0 { read } else { n });
        }
        Ok(n)
    }

    fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        let mut written = lock(&self.written);
        while !bytes.is_empty() {
            let (number, from) = (offset / BLOCK as u64, (offset % BLOCK as u64) as usize);
            let n = bytes.len().min(BLOCK - from);
            let block = match written.blocks.entry(number) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    let mut block = Box::new([0; BLOCK]);
                    self.read_below(number, &mut block)?;
                    entry.insert(block)
                }
            };
            block[from..from + n].copy_from_slice(&bytes[..n]);
            offset += n as u64;
            bytes = &bytes[n..];
            written.length = written.length.max(offset);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.written).length)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        lock(&self.written).length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}
