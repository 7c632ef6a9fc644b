//! What the node is made of: Debian's containerd, runc, CNI plugins and iptables, unpacked outside the checkout and installed
//! nowhere; and the one image that its pods run, made of a static binary without a docker engine.

use crate::bed::{self, Program};
use crate::machine::run;
use ring::digest;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// With the libraries that they need and a small machine may lack. As Debian 12 names them.
const PACKAGES: &str = "containerd runc containernetworking-plugins iptables libip4tc2 libip6tc2 libxtables12 libnftnl11 \
    libnfnetlink0 libnetfilter-conntrack3 libmnl0 libnftables1 libjansson4 conntrack ipset libipset13 kmod libkmod2 \
    libseccomp2 ethtool socat";

/// A folder that is laid over the node's /usr.
pub fn programs() -> PathBuf {
    let (folder, begun) = (bed::place().join("debian"), bed::place().join(format!("debian.{}", std::process::id())));
    if folder.exists() {
        return folder;
    }
    println!("unpacking Debian's containerd and what it needs into {}", folder.display());
    let (packages, all) = (begun.join("packages"), begun.join("all"));
    fs::create_dir_all(&packages).expect("a folder");
    // As root, apt-get downloads as a user of its own, who must not be in need of these folders.
    let download = || {
        let mut apt = Command::new("apt-get");
        apt.args(["-o", "APT::Sandbox::User=root", "download", "-qq"]).args(PACKAGES.split_whitespace());
        apt.current_dir(&packages).output().expect("apt-get starts")
    };
    let mut ended = download();
    if !ended.status.success() {
        run("apt-get", &["update", "-qq"]);
        ended = download();
    }
    assert!(ended.status.success(), "apt-get download: {}", String::from_utf8_lossy(&ended.stderr));
    for package in fs::read_dir(&packages).expect("a folder").flatten() {
        run("dpkg", &["-x", &package.path().display().to_string(), &all.display().to_string()]);
    }
    // Debian 12 still has some of them in /bin, /sbin and /lib, which on a running system are links into /usr.
    let usr = begun.join("usr");
    fs::rename(all.join("usr"), &usr).expect("renamed");
    for old in ["bin", "sbin", "lib"].map(|name| all.join(name)).iter().filter(|old| old.exists()) {
        run("cp", &["-a", &old.display().to_string(), &usr.display().to_string()]);
    }
    // This kernel, like many small ones, may have no nftables: the old interface is there in each.
    for name in ["iptables", "ip6tables", "iptables-save", "ip6tables-save", "iptables-restore", "ip6tables-restore"] {
        let link = usr.join("sbin").join(name);
        let legacy = name.replacen("tables", "tables-legacy", 1);
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(legacy, link).expect("a link");
    }
    fs::rename(&usr, &folder).expect("renamed");
    fs::remove_dir_all(&begun).expect("removed");
    folder
}

/// Makes an image (as `docker save` would) in `folder` that holds these files, each with its place in the image.
pub fn image(folder: &Path, name: &str, entrypoint: &[&str], files: &[(PathBuf, String)]) -> PathBuf {
    let work = folder.join(format!("image-{name}"));
    let root = work.join("root");
    for (from, to) in files {
        let to = root.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("a parent")).expect("a folder");
        fs::copy(from, &to).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
    }
    fs::create_dir_all(root.join("tmp")).expect("a folder");
    let tar = |from: &Path, to: &Path| {
        let (from, to) = (from.display().to_string(), to.display().to_string());
        run(
            "tar",
            &["--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "--sort=name", "-C", &from, "-cf", &to, "."],
        );
    };
    let out = work.join("out");
    fs::create_dir_all(&out).expect("a folder");
    tar(&root, &out.join("layer.tar"));
    let sum = |bytes: &[u8]| -> String {
        digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect()
    };
    let layer = sum(&fs::read(out.join("layer.tar")).expect("a layer"));
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {"Entrypoint": entrypoint},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
    });
    let file = format!("{}.json", sum(config.to_string().as_bytes()));
    fs::write(out.join(&file), config.to_string()).expect("written");
    let manifest = json!([{"Config": file, "RepoTags": [format!("localhost/{name}:1")], "Layers": ["layer.tar"]}]);
    fs::write(out.join("manifest.json"), manifest.to_string()).expect("written");
    let image = folder.join(format!("{name}.tar"));
    tar(&out, &image);
    fs::remove_dir_all(&work).expect("removed");
    image
}

/// The images of pause containers and of pods: the same binary.
pub fn images(folder: &Path) -> Vec<PathBuf> {
    let files = [(Program::Pod.built(), "/pod".to_owned())];
    vec![image(folder, "pause", &["/pod", "pause"], &files), image(folder, "pod", &["/pod"], &files)]
}

/// The image of this dynamic binary, with the libraries that it needs.
pub fn dynamic_image(folder: &Path, name: &str, binary: &Path) -> PathBuf {
    let needed = run("ldd", &[&binary.display().to_string()]);
    let paths = needed.split_whitespace().filter(|word| word.starts_with('/'));
    let mut files: Vec<_> = paths.map(|path| (PathBuf::from(path), path.to_owned())).collect();
    files.push((binary.to_owned(), format!("/{name}")));
    image(folder, name, &[&format!("/{name}")], &files)
}

/// Builds and unpacks what there is not yet: what needs the machine's own network.
pub fn gather() {
    Program::Kube.built();
    Program::Pod.built();
    programs();
}
