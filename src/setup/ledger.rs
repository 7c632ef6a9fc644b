//! What setup has written, so that it can be taken back: every file goes through here. `setup.json` in its folder names each,
//! with the SHA-256 of what was written, and is written before the file itself is; so `--undo` finds all, whatever came
//! between. A file that was there before is kept beside itself, as the very same file (a hard link, where the file system has
//! them), and comes back by a rename.

use super::root::Root;
use super::{WHAT, wrong};
use crate::config::{ConfigError, Exit, write_file};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    Same,
    Made,
    Changed,
}

/// A file that setup has written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    path: PathBuf,
    /// SHA-256 of what was written, hex.
    sum: String,
    /// The same of what setup had written there before: it is still there where the last write failed.
    was: Option<String>,
    /// Whether there was one before.
    kept: bool,
}

impl Entry {
    /// Whether this sum is of something that setup wrote there.
    fn is_of_setup(&self, sum: Option<&str>) -> bool {
        sum.is_some_and(|sum| sum == self.sum || Some(sum) == self.was.as_deref())
    }
}

/// All that setup has written.
#[derive(Debug)]
pub(super) struct Ledger {
    root: Root,
    /// `setup.json`, as the node sees it.
    file: PathBuf,
    /// The one file that others write to, too: a part of it is setup's, and what is around it is theirs.
    shared: PathBuf,
    entries: Vec<Entry>,
    /// Folders that were not there.
    folders: Vec<PathBuf>,
}

impl Ledger {
    /// Reads what earlier runs have written; nothing, if there were none.
    pub(super) fn open(root: &Root, directory: &Path) -> Result<Ledger, ConfigError> {
        let (file, shared) = (directory.join("setup.json"), directory.join("flags"));
        let mut own = Ledger { root: root.clone(), file, shared, entries: Vec::new(), folders: Vec::new() };
        let text = match fs::read(root.through(&own.file)) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(own),
            Err(e) => return Err(wrong(Exit::NoPermission, format!("{}: cannot be read: {e}", own.file.display()))),
        };
        let damaged = || wrong(Exit::Data, format!("{}: is not what setup wrote; move it away", own.file.display()));
        let json: Value = serde_json::from_slice(&text).map_err(|_| damaged())?;
        let list = |name: &str| json[name].as_array().ok_or_else(damaged);
        let path = |value: &Value| value.as_str().map(PathBuf::from);
        let entry = |value: &Value| {
            let (path, sum) = (path(&value["path"])?, value["sha256"].as_str()?.to_owned());
            // Earlier versions did not write it.
            let was = value["was"].as_str().map(str::to_owned);
            Some(Entry { path, sum, was, kept: value["kept"].as_bool()? })
        };
        let entries = list("files")?.iter().map(entry).collect::<Option<_>>().ok_or_else(damaged)?;
        let folders = list("folders")?.iter().map(path).collect::<Option<_>>().ok_or_else(damaged)?;
        (own.entries, own.folders) = (entries, folders);
        Ok(own)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.folders.is_empty()
    }

    /// Whether this file is as setup left it.
    fn is_of_setup(&self, path: &Path) -> bool {
        let entry = self.entries.iter().find(|entry| entry.path == path);
        entry.is_some_and(|entry| entry.is_of_setup(self.sum(path).as_deref()))
    }

    /// What is at a path, or was there before it was changed.
    pub(super) fn original(&self, path: &Path) -> Result<Vec<u8>, ConfigError> {
        let kept = self.entries.iter().any(|entry| entry.path == path && entry.kept);
        if kept && self.is_of_setup(path) { self.root.read(&beside(path)) } else { self.root.read(path) }
    }

    /// Makes a folder, 0700, and those above it.
    pub(super) fn make_folder(&mut self, folder: &Path) -> Result<(), ConfigError> {
        let missing: Vec<PathBuf> =
            folder.ancestors().take_while(|path| !self.root.has(path)).map(Path::to_owned).collect();
        for folder in missing.into_iter().rev() {
            let at = self.root.at(&folder);
            DirBuilder::new().mode(0o700).create(&at).map_err(|e| unmakable(&at, &e))?;
            self.folders.push(folder);
        }
        Ok(())
    }

    /// Notes files that somebody else has made for setup.
    pub(super) fn adopt(&mut self, paths: impl IntoIterator<Item = PathBuf>) -> Result<(), ConfigError> {
        for path in paths {
            if let Some(sum) = self.sum(&path) {
                self.note(Entry { path, sum, was: None, kept: false });
            }
        }
        self.save()
    }

    /// Writes a file as a whole or not at all, keeping what was there; mode and owner are those of what was there, or 0600 and
    /// ours.
    pub(super) fn put(&mut self, path: &Path, bytes: &[u8]) -> Result<Put, ConfigError> {
        let (at, sum, held) = (self.root.at(path), hex(bytes), self.sum(path));
        if held.as_deref() == Some(&sum) && self.entries.iter().any(|e| e.path == path && e.sum == sum) {
            return Ok(Put::Same);
        }
        if let Some(folder) = path.parent() {
            self.make_folder(folder)?;
        }
        let before = at.symlink_metadata().is_ok();
        let known = self.entries.iter().find(|entry| entry.path == path).cloned();
        // What we wrote ourselves is nothing to keep; what somebody wrote over it since is.
        let is_ours =
            known.as_ref().is_some_and(|known| *path == self.shared || known.is_of_setup(held.as_deref()) || !before);
        let kept = if is_ours { known.is_some_and(|known| known.kept) } else { before };
        if kept && !is_ours {
            self.keep(path)?;
        }
        let was = held.filter(|_| is_ours);
        self.note(Entry { path: path.to_owned(), sum, was, kept });
        self.save()?;
        self.replace(path, bytes).map_err(|e| unmakable(&at, &e))?;
        Ok(if before { Put::Changed } else { Put::Made })
    }

    /// What cannot be put back, or leads here and was changed since: without the daemon it would lead nowhere.
    pub(super) fn not_to_be_undone(&self) -> Vec<PathBuf> {
        let folder = self.file.parent();
        let stuck = |entry: &&Entry| {
            let held = self.sum(&entry.path);
            let leads_here = entry.kept || folder.is_none_or(|folder| !entry.path.starts_with(folder));
            entry.path != self.shared && held.is_some() && leads_here && self.is_left(entry, held.as_deref())
        };
        self.entries.iter().filter(stuck).map(|entry| entry.path.clone()).collect()
    }

    /// Whether undo would leave a file in which this is held.
    fn is_left(&self, entry: &Entry, held: Option<&str>) -> bool {
        let old = beside(&entry.path);
        match (entry.is_of_setup(held), entry.kept) {
            (true, kept) => kept && self.root.at(old).symlink_metadata().is_err(),
            (false, false) => true,
            // The same: kept, and not written yet when the power went. None: somebody has put it back.
            (false, true) => self.sum(&old).is_some_and(|one| Some(one.as_str()) != held),
        }
    }

    /// Takes everything back. Each line says what was done; the paths are those of files that were changed since, and are left.
    /// `rest`: what is left of the shared file once setup's part is taken out.
    pub(super) fn undo(&mut self, rest: &dyn Fn(&[u8]) -> Vec<u8>) -> Result<(Vec<String>, Vec<PathBuf>), ConfigError> {
        let (mut done, mut left) = (Vec::new(), Vec::new());
        for entry in self.entries.clone().into_iter().rev() {
            let Entry { path, sum, kept, .. } = entry.clone();
            let (at, old) = (self.root.at(&path), self.root.at(beside(&path)));
            let failed = |e: io::Error| unmakable(&at, &e);
            let mut held = self.sum(&path);
            if path == self.shared && held.is_some() {
                let rest = rest(&self.root.read(&path)?);
                let before = if kept { self.root.read(&beside(&path)).ok() } else { Some(Vec::new()) };
                if before.is_some_and(|before| rest.trim_ascii_end() == before.trim_ascii_end()) {
                    held = Some(sum);
                } else {
                    self.replace(&path, &rest).map_err(failed)?;
                    let _ = fs::remove_file(&old);
                    done.push(format!("taken out of {}, where more was written since", path.display()));
                    continue;
                }
            }
            if held.is_some() && self.is_left(&entry, held.as_deref()) {
                left.push(path);
            } else if kept && old.symlink_metadata().is_ok() {
                restore(&old, &at).map_err(failed)?;
                done.push(format!("restored  {}", path.display()));
            } else if !kept && held.is_some() {
                fs::remove_file(&at).map_err(failed)?;
                done.push(format!("removed   {}", path.display()));
            }
            sync_folder(&at);
        }
        let file = self.root.at(&self.file);
        match fs::remove_file(&file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(unmakable(&file, &e)),
            _ => {}
        }
        for folder in self.folders.drain(..).rev() {
            // One that has something else in it stays.
            let _ = fs::remove_dir(self.root.at(folder));
        }
        self.entries.clear();
        Ok((done, left))
    }

    fn sum(&self, path: &Path) -> Option<String> {
        fs::read(self.root.through(path)).ok().map(|bytes| hex(&bytes))
    }

    fn note(&mut self, new: Entry) {
        match self.entries.iter_mut().find(|entry| entry.path == new.path) {
            Some(entry) => *entry = new,
            None => self.entries.push(new),
        }
    }

    fn save(&mut self) -> Result<(), ConfigError> {
        if let Some(folder) = self.file.parent().map(Path::to_owned) {
            self.make_folder(&folder)?;
        }
        let files: Vec<Value> = self
            .entries
            .iter()
            .map(|e| json!({"path": e.path.to_string_lossy(), "sha256": e.sum, "was": e.was, "kept": e.kept}))
            .collect();
        let folders: Vec<_> = self.folders.iter().map(|folder| folder.to_string_lossy()).collect();
        let text = format!("{:#}\n", json!({"files": files, "folders": folders}));
        write_file(WHAT, &self.root.through(&self.file), text.as_bytes())
    }

    /// Keeps the file that is there.
    fn keep(&self, path: &Path) -> Result<(), ConfigError> {
        let (at, old) = (self.root.at(path), self.root.at(beside(path)));
        let keep = || {
            let beside = old.with_added("-new");
            let _ = fs::remove_file(&beside);
            if fs::hard_link(&at, &beside).is_err() {
                // FAT and some network file systems have no links.
                fs::copy(self.root.through(path), &beside)?;
                fs::File::open(&beside)?.sync_all()?;
            }
            fs::rename(&beside, &old)?;
            // rename(2) leaves both names where they are one file already: this was done before, and the power went.
            let _ = fs::remove_file(&beside);
            Ok(())
        };
        keep().map_err(|e| unmakable(&old, &e))?;
        sync_folder(&old);
        Ok(())
    }

    /// Writes a file as a whole or not at all.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let at = self.root.at(path);
        let beside = at.with_added(".lite-apiserver-new");
        // Whoever owns the folder may have put a link there: it is not written through.
        let _ = fs::remove_file(&beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        if let Ok(was) = fs::metadata(self.root.through(path)) {
            // Another user's daemon must be able to read it as before; who may not give files away leaves it his own.
            let _ = std::os::unix::fs::fchown(&file, Some(was.uid()), Some(was.gid()));
            file.set_permissions(fs::Permissions::from_mode(was.permissions().mode() & 0o7777))?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, &at)?;
        sync_folder(&at);
        Ok(())
    }
}

/// Where what was at a path is kept.
pub(super) fn beside(path: &Path) -> PathBuf {
    path.to_owned().with_added(".before-lite-apiserver")
}

trait WithAdded {
    /// The path with this at its end.
    fn with_added(&self, end: &str) -> PathBuf;
}

impl WithAdded for PathBuf {
    fn with_added(&self, end: &str) -> PathBuf {
        let mut path = self.clone().into_os_string();
        path.push(end);
        path.into()
    }
}

fn unmakable(path: &Path, e: &io::Error) -> ConfigError {
    let exit = if e.kind() == io::ErrorKind::PermissionDenied { Exit::NoPermission } else { Exit::CannotCreate };
    wrong(exit, format!("{}: cannot be written: {e}", path.display()))
}

/// Puts back what was kept.
fn restore(old: &Path, at: &Path) -> io::Result<()> {
    fs::rename(old, at)?;
    // rename(2) leaves both names where they are one file already.
    let _ = fs::remove_file(old);
    Ok(())
}

/// Makes a rename last. Who may write to a folder need not be allowed to read it.
fn sync_folder(at: &Path) {
    if let Some(folder) = at.parent() {
        let _ = fs::File::open(folder).and_then(|folder| folder.sync_all());
    }
}

fn hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("ledger-{name}-{}", std::process::id()));
            fs::create_dir_all(path.join("etc")).expect("a folder");
            Folder(path)
        }

        fn root(&self) -> Root {
            Root(self.0.clone())
        }

        fn open(&self) -> Ledger {
            Ledger::open(&self.root(), Path::new("/etc/lite")).expect("opened")
        }

        fn text(&self, path: &str) -> String {
            fs::read_to_string(self.root().at(path)).expect("text")
        }

        fn tree(&self) -> Vec<PathBuf> {
            let mut found = vec![self.0.clone()];
            let mut i = 0;
            while let Some(path) = found.get(i).cloned() {
                found.extend(fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path()));
                i += 1;
            }
            found.sort();
            found
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// As the command does it.
    fn undo(ledger: &mut Ledger) -> Vec<PathBuf> {
        let stuck = ledger.not_to_be_undone();
        if stuck.is_empty() { ledger.undo(&<[u8]>::to_vec).expect("undone").1 } else { stuck }
    }

    #[test]
    fn what_was_changed_comes_back_as_the_very_same_file() {
        let folder = Folder::new("back");
        let conf = Path::new("/etc/a.conf");
        fs::write(folder.root().at(conf), "before").expect("written");
        fs::set_permissions(folder.root().at(conf), fs::Permissions::from_mode(0o640)).expect("set");
        let (tree, inode) = (folder.tree(), fs::metadata(folder.root().at(conf)).expect("there").ino());
        let mut ledger = folder.open();
        assert_eq!(ledger.put(conf, b"after"), Ok(Put::Changed));
        assert_eq!(ledger.put(Path::new("/etc/x.d/new"), b"new"), Ok(Put::Made));
        assert_eq!(fs::metadata(folder.root().at(conf)).expect("there").mode() & 0o777, 0o640);
        assert_eq!(fs::metadata(folder.root().at("/etc/x.d/new")).expect("there").mode() & 0o777, 0o600);
        // Another run knows all of it.
        let mut ledger = folder.open();
        assert_eq!((ledger.put(conf, b"after"), ledger.original(conf)), (Ok(Put::Same), Ok(b"before".to_vec())));
        assert_eq!(ledger.put(conf, b"later"), Ok(Put::Changed));
        assert_eq!(
            (folder.text("/etc/a.conf"), folder.open().original(conf)),
            ("later".into(), Ok(b"before".to_vec()))
        );
        assert!(undo(&mut folder.open()).is_empty());
        assert_eq!((folder.tree(), folder.text("/etc/a.conf")), (tree, "before".into()));
        assert_eq!(fs::metadata(folder.root().at(conf)).expect("there").ino(), inode);
        assert!(folder.open().is_empty() && undo(&mut folder.open()).is_empty());
    }

    #[test]
    fn what_somebody_else_wrote_since_is_not_lost() {
        let folder = Folder::new("since");
        let conf = Path::new("/etc/a.conf");
        fs::write(folder.root().at(conf), "before").expect("written");
        folder.open().put(conf, b"after").expect("put");
        fs::write(folder.root().at(conf), "theirs").expect("written");
        // It is what counts now, and what a further run keeps.
        assert_eq!(folder.open().original(conf), Ok(b"theirs".to_vec()));
        assert_eq!(undo(&mut folder.open()), [conf]);
        assert_eq!((folder.text("/etc/a.conf"), folder.open().is_empty()), ("theirs".into(), false));
        folder.open().put(conf, b"after").expect("put");
        assert!(undo(&mut folder.open()).is_empty());
        assert_eq!(folder.text("/etc/a.conf"), "theirs");
    }

    #[test]
    fn a_write_that_fails_loses_nothing() {
        let folder = Folder::new("fails");
        let conf = Path::new("/etc/a.conf");
        fs::write(folder.root().at(conf), "before").expect("written");
        folder.open().put(conf, b"first").expect("put");
        // In the way of the new file.
        let obstacle = folder.root().at("/etc/a.conf.lite-apiserver-new");
        fs::create_dir(&obstacle).expect("a folder");
        for text in ["second", "third"] {
            assert!(folder.open().put(conf, text.as_bytes()).is_err());
            assert_eq!(folder.open().original(conf), Ok(b"before".to_vec()), "{text}");
        }
        fs::remove_dir(&obstacle).expect("removed");
        // A journal of before `was` was in it.
        let mut journal: Value = serde_json::from_str(&folder.text("/etc/lite/setup.json")).expect("JSON");
        let was = journal["files"][0].as_object_mut().and_then(|entry| entry.remove("was"));
        assert_eq!(was, Some(hex(b"first").into()));
        folder.open().put(conf, b"third").expect("put");
        fs::write(folder.root().at("/etc/lite/setup.json"), journal.to_string()).expect("written");
        assert_eq!(folder.open().original(conf), Ok(b"before".to_vec()));
        assert!(undo(&mut folder.open()).is_empty());
        assert_eq!(folder.text("/etc/a.conf"), "before");
    }

    #[test]
    fn a_power_cut_at_any_step_can_be_undone() {
        let folder = Folder::new("cut");
        let conf = Path::new("/etc/a.conf");
        fs::write(folder.root().at(conf), "before").expect("written");
        // Noted and kept, and not written.
        let mut ledger = folder.open();
        ledger.keep(conf).expect("kept");
        ledger.note(Entry { path: conf.to_owned(), sum: hex(b"after"), was: None, kept: true });
        ledger.save().expect("saved");
        let left = undo(&mut folder.open());
        assert_eq!((folder.text("/etc/a.conf"), left), ("before".into(), vec![]));
    }
}
