//! The files that certificates come from, read again when they change. A part that cannot be read, or whose files do not
//! fit together, stays as it was: a rotation has moments in which a file is half-written, missing, or belongs to the next
//! key, and what was read before is good until then. That is said once when it begins, and once when it is over.
//!
//! A file counts as changed when its inode, size or times do; links are followed, so that a link that is turned to another
//! file is a change. Times are coarse: a file that had just been written when it was looked at is read once more.

use super::by_kubeconfig::Origin;
use super::certificates::{Certificates, Named, Pair, PairFiles, Roots};
use super::error::{ConfigError, Exit};
use super::files;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A file that was written so short a time before it was looked at may be written again without a change of its times.
const FRESH: Duration = Duration::from_secs(2);

/// Where certificates come from.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    pub(super) serving: PairFiles,
    pub(super) client_roots: Option<Named>,
    pub(super) upstream_roots: Option<Named>,
    /// `--tls-config-file`
    pub(super) list: Option<PathBuf>,
    /// The pair of the kubeconfig's user; it counts where one in the list has the same CN.
    pub(super) own: Option<PairFiles>,
    /// The kubeconfig that holds some of them within itself.
    pub(super) origin: Option<Origin>,
}

impl CertificateFiles {
    /// Reads them all.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub(super) fn read(&self) -> Result<Certificates, ConfigError> {
        let mut reading = Reading::default();
        let read = reading.all(self, None)?;
        reading.faults.into_values().next().map_or(Ok(read), Err)
    }

    /// Every file there is to look at, those of `listed` pairs too.
    fn paths(&self, listed: &[PairFiles]) -> Vec<PathBuf> {
        let pairs = [&self.serving].into_iter().chain(&self.own).chain(listed);
        let mut paths: Vec<_> = pairs.flat_map(|pair| [&pair.cert, &pair.key]).cloned().collect();
        paths.extend([&self.client_roots, &self.upstream_roots].into_iter().flatten().map(|named| named.path.clone()));
        paths.extend(self.list.clone());
        paths.extend(self.origin.as_ref().map(|origin| origin.path.clone()));
        paths
    }
}

/// One reading of all files.
#[derive(Default)]
struct Reading {
    /// What is wrong, by the file that it is wrong with.
    faults: BTreeMap<PathBuf, ConfigError>,
}

impl Reading {
    /// Reads all; what is faulty stays as it was in `old`.
    ///
    /// # Errors
    /// Something is faulty that must be there, and was not before.
    fn all(&mut self, from: &CertificateFiles, old: Option<&Certificates>) -> Result<Certificates, ConfigError> {
        let held = old.map(|old| Arc::clone(&old.serving));
        let serving = self.part(&from.serving.cert, Pair::read(&from.serving), held)?;
        let mut roots = |file: &Option<Named>, held: Option<&Arc<Roots>>| {
            file.as_ref().map(|file| self.part(&file.path, Roots::read(file), held.cloned())).transpose()
        };
        let client_roots = roots(&from.client_roots, old.and_then(|old| old.client_roots.as_ref()))?;
        let upstream_roots = roots(&from.upstream_roots, old.and_then(|old| old.upstream_roots.as_ref()))?;
        let listed = match &from.list {
            None => Arc::default(),
            Some(path) => self.part(path, files::pairs(path), old.map(|old| Arc::clone(&old.listed)))?,
        };
        let (mut pairs, mut by_file) = (BTreeMap::new(), BTreeMap::new());
        let mut own_name = None;
        for files in from.own.iter().chain(&*listed) {
            let held = old.and_then(|old| old.by_file.get(&files.cert)).cloned();
            let pair = match self.part(&files.cert, Pair::read(files), held) {
                Ok(pair) => pair,
                // One that is new to the list is not there before it can be read.
                Err(fault) => {
                    self.faults.insert(files.cert.clone(), fault);
                    continue;
                }
            };
            by_file.insert(files.cert.clone(), Arc::clone(&pair));
            match &pair.common_name {
                None => self.note(files, "has no single CN, by which a pair is chosen"),
                Some(name) if own_name.as_ref() == Some(name) => {}
                Some(name) if pairs.contains_key(name) => {
                    self.note(files, &format!("has the CN {name:?}, as another pair has; keep one"));
                }
                Some(name) => {
                    if Some(files) == from.own.as_ref() {
                        own_name = Some(name.clone());
                    }
                    pairs.insert(name.clone(), pair);
                }
            }
        }
        Ok(Certificates { serving, client_roots, upstream_roots, pairs, listed, by_file })
    }

    fn note(&mut self, files: &PairFiles, why: &str) {
        let message = format!("{}: the certificate {} {why}", files.cert_what, files.cert.display());
        self.faults.insert(files.cert.clone(), ConfigError::new(Exit::Data, message));
    }

    /// What was read; the very value that is held where it is the same, and what is held where it is faulty.
    fn part<T: PartialEq>(
        &mut self,
        path: &Path,
        read: Result<T, ConfigError>,
        held: Option<Arc<T>>,
    ) -> Result<Arc<T>, ConfigError> {
        match (read, held) {
            (Ok(new), Some(held)) if new == *held => Ok(held),
            (Ok(new), _) => Ok(Arc::new(new)),
            (Err(fault), Some(held)) => {
                self.faults.insert(path.to_owned(), fault);
                Ok(held)
            }
            (Err(fault), None) => Err(fault),
        }
    }
}

/// What shows that a file has changed: device, inode, size, and both times.
type Stamp = [u64; 7];

/// `None`: the file is not there, or so fresh that its times do not show whether it changes.
fn stamp(path: &Path) -> Option<Stamp> {
    let seen = std::fs::metadata(path).ok()?;
    let written = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seen.ctime()).unwrap_or(0));
    // A time to come shows no more than one that has just been.
    let settled = SystemTime::now().duration_since(written).is_ok_and(|age| age > FRESH);
    let times = [seen.mtime(), seen.mtime_nsec(), seen.ctime(), seen.ctime_nsec()].map(i64::cast_unsigned);
    let [mtime, mtime_nsec, ctime, ctime_nsec] = times;
    settled.then(|| [seen.dev(), seen.ino(), seen.size(), mtime, mtime_nsec, ctime, ctime_nsec])
}

/// The files, watched.
pub struct Watch {
    files: CertificateFiles,
    held: Certificates,
    stamps: BTreeMap<PathBuf, Option<Stamp>>,
    failing: BTreeMap<PathBuf, ConfigError>,
    tally: Tally,
}

/// What became of the files so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Times that something new was read.
    pub reloads: u64,
    /// Times that a file was read and found faulty.
    pub failures: u64,
    /// Files that are faulty now, so that what was read of them before is still in use.
    pub failing: usize,
}

impl Watch {
    /// Watches the files of which `certificates` were read. A change since then is found at the first look.
    pub fn new(files: CertificateFiles, certificates: Certificates) -> Watch {
        let (stamps, failing) = (BTreeMap::new(), BTreeMap::new());
        Watch { files, held: certificates, stamps, failing, tally: Tally::default() }
    }

    /// Reads the files again if one of them seems to have changed, or if `anyway`. `Some`: there are new certificates;
    /// each that has not changed is the very same value as before.
    pub fn look(&mut self, anyway: bool) -> Option<&Certificates> {
        // Before they are read: what is written meanwhile is a change that the next look finds.
        let paths = self.files.paths(&self.held.listed);
        let seen: BTreeMap<_, _> = paths.into_iter().map(|path| (path.clone(), stamp(&path))).collect();
        if !anyway && self.stamps == seen && seen.values().all(Option::is_some) {
            return None;
        }
        self.stamps = seen;
        let mut reading = Reading::default();
        if let Some(origin) = self.files.origin.clone() {
            match origin.follow(&mut self.files) {
                Ok(()) => {}
                Err(fault) => _ = reading.faults.insert(origin.path, fault),
            }
        }
        let read = reading.all(&self.files, Some(&self.held)).map_err(|fault| {
            reading.faults.insert(PathBuf::new(), fault);
        });
        self.tell(reading.faults);
        let new = read.ok().filter(|new| !new.are(&self.held))?;
        self.tally.reloads += 1;
        log::info!("certificates: what has changed on disk is in use from now on");
        self.held = new;
        Some(&self.held)
    }

    /// What is in use.
    pub fn certificates(&self) -> &Certificates {
        &self.held
    }

    /// What became of the files so far.
    pub fn tally(&self) -> Tally {
        Tally { failing: self.failing.len(), ..self.tally }
    }

    /// Says what is faulty now and was not before, and the other way round.
    fn tell(&mut self, faults: BTreeMap<PathBuf, ConfigError>) {
        self.tally.failures += faults.len() as u64;
        for (_, fault) in faults.iter().filter(|(path, _)| !self.failing.contains_key(*path)) {
            log::warn!("certificates: {fault}; what was read before stays in use");
        }
        for path in self.failing.keys().filter(|path| !faults.contains_key(*path)) {
            log::info!("certificates: {} is good again", path.display());
        }
        self.failing = faults;
    }
}
