//! A collection at one moment, whatever the engine: its index, and a way to the bytes. Decides nothing.

use std::io;
use std::sync::Arc;

use super::index::{Entry, Index};
use super::{Collection, ObjectRef, ViewInfo};

/// Reads objects as they were when the snapshot was taken. What is damaged is an error, and has been reported.
pub(super) trait Contents<L>: Send + Sync {
    /// What is used again from one object to the next.
    type Buffer: Default;

    fn read<'a>(&'a self, entry: &'a Entry<L>, buffer: &'a mut Self::Buffer) -> io::Result<&'a [u8]>;
}

/// A collection at one moment.
pub(super) struct Snapshot<L, C> {
    pub(super) info: ViewInfo,
    pub(super) index: Arc<Index<L>>,
    pub(super) contents: C,
}

impl<L: Send + Sync, C: Contents<L>> Collection for Snapshot<L, C> {
    fn info(&self) -> &ViewInfo {
        &self.info
    }

    fn envelope(&self) -> Vec<u8> {
        self.index.envelope.to_vec()
    }

    fn version(&self) -> Option<u64> {
        self.index.version
    }

    fn unchanged_since(&self) -> Option<u64> {
        self.index.unchanged_since
    }

    fn len(&self) -> usize {
        self.index.len()
    }

    fn each(&self, visit: &mut dyn FnMut(&ObjectRef, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut object = ObjectRef::default();
        let mut buffer = C::Buffer::default();
        for entry in self.index.iter() {
            let bytes = self.contents.read(entry, &mut buffer)?;
            entry.describe(&mut object);
            visit(&object, bytes)?;
        }
        Ok(())
    }

    fn lengths(&self, visit: &mut dyn FnMut(u32, u64)) {
        self.index.iter().for_each(|entry| visit(entry.flags, u64::from(entry.size)));
    }

    fn index(&self, visit: &mut dyn FnMut(&ObjectRef, u64)) {
        let mut object = ObjectRef::default();
        for entry in self.index.iter() {
            entry.describe(&mut object);
            visit(&object, u64::from(entry.size));
        }
    }

    fn find(&self, object_key: &str) -> Option<ObjectRef> {
        let mut object = ObjectRef::default();
        self.index.get(object_key)?.describe(&mut object);
        Some(object)
    }

    fn get(&self, object_key: &str) -> Option<(ObjectRef, Vec<u8>)> {
        let entry = self.index.get(object_key)?;
        let mut buffer = C::Buffer::default();
        let bytes = self.contents.read(entry, &mut buffer).ok()?.to_vec();
        let mut object = ObjectRef::default();
        entry.describe(&mut object);
        Some((object, bytes))
    }
}
