//! The bed: etcd, Kubernetes and kubectl as one binary, built from `components/` with the machine's own Go, and kept
//! outside the checkout until `components/` changes.
//!
//! Where: `$LITE_BED`, else `lite-apiserver/bed` in `$XDG_CACHE_HOME` or `~/.cache`. The first build takes minutes; a
//! changed `main.go` takes seconds, because Go keeps what it has compiled.

use ring::digest;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use std::{env, fs};

const SOURCES: [&str; 3] = ["go.mod", "go.sum", "main.go"];

/// The binary; it is what its first argument says. Built if it is not there, or is not of these sources.
pub fn components() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kube/components");
    let folder = place().join("bin");
    fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let (binary, stamp) = (folder.join("kube"), folder.join("kube.sources"));
    let wanted = sum(&source);
    if binary.exists() && fs::read_to_string(&stamp).is_ok_and(|held| held == wanted) {
        return binary;
    }
    let begun = Instant::now();
    println!("building {}: minutes, the first time", binary.display());
    // Beside it and renamed: somebody else's test may be running what is there.
    let fresh = folder.join(format!("kube.{}", std::process::id()));
    let _ = fs::remove_file(&stamp);
    build(&source, &fresh);
    fs::rename(&fresh, &binary).expect("renamed");
    fs::write(&stamp, wanted).expect("written");
    println!("built in {:.0} s", begun.elapsed().as_secs_f32());
    binary
}

fn place() -> PathBuf {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let place = set("LITE_BED").or_else(|| Some(cache()?.join("lite-apiserver/bed")));
    place.expect("one of LITE_BED, XDG_CACHE_HOME and HOME")
}

/// What tells one state of the sources from another.
fn sum(source: &Path) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for name in SOURCES {
        let text = fs::read(source.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        context.update(format!("{name} {}\n", text.len()).as_bytes());
        context.update(&text);
    }
    context.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// As Kubernetes' own build does where it matters here: static, and each component knows its version.
fn build(source: &Path, binary: &Path) {
    let go_mod = fs::read_to_string(source.join("go.mod")).expect("go.mod");
    let version = go_mod.lines().find_map(|l| l.trim().strip_prefix("k8s.io/kubernetes ")).expect("a version");
    let (major, rest) = version.trim_start_matches('v').split_once('.').expect("a version");
    let minor = rest.split('.').next().unwrap_or_default();
    let mut flags = "-s -w".to_owned();
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        flags.push_str(&format!(
            " -X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
        ));
    }
    let ended = Command::new("go")
        .args(["build", "-trimpath", "-tags=providerless", "-mod=readonly", "-ldflags", &flags, "-o"])
        .arg(binary)
        .arg(".")
        .current_dir(source)
        .env("CGO_ENABLED", "0")
        .status();
    match ended {
        Ok(status) => assert!(status.success(), "go build of {} failed: {status}", source.display()),
        Err(e) => {
            panic!("these tests need Go 1.24 or newer to build the real components, and `go` does not start: {e}")
        }
    }
}
