//! One collection's index: which objects it holds, in the order of their keys, and where their bytes are (`L`: a place
//! in a file, or the bytes themselves). Holds no bytes and does no I/O; cloning it copies one pointer an object.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::ObjectRef;

/// A uid, 16 bytes when it is a UUID in its usual spelling: with ten thousand objects the difference is felt.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Uid {
    Uuid([u8; 16]),
    Text(Box<str>),
}

const HYPHENS: [usize; 4] = [8, 13, 18, 23];

impl Uid {
    fn new(text: &str) -> Self {
        Self::parse(text.as_bytes()).map_or_else(|| Uid::Text(text.into()), Uid::Uuid)
    }

    fn parse(text: &[u8]) -> Option<[u8; 16]> {
        if text.len() != 36 {
            return None;
        }
        let mut packed = [0; 16];
        let mut nibbles = 0;
        for (i, &c) in text.iter().enumerate() {
            if HYPHENS.contains(&i) {
                if c != b'-' {
                    return None;
                }
                continue;
            }
            let nibble = match c {
                b'0'..=b'9' => c - b'0',
                b'a'..=b'f' => c - b'a' + 10,
                _ => return None,
            };
            packed[nibbles / 2] = packed[nibbles / 2] << 4 | nibble;
            nibbles += 1;
        }
        Some(packed)
    }

    fn is_empty(&self) -> bool {
        matches!(self, Uid::Text(text) if text.is_empty())
    }

    fn write_to(&self, out: &mut String) {
        out.clear();
        match self {
            Uid::Text(text) => out.push_str(text),
            Uid::Uuid(bytes) => {
                // Done for each object of a list that is recalled.
                let mut text = [b'-'; 36];
                let mut at = 0;
                for byte in bytes {
                    at += usize::from(HYPHENS.contains(&at));
                    text[at] = b"0123456789abcdef"[usize::from(byte >> 4)];
                    text[at + 1] = b"0123456789abcdef"[usize::from(byte & 15)];
                    at += 2;
                }
                out.push_str(std::str::from_utf8(&text).unwrap_or_default());
            }
        }
    }
}

/// One object in an index. Of ten thousand, each 16 bytes more are felt, too.
#[derive(Debug)]
pub(super) struct Entry<L> {
    pub(super) key: Box<str>,
    uid: Uid,
    has_version: bool,
    version: u64,
    pub(super) flags: u32,
    /// Length of the object's bytes.
    pub(super) size: u32,
    /// Where the bytes are.
    pub(super) at: L,
}

impl<L> Entry<L> {
    pub(super) fn new(object: &ObjectRef, size: u32, at: L) -> Self {
        let uid = Uid::new(&object.uid);
        let (has_version, version) = (object.version.is_some(), object.version.unwrap_or_default());
        Self { key: object.key.as_str().into(), uid, has_version, version, flags: object.flags, size, at }
    }

    /// The same object at another place.
    pub(super) fn moved(&self, at: L) -> Self {
        let (key, uid) = (self.key.clone(), self.uid.clone());
        Self { key, uid, has_version: self.has_version, version: self.version, flags: self.flags, size: self.size, at }
    }

    pub(super) fn version(&self) -> Option<u64> {
        self.has_version.then_some(self.version)
    }

    /// Whether this is the object, unchanged: uid and version say so, if there are any.
    pub(super) fn is(&self, object: &ObjectRef) -> bool {
        self.has_version
            && object.version == Some(self.version)
            && !self.uid.is_empty()
            && self.uid == Uid::new(&object.uid)
    }

    /// Fills `object` without allocating anew.
    pub(super) fn describe(&self, object: &mut ObjectRef) {
        object.key.clear();
        object.key.push_str(&self.key);
        self.uid.write_to(&mut object.uid);
        object.version = self.version();
        object.flags = self.flags;
    }

    /// About what the object takes in a log, to judge how much of one is garbage.
    pub(super) fn weight(&self) -> u64 {
        u64::from(self.size) + self.key.len() as u64 + 120
    }
}

/// An entry that is ordered, and found, by its key.
#[derive(Debug)]
pub(super) struct ByKey<L>(pub(super) Arc<Entry<L>>);

impl<L> Clone for ByKey<L> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L> PartialEq for ByKey<L> {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl<L> Eq for ByKey<L> {}

impl<L> PartialOrd for ByKey<L> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<L> Ord for ByKey<L> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

impl<L> Borrow<str> for ByKey<L> {
    fn borrow(&self) -> &str {
        &self.0.key
    }
}

/// A collection's committed state but for its objects' bytes.
#[derive(Debug)]
pub(super) struct Index<L> {
    entries: BTreeSet<ByKey<L>>,
    weight: u64,
    pub(super) envelope: Arc<[u8]>,
    pub(super) version: Option<u64>,
    pub(super) complete: bool,
    /// Since which version the objects have been these, as far as is known.
    pub(super) unchanged_since: Option<u64>,
}

impl<L> Clone for Index<L> {
    fn clone(&self) -> Self {
        let (entries, envelope) = (self.entries.clone(), Arc::clone(&self.envelope));
        let (version, complete, unchanged_since) = (self.version, self.complete, self.unchanged_since);
        Self { entries, weight: self.weight, envelope, version, complete, unchanged_since }
    }
}

impl<L> Default for Index<L> {
    fn default() -> Self {
        let (entries, envelope) = (BTreeSet::new(), Arc::default());
        Self { entries, weight: 0, envelope, version: None, complete: false, unchanged_since: None }
    }
}

impl<L> Index<L> {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// About what the collection takes in a log.
    pub(super) fn weight(&self) -> u64 {
        self.weight + self.envelope.len() as u64
    }

    pub(super) fn get(&self, key: &str) -> Option<&Arc<Entry<L>>> {
        self.entries.get(key).map(|found| &found.0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Entry<L>>> {
        self.entries.iter().map(|found| &found.0)
    }

    pub(super) fn put(&mut self, entry: Arc<Entry<L>>) {
        self.weight += entry.weight();
        if let Some(old) = self.entries.replace(ByKey(entry)) {
            self.weight -= old.0.weight();
        }
    }

    /// Enters objects, which are in the order of their keys.
    pub(super) fn put_all(&mut self, entries: Vec<Arc<Entry<L>>>) {
        if self.entries.is_empty() {
            // At once, which leaves no room in the tree's nodes.
            self.weight = entries.iter().map(|entry| entry.weight()).sum();
            self.entries = entries.into_iter().map(ByKey).collect();
        } else {
            entries.into_iter().for_each(|entry| self.put(entry));
        }
    }

    pub(super) fn delete(&mut self, key: &str) {
        if let Some(old) = self.entries.take(key) {
            self.weight -= old.0.weight();
        }
    }

    /// What [`Index::settle`] makes of [`Index::unchanged_since`].
    pub(super) fn since_after(&self, version: Option<u64>, objects: bool) -> Option<u64> {
        // Another history, where there was none or where it has gone back.
        let other = objects || self.version.is_none() || version < self.version;
        if other { version } else { self.unchanged_since }
    }

    /// Ends a transaction: the collection is at this version now. `objects`: whether it has put or deleted some.
    pub(super) fn settle(&mut self, version: Option<u64>, complete: bool, objects: bool) {
        self.unchanged_since = self.since_after(version, objects);
        (self.version, self.complete) = (version, complete);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(uid: &str) -> String {
        let object = ObjectRef { key: "a/b".into(), uid: uid.into(), version: Some(7), flags: 3 };
        let mut seen = ObjectRef::default();
        Entry::new(&object, 5, ()).describe(&mut seen);
        assert_eq!(seen.key, object.key);
        assert_eq!((seen.version, seen.flags), (Some(7), 3));
        seen.uid
    }

    #[test]
    fn a_uid_comes_back_as_it_was() {
        for uid in [
            "",
            "x",
            "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
            "0A1B2C3D-4E5F-6071-8293-A4B5C6D7E8F9",
            "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8fg",
            "0a1b2c3d04e5f-6071-8293-a4b5c6d7e8f9",
            "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f",
        ] {
            assert_eq!(round(uid), uid);
        }
        assert!(matches!(Uid::new("0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"), Uid::Uuid(_)));
    }

    #[test]
    fn only_a_uid_and_a_version_make_an_object_the_same() {
        let object = |uid: &str, version| ObjectRef { key: "k".into(), uid: uid.into(), version, flags: 0 };
        let is = |a: ObjectRef, b: ObjectRef| Entry::new(&a, 0, ()).is(&b);
        assert!(is(object("u", Some(1)), object("u", Some(1))));
        assert!(!is(object("u", Some(1)), object("u", Some(2))));
        assert!(!is(object("u", Some(1)), object("v", Some(1))));
        assert!(!is(object("", Some(1)), object("", Some(1))));
        assert!(!is(object("u", None), object("u", None)));
    }

    #[test]
    fn an_index_weighs_what_it_holds_and_is_in_order() {
        let mut index = Index::default();
        for key in ["b/a", "a/b", "a-b/c"] {
            index.put(Arc::new(Entry::new(&ObjectRef { key: key.into(), ..ObjectRef::default() }, 100, ())));
        }
        index.put(Arc::new(Entry::new(&ObjectRef { key: "b/a".into(), ..ObjectRef::default() }, 50, ())));
        // '-' is below '/': etcd's order of paths, which is not the order of (namespace, name).
        assert_eq!(index.iter().map(|e| &*e.key).collect::<Vec<_>>(), ["a-b/c", "a/b", "b/a"]);
        for key in ["b/a", "a/b", "a-b/c", "none"] {
            index.delete(key);
        }
        assert_eq!((index.len(), index.weight()), (0, 0));
    }
}
