//! Thousands of random histories through the real record code: lists whole and in pages, torn and late, watches of
//! every beginning, cuts, re-lists and restarts; against a model of the upstream that knows each state it ever had.
//!
//! After each step, whatever the record would answer is, to the byte, what the upstream would have answered at that
//! version. When all is told, whatever is watched is recorded as it is now, and nothing waits. A failure is told as the
//! shortest story that still fails. `MODEL_HISTORIES=100000` plays more of them, `MODEL_SEED=7` that one.

use super::super::find::{self, Found};
use super::super::keep::Recorder;
use super::super::recall::Part;
use super::super::{Asked, Service, ServiceOptions, clock};
use super::upstream_model::{FIRST, Upstream, VIEWS};
use crate::config::{Certificates, UpstreamConfig, VerificationClock};
use crate::decide::{HeldAt, Keep};
use crate::identity::{Caller, Identity};
use crate::record::Envelope;
use crate::request::ApiRequest;
use crate::store::{FileOptions, FileStore, MemoryStore, Store, ViewKey};
use crate::upstream::Answer;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

/// What may happen. Numbers are taken modulo what there is, so that a story stays one when steps are left out.
#[derive(Debug, Clone, Copy)]
enum Step {
    Put {
        key: u8,
        app: u8,
    },
    Delete {
        key: u8,
    },
    /// A client lists; `lag`: content with a state that is so much older than the newest, as a cache may have it.
    List {
        view: u8,
        limit: u8,
        lag: Option<u8>,
    },
    /// Half of what is left of a list arrives, or all of it.
    Arrive {
        list: u8,
        all: bool,
    },
    Tear {
        list: u8,
    },
    /// The next page is asked for; and is of another, newer list where its token has expired.
    NextPage {
        expired: Expired,
    },
    /// A client learns of the newest version, and nothing of it passes here.
    Elsewhere {
        view: u8,
    },
    Watch {
        view: u8,
        begins: Begins,
        bookmarks: bool,
    },
    /// Events are told, but for the last `held_back` bytes of them.
    Tell {
        watch: u8,
        events: u8,
        held_back: u8,
        pieces: u8,
    },
    Bookmark {
        watch: u8,
    },
    /// Something that is no event.
    Garble {
        watch: u8,
    },
    Cut {
        watch: u8,
    },
    /// A re-list that is due is asked for.
    Heal,
    Flush,
    Restart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expired {
    No,
    /// And the client was given another.
    Told,
    /// And nobody said so.
    Untold,
}

#[derive(Debug, Clone, Copy)]
enum Begins {
    /// From where its client is.
    Here,
    /// From so many versions ago.
    Ago(u8),
    Initial,
    Zero,
    Unset,
}

/// A small generator of numbers (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides) as u8
    }

    fn is(&mut self, one_in: u64) -> bool {
        self.roll(one_in) == 0
    }
}

fn story(seed: u64) -> Vec<Step> {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let length = 10 + usize::from(dice.roll(60));
    let mut steps = Vec::new();
    while steps.len() < length {
        steps.push(match dice.roll(30) {
            0..=5 => Step::Put { key: dice.roll(6), app: dice.roll(2) },
            6..=7 => Step::Delete { key: dice.roll(6) },
            8..=9 => {
                let lag = if dice.is(2) { Some(dice.roll(4)) } else { None };
                Step::List { view: dice.roll(4), limit: if dice.is(2) { 1 + dice.roll(2) } else { 0 }, lag }
            }
            10..=13 => Step::Arrive { list: dice.roll(4), all: !dice.is(3) },
            14 if dice.is(3) => Step::Tear { list: dice.roll(4) },
            15 => {
                let expired = [Expired::Told, Expired::Untold, Expired::No][usize::from(dice.roll(6).min(2))];
                Step::NextPage { expired }
            }
            16 if dice.is(2) => Step::Elsewhere { view: dice.roll(4) },
            17..=18 => {
                let begins = match dice.roll(8) {
                    0..=3 => Begins::Here,
                    4 => Begins::Ago(dice.roll(6)),
                    5 => Begins::Initial,
                    6 => Begins::Zero,
                    _ => Begins::Unset,
                };
                Step::Watch { view: dice.roll(4), begins, bookmarks: !dice.is(4) }
            }
            19..=24 => {
                let held_back = if dice.is(4) { dice.roll(90) } else { 0 };
                Step::Tell { watch: dice.roll(4), events: 1 + dice.roll(3), held_back, pieces: 1 + dice.roll(200) }
            }
            25 => Step::Bookmark { watch: dice.roll(4) },
            26 if dice.is(4) => Step::Garble { watch: dice.roll(4) },
            27 if dice.is(2) => Step::Cut { watch: dice.roll(4) },
            28 => Step::Heal,
            29 if dice.is(4) => Step::Restart,
            29 => Step::Flush,
            _ => continue,
        });
    }
    steps
}

/// Which engine keeps the record.
enum Engine {
    Memory(Arc<MemoryStore>),
    File(PathBuf),
}

impl Engine {
    fn open(&self) -> Arc<dyn Store> {
        match self {
            Engine::Memory(store) => Arc::<MemoryStore>::clone(store),
            Engine::File(root) => {
                let options = FileOptions { root: root.clone(), flush_interval: Duration::from_secs(3600) };
                Arc::new(FileStore::open(options).expect("opened"))
            }
        }
    }
}

/// A list on its way.
struct Transfer<'s> {
    recorder: Recorder<'s>,
    body: Vec<u8>,
    sent: usize,
    view: usize,
    version: u64,
    /// The token of the next page and where that begins.
    next: Option<(String, usize, u8)>,
    heals: Option<ViewKey>,
}

/// A watch that is open.
struct Watch<'s> {
    recorder: Recorder<'s>,
    view: usize,
    at: u64,
    sent: Vec<u8>,
    held_back: Vec<u8>,
    out: Vec<u8>,
    /// It has sent what is no event.
    garbled: bool,
}

/// All that does not survive a restart.
struct Life<'s> {
    service: &'s Service,
    transfers: Vec<Transfer<'s>>,
    pages: Vec<(usize, u64, String, usize, u8)>,
    watches: Vec<Watch<'s>>,
}

/// An upstream that nobody will ever reach.
pub(super) fn cloud() -> Arc<crate::upstream::Upstream> {
    static CLOUD: OnceLock<Arc<crate::upstream::Upstream>> = OnceLock::new();
    let make = || {
        // Nobody listens there.
        let config = UpstreamConfig { insecure: true, ..UpstreamConfig::at("127.0.0.1", 1) };
        let key = rcgen::KeyPair::generate().expect("a key");
        let own = rcgen::CertificateParams::default().self_signed(&key).expect("a certificate");
        let certificates = Certificates::of_pem((&own.pem(), &key.serialize_pem()), None, None, &[]);
        let clock = VerificationClock::new(SystemTime::now);
        Arc::new(crate::upstream::Upstream::new(&config, &certificates, clock).expect("an upstream"))
    };
    Arc::clone(CLOUD.get_or_init(make))
}

fn service(store: Arc<dyn Store>) -> Service {
    let options = ServiceOptions {
        timeout: Duration::from_secs(3),
        slow_timeout: Duration::from_secs(60),
        offline_grace: Duration::from_secs(3600),
        review_ttl: Duration::ZERO,
        max_object_size: 64 * 1024,
        bounds: crate::store::Bounds::NONE,
        kubernetes_service: None,
        heal_endpoints: false,
    };
    let clock = Arc::new(clock(&*store));
    Service::new(options, cloud(), store, clock)
}

fn media_type(protobuf: bool) -> &'static str {
    if protobuf { "application/vnd.kubernetes.protobuf" } else { "application/json" }
}

fn target(view: usize, parameters: &str) -> String {
    let (path, app) = VIEWS[view];
    let selector = if app.is_empty() { String::new() } else { format!("&labelSelector=app%3D{app}") };
    format!("{path}?{parameters}{selector}")
}

fn get(target: &str, protobuf: bool) -> ApiRequest {
    let header = |name: &str| (name == "accept").then(|| media_type(protobuf).to_owned());
    ApiRequest::new("GET", target, &header).expect("understood")
}

/// The list of a view; made once, because it is asked for after each step.
fn whole(view: usize, protobuf: bool) -> &'static ApiRequest {
    static MADE: OnceLock<Vec<ApiRequest>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let each = (0..VIEWS.len()).flat_map(|view| [false, true].map(|protobuf| get(&target(view, ""), protobuf)));
        each.collect()
    });
    &made[view * 2 + usize::from(protobuf)]
}

/// A request; leaked, which spares the test a self-reference and costs it some megabytes.
fn asked(service: &Service, target: &str, protobuf: bool) -> &'static Asked {
    let request = get(target, protobuf);
    let caller = Caller { identity: Identity::Certificate { common_name: "n".into() }, impersonated: String::new() };
    Box::leak(Box::new(service.asked_by_proxy(request, caller)))
}

fn answered(protobuf: bool) -> Answer<'static> {
    let headers = vec![("content-type".to_owned(), media_type(protobuf).into())];
    Answer { status: 200, headers, body: Box::new(io::empty()) }
}

impl Life<'_> {
    fn list(&mut self, upstream: &Upstream, view: usize, limit: u8, lag: Option<u8>) {
        let version = lag.map_or(upstream.newest(), |lag| (upstream.newest() - u64::from(lag)).max(FIRST));
        let mut parameters = format!("limit={limit}");
        if lag.is_some() {
            parameters.push_str("&resourceVersion=0");
        }
        self.page(upstream, &target(view, &parameters), (view, version, 0, limit), None);
    }

    fn page(
        &mut self,
        upstream: &Upstream,
        target: &str,
        (view, version, from, limit): (usize, u64, usize, u8),
        heals: Option<ViewKey>,
    ) {
        let all = upstream.view(view, version);
        let end = if limit == 0 { all.len() } else { all.len().min(from + usize::from(limit)) };
        let next = (end < all.len()).then(|| (format!("{version}-{end}"), end, limit));
        let body = upstream.list(version, &all[from.min(end)..end], next.as_ref().map(|n| n.0.as_str()));
        let asked = asked(self.service, target, upstream.protobuf);
        let recorder = Recorder::new(self.service, asked, &answered(upstream.protobuf), Keep::Collection);
        self.transfers.push(Transfer { recorder, body, sent: 0, view, version, next, heals });
    }

    fn arrive(&mut self, list: usize, all: bool, positions: &mut [u64; 4]) {
        let transfer = &mut self.transfers[list];
        let left = transfer.body.len() - transfer.sent;
        let n = if all { left } else { left / 2 };
        transfer.recorder.take(&transfer.body[transfer.sent..transfer.sent + n]);
        transfer.sent += n;
        if !all {
            return;
        }
        let Transfer { recorder, view, version, next, heals, .. } = self.transfers.remove(list);
        let worked = recorder.finish();
        if let Some(key) = heals {
            self.service.holes.listed(
                &key,
                if worked { Ok(()) } else { Err(std::time::Duration::ZERO) },
                self.service.live.is_live(&key),
            );
        } else if let Some((token, from, limit)) = next {
            self.pages.push((view, version, token, from, limit));
        } else {
            positions[view] = positions[view].max(version);
        }
    }

    fn next_page(&mut self, upstream: &Upstream, expired: Expired) {
        if self.pages.is_empty() {
            return;
        }
        let (view, mut version, mut token, from, limit) = self.pages.remove(0);
        if expired != Expired::No {
            version = upstream.newest();
        }
        if expired == Expired::Told {
            token = format!("inconsistent-{token}");
        }
        let target = target(view, &format!("limit={limit}&continue={token}"));
        self.page(upstream, &target, (view, version, from, limit), None);
    }

    fn watch(&mut self, upstream: &Upstream, view: usize, begins: Begins, bookmarks: bool, here: u64) {
        let newest = upstream.newest();
        let (from, parameters) = match begins {
            Begins::Here => (here, format!("resourceVersion={here}")),
            Begins::Ago(n) => {
                let from = (newest - u64::from(n).min(newest - FIRST)).max(FIRST);
                (from, format!("resourceVersion={from}"))
            }
            Begins::Initial => {
                (0, "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=".to_owned())
            }
            // What a cache has may be old.
            Begins::Zero => (0, "resourceVersion=0".to_owned()),
            Begins::Unset => (0, String::new()),
        };
        let target = target(view, &format!("watch=1&allowWatchBookmarks={bookmarks}&{parameters}"));
        let asked = asked(self.service, &target, upstream.protobuf);
        let recorder = Recorder::new(self.service, asked, &answered(upstream.protobuf), Keep::Events);
        let (sent, held_back, out) = (Vec::new(), Vec::new(), Vec::new());
        let mut watch = Watch { recorder, view, at: from, sent, held_back, out, garbled: false };
        if from == 0 {
            let lag = if matches!(begins, Begins::Zero) { 2 } else { 0 };
            watch.at = (newest - lag.min(newest - FIRST)).max(FIRST);
            let mut bytes = Vec::new();
            for (key, object) in upstream.view(view, watch.at) {
                bytes.extend(upstream.frame("ADDED", key, object));
            }
            if bookmarks {
                bytes.extend(upstream.bookmark(watch.at, true));
            }
            watch.tell(&bytes, 40, usize::from(here as u8 % 50));
        }
        self.watches.push(watch);
    }

    fn heal(&mut self, upstream: &Upstream) -> bool {
        let Some((key, relist)) = self.service.holes.due(Instant::now() + Duration::from_secs(1 << 20)) else {
            return false;
        };
        let is_view = |&(path, app): &(&str, &str)| key.path == path && key.query.is_empty() == app.is_empty();
        let view = VIEWS.iter().position(is_view).expect("a view");
        self.page(upstream, &relist.target, (view, upstream.newest(), 0, 0), Some(key));
        true
    }
}

impl Watch<'_> {
    /// Sends what was held back and this, in pieces, but for the last `held_back` bytes.
    fn tell(&mut self, bytes: &[u8], pieces: usize, held_back: usize) {
        let mut all = std::mem::take(&mut self.held_back);
        all.extend_from_slice(bytes);
        self.held_back = all.split_off(all.len() - held_back.min(all.len()));
        for piece in all.chunks(pieces) {
            self.recorder.take_events(piece, &mut self.out).expect("memory takes it");
        }
        self.sent.extend(all);
    }

    fn tell_events(&mut self, upstream: &Upstream, events: u64, pieces: usize, held_back: usize) {
        let end = upstream.newest().min(self.at + events);
        let bytes: Vec<u8> = (self.at + 1..=end).filter_map(|v| upstream.event(self.view, v)).flatten().collect();
        self.at = end;
        self.tell(&bytes, pieces, held_back);
    }

    /// The client has been sent what came, at most the beginning of an event is still to come.
    fn check(&self) -> Result<(), String> {
        if !self.sent.starts_with(&self.out) || self.sent.len() > self.out.len() + 2000 {
            return Err("a client was not sent what the upstream said".into());
        }
        Ok(())
    }
}

const KEYS: [&str; 6] = ["x/a", "x/b", "x/c", "y/a", "y/b", "x-y/a"];

/// Plays a story; the error says what was wrong and after which step.
fn play(steps: &[Step], protobuf: bool, engine: &Engine) -> Result<(), String> {
    let mut upstream = Upstream::new(protobuf);
    let mut positions = [FIRST; 4];
    let mut rest = steps;
    loop {
        let store = engine.open();
        let service = service(store);
        let mut life = Life { service: &service, transfers: Vec::new(), pages: Vec::new(), watches: Vec::new() };
        let until = rest.iter().position(|s| matches!(s, Step::Restart)).unwrap_or(rest.len());
        for (i, step) in rest[..until].iter().enumerate() {
            take(&mut life, &mut upstream, &mut positions, *step);
            let number = steps.len() - rest.len() + i;
            check(&life, &upstream).map_err(|e| format!("after step {number}, {step:?}: {e}"))?;
        }
        if until == rest.len() {
            return quiet(&mut life, &upstream, &mut positions);
        }
        rest = &rest[until + 1..];
    }
}

fn take(life: &mut Life<'_>, upstream: &mut Upstream, positions: &mut [u64; 4], step: Step) {
    let pick = |n: u8, of: usize| if of == 0 { None } else { Some(usize::from(n) % of) };
    let (lists, watches) = (life.transfers.len(), life.watches.len());
    match step {
        Step::Put { key, app } => upstream.put(KEYS[usize::from(key)], ["a", "b"][usize::from(app)]),
        Step::Delete { key } => upstream.delete(KEYS[usize::from(key)]),
        Step::List { view, limit, lag } => life.list(upstream, usize::from(view), limit, lag),
        Step::Arrive { list, all } => {
            if let Some(list) = pick(list, lists) {
                life.arrive(list, all, positions);
            }
        }
        Step::Tear { list } => {
            if let Some(torn) = pick(list, lists).map(|list| life.transfers.remove(list))
                && let Some(key) = torn.heals
            {
                life.service.holes.listed(&key, Err(std::time::Duration::ZERO), life.service.live.is_live(&key));
            }
        }
        Step::NextPage { expired } => life.next_page(upstream, expired),
        Step::Elsewhere { view } => positions[usize::from(view)] = upstream.newest(),
        Step::Watch { view, begins, bookmarks } => {
            if watches < 5 {
                life.watch(upstream, usize::from(view), begins, bookmarks, positions[usize::from(view)]);
            }
        }
        Step::Tell { watch, events, held_back, pieces } => {
            if let Some(watch) = pick(watch, watches) {
                let watch = &mut life.watches[watch];
                watch.tell_events(upstream, u64::from(events), usize::from(pieces), usize::from(held_back));
                positions[watch.view] = positions[watch.view].max(watch.at);
            }
        }
        Step::Bookmark { watch } => {
            if let Some(watch) = pick(watch, watches) {
                let watch = &mut life.watches[watch];
                let bookmark = upstream.bookmark(watch.at, false);
                watch.tell(&bookmark, 1000, 0);
            }
        }
        Step::Garble { watch } => {
            if let Some(watch) = pick(watch, watches) {
                let watch = &mut life.watches[watch];
                watch.garbled = true;
                watch.tell(b"\0\0\0\x02garbage", 1000, 0);
            }
        }
        Step::Cut { watch } => drop(pick(watch, watches).map(|watch| life.watches.remove(watch))),
        Step::Heal => drop(life.heal(upstream)),
        Step::Flush => life.service.store.flush().expect("flushed"),
        Step::Restart => {}
    }
}

/// Whatever would be answered is what the upstream would have answered.
fn check(life: &Life<'_>, upstream: &Upstream) -> Result<(), String> {
    for watch in &life.watches {
        watch.check()?;
    }
    for (view, asked) in VIEWS.iter().enumerate() {
        let Some((held, list)) = recalled(life, upstream, view)? else { continue };
        let version = held.version.ok_or("no version")?;
        if held
            .unchanged_since
            .is_some_and(|since| since > version || upstream.versions(view, since) != upstream.versions(view, version))
        {
            return Err(format!("{asked:?} is said to be unchanged: {held:?}"));
        }
        let expected = upstream.list(version, &upstream.view(view, version), None);
        if list != expected {
            let shown = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
            return Err(format!("{asked:?} at {version} is\n{}\nnot\n{}", shown(&list), shown(&expected)));
        }
    }
    Ok(())
}

/// What a list of a view is answered with while the link is down, and at which version.
fn recalled(life: &Life<'_>, upstream: &Upstream, view: usize) -> Result<Option<(HeldAt, Vec<u8>)>, String> {
    let store = &*life.service.store;
    let finding = find::find(store, whole(view, upstream.protobuf), "cert:n", None, true);
    let (key, selection) = match &finding.found {
        Some(Found::Collection { key, selection }) => (key, selection),
        None => return Ok(None),
        other => return Err(format!("{other:?}")),
    };
    let collection = store.collection(key).map_err(|e| e.to_string())?.ok_or("it is found and not there")?;
    let envelope = Envelope::decode(&collection.envelope()).ok_or("no envelope")?;
    let version = collection.version().ok_or("no version")?;
    let part = Part { collection: &*collection, envelope: &envelope, selection, corrected_by: None };
    let mut list = envelope.list(&version.to_string(), part.sizes().map_err(|e| e.to_string())?);
    let mut out = Vec::new();
    list.head(&mut out);
    part.each(&mut |reference, bytes| {
        list.object(bytes, reference.flags, &mut out);
        Ok(())
    })
    .map_err(|e| e.to_string())?;
    list.tail(&mut out);
    if out.len() as u64 == list.length() {
        Ok(Some((find::held_at(&*collection), out)))
    } else {
        Err("its length is another than was told".into())
    }
}

/// All that is under way comes to its end: whatever is watched is recorded as it is now, and nothing waits.
fn quiet(life: &mut Life<'_>, upstream: &Upstream, positions: &mut [u64; 4]) -> Result<(), String> {
    while !life.transfers.is_empty() {
        life.arrive(0, true, positions);
        check(life, upstream).map_err(|e| format!("while lists end: {e}"))?;
    }
    for i in 0..life.watches.len() {
        life.watches[i].tell_events(upstream, u64::MAX / 2, 50, 0);
        let bookmark = upstream.bookmark(upstream.newest(), false);
        life.watches[i].tell(&bookmark, 50, 0);
        check(life, upstream).map_err(|e| format!("while watches are told the rest: {e}"))?;
    }
    for _ in 0..20 {
        if !life.heal(upstream) {
            break;
        }
        life.arrive(0, true, positions);
        check(life, upstream).map_err(|e| format!("after a re-list: {e}"))?;
    }
    // A watch that waited finds out at its next event that it does not any more.
    for watch in &mut life.watches {
        let bookmark = upstream.bookmark(upstream.newest(), false);
        watch.tell(&bookmark, 50, 0);
    }
    check(life, upstream).map_err(|e| format!("at the end: {e}"))?;
    if life.service.holes.len() > 0 {
        return Err("something still waits to be listed anew".into());
    }
    for watch in life.watches.iter().filter(|w| !w.garbled) {
        let (path, app) = VIEWS[watch.view];
        let of_view = |v: &crate::store::ViewInfo| v.key.query.is_empty() == app.is_empty();
        let Some(info) = life.service.store.views("cert:n", path).into_iter().find(of_view) else {
            return Err(format!("{path} {app:?} is watched and not recorded"));
        };
        let is_now =
            info.version.is_some_and(|v| upstream.view(watch.view, v) == upstream.view(watch.view, upstream.newest()));
        if !is_now || !info.complete || !life.service.live.is_live(&info.key) {
            return Err(format!(
                "{path} {app:?} is watched, and recorded at {:?}, complete: {}",
                info.version, info.complete
            ));
        }
        if watch.out != watch.sent {
            return Err("a client was not sent all".into());
        }
    }
    Ok(())
}

/// A folder for one history.
struct TempDir(PathBuf);

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn try_story(steps: &[Step], seed: u64, on_file: bool) -> Result<(), String> {
    let folder = TempDir(std::env::temp_dir().join(format!("lite-apiserver-model-{}-{seed}", std::process::id())));
    let engine = if on_file {
        let _ = std::fs::remove_dir_all(&folder.0);
        std::fs::create_dir_all(&folder.0).map_err(|e| e.to_string())?;
        Engine::File(folder.0.join("store"))
    } else {
        Engine::Memory(Arc::default())
    };
    catch_unwind(AssertUnwindSafe(|| play(steps, seed % 2 == 1, &engine))).unwrap_or_else(|_| Err("a panic".into()))
}

/// Leaves out of a story what it fails without, in ever smaller pieces.
fn shrink(mut steps: Vec<Step>, fails: &dyn Fn(&[Step]) -> bool) -> Vec<Step> {
    let mut size = steps.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < steps.len() {
            let mut shorter = steps.clone();
            shorter.drain(at..(at + size).min(steps.len()));
            if fails(&shorter) { steps = shorter } else { at += size }
        }
        size /= 2;
    }
    steps
}

fn play_seed(seed: u64, on_file: bool) {
    let steps = story(seed);
    if try_story(&steps, seed, on_file).is_err() {
        let short = shrink(steps, &|steps| try_story(steps, seed, on_file).is_err());
        let why = try_story(&short, seed, on_file).err().unwrap_or_default();
        let story: Vec<String> = short.iter().enumerate().map(|(i, step)| format!("  {i} {step:?}")).collect();
        panic!("MODEL_SEED={seed} (file engine: {on_file}): {why}\nthe story:\n{}", story.join("\n"));
    }
}

#[test]
fn whatever_happens_the_record_is_what_the_upstream_held() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    if let Some(seed) = number("MODEL_SEED") {
        play_seed(seed, false);
        play_seed(seed, true);
        return;
    }
    let histories = number("MODEL_HISTORIES").unwrap_or(3000);
    for seed in 1..=histories {
        play_seed(seed, false);
        if seed % 20 < 2 {
            play_seed(seed, true);
        }
    }
}
