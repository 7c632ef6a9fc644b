//! Where a view's file is: hashes of what its key says, so that no key can name a path.

use std::ffi::OsStr;
use std::fmt::Write;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};

use super::super::ViewKey;

/// Where damaged files go.
pub(super) const DAMAGED: &str = "damaged";
/// The lock file.
pub(super) const LOCK: &str = "lock";
/// The scope of notes, which no identity can have.
pub(super) const NOTES: &str = "\0notes";

/// 128 bits of SHA-256 in 32 hex digits. The parts are told apart by their lengths.
fn hash(parts: &[&str]) -> String {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part.as_bytes());
    }
    let mut out = String::with_capacity(32);
    for byte in &context.finish().as_ref()[..16] {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// A number that no other file has.
pub(super) fn random() -> u64 {
    // The standard library's own seed of its hash tables; nothing secret depends on it.
    RandomState::new().build_hasher().finish()
}

/// The folder of all views of a scope and path: `<root>/<scope>/<2 hex of path>/<path>`.
pub(super) fn folder(root: &Path, scope: &str, path: &str) -> PathBuf {
    let path = hash(&[path]);
    root.join(hash(&[scope])).join(&path[..2]).join(&path)
}

/// The first part of the names of a view's files.
pub(super) fn name(key: &ViewKey) -> String {
    hash(&[&key.query, &key.representation])
}

/// The name of a view's file with this number.
pub(super) fn file_name(name: &str, seq: u64) -> String {
    format!("{name}.{seq}")
}

/// Takes a file's name apart; `None` if it is none of ours.
pub(super) fn parse_file_name(file: &OsStr) -> Option<(&str, u64)> {
    let (name, seq) = file.to_str()?.split_once('.')?;
    let number: u64 = seq.parse().ok()?;
    (is_hash(name) && file_name(name, number) == file.to_str()?).then_some((name, number))
}

/// Whether this could be the name of one of our folders.
pub(super) fn is_hash(name: &str) -> bool {
    name.len() == 32
        && name
            .bytes()
            .all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_taken_apart_and_others_are_not() {
        let key = |query: &str, representation: &str| ViewKey {
            scope: String::new(),
            path: String::new(),
            query: query.into(),
            representation: representation.into(),
        };
        let name_ab = name(&key("a", "b"));
        let file = file_name(&name_ab, 12);
        assert_eq!(
            parse_file_name(OsStr::new(&file)),
            Some((name_ab.as_str(), 12))
        );
        for foreign in [
            "lock",
            "x.1",
            &name_ab,
            &format!("{name_ab}.01"),
            &format!("{name_ab}.+1"),
            &format!("{name_ab}."),
        ] {
            assert_eq!(parse_file_name(OsStr::new(foreign)), None, "{foreign}");
        }
        // What moves from one part into the next is another key.
        assert_ne!(name_ab, name(&key("ab", "")));
    }
}
