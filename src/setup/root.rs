//! The node's root directory, seen from here: `/`, or a folder that no link leads out of.

use super::WHAT;
use crate::config::{ConfigError, read_file};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// How many links one path may have, as the kernel has it (path_resolution(7)).
const LINKS: usize = 40;

/// The node's root directory.
#[derive(Debug, Clone)]
pub(super) struct Root(pub(super) PathBuf);

impl Root {
    /// Where a path of the node is from here; where it is a link, the link.
    pub(super) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.resolve(path.as_ref(), false)
    }

    /// The same, or where the link leads.
    pub(super) fn through(&self, path: impl AsRef<Path>) -> PathBuf {
        self.resolve(path.as_ref(), true)
    }

    /// Reads a file of the node.
    pub(super) fn read(&self, path: &Path) -> Result<Vec<u8>, ConfigError> {
        read_file(WHAT, &self.through(path))
    }

    pub(super) fn has(&self, path: impl AsRef<Path>) -> bool {
        self.through(path).exists()
    }

    /// Follows each link as the node would: what is absolute there begins at this root.
    fn resolve(&self, path: &Path, follow_last: bool) -> PathBuf {
        if self.0 == Path::new("/") {
            return self.0.join(path);
        }
        let (mut rest, mut inside, mut links) = (parts(path), PathBuf::new(), 0);
        while let Some(part) = rest.pop() {
            if part == ".." {
                inside.pop();
                continue;
            }
            inside.push(part);
            let target = if rest.is_empty() && !follow_last { None } else { self.0.join(&inside).read_link().ok() };
            let Some(target) = target else { continue };
            links += 1;
            if links > LINKS {
                // The kernel would go on from its own root: this path is nowhere.
                return PathBuf::from("\0");
            }
            if target.is_absolute() {
                inside.clear();
            } else {
                inside.pop();
            }
            rest.extend(parts(&target));
        }
        self.0.join(inside)
    }
}

/// The parts of a path, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.components().rev().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    parts.map(|part| part.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_link_leads_out() {
        let folder = std::env::temp_dir().join(format!("root-{}", std::process::id()));
        let root = Root(folder.join("image"));
        fs::create_dir_all(root.0.join("data/etc")).expect("folders");
        fs::create_dir_all(root.0.join("var")).expect("a folder");
        for (target, link) in [
            ("/data/etc", "etc"),
            ("../../../data", "var/up"),
            ("/etc/conf", "var/conf"),
            ("/var/round", "data/round"),
            ("/data/round", "var/round"),
        ] {
            symlink(target, root.0.join(link)).expect("a link");
        }
        fs::write(root.0.join("data/etc/conf"), "its own").expect("written");
        let below = |path: PathBuf| path.strip_prefix(&root.0).map(|path| path.display().to_string());
        for (path, at, through) in [
            ("/etc/conf", "data/etc/conf", "data/etc/conf"),
            ("/var/conf", "var/conf", "data/etc/conf"),
            ("/var/up/etc/new", "data/etc/new", "data/etc/new"),
            ("/etc/../x", "data/x", "data/x"),
            ("/../../x", "x", "x"),
        ] {
            assert_eq!(
                (below(root.at(path)), below(root.through(path))),
                (Ok(at.into()), Ok(through.into())),
                "{path}"
            );
        }
        assert_eq!(root.read(Path::new("/var/conf")).expect("read"), b"its own");
        assert!(root.read(Path::new("/var/round")).is_err() && !root.has("/var/round/x"));
        assert_eq!(Root("/".into()).through("/var/../x"), Path::new("/var/../x"));
        let _ = fs::remove_dir_all(folder);
    }
}
