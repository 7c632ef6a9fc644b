//! The bed: what is written in Go, built from `components/`, `informers/`, `node/` and `../node/pod/` with the machine's own Go, and kept outside
//! the checkout until their sources change.
//!
//! Where: `$LITE_BED`, else `lite-apiserver/bed` in `$XDG_CACHE_HOME` or `~/.cache`. The first build takes minutes; a
//! changed source takes seconds, because Go keeps what it has compiled.

use ring::digest;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use std::{env, fs};

/// What is built.
pub enum Program {
    /// etcd, Kubernetes and kubectl; it is what its first argument says.
    Kube,
    /// Informers of the newest client-go.
    Informers,
    /// Informers of an old one.
    OldInformers,
    /// What a kubelet does for exec and the like, without containers.
    Node,
    /// What a node's containers run.
    #[allow(dead_code, reason = "not every test binary has pods")]
    Pod,
}

impl Program {
    /// The binary's name, the folder of its sources, and its go.mod.
    fn parts(&self) -> (&'static str, PathBuf, &'static str) {
        let folder = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kube").join(name);
        match self {
            Program::Kube => ("kube", folder("components"), "go.mod"),
            Program::Informers => ("informers", folder("informers"), "go.mod"),
            Program::OldInformers => ("informers-old", folder("informers"), "old.mod"),
            Program::Node => ("node", folder("node"), "go.mod"),
            Program::Pod => ("pod", folder("../node/pod"), "go.mod"),
        }
    }

    /// The binary. Built if it is not there, or is not of these sources.
    pub fn built(&self) -> PathBuf {
        let (name, source, module) = self.parts();
        let folder = place().join("bin");
        fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let (binary, stamp) = (folder.join(name), folder.join(format!("{name}.sources")));
        let wanted = sum(&source, module);
        if binary.exists() && fs::read_to_string(&stamp).is_ok_and(|held| held == wanted) {
            return binary;
        }
        let begun = Instant::now();
        println!("building {}: minutes, the first time", binary.display());
        // Beside it and renamed: somebody else's test may be running what is there.
        let fresh = folder.join(format!("{name}.{}", std::process::id()));
        let _ = fs::remove_file(&stamp);
        build(&source, module, &fresh);
        fs::rename(&fresh, &binary).expect("renamed");
        fs::write(&stamp, wanted).expect("written");
        println!("built in {:.0} s", begun.elapsed().as_secs_f32());
        binary
    }
}

/// Where all that is not in the checkout is kept.
pub fn place() -> PathBuf {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let place = set("LITE_BED").or_else(|| Some(cache()?.join("lite-apiserver/bed")));
    place.expect("one of LITE_BED, XDG_CACHE_HOME and HOME")
}

/// What tells one state of the sources from another.
fn sum(source: &Path, module: &str) -> String {
    let read = |name: &Path| fs::read(source.join(name)).unwrap_or_else(|e| panic!("{}: {e}", name.display()));
    let entries = fs::read_dir(source).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
    let files = entries.map(|e| PathBuf::from(e.expect("an entry").file_name()));
    let (module, sums) = (Path::new(module).to_owned(), Path::new(module).with_extension("sum"));
    let mut names: Vec<PathBuf> = files.filter(|name| name.extension().is_some_and(|e| e == "go")).collect();
    names.extend([module, sums]);
    names.sort();
    let mut context = digest::Context::new(&digest::SHA256);
    for name in names {
        let text = read(&name);
        context.update(format!("{} {}\n", name.display(), text.len()).as_bytes());
        context.update(&text);
    }
    context.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// As Kubernetes' own build does where it matters here: static, and each component knows its version.
fn build(source: &Path, module: &str, binary: &Path) {
    let mut flags = "-s -w".to_owned();
    let go_mod = fs::read_to_string(source.join(module)).expect("a go.mod");
    if let Some(version) = go_mod.lines().find_map(|l| l.trim().strip_prefix("k8s.io/kubernetes ")) {
        let (major, rest) = version.trim_start_matches('v').split_once('.').expect("a version");
        let minor = rest.split('.').next().unwrap_or_default();
        for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
            flags.push_str(&format!(
                " -X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
            ));
        }
    }
    let ended = Command::new("go")
        .args(["build", "-trimpath", "-tags=providerless", "-mod=readonly", "-modfile", module])
        .args(["-ldflags", &flags, "-o"])
        .arg(binary)
        .arg(".")
        .current_dir(source)
        .env("CGO_ENABLED", "0")
        .status();
    match ended {
        Ok(status) => assert!(status.success(), "go build of {} failed: {status}", source.display()),
        Err(e) => {
            panic!("these tests need Go 1.26 or newer to build the real components, and `go` does not start: {e}")
        }
    }
}
