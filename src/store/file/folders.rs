//! Which views there are: the folders that have been looked into, and their views. Nothing is looked into before
//! somebody asks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::super::disk::DiskFile;
use super::super::{StoreError, ViewKey, lock};
use super::format::{BadHeader, Header};
use super::layout;
use super::scan;
use super::shared::Shared;
use super::view::View;

/// An index that nobody has asked for as long as this is dropped.
const IDLE: Duration = Duration::from_secs(300);
/// Above so many objects in all indices those go that nobody has asked for longest: about 20 MB.
const OBJECTS: usize = 100_000;
/// So many paths are remembered as being not there.
const ABSENT: usize = 1000;

#[derive(Default)]
pub(super) struct Folders {
    /// By scope and path.
    known: Mutex<HashMap<(String, String), Arc<Folder>>>,
    /// What is not on the disk, unless it is known: nobody else makes folders. Every get asks for the collections that
    /// might hold its object.
    absent: Mutex<HashSet<(String, String)>>,
    /// Whether every folder on the disk is known.
    all: Mutex<bool>,
}

struct Folder {
    path: PathBuf,
    /// `None` until it has been looked into.
    views: Mutex<Option<Vec<Arc<View>>>>,
}

impl Folders {
    /// The views of a scope and path.
    pub(super) fn views(&self, shared: &Shared, scope: &str, path: &str) -> Vec<Arc<View>> {
        self.folder(shared, scope, path).and_then(|folder| lock(&folder.views).clone()).unwrap_or_default()
    }

    /// The view of this key, if anything might be recorded in it.
    pub(super) fn find(&self, shared: &Shared, key: &ViewKey) -> Option<Arc<View>> {
        let folder = self.folder(shared, &key.scope, &key.path)?;
        lock(&folder.views).iter().flatten().find(|view| view.key == *key).cloned()
    }

    /// The view of this key, made if need be.
    pub(super) fn make(&self, shared: &Shared, key: &ViewKey) -> Result<Arc<View>, StoreError> {
        let folder = self.enter(shared, &key.scope, &key.path);
        let mut views = lock(&folder.views);
        folder.look(shared, &key.scope, &key.path, &mut views)?;
        let views = views.get_or_insert_default();
        if let Some(found) = views.iter().find(|view| view.key == *key) {
            return Ok(Arc::clone(found));
        }
        let made = Arc::new(View::new(shared, key.clone(), folder.path.clone(), Vec::new()));
        views.push(Arc::clone(&made));
        Ok(made)
    }

    fn enter(&self, shared: &Shared, scope: &str, path: &str) -> Arc<Folder> {
        let mut known = lock(&self.known);
        let new = || {
            let path = layout::folder(&shared.root, scope, path);
            Arc::new(Folder { path, views: Mutex::new(None) })
        };
        let key = (scope.to_owned(), path.to_owned());
        lock(&self.absent).remove(&key);
        Arc::clone(known.entry(key).or_insert_with(new))
    }

    /// The folder of a scope and path if it is known, or there.
    fn folder(&self, shared: &Shared, scope: &str, path: &str) -> Option<Arc<Folder>> {
        let key = (scope.to_owned(), path.to_owned());
        let known = lock(&self.known).get(&key).cloned();
        if known.is_none() {
            if lock(&self.absent).contains(&key) {
                return None;
            }
            let dir = layout::folder(&shared.root, scope, path);
            if matches!(shared.disk.list(&dir), Err(error) if error.kind() == io::ErrorKind::NotFound) {
                // Somebody may have entered it since it was looked for: remembered as absent, it would be lost from sight
                // once it is idle.
                let known = lock(&self.known);
                if known.contains_key(&key) {
                    return None;
                }
                let mut absent = lock(&self.absent);
                // Paths that are not recorded are asked for all the time; they must not fill the memory.
                if absent.len() >= ABSENT {
                    absent.clear();
                }
                absent.insert(key);
                return None;
            }
        }
        let folder = known.unwrap_or_else(|| self.enter(shared, scope, path));
        // A failure has been counted; the next who asks tries again.
        let _ = folder.look(shared, scope, path, &mut lock(&folder.views));
        Some(folder)
    }

    /// All views, after looking into every folder there is.
    pub(super) fn all(&self, shared: &Shared) -> Vec<Arc<View>> {
        let mut all = lock(&self.all);
        if !*all {
            for (scope, path) in on_disk(shared) {
                self.folder(shared, &scope, &path);
            }
            *all = true;
        }
        drop(all);
        self.known()
    }

    fn known(&self) -> Vec<Arc<View>> {
        let folders: Vec<_> = lock(&self.known).values().cloned().collect();
        folders.iter().flat_map(|folder| lock(&folder.views).clone().unwrap_or_default()).collect()
    }

    /// Forgets everything if the directory has been removed, so that what comes is recorded in a new one.
    pub(super) fn look_after(&self, shared: &Shared) {
        if shared.is_gone() && shared.begin_anew().is_ok() {
            for view in self.known() {
                // There is nothing to be removed that could fail to be.
                let _ = view.forget(shared);
            }
        }
    }

    /// Drops indices that nobody uses, and what stands for views that are no more.
    pub(super) fn tidy(&self, shared: &Shared) {
        let mut idle: Vec<(Instant, usize, Arc<View>)> = self
            .known()
            .into_iter()
            .filter_map(|view| view.idle(shared).map(|(objects, used)| (used, objects, view)))
            .collect();
        idle.sort_by_key(|(used, ..)| *used);
        let mut objects: usize = idle.iter().map(|(_, objects, _)| objects).sum();
        for (used, size, view) in idle {
            if objects > OBJECTS || used.elapsed() > IDLE {
                objects -= size;
                view.unread(shared);
            }
        }
        let mut known = lock(&self.known);
        known.retain(|_, folder| {
            // Whoever else knows a folder or a view has got it under one of these locks.
            if Arc::strong_count(folder) > 1 {
                return true;
            }
            let Ok(mut views) = folder.views.try_lock() else {
                return true;
            };
            let Some(views) = &mut *views else {
                return true;
            };
            views.retain(|view| Arc::strong_count(view) > 1 || !view.is_empty());
            !views.is_empty()
        });
    }
}

impl Folder {
    /// Looks what is in the folder, unless that has been done. Fails if it cannot be told: then nothing is known.
    fn look(
        &self,
        shared: &Shared,
        scope: &str,
        path: &str,
        views: &mut Option<Vec<Arc<View>>>,
    ) -> Result<(), StoreError> {
        if views.is_none() {
            let mut found = Vec::new();
            for (name, seqs) in numbered(shared, &self.path)? {
                found.extend(self.recognise(shared, scope, path, &name, seqs)?);
            }
            *views = Some(found);
        }
        Ok(())
    }

    /// The view whose files these are. Files that are not what they should be are set aside.
    fn recognise(
        &self,
        shared: &Shared,
        scope: &str,
        path: &str,
        name: &str,
        mut seqs: Vec<u64>,
    ) -> Result<Option<Arc<View>>, StoreError> {
        while let Some(&seq) = seqs.last() {
            let file_path = self.path.join(layout::file_name(name, seq));
            let file = match shared.disk.open(&file_path) {
                Ok(file) => file,
                Err(error) if is_no_file(&error) => {
                    shared.set_aside(&file_path, "no file");
                    seqs.pop();
                    continue;
                }
                Err(error) => return Err(shared.failed("open", &file_path, error)),
            };
            let again = |error| {
                shared.failed("read", &file_path, error);
                scan::header(&*file)
            };
            match scan::header(&*file).or_else(again) {
                Ok(Ok((header, length, _)))
                    if header.seq == seq
                        && (header.key.scope.as_str(), header.key.path.as_str()) == (scope, path)
                        && layout::name(&header.key) == name =>
                {
                    return Ok(Some(self.admit(shared, &header, length, seqs, file)));
                }
                Ok(Err(BadHeader::Torn)) => {
                    // What cannot be removed now is met again.
                    let _ = shared.remove_file(&file_path);
                }
                Ok(Err(BadHeader::Version(version))) => {
                    shared.set_aside(&file_path, &format!("of version {version}, not {}", super::format::VERSION));
                }
                Ok(_) => shared.set_aside(&file_path, "damaged, or not a file of this view"),
                Err(error) => {
                    shared.failed("read", &file_path, error);
                    shared.set_aside(&file_path, "unreadable");
                }
            }
            seqs.pop();
        }
        Ok(None)
    }

    /// A view by the header of its newest file.
    fn admit(
        &self,
        shared: &Shared,
        header: &Header,
        length: usize,
        seqs: Vec<u64>,
        file: Arc<dyn DiskFile>,
    ) -> Arc<View> {
        let view = Arc::new(View::new(shared, header.key.clone(), self.path.clone(), seqs));
        if let Ok(Some(state)) = scan::last_state(&*file, header, length) {
            view.foretell(&state, file.len().unwrap_or(0));
            shared.keep_open(view.id, header.seq, file);
        } else {
            // What cannot be told from its end is read whole; a failure has been counted.
            let _ = view.read(shared, &mut lock(&view.writer));
        }
        if view.has_old_files() {
            shared.mark(&view);
        }
        view
    }
}

/// Whether there is something else than a file: a directory, a link.
fn is_no_file(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::ISDIR | Errno::LOOP))
}

/// The numbers of the files in a folder, by the first part of their names.
fn numbered(shared: &Shared, folder: &Path) -> Result<BTreeMap<String, Vec<u64>>, StoreError> {
    let mut files: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    match shared.disk.list(folder) {
        Ok(names) => {
            for (name, seq) in names.iter().filter_map(|file| layout::parse_file_name(file)) {
                files.entry(name.to_owned()).or_default().push(seq);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(shared.failed("list", folder, error)),
    }
    for seqs in files.values_mut() {
        seqs.sort_unstable();
    }
    Ok(files)
}

/// The scopes and paths of all folders on the disk, each told by the header of one of its files.
fn on_disk(shared: &Shared) -> Vec<(String, String)> {
    let list = |dir: &Path| -> Vec<PathBuf> {
        let names = shared.disk.list(dir).unwrap_or_default();
        names.iter().map(|name| dir.join(name)).collect()
    };
    let is_scope = |dir: &PathBuf| dir.file_name().and_then(|name| name.to_str()).is_some_and(layout::is_hash);
    let mut found = Vec::new();
    let folders = list(&shared.root).into_iter().filter(is_scope).flat_map(|scope| list(&scope));
    for folder in folders.flat_map(|fan| list(&fan)) {
        let Ok(files) = numbered(shared, &folder) else {
            continue;
        };
        let empty = files.is_empty();
        for (name, seqs) in files {
            for seq in seqs {
                let path = folder.join(layout::file_name(&name, seq));
                let header = shared.disk.open(&path).and_then(|file| scan::header(&*file));
                if let Ok(Ok((header, ..))) = header
                    && layout::folder(&shared.root, &header.key.scope, &header.key.path) == folder
                {
                    found.push((header.key.scope, header.key.path));
                }
            }
        }
        if empty {
            let _ = shared.disk.remove_dir(&folder);
        }
    }
    found.sort();
    found.dedup();
    found
}
