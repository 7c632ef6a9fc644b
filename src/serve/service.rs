//! The service itself: what lives as long as the daemon, and the stages that only look and remember.

use super::Asked;
use super::clock::Clock;
use super::cluster::{self, Cluster};
use super::counters::Counters;
use super::fields;
use super::find::{self, Finding};
use super::hold::Departures;
use super::holes::{Holes, Relist, Waiting};
use super::live::Live;
use super::pages::OpenPages;
use super::tell::{Outage, Told};
use super::whereabouts::Reports;
use crate::admin::Exposition;
use crate::decide::{self, Reader, Situation};
use crate::front::{BodyLength, Exchange};
use crate::identity::{Caller, Claims, Identity, Ledger, SHARED_SCOPE, TokenHash};
use crate::moment::rfc3339;
use crate::record::Destination;
use crate::request::{ApiRequest, Class};
use crate::store::{Bounded, Bounds, Kind, Store, ViewKey};
use crate::upstream::{Known, LinkState, Upstream};
use ring::digest;
use std::collections::HashSet;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// The note under which the ledger of accepted tokens is kept.
const LEDGER: &str = "ledger";

/// The note that holds the moment when the link was last up, in seconds since 1970, and how many seconds the process has
/// run since then.
const LAST_UP: &str = "last-up";

/// The note that is there, and not empty, while the link is down.
const DARK: &str = "dark";

/// How much of that running may be forgotten.
const SPENT_PRECISION: Duration = Duration::from_secs(600);

/// The link counts as up for what ages only while the upstream was heard within this.
const LIFE_SIGN: Duration = Duration::from_secs(120);

/// A request body that is part of the view's key (token requests, reviews) may be this long: kube-apiserver's own
/// objects of these kinds are a few hundred bytes.
const LONGEST_QUESTION: u64 = 256 * 1024;

/// What the service is told once, from the configuration.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// `--timeout`
    pub timeout: Duration,
    /// `--slow-timeout`
    pub slow_timeout: Duration,
    /// `--offline-grace`
    pub offline_grace: Duration,
    /// `--review-ttl`
    pub review_ttl: Duration,
    /// `--max-object-size`
    pub max_object_size: usize,
    /// `--cache-max-size`, `--cache-max-age`
    pub bounds: Bounds,
    /// `--rewrite-kubernetes-service`: where clients are told that the Service `kubernetes` leads; `None`: where it does.
    pub kubernetes_service: Option<Destination>,
    /// `--heal-endpoints`
    pub heal_endpoints: bool,
}

/// Everything that answering a request takes.
pub struct Service {
    pub(super) options: ServiceOptions,
    pub(super) upstream: Arc<Upstream>,
    pub(super) store: Arc<dyn Store>,
    /// The same, as what is kept to its bounds.
    bounded: Arc<Bounded>,
    pub(super) counters: Counters,
    pub(super) live: Arc<Live>,
    pub(super) departures: Departures,
    pub(super) pages: OpenPages,
    pub(super) holes: Holes,
    pub(super) cluster: Cluster,
    /// What kubelets tell while the link is down.
    pub(super) reports: Reports,
    ledger: Mutex<Ledger>,
    ledger_changed: AtomicBool,
    pub(super) clock: Arc<Clock>,
    /// What is kept of the link's last being up.
    kept: Mutex<LastUp>,
    /// The same as it was when this life of the daemon began.
    earlier: LastUp,
    begun: Instant,
    /// What [`DARK`] says.
    dark: AtomicBool,
    /// When housekeeping was last done.
    housekept: Mutex<Instant>,
    /// What has been said and is not worth a second line.
    said: Mutex<HashSet<String>>,
}

/// As many different things are said once; whatever comes later is said each time, which is at least honest.
const MOST_SAID: usize = 1000;

/// When the link was last up.
#[derive(Debug, Clone, Copy, Default)]
struct LastUp {
    /// `None`: never.
    at: Option<SystemTime>,
    /// How long the daemon has run since then: an outage is no shorter than this, whatever the clock says after a boot.
    spent: Duration,
}

impl LastUp {
    fn encode(&self) -> Option<String> {
        let seconds = self.at?.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Some(format!("{seconds} {}", self.spent.as_secs()))
    }

    fn decode(bytes: &[u8]) -> LastUp {
        let mut numbers = std::str::from_utf8(bytes).unwrap_or_default().split(' ').map(str::parse::<u64>);
        let mut next = || numbers.next().and_then(Result::ok).map(Duration::from_secs);
        LastUp { at: next().and_then(|s| SystemTime::UNIX_EPOCH.checked_add(s)), spent: next().unwrap_or_default() }
    }
}

/// The clock, as what `store` remembers of earlier lives has it.
pub fn clock(store: &dyn Store) -> Clock {
    Clock::new(store.note(LAST_UP).and_then(|bytes| LastUp::decode(&bytes).at))
}

/// Whether the link was down when the process last ran.
pub fn was_dark(store: &dyn Store) -> bool {
    store.note(DARK).is_some_and(|bytes| !bytes.is_empty())
}

impl Service {
    /// Sets the service up, with what the store remembers of earlier lives.
    pub fn new(options: ServiceOptions, upstream: Arc<Upstream>, store: Arc<dyn Store>, clock: Arc<Clock>) -> Service {
        let ledger = store.note(LEDGER).map_or_else(Ledger::default, |bytes| Ledger::decode(&bytes));
        let earlier = store.note(LAST_UP).map_or_else(LastUp::default, |bytes| LastUp::decode(&bytes));
        let (cluster, dark) = (cluster::kept(&*store), was_dark(&*store));
        let bounded = Arc::new(Bounded::new(store, options.bounds));
        Service {
            options,
            upstream,
            store: Arc::<Bounded>::clone(&bounded),
            bounded,
            counters: Counters::default(),
            live: Arc::new(Live::default()),
            departures: Departures::default(),
            pages: OpenPages::default(),
            holes: Holes::default(),
            cluster,
            reports: Reports::new(dark),
            ledger: Mutex::new(ledger),
            ledger_changed: AtomicBool::new(false),
            clock,
            kept: Mutex::new(earlier),
            earlier,
            begun: Instant::now(),
            dark: AtomicBool::new(dark),
            housekept: Mutex::new(Instant::now()),
            said: Mutex::new(HashSet::new()),
        }
    }

    /// The time by which client certificates are judged (design.md, "Verification time"): while the link is down, when it
    /// was last up.
    pub fn verification_time(&self) -> SystemTime {
        let down = matches!(self.upstream.link().state(), LinkState::Down { .. });
        self.last_up().at.filter(|_| down).unwrap_or_else(|| self.clock.now())
    }

    /// Whether clients can be served: always, once the daemon is up; the text says how the link is.
    pub fn readiness(&self) -> Result<String, String> {
        let outage = self.outage();
        Ok(if outage.since.is_some() { format!("ok; {}\n", outage.phrase()) } else { "ok\n".to_owned() })
    }

    /// How the link is, for whoever watches the process: the same words until it changes.
    pub fn status(&self) -> String {
        self.outage().since.map_or_else(
            || "the link to the cluster is up".to_owned(),
            |since| format!("the link to the cluster is down since {}", rfc3339(since)),
        )
    }

    /// Logs a warning the first time that `what` gives cause for it.
    pub(super) fn warn_once(&self, what: &str, message: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() >= MOST_SAID || said.insert(what.to_owned()) {
            log::warn!("{message} (said once)");
        }
    }

    /// Whether an object is held already by a live collection of the same representation, so that a document would only
    /// be a second copy.
    pub(super) fn is_live_elsewhere(&self, asked: &Asked, key: &ViewKey) -> bool {
        let Some(resource) = asked.request.target.resource() else { return false };
        let Some(object) = resource.object_key() else { return false };
        key.query.is_empty()
            && resource.covering_paths().iter().flat_map(|path| self.store.views(&key.scope, path)).any(|view| {
                view.kind == Kind::Collection
                    && view.key.representation == key.representation
                    && self.live.is_live(&view.key)
                    && self.store.collection(&view.key).ok().flatten().is_some_and(|c| c.find(&object).is_some())
            })
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stage: who asks.
    pub(super) fn identify(exchange: &Exchange<'_>, known: &Known) -> Caller {
        let has_pair = |cn: &str| known.has_pair(cn);
        Caller::new(exchange.peer.certificate.as_deref(), has_pair, &exchange.head.headers)
    }

    /// Stage: what is asked. Reads the body where the view depends on it.
    pub(super) fn understand(&self, exchange: &mut Exchange<'_>, caller: Caller) -> Result<Asked, Told> {
        let bad = |message: String| Told { code: 400, reason: "BadRequest", message, cause: None };
        let head = exchange.head;
        let header = |name: &str| fields::joined(&head.headers, name);
        let request = ApiRequest::new(&head.method, &head.target, &header).map_err(|e| bad(e.0))?;
        let body = if matches!(request.class, Class::TokenRequest | Class::Review) && head.body != BodyLength::None {
            let mut body = Vec::new();
            exchange
                .body()
                .take(LONGEST_QUESTION + 1)
                .read_to_end(&mut body)
                .map_err(|e| bad(format!("the request's body could not be read: {e}")))?;
            if body.len() as u64 > LONGEST_QUESTION {
                let message = format!("the request's body is longer than {LONGEST_QUESTION} bytes");
                return Err(Told { code: 413, reason: "RequestEntityTooLarge", message, cause: None });
            }
            Some(body)
        } else {
            None
        };
        let scope = caller.scope(&self.ledger());
        let reply_query = body.as_deref().map(|b| reply_query(&request, b));
        let held = self.held(&request, scope.as_deref());
        let headers = if request.class == Class::Watch { head.headers.clone() } else { Vec::new() };
        Ok(Asked { request, caller, scope, body, reply_query, held, headers })
    }

    /// What collections of a list's or a watch's view there are, by representation, and at which versions.
    pub(super) fn held(&self, request: &ApiRequest, scope: Option<&str>) -> Vec<(String, Option<u64>)> {
        let (Some(scope), Class::List | Class::Watch) = (scope, request.class) else { return Vec::new() };
        let query = request.query.selecting();
        let views = self.store.views(scope, &request.target.view_path()).into_iter();
        let own = views.filter(|v| v.kind == Kind::Collection && v.key.query == query);
        own.map(|v| (v.key.representation, v.version)).collect()
    }

    /// The version of a collection, and whether it is complete; `None`: it is not recorded.
    pub(super) fn standing(&self, key: &ViewKey) -> Option<(Option<u64>, bool)> {
        let views = self.store.views(&key.scope, &key.path);
        let own = views.into_iter().find(|v| v.kind == Kind::Collection && v.key == *key)?;
        Some((own.version, own.complete))
    }

    /// Takes in a watch that has told all up to `since`, which is after what is recorded of its view. `None`: too many
    /// wait already.
    pub(super) fn wait_for_list(&self, key: &ViewKey, since: u64, asked: &Asked) -> Option<Arc<Waiting>> {
        self.counters.gaps.fetch_add(1, Ordering::Relaxed);
        let relist = || {
            let query = asked.request.query.selecting();
            let target = if query.is_empty() { key.path.clone() } else { format!("{}?{query}", key.path) };
            Relist { caller: asked.caller.clone(), target, headers: asked.headers.clone() }
        };
        let waiting = self.holes.wait(key, since, relist);
        match waiting {
            // A list may have been committed since the watch was found to be ahead.
            Some(_) => self.fill_holes(key),
            None => self.warn_once("holes", "too many views wait to be listed anew; one is not recorded for now"),
        }
        waiting
    }

    /// Stage: what the record could answer.
    pub(super) fn look(&self, asked: &Asked) -> Finding {
        let recallable = !matches!(asked.request.class, Class::Passing | Class::Upgrade | Class::Write);
        match &asked.scope {
            Some(scope) if recallable && !self.cluster.is_foreign() => {
                let shared = asked.caller.shares_discovery();
                let mut finding = find::find(&*self.store, &asked.request, scope, asked.reply_query.as_deref(), shared);
                if asked.request.class == Class::Review && !self.is_fresh(&finding) {
                    finding = Finding::nothing();
                }
                finding
            }
            _ => Finding::nothing(),
        }
    }

    /// Whether a recorded review is young enough to be replayed.
    fn is_fresh(&self, finding: &Finding) -> bool {
        finding
            .recorded_at
            .is_some_and(|at| self.clock.now().duration_since(at).unwrap_or_default() <= self.options.review_ttl)
    }

    /// Stage: all that is decided by.
    pub(super) fn situation(&self, asked: &Asked, finding: &Finding) -> Situation {
        let link_down = matches!(self.upstream.link().state(), LinkState::Down { .. });
        Situation { link_down, reader: self.reader(asked, link_down), recorded: finding.recorded() }
    }

    /// Whether the caller may be served its record. While the link is down, credentials are judged at the moment when it
    /// was last up (design.md, "Verification time").
    fn reader(&self, asked: &Asked, link_down: bool) -> Reader {
        if asked.scope.is_none() {
            return Reader::Unknown;
        }
        let (now, last_up) = (self.clock.now(), self.last_up());
        let outage = last_up.at.map(|up| now.duration_since(up).unwrap_or_default().max(last_up.spent));
        if link_down && outage.is_some_and(|outage| outage > self.options.offline_grace) {
            return Reader::GraceOver;
        }
        let judged_at = last_up.at.filter(|_| link_down).unwrap_or(now);
        match &asked.caller.identity {
            Identity::Token { hash, .. } if !self.ledger().is_good_at(hash, judged_at) => Reader::Expired,
            _ => Reader::Known,
        }
    }

    /// When the link was last up, in this life or an earlier one.
    fn last_up(&self) -> LastUp {
        match self.upstream.link().describe().silence {
            Some(silence) => LastUp { at: self.clock.vouched().checked_sub(silence), spent: silence },
            None => LastUp { spent: self.earlier.spent + self.begun.elapsed(), ..self.earlier },
        }
    }

    /// What people are told of the outage.
    pub(super) fn outage(&self) -> Outage {
        let link = self.upstream.link().describe();
        // After a start in the dark the link has been down for longer than this process knows.
        let since =
            link.since.map(|s| if link.silence.is_none() { self.earlier.at.map_or(s, |e| e.min(s)) } else { s });
        Outage { since, reason: link.reason, now: SystemTime::now() }
    }

    /// Remembers a token that the upstream has just shown to accept.
    pub(super) fn note_acceptance(&self, asked: &Asked, status: u16) {
        if let Identity::Token { hash, claims } = &asked.caller.identity
            && decide::shows_acceptance(status)
        {
            self.accept(*hash, claims.as_ref());
        }
    }

    /// Remembers a token as accepted. One that is new is on disk within a second: a reboot may follow.
    pub(super) fn accept(&self, hash: TokenHash, claims: Option<&Claims>) {
        if self.ledger().accept(hash, claims, self.clock.now()) {
            self.ledger_changed.store(true, Ordering::Release);
        }
    }

    /// Forgets a token that the upstream refused.
    pub(super) fn forget_token(&self, asked: &Asked) {
        if let Identity::Token { hash, .. } = &asked.caller.identity
            && self.ledger().forget(hash)
        {
            log::info!("the upstream refused a token ({hash:?}); what it opened is closed to it");
            self.ledger_changed.store(true, Ordering::Release);
        }
    }

    /// The scope under which an answer to this request is recorded; `None`: under none, because the caller's token is
    /// not accepted.
    pub(super) fn recording_scope(&self, asked: &Asked) -> Option<String> {
        if asked.request.class == Class::Discovery && asked.caller.shares_discovery() {
            // Accepted by now: this is called once the upstream has answered 200.
            return Some(SHARED_SCOPE.to_owned());
        }
        asked.caller.scope(&self.ledger())
    }

    /// What one cluster accepted, another need not.
    pub(super) fn forget_all_tokens(&self) {
        *self.ledger() = Ledger::default();
        self.ledger_changed.store(true, Ordering::Release);
    }

    /// To be called every few seconds: keeps on disk what has to outlive the process, drops what nobody will ask for.
    pub fn keep_house(&self) {
        self.keep_records();
        self.keep_dark();
    }

    fn keep_records(&self) {
        self.pages.sweep(Instant::now());
        if self.ledger_changed.swap(false, Ordering::AcqRel) {
            let bytes = self.ledger().encode();
            if let Err(e) = self.store.set_note(LEDGER, &bytes) {
                log::debug!("the ledger of accepted tokens could not be kept: {e}");
                self.ledger_changed.store(true, Ordering::Release);
            }
        }
        self.keep_last_up();
        self.keep_cluster();
        self.keep_bounds();
    }

    /// The same for the last time, when the link has been let go and says nothing any more.
    pub fn close_house(&self) {
        self.keep_records();
        self.bounded.close();
    }

    fn keep_dark(&self) {
        let dark = self.upstream.link().describe().since.is_some();
        if dark != self.dark.load(Ordering::Relaxed) {
            match self.store.set_note(DARK, if dark { b"1" } else { b"" }) {
                Ok(()) => self.dark.store(dark, Ordering::Relaxed),
                Err(e) => log::debug!("that the link is down, or up, could not be kept: {e}"),
            }
        }
    }

    fn keep_bounds(&self) {
        let now = Instant::now();
        let last = std::mem::replace(&mut *self.housekept.lock().unwrap_or_else(PoisonError::into_inner), now);
        let link = self.upstream.link().describe();
        // Nobody may have noticed that an idle link is down.
        let is_up = link.since.is_none() && link.silence.is_some_and(|silence| silence < LIFE_SIGN);
        let up = if is_up { now.saturating_duration_since(last) } else { Duration::ZERO };
        // Without its refusal an object would be shown out of a list that holds it.
        let is_kept = |key: &ViewKey| key.representation == find::FORBIDDEN || self.live.is_live(key);
        self.bounded.keep(up, now, &is_kept);
    }

    fn keep_last_up(&self) {
        let now = self.last_up();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(up) = now.at else { return };
        // A minute is precise enough for judging credentials, and kind to flash; once the link is down it is known.
        let down = self.upstream.link().describe().since.is_some();
        let precision = Duration::from_secs(if down { 1 } else { 60 });
        let is_off = |kept: SystemTime| up.duration_since(kept).unwrap_or_else(|e| e.duration()) >= precision;
        let is_longer = down && now.spent.saturating_sub(kept.spent) >= SPENT_PRECISION;
        if (kept.at.is_none_or(is_off) || is_longer)
            && let Some(text) = now.encode()
        {
            match self.store.set_note(LAST_UP, text.as_bytes()) {
                // As it can be read back.
                Ok(()) => *kept = LastUp::decode(text.as_bytes()),
                // The store has said what ails it, once; this is tried each second.
                Err(e) => log::debug!("the time when the link was last up could not be kept: {e}"),
            }
        }
    }

    /// Writes the service's metrics.
    pub fn expose(&self, page: &mut Exposition) {
        self.counters.expose(page);
        let pages = self.pages.len() as u64;
        page.single("lite_apiserver_paged_lists", "gauge", "Lists of which some pages have come.", pages);
        let holes = self.holes.len() as u64;
        page.single("lite_apiserver_gaps", "gauge", "Views that wait to be listed anew.", holes);
        let moved = self.reports.known().map_or(0, |known| known.len() as u64);
        page.single(
            "lite_apiserver_moved_pods",
            "gauge",
            "Pods of whose state kubelets have told while the link is down.",
            moved,
        );
        let down = matches!(self.upstream.link().state(), LinkState::Down { .. });
        page.single(
            "lite_apiserver_link_up",
            "gauge",
            "1 while the upstream can be reached, else 0.",
            u64::from(!down),
        );
        page.family("lite_apiserver_upstream_up", "gauge", "1 while this kube-apiserver can be reached, else 0.");
        for (server, state) in self.upstream.link().servers() {
            page.sample(&[("server", server)], u64::from(state == LinkState::Up));
        }
        let dropped = self.bounded.dropped();
        page.family("lite_apiserver_record_dropped_total", "counter", "Views dropped from the record, by why.");
        page.sample(&[("reason", "size")], dropped.for_size);
        page.sample(&[("reason", "age")], dropped.for_age);
        page.sample(&[("reason", "cluster")], self.cluster.dropped.load(Ordering::Relaxed));
        let stats = self.store.stats();
        for (name, kind, help, value) in [
            ("lite_apiserver_record_views", "gauge", "Views recorded.", stats.views as u64),
            ("lite_apiserver_record_objects", "gauge", "Objects recorded.", stats.objects as u64),
            ("lite_apiserver_record_bytes", "gauge", "Bytes that the record takes.", stats.bytes),
            (
                "lite_apiserver_record_written_bytes_total",
                "counter",
                "Bytes written to the record.",
                stats.bytes_written,
            ),
            ("lite_apiserver_record_syncs_total", "counter", "Times that the record was made durable.", stats.fsyncs),
            ("lite_apiserver_record_errors_total", "counter", "File operations that failed.", stats.errors),
            (
                "lite_apiserver_record_failing",
                "gauge",
                "1 while the record cannot be written, as far as is known, else 0.",
                u64::from(stats.failing),
            ),
            (
                "lite_apiserver_record_damaged_total",
                "counter",
                "Files set aside because they were damaged.",
                stats.damaged,
            ),
            (
                "lite_apiserver_record_oversized_total",
                "counter",
                "Views that were not recorded because each alone is larger than --cache-max-size.",
                dropped.too_large,
            ),
            (
                "lite_apiserver_record_max_bytes",
                "gauge",
                "--cache-max-size; 0: no bound.",
                self.bounded.bounds().max_size,
            ),
        ] {
            page.single(name, kind, help, value);
        }
    }
}

/// What the body of a token request or a review contributes to its view's key.
///
/// A token request is known by its audiences, the seconds asked for and the uid of the object it is bound to, as the
/// kubelet's own cache has it (`pkg/kubelet/token/token_manager.go`, `keyFunc`); where that cannot be read, and for a
/// review, by the whole body.
fn reply_query(request: &ApiRequest, body: &[u8]) -> String {
    let hash = |bytes: &[u8]| {
        digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    let spec = serde_json::from_slice::<serde_json::Value>(body).ok().and_then(|v| v.get("spec").cloned());
    match spec {
        Some(spec) if request.class == Class::TokenRequest => {
            let part = |name: &str| spec.get(name).map(ToString::to_string).unwrap_or_default();
            let bound =
                spec.get("boundObjectRef").and_then(|r| r.get("uid")).map(ToString::to_string).unwrap_or_default();
            hash(format!("{} {} {bound}", part("audiences"), part("expirationSeconds")).as_bytes())
        }
        _ => hash(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_request_is_known_by_what_it_asks_for() {
        let request = |target| ApiRequest::new("POST", target, &|_| None).expect("understood");
        let token = request("/api/v1/namespaces/x/serviceaccounts/s/token");
        let key = |body: &str| reply_query(&token, body.as_bytes());
        let base =
            key(r#"{"spec":{"audiences":["a"],"expirationSeconds":600,"boundObjectRef":{"kind":"Pod","uid":"u"}}}"#);
        assert_eq!(
            base,
            key(
                r#"{"kind":"TokenRequest","spec":{"boundObjectRef":{"uid":"u"},"expirationSeconds":600,"audiences":["a"]}}"#
            )
        );
        for other in [
            r#"{"spec":{"audiences":["b"],"expirationSeconds":600,"boundObjectRef":{"uid":"u"}}}"#,
            r#"{"spec":{"audiences":["a"],"expirationSeconds":601,"boundObjectRef":{"uid":"u"}}}"#,
            r#"{"spec":{"audiences":["a"],"expirationSeconds":600,"boundObjectRef":{"uid":"v"}}}"#,
            "not json",
        ] {
            assert_ne!(base, key(other), "{other}");
        }
        let review = request("/apis/authentication.k8s.io/v1/tokenreviews");
        assert_ne!(reply_query(&review, b"{\"spec\":{}}"), reply_query(&review, b"{ \"spec\":{}}"));
    }
}
