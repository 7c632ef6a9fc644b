//! What a box is made of: a real kernel and a real busybox, of Debian, and this program, built for the box.
//!
//! The packages of other architectures are fetched by Debian's own client with lists of its own, so that nothing is
//! installed and the machine's own lists stay as they are; they are unpacked and kept in `$LITE_BED/boot`.

use crate::Wish;
use crate::bed;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A kind of box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A Cortex-A53, 64-bit.
    Arm64,
    /// A Cortex-A7, 32-bit.
    Armv7,
}

impl Kind {
    /// By the name on the command line.
    pub fn named(name: &str) -> Option<Kind> {
        [Kind::Arm64, Kind::Armv7].into_iter().find(|k| k.name() == name)
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Arm64 => "arm64",
            Kind::Armv7 => "armv7",
        }
    }

    /// The emulator, and its processor.
    pub fn emulator(self) -> (&'static str, &'static str) {
        match self {
            Kind::Arm64 => ("qemu-system-aarch64", "cortex-a53"),
            Kind::Armv7 => ("qemu-system-arm", "cortex-a7"),
        }
    }

    /// What `packaging/build.sh` calls it.
    pub fn target(self) -> &'static str {
        match self {
            Kind::Arm64 => "aarch64",
            Kind::Armv7 => "armv7hf",
        }
    }

    /// How many watches it holds. 64 MB less Debian's 64-bit kernel, which has all drivers, are 35 MB, of which the kernel
    /// itself goes on to use 20: there is no room for a hundred.
    pub fn watches(self) -> usize {
        match self {
            Kind::Arm64 => 25,
            Kind::Armv7 => 100,
        }
    }

    /// What Debian calls it, and its package that names the newest kernel.
    fn debian(self) -> (&'static str, &'static str) {
        match self {
            Kind::Arm64 => ("arm64", "linux-image-arm64"),
            Kind::Armv7 => ("armhf", "linux-image-armmp"),
        }
    }
}

/// The parts, as files.
pub struct Parts {
    /// The kernel.
    pub kernel: PathBuf,
    /// `lib/modules/VERSION`.
    modules: PathBuf,
    /// A static busybox.
    pub busybox: PathBuf,
    /// This program.
    pub program: PathBuf,
}

impl Parts {
    /// Fetches and builds what is not there.
    pub fn gather(kind: Kind, wish: &Wish) -> Parts {
        let folder = bed::place().join("boot").join(kind.name());
        if !folder.join("boot").exists() {
            fetch(kind, &folder);
        }
        let program = wish.program.clone().unwrap_or_else(|| build(kind));
        Parts {
            kernel: only(&folder.join("boot"), "vmlinuz-"),
            modules: only(&folder.join("lib/modules"), ""),
            busybox: folder.join("bin/busybox"),
            program,
        }
    }

    /// These modules and all that they need, in the order in which they are to be loaded; what the kernel has built in is
    /// left out.
    pub fn modules(&self, names: &[&str]) -> Vec<PathBuf> {
        let mut files = Vec::new();
        find(&self.modules.join("kernel"), &mut files);
        let mut done = BTreeSet::new();
        let mut order = Vec::new();
        for name in names {
            visit(name, &files, &mut done, &mut order);
        }
        order
    }
}

fn visit(name: &str, files: &[PathBuf], done: &mut BTreeSet<String>, order: &mut Vec<PathBuf>) {
    // Algorithms go by names of their own, of which the plain module has one.
    let name = name.replace('-', "_");
    let name = match name.trim_start_matches("crypto_") {
        algorithm @ ("crc32" | "crc32c") => format!("{algorithm}_generic"),
        _ => name,
    };
    let same = |file: &&PathBuf| file.file_stem().is_some_and(|s| s.to_string_lossy().replace('-', "_") == name);
    if !done.insert(name.clone()) {
        return;
    }
    let Some(file) = files.iter().find(same) else { return };
    let bytes = fs::read(file).expect("a module");
    for needed in ["\0depends=", "\0softdep=pre: "].into_iter().flat_map(|field| values(&bytes, field)) {
        needed.split([',', ' ']).filter(|n| !n.is_empty()).for_each(|n| visit(n, files, done, order));
    }
    order.push(file.clone());
}

/// What a module's file says of itself in these fields.
fn values(module: &[u8], field: &str) -> Vec<String> {
    let starts = module.windows(field.len()).enumerate().filter(|(_, w)| *w == field.as_bytes());
    let rest = starts.map(|(at, _)| &module[at + field.len()..]);
    rest.map(|r| String::from_utf8_lossy(r.split(|b| *b == 0).next().unwrap_or_default()).into_owned()).collect()
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            find(&path, files);
        } else if path.extension().is_some_and(|e| e == "ko") {
            files.push(path);
        }
    }
}

/// The one file in this folder whose name begins so.
fn only(folder: &Path, prefix: &str) -> PathBuf {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut named = entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(prefix));
    named.next().unwrap_or_else(|| panic!("{}: no {prefix}*", folder.display())).path()
}

/// Unpacks the kernel's and busybox's packages into `folder`.
fn fetch(kind: Kind, folder: &Path) {
    let (architecture, kernel) = kind.debian();
    println!("fetching {kernel} and busybox-static of Debian");
    let half = folder.with_extension("half");
    let _ = fs::remove_dir_all(&half);
    for sub in ["apt/lists/partial", "apt/archives/partial", "packages"] {
        fs::create_dir_all(half.join(sub)).expect("a folder");
    }
    let apt = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(["-qq", "-o", &format!("APT::Architecture={architecture}")]);
        command.args(["-o", &format!("APT::Architectures={architecture}"), "-o", "APT::Sandbox::User=root"]);
        command.args(["-o", &format!("Dir::State::Lists={}", half.join("apt/lists").display())]);
        command.args(["-o", &format!("Dir::Cache={}", half.join("apt").display())]);
        command.args(["-o", "Dir::State::status=/dev/null"]).args(arguments).current_dir(half.join("packages"));
        command
    };
    // Says no where one list of several could not be had: the packages tell whether that mattered.
    let _ = apt("apt-get", &["update"]).status();
    let newest = output(apt("apt-cache", &["depends", kernel]));
    let newest = newest.lines().find_map(|l| l.trim().strip_prefix("Depends: linux-image-")).expect("a kernel");
    run(apt("apt-get", &["download", &format!("linux-image-{newest}"), "busybox-static"]));
    let unpacked = half.join("unpacked");
    for package in fs::read_dir(half.join("packages")).expect("packages").flatten() {
        run_in(&unpacked, "dpkg-deb", &["-x", &package.path().display().to_string(), "."]);
    }
    fs::rename(&unpacked, folder).expect("renamed");
    let _ = fs::remove_dir_all(&half);
}

fn build(kind: Kind) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = root.join("target/static");
    let mut command = Command::new(root.join("packaging/build.sh"));
    run(command.args(["--minimal", "--out"]).arg(&out).arg(kind.target()).env_remove("CARGO_TARGET_DIR"));
    out.join(format!("lite-apiserver-{}-{}-minimal", env!("CARGO_PKG_VERSION"), kind.target()))
}

fn run_in(folder: &Path, program: &str, arguments: &[&str]) {
    fs::create_dir_all(folder).expect("a folder");
    run(Command::new(program).args(arguments).current_dir(folder));
}

fn run(mut command: impl std::borrow::BorrowMut<Command>) {
    let command = command.borrow_mut();
    let status = command.status().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(status.success(), "{command:?}: {status}");
}

fn output(mut command: Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).expect("text")
}
