//! Files that the configuration names: read now, so that what is wrong with them is said before anything is bound.

use super::certificates::PairFiles;
use super::error::{ConfigError, Exit};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Reads a file that `what` (a flag, or a field of a file) names.
pub(crate) fn read(what: &str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    fs::read(path).map_err(|e| ConfigError::unreadable(what, path, &e))
}

/// Reads `--tls-config-file`: the pairs that it lists.
pub(super) fn pairs(path: &Path) -> Result<Vec<PairFiles>, ConfigError> {
    const WHAT: &str = "--tls-config-file";
    let text = read(WHAT, path)?;
    let wrong = |why: String| {
        ConfigError::new(
            Exit::Data,
            format!("{WHAT} {}: {why}; it must be JSON: [{{\"cert\": path, \"key\": path}}]", path.display()),
        )
    };
    let json: serde_json::Value = serde_json::from_slice(&text).map_err(|e| wrong(format!("no valid JSON: {e}")))?;
    let entries = json.as_array().ok_or_else(|| wrong("it is no list".to_owned()))?;
    let entry = |(i, entry): (usize, &serde_json::Value)| {
        let field = |name: &str| {
            entry
                .get(name)
                .and_then(serde_json::Value::as_str)
                .map(PathBuf::from)
                .ok_or_else(|| wrong(format!("entry {i} has no {name:?}")))
        };
        Ok(PairFiles::of(WHAT, field("cert")?, field("key")?))
    };
    entries.iter().enumerate().map(entry).collect()
}

/// Makes a folder, 0700, and those above it.
pub(super) fn make_folder(what: &str, path: &Path) -> Result<(), ConfigError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| ConfigError::unmakable(what, path, &e))
}

/// Writes a file, 0600, as a whole or not at all; a file that already holds these bytes is left alone.
pub(crate) fn write(what: &str, path: &Path, bytes: &[u8]) -> Result<(), ConfigError> {
    if fs::read(path).is_ok_and(|held| held == bytes) {
        return Ok(());
    }
    let beside = path.with_extension("new");
    let put = || {
        // Whoever owns the folder may have put a link there: it is not written through.
        let _ = fs::remove_file(&beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    };
    put().map_err(|e| ConfigError::unmakable(what, path, &e))
}
