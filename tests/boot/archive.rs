//! An initial file system, as the kernel unpacks it: a gzipped cpio archive of the "newc" kind
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`). Written here, because devices can then be in it without
//! root, and no tool is needed.

use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::BTreeSet;
use std::io::Write;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const PRIVATE: u32 = 0o100_600;
const CONSOLE: u32 = 0o020_600;

/// The archive, file after file.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// With `/dev/console`, which the first process speaks to.
    pub fn new() -> Archive {
        let mut archive = Archive::default();
        archive.folders_of("dev/console");
        archive.entry("dev/console", CONSOLE, (5, 1), &[]);
        archive
    }

    /// A file that can be run.
    pub fn program(&mut self, path: &str, bytes: &[u8]) {
        self.folders_of(path);
        self.entry(path, PROGRAM, (0, 0), bytes);
    }

    /// A file for root's eyes.
    pub fn file(&mut self, path: &str, bytes: &[u8]) {
        self.folders_of(path);
        self.entry(path, PRIVATE, (0, 0), bytes);
    }

    /// An empty folder.
    pub fn folder(&mut self, path: &str) {
        self.folders_of(&format!("{path}/"));
    }

    /// The whole, gzipped.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&self.bytes).expect("written");
        packed.finish().expect("written")
    }

    fn folders_of(&mut self, path: &str) {
        for (end, _) in path.match_indices('/') {
            if self.folders.insert(path[..end].to_owned()) {
                self.entry(&path[..end], FOLDER, (0, 0), &[]);
            }
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), bytes: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(bytes.len()).expect("a small file");
        let name_size = u32::try_from(path.len() + 1).expect("a short name");
        // Inode, mode, uid, gid, links, time, size, device (major, minor), the device it stands for, name's size, no sum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        fields.iter().for_each(|f| self.bytes.extend_from_slice(format!("{f:08x}").as_bytes()));
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
