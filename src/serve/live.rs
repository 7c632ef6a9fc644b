//! Which collections are live: complete, and kept current by a watch that is open now. What a live collection holds is
//! not recorded again as a document.

use crate::store::ViewKey;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The live collections, and how many watches keep each so.
#[derive(Debug, Default)]
pub(super) struct Live {
    watches: Mutex<HashMap<ViewKey, usize>>,
}

/// One watch that keeps a collection current, for as long as it is held.
#[derive(Debug)]
pub(super) struct Watching {
    live: Arc<Live>,
    key: ViewKey,
}

impl Live {
    /// From now on, until the value is dropped, `key` is current.
    pub(super) fn watch(self: &Arc<Self>, key: &ViewKey) -> Watching {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        *watches.entry(key.clone()).or_default() += 1;
        drop(watches);
        Watching { live: Arc::clone(self), key: key.clone() }
    }

    /// Whether some watch keeps `key` current.
    pub(super) fn is_live(&self, key: &ViewKey) -> bool {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut watches = self.live.watches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = watches.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                watches.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_live_while_anything_watches_it() {
        let live = Arc::new(Live::default());
        let key = ViewKey { scope: "s".into(), path: "/p".into(), query: String::new(), representation: "r".into() };
        let (one, two) = (live.watch(&key), live.watch(&key));
        drop(one);
        assert!(live.is_live(&key));
        drop(two);
        assert!(!live.is_live(&key));
    }
}
