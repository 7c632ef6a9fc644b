//! Lists that come in pages (`limit`, `continue`): each page goes into the generation that the first one began, and the
//! last one commits it. A list that is never asked for to its end is dropped after a while, and leaves nothing behind.
//!
//! Pages belong together when they are of the same view and of the same resourceVersion, and each was asked for with the
//! token that the one before it gave. Tokens are the upstream's: opaque, and the same for all who page alike, so two
//! clients that page at once may share one list; whoever comes second finds it taken, and is only passed through. A
//! token that has expired is answered 410 with another one, which kube-apiserver itself calls inconsistent
//! (`staging/src/k8s.io/apiserver/pkg/storage/etcd3/errors.go`, `handleCompactedErrorForPaging`): no page gave it, so it
//! leads nowhere here.

use crate::store::{Generation, ViewKey};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// As many lists may be under way; the oldest makes room.
const MOST: usize = 64;

/// kube-apiserver's tokens live as long as etcd keeps old revisions, 5 minutes by default
/// (`--etcd-compaction-interval`).
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// A list of which some pages have come.
pub(super) struct Pages {
    /// The collection that it will be.
    pub key: ViewKey,
    /// What has come.
    pub generation: Box<dyn Generation>,
    /// The resourceVersion of its first page; `None`: that page is still coming.
    pub version: Option<String>,
    /// Below this version it shows that the upstream has gone back ([`super::Asked::back_below`]).
    pub back_below: Option<u64>,
}

/// A list whose next page may be asked for.
struct Open {
    pages: Pages,
    /// The token that its next page is asked for with.
    token: String,
    since: Instant,
}

/// The lists whose next page may be asked for, the oldest first.
#[derive(Default)]
pub(super) struct OpenPages(Mutex<VecDeque<Open>>);

impl OpenPages {
    fn open(&self) -> MutexGuard<'_, VecDeque<Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the page that is asked for with `token`.
    pub(super) fn put(&self, token: &str, pages: Pages) {
        let mut open = self.open();
        let same = open.iter().position(|o| o.token == token && o.pages.key == pages.key);
        let old = same.and_then(|at| open.remove(at));
        let oldest = if open.len() >= MOST { open.pop_front() } else { None };
        open.push_back(Open { pages, token: token.to_owned(), since: Instant::now() });
        drop(open);
        // Their ends may touch the disk.
        drop((old, oldest));
    }

    /// The list that goes on with `token`.
    pub(super) fn take(&self, key: &ViewKey, token: &str) -> Option<Pages> {
        let mut open = self.open();
        let at = open.iter().position(|o| o.token == token && o.pages.key == *key)?;
        open.remove(at).map(|o| o.pages)
    }

    /// Drops what has waited for too long.
    pub(super) fn sweep(&self, now: Instant) {
        let mut old = Vec::new();
        let mut open = self.open();
        while open.front().is_some_and(|o| now.saturating_duration_since(o.since) > LONGEST_PAUSE) {
            old.extend(open.pop_front());
        }
        drop(open);
        drop(old);
    }

    /// How many lists are under way.
    pub(super) fn len(&self) -> usize {
        self.open().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStore, Store};

    fn pages(path: &str) -> Pages {
        let key = ViewKey { scope: "s".into(), path: path.into(), query: String::new(), representation: "r".into() };
        let generation = MemoryStore::new().begin_generation(&key).expect("begun");
        Pages { key, generation, version: Some("9".into()), back_below: None }
    }

    #[test]
    fn a_list_goes_on_once_with_its_own_token_and_in_its_own_view() {
        let open = OpenPages::default();
        open.put("t", pages("/a"));
        assert!(open.take(&pages("/b").key, "t").is_none());
        assert!(open.take(&pages("/a").key, "u").is_none());
        assert!(open.take(&pages("/a").key, "t").is_some());
        assert!(open.take(&pages("/a").key, "t").is_none());
    }

    #[test]
    fn what_nobody_asks_on_for_is_bounded_in_number_and_age() {
        let open = OpenPages::default();
        for i in 0..MOST + 10 {
            open.put(&format!("t{i}"), pages("/a"));
            open.put(&format!("t{i}"), pages("/a"));
        }
        assert_eq!(open.len(), MOST);
        assert!(open.take(&pages("/a").key, "t9").is_none(), "the oldest made room");
        assert!(open.take(&pages("/a").key, "t10").is_some());
        open.sweep(Instant::now());
        assert_eq!(open.len(), MOST - 1);
        open.sweep(Instant::now() + LONGEST_PAUSE + Duration::from_secs(1));
        assert_eq!(open.len(), 0);
    }
}
