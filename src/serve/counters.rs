//! What the service counts: requests by verb, resource, code and source of the answer, and what the record could not do.

use crate::admin::Exposition;
use crate::request::{ApiRequest, Class};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// The upstream.
    Upstream,
    /// The record.
    Record,
    /// Neither: we said why not.
    Refused,
}

impl Source {
    fn label(self) -> &'static str {
        match self {
            Source::Upstream => "upstream",
            Source::Record => "record",
            Source::Refused => "refused",
        }
    }
}

/// As many different (verb, resource, code, source) as are counted apart. Clients choose paths, so this must be bounded;
/// whatever comes later is counted under the resource `other`.
const MOST_LABELS: usize = 2000;

type Labels = (&'static str, String, u16, Source);

/// Counters of the whole service; each only grows.
#[derive(Debug, Default)]
pub(super) struct Counters {
    requests: Mutex<BTreeMap<Labels, u64>>,
    /// Answers that were passed on but could not be recorded.
    pub not_recorded: AtomicUsize,
    /// Watches that did not follow upon what was recorded.
    pub gaps: AtomicUsize,
    /// Lists that the proxy asked for itself.
    pub relists: AtomicUsize,
    /// Watches that are open now, from the upstream and from the record.
    pub watches: AtomicUsize,
    /// Tunnels that are open now, and all that ever were.
    open_tunnels: AtomicUsize,
    tunnels: AtomicUsize,
    /// Bytes passed on in them to the upstream, and from it.
    pub tunnelled_up: AtomicUsize,
    pub tunnelled_down: AtomicUsize,
}

/// Counts something as open for as long as it is held.
struct Open<'a>(&'a AtomicUsize);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<'a> Open<'a> {
    fn new(gauge: &'a AtomicUsize) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Open(gauge)
    }
}

impl Counters {
    /// Counts one answered request.
    pub(super) fn answered(&self, request: &ApiRequest, code: u16, source: Source) {
        let resource = match request.target.resource() {
            Some(r) if r.group.is_empty() => r.resource.clone(),
            Some(r) => format!("{}.{}", r.resource, r.group),
            None => "nonresource".to_owned(),
        };
        let Ok(mut requests) = self.requests.lock() else { return };
        let mut labels = (verb(request), resource, code, source);
        if requests.len() >= MOST_LABELS && !requests.contains_key(&labels) {
            "other".clone_into(&mut labels.1);
        }
        *requests.entry(labels).or_default() += 1;
    }

    /// Counts a watch as open for as long as the value is held.
    pub(super) fn watch(&self) -> impl Drop + '_ {
        Open::new(&self.watches)
    }

    /// Counts a tunnel as open for as long as the value is held.
    pub(super) fn tunnel(&self) -> impl Drop + '_ {
        self.tunnels.fetch_add(1, Ordering::Relaxed);
        Open::new(&self.open_tunnels)
    }

    /// Writes them all.
    pub(super) fn expose(&self, page: &mut Exposition) {
        page.family("lite_apiserver_requests_total", "counter", "Requests answered, by where the answer came from.");
        if let Ok(requests) = self.requests.lock() {
            for ((verb, resource, code, source), count) in requests.iter() {
                let code = code.to_string();
                let labels = [
                    ("verb", *verb),
                    ("resource", resource.as_str()),
                    ("code", code.as_str()),
                    ("source", source.label()),
                ];
                page.sample(&labels, *count);
            }
        }
        for (name, kind, help, value) in [
            (
                "lite_apiserver_not_recorded_total",
                "counter",
                "Answers passed on but not recorded, for whatever reason.",
                &self.not_recorded,
            ),
            (
                "lite_apiserver_gaps_total",
                "counter",
                "Watches that did not follow upon what was recorded of their view.",
                &self.gaps,
            ),
            (
                "lite_apiserver_relists_total",
                "counter",
                "Lists that the proxy asked for itself to fill a gap.",
                &self.relists,
            ),
            ("lite_apiserver_watches", "gauge", "Watches open now.", &self.watches),
            (
                "lite_apiserver_tunnels",
                "gauge",
                "Tunnels open now: exec, attach, port-forward and the like.",
                &self.open_tunnels,
            ),
            ("lite_apiserver_tunnels_total", "counter", "Tunnels opened.", &self.tunnels),
        ] {
            page.single(name, kind, help, value.load(Ordering::Relaxed) as u64);
        }
        page.family("lite_apiserver_tunnel_bytes_total", "counter", "Bytes passed on in tunnels, by where to.");
        for (to, bytes) in [("upstream", &self.tunnelled_up), ("client", &self.tunnelled_down)] {
            page.sample(&[("to", to)], bytes.load(Ordering::Relaxed) as u64);
        }
    }
}

/// The request's verb, as kube-apiserver's own metrics name it.
pub(super) fn verb(request: &ApiRequest) -> &'static str {
    match (request.class, request.method.as_str()) {
        (Class::List, _) => "LIST",
        (Class::Watch, _) => "WATCH",
        (Class::Upgrade, _) => "CONNECT",
        (_, "GET") => "GET",
        (_, "HEAD") => "HEAD",
        (_, "POST") => "POST",
        (_, "PUT") => "PUT",
        (_, "PATCH") => "PATCH",
        (_, "DELETE") => "DELETE",
        _ => "OTHER",
    }
}
