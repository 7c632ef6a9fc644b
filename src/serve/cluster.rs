//! Whose record this is: what is recorded of one cluster must never be served as another's.
//!
//! A cluster is known by the CAs that its certificate is checked with (subject and public key; a CA that is signed anew
//! with its key is the same), and by the uid of its namespace `kube-system`, once an answer has shown it. Not by its
//! address: that may change.
//!
//! - CAs of which some were trusted before: the same cluster; what is trusted now is what counts from now on. So a CA
//!   rotates as it should anyway: both are trusted for a while.
//! - CAs of which none was trusted before: nothing of the record is served. It is there, should the flag have been wrong
//!   and be corrected, until the upstream has answered under the new ones: then this is another cluster, or one whose
//!   CA was replaced at once, and the record goes.
//! - `kube-system` with another uid than before: another cluster, whatever its CA; the record goes.
//!
//! With `--insecure`, or CAs that sign for many (a public one), only the uid tells.

use super::Service;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The note that holds it.
const CLUSTER: &str = "cluster";

/// What is known of the cluster that was recorded.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    mark: Mutex<Mark>,
    /// No CA is trusted that was trusted when the record was made, and the upstream has not answered since.
    foreign: AtomicBool,
    /// Views that were dropped because they were another cluster's.
    pub(super) dropped: AtomicU64,
}

/// By what a cluster is known.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Mark {
    /// Fingerprints of the CAs.
    cas: BTreeSet<String>,
    /// The uid of `kube-system`; empty: not seen.
    uid: String,
    /// The CAs that are trusted now, while it is foreign.
    next: BTreeSet<String>,
}

impl Mark {
    fn encode(&self) -> String {
        let cas = self.cas.iter().map(|ca| format!("ca {ca}\n"));
        cas.chain([format!("uid {}\n", self.uid)]).collect()
    }

    fn decode(text: &[u8]) -> Mark {
        let mut mark = Mark::default();
        for line in std::str::from_utf8(text).unwrap_or_default().lines() {
            match line.split_once(' ') {
                Some(("ca", ca)) => drop(mark.cas.insert(ca.to_owned())),
                Some(("uid", uid)) => uid.clone_into(&mut mark.uid),
                _ => {}
            }
        }
        mark
    }
}

impl Cluster {
    /// As a note of an earlier life has it.
    pub(super) fn new(note: Option<Vec<u8>>) -> Cluster {
        let mark = note.map(|bytes| Mark::decode(&bytes)).unwrap_or_default();
        Cluster { mark: Mutex::new(mark), ..Cluster::default() }
    }

    /// Whether the record may be another cluster's than the one that is to be asked.
    pub(super) fn is_foreign(&self) -> bool {
        self.foreign.load(Ordering::Acquire)
    }
}

impl Service {
    /// The upstream's certificate is checked with these CAs from now on (their fingerprints; none: it is not checked).
    pub fn trust(&self, cas: &BTreeSet<String>) {
        if cas.is_empty() {
            return;
        }
        let mut mark = self.cluster.mark.lock().unwrap_or_else(PoisonError::into_inner);
        if mark.cas.is_empty() || !mark.cas.is_disjoint(cas) {
            self.cluster.foreign.store(false, Ordering::Release);
            if mark.cas != *cas {
                mark.cas.clone_from(cas);
                self.keep_mark(&mark);
            }
            return;
        }
        mark.next.clone_from(cas);
        self.cluster.foreign.store(true, Ordering::Release);
        log::warn!(
            "record: none of the upstream's CAs is one that was trusted when it was recorded: nothing of it is served; if the CAs are right, it goes with the first answer that they vouch for"
        );
    }

    /// The upstream has answered: if the record was another cluster's, it goes now.
    pub(super) fn meet_cluster(&self) {
        if !self.cluster.is_foreign() {
            return;
        }
        let mut mark = self.cluster.mark.lock().unwrap_or_else(PoisonError::into_inner);
        if self.cluster.is_foreign() && self.drop_record("the upstream has answered under another CA") {
            *mark = Mark { cas: std::mem::take(&mut mark.next), ..Mark::default() };
            self.keep_mark(&mark);
            self.cluster.foreign.store(false, Ordering::Release);
        }
    }

    /// An object was shown: `kube-system`'s uid says which cluster this is.
    pub(super) fn meet_object(&self, path: &str, key: &str, uid: &str) {
        let is_it = match path.strip_prefix("/api/v1/namespaces") {
            Some("") => key == "kube-system",
            Some(rest) => rest == "/kube-system",
            None => false,
        };
        if !is_it || uid.is_empty() {
            return;
        }
        let mut mark = self.cluster.mark.lock().unwrap_or_else(PoisonError::into_inner);
        if mark.uid == uid || !mark.uid.is_empty() && !self.drop_record("kube-system has another uid") {
            return;
        }
        uid.clone_into(&mut mark.uid);
        self.keep_mark(&mark);
    }

    /// Whether nothing is recorded any more.
    fn drop_record(&self, why: &str) -> bool {
        let views = self.store.all();
        let mut all = true;
        for view in &views {
            let gone = self.store.remove(&view.key).is_ok();
            self.cluster.dropped.fetch_add(u64::from(gone), Ordering::Relaxed);
            all &= gone;
        }
        self.forget_all_tokens();
        log::warn!("record: this is another cluster ({why}): {} views of the old one were dropped", views.len());
        all
    }

    /// To be called now and then: what could not be kept, or was removed with the record's folder, is kept again.
    pub(super) fn keep_cluster(&self) {
        let mark = self.cluster.mark.lock().unwrap_or_else(PoisonError::into_inner);
        if *mark != Mark::default() && self.store.note(CLUSTER).as_deref() != Some(mark.encode().as_bytes()) {
            self.keep_mark(&mark);
        }
    }

    fn keep_mark(&self, mark: &Mark) {
        if let Err(e) = self.store.set_note(CLUSTER, mark.encode().as_bytes()) {
            log::debug!("whose record this is could not be kept: {e}");
        }
    }
}

/// What an earlier life kept.
pub(super) fn kept(store: &dyn crate::store::Store) -> Cluster {
    Cluster::new(store.note(CLUSTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_as_it_was() {
        let cas = ["a", "b"].into_iter().map(str::to_owned).collect();
        let mark = Mark { cas, uid: "u-1".into(), next: BTreeSet::new() };
        assert_eq!(Mark::decode(mark.encode().as_bytes()), mark);
        assert_eq!(Mark::decode(b"\xff"), Mark::default());
        assert_eq!(Mark::decode(Mark::default().encode().as_bytes()), Mark::default());
    }
}
