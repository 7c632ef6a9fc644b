//! SIGKILL at any moment, under a load of lists, pages, watches and documents that never rests: what the next start
//! serves in the dark is a state that the upstream was in, whole, and never older than what was seen to last.
//!
//! `KILLS=1000` kills so often (else 60 for the file engine, 20 for another), `KILLS_SEED` repeats the choices of an
//! earlier run, as far as threads let them be repeated.

use crate::PROGRAM;
use crate::support::TempDir;
use crate::support::churn::{Churn, Dice, LARGE, NODE, SMALL, VIEWS, View};
use crate::support::client::{self, Client, Reply};
use crate::support::pki::Pki;
use crate::support::protobuf::{field, fields};
use crate::support::proxy::{self, Proxy};
use crate::support::upstream::Upstream;
use rustls::ClientConfig;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

const FLUSH: Duration = Duration::from_millis(10);
/// Kept calm for so long after all was seen, everything is durable.
const CALM: Duration = Duration::from_secs(1);
const DOCUMENTS: [&str; 3] = [NODE, SMALL, LARGE];

#[test]
fn a_thousand_kills_leave_a_state_that_existed() {
    let folder = TempDir::new();
    let at = folder.path().join("record");
    let written_anew = lives(60, true, &[format!("--file-cache-path={}", at.display())], || newest_number(&at));
    assert!(written_anew > 1, "no file was ever written anew");
}

#[cfg(feature = "redb")]
#[test]
fn a_thousand_kills_with_redb() {
    let folder = TempDir::new();
    let file = format!("--bolt-cache-file={}", folder.path().join("record").display());
    lives(20, false, &["--cache-type=redb".to_owned(), file], || 0);
}

#[cfg(feature = "fjall")]
#[test]
fn a_thousand_kills_with_fjall() {
    let folder = TempDir::new();
    let file = format!("--badger-cache-path={}", folder.path().join("record").display());
    lives(20, true, &["--cache-type=fjall".to_owned(), file], || 0);
}

/// The highest number that a view's file was given: each time that it is written anew it gets the next.
fn newest_number(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let number = |path: &Path| path.extension()?.to_str()?.parse().ok();
    entries.map(|path| if path.is_dir() { newest_number(&path) } else { number(&path).unwrap_or(0) }).max().unwrap_or(0)
}

/// How far something was seen to be recorded, in this life of the proxy: what a client is sent is recorded by the time
/// it is sent the next thing.
#[derive(Default)]
struct Seen {
    last: AtomicU64,
    recorded: AtomicU64,
}

impl Seen {
    fn saw(&self, version: u64, follows: bool) {
        let before = self.last.fetch_max(version, Ordering::SeqCst);
        if follows {
            self.recorded.fetch_max(before, Ordering::SeqCst);
        }
    }
}

/// Starts, is under load, is killed, and is judged by what it serves after that, again and again.
/// `keeps_all`: the engine has handed to the system what it has recorded, so that no kill of a process can lose it.
/// Returns what `count` says at the end.
fn lives(default: u64, keeps_all: bool, flags: &[String], count: impl Fn() -> u64) -> u64 {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let kills = number("KILLS").unwrap_or(default);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let seed = number("KILLS_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    println!("KILLS_SEED={seed}");
    let mut dice = Dice::new(seed);
    let begun = Instant::now();

    let folder = TempDir::new();
    let pki = Pki::new(&folder.path().join("pki"));
    let churn = Churn::new();
    let world = churn.clone();
    let mut upstream = Upstream::start(&pki, move |request, wire| world.answer(request, wire));
    let tls = client::tls(&pki.ca(), Some(&pki.pair(proxy::NODE)));
    let flush = format!("--flush-interval={}ms", FLUSH.as_millis());
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain([flush.as_str()]).collect();
    let mut proxy = Proxy::start_program(&[PROGRAM.to_owned()], pki, upstream.port(), &flags);
    proxy.kill();

    let mut judge = Judge { churn: &churn, floor: BTreeMap::new(), behind: Vec::new(), asked: 0 };
    for life in 0..kills {
        let seen: BTreeMap<String, Seen> = all().map(|target| (target, Seen::default())).collect();
        let calm = life % 20 == 19;
        if dice.below(12) == 0 && !calm {
            // Before it is up.
            proxy.spawn();
            std::thread::sleep(Duration::from_micros(dice.below(20_000)));
            proxy.kill();
        } else {
            proxy.boot();
            let load = Load { port: proxy.port, tls: &tls, churn: &churn, seen: &seen, rests: &AtomicBool::new(false) };
            std::thread::scope(|threads| {
                load.begin(threads, &mut dice);
                std::thread::sleep(Duration::from_micros(dice.below(150_000)));
                if calm {
                    load.rests.store(true, Ordering::SeqCst);
                    let is_seen = |view: &View| seen[&name(*view)].last.load(Ordering::SeqCst) >= churn.changed(*view);
                    let patience = Instant::now() + Duration::from_secs(20);
                    while !VIEWS.iter().all(is_seen) && Instant::now() < patience {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    std::thread::sleep(CALM);
                }
                load.rests.store(true, Ordering::SeqCst);
                proxy.kill();
            });
        }
        upstream.cut();
        for (target, seen) in &seen {
            if keeps_all {
                judge.must_hold(target, seen.recorded.load(Ordering::SeqCst));
            }
        }
        for view in VIEWS.iter().filter(|_| calm) {
            let last = seen[&name(*view)].last.load(Ordering::SeqCst);
            assert!(last >= churn.changed(*view), "{}: its clients never saw the end\n{}", name(*view), proxy.log());
            judge.must_hold(&name(*view), churn.changed(*view));
        }
        proxy.boot();
        judge.look(&proxy, &tls, &mut dice, &format!("life {life}"));
        proxy.kill();
        upstream.heal();
    }
    let took = begun.elapsed();
    judge.behind.sort_unstable();
    println!(
        "{kills} kills in {:.1} s ({} ms each), {} answers judged, {} resourceVersions; what was served lay behind the upstream by {} versions in the median, {} at most",
        took.as_secs_f32(),
        took.as_millis() / u128::from(kills),
        judge.asked,
        churn.version(),
        judge.behind[judge.behind.len() / 2],
        judge.behind.last().expect("some"),
    );
    assert!(!proxy.log().contains("panicked"), "{}", proxy.log());
    count()
}

/// A view's name, here.
fn name(view: View) -> String {
    format!("{} {}", view.target(""), view.accept())
}

fn all() -> impl Iterator<Item = String> {
    VIEWS.into_iter().map(name).chain(DOCUMENTS.map(str::to_owned))
}

/// The clients of one life.
#[derive(Clone, Copy)]
struct Load<'a> {
    port: u16,
    tls: &'a Arc<ClientConfig>,
    churn: &'a Churn,
    seen: &'a BTreeMap<String, Seen>,
    /// Nothing changes any more.
    rests: &'a AtomicBool,
}

impl<'a> Load<'a> {
    /// Two clients for the first view, which may overlap; one for each other and for the documents. Each goes on until its
    /// connection breaks.
    fn begin<'scope>(self, threads: &'scope std::thread::Scope<'scope, '_>, dice: &mut Dice)
    where
        'a: 'scope,
    {
        for (view, alone) in VIEWS.into_iter().map(|view| (view, view != VIEWS[0])).chain([(VIEWS[0], false)]) {
            let mut dice = Dice::new(dice.below(u64::MAX));
            threads.spawn(move || {
                // Whatever the upstream says, it comes again, until nobody is there.
                while let Ok(client) = Client::try_connect(self.port, self.tls) {
                    let _ = self.follow(client, view, alone, &mut dice);
                }
            });
        }
        threads.spawn(move || self.read());
        let mut dice = Dice::new(dice.below(u64::MAX));
        threads.spawn(move || {
            while !self.rests.load(Ordering::SeqCst) {
                let some = 1 + dice.below(6);
                self.churn.change(&mut dice, some);
                std::thread::sleep(Duration::from_micros(dice.below(2000)));
            }
        });
    }

    /// Lists and watches for as long as it is answered.
    fn follow(self, mut client: Client, view: View, alone: bool, dice: &mut Dice) -> io::Result<()> {
        let seen = &self.seen[&name(view)];
        let mut version = None;
        loop {
            // Where it was, mostly; else it lists again, in one of three ways.
            let from = version.take().filter(|_| dice.below(4) > 0);
            let from = match from {
                Some(from) => Some(from),
                None if dice.below(3) == 0 => None,
                None => {
                    let limit = if dice.below(2) == 0 { "limit=5" } else { "" };
                    let mut reply = ask(&mut client, view, limit)?;
                    while let Some(next) = continued(view, &reply) {
                        reply = ask(&mut client, view, &format!("{limit}&continue={next}"))?;
                    }
                    let listed = version_of(view, &reply.body).expect("a list");
                    seen.saw(listed, alone);
                    Some(listed)
                }
            };
            let how = match from {
                Some(from) => format!("resourceVersion={from}"),
                None => "sendInitialEvents=true&resourceVersionMatch=NotOlderThan".to_owned(),
            };
            version = watch(&mut client, view, &how, from, &|version| seen.saw(version, alone))?;
        }
    }

    /// Reads documents until the proxy is no more.
    fn read(self) -> io::Result<()> {
        let mut client = Client::try_connect(self.port, self.tls)?;
        for path in DOCUMENTS.into_iter().cycle() {
            let reply = client.try_get(path)?;
            self.seen[path].saw(document_version(path, &reply.body).expect("a document"), true);
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// The version up to which the watch told all, or where it began.
fn watch(client: &mut Client, view: View, how: &str, from: Option<u64>, saw: &dyn Fn(u64)) -> io::Result<Option<u64>> {
    let target = view.target(&format!("watch=true&allowWatchBookmarks=true&{how}"));
    client.try_send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n{}\r\n\r\n", view.accept()))?;
    let head = client.head()?;
    if head.status != 200 {
        client.body(&head)?;
        return Ok(None);
    }
    let mut told = from;
    let mut buffer = Vec::new();
    loop {
        let chunk = client.chunk()?;
        if chunk.is_empty() {
            return Ok(told);
        }
        buffer.extend(chunk);
        while let Some(event) = next_event(view, &mut buffer) {
            let Event { version, is_end_of_state } = event?;
            // The events of the state of things are in no order.
            if told.is_some() || is_end_of_state {
                told = Some(version);
                saw(version);
            }
        }
    }
}

fn ask(client: &mut Client, view: View, more: &str) -> io::Result<Reply> {
    client.try_send(format!("GET {} HTTP/1.1\r\nHost: h\r\n{}\r\n\r\n", view.target(more), view.accept()))?;
    let reply = client.reply()?;
    if reply.status() == 200 { Ok(reply) } else { Err(io::Error::other(reply.text())) }
}

/// The `metadata` of a protobuf body's list.
fn list_meta(body: &[u8]) -> Option<&[u8]> {
    field(field(body.strip_prefix(b"k8s\0")?, 2)?, 1)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

fn continued(view: View, reply: &Reply) -> Option<String> {
    let token = if view.protobuf {
        text(field(list_meta(&reply.body)?, 3).unwrap_or_default()).to_owned()
    } else {
        reply.json()["metadata"]["continue"].as_str().unwrap_or_default().to_owned()
    };
    Some(token).filter(|token| !token.is_empty())
}

fn version_of(view: View, body: &[u8]) -> Option<u64> {
    if view.protobuf {
        return text(field(list_meta(body)?, 2)?).parse().ok();
    }
    serde_json::from_slice::<Value>(body).ok()?["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

fn document_version(path: &str, body: &[u8]) -> Option<u64> {
    let value: Value = serde_json::from_slice(body).ok()?;
    if path == NODE { value["metadata"]["resourceVersion"].as_str()?.parse().ok() } else { value["version"].as_u64() }
}

struct Event {
    version: u64,
    is_end_of_state: bool,
}

/// Takes the next event; an error where it is one.
fn next_event(view: View, buffer: &mut Vec<u8>) -> Option<io::Result<Event>> {
    let length = if view.protobuf {
        4 + u32::from_be_bytes(*buffer.first_chunk::<4>()?) as usize
    } else {
        buffer.iter().position(|byte| *byte == b'\n')? + 1
    };
    if buffer.len() < length {
        return None;
    }
    let bytes: Vec<u8> = buffer.drain(..length).collect();
    let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    let is_end_of_state = has(b"k8s.io/initial-events-end");
    let version = if view.protobuf {
        let body = || field(field(&bytes[4..], 2)?, 1)?.strip_prefix(b"k8s\0");
        let meta = || field(field(body()?, 2)?, 1);
        meta().and_then(|meta| text(field(meta, 6)?).parse().ok())
    } else {
        let value: Value = serde_json::from_slice(&bytes).ok()?;
        value["object"]["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok())
    };
    Some(version.map(|version| Event { version, is_end_of_state }).ok_or_else(|| io::Error::other("ERROR")))
}

/// Who knows what must be there, and what may.
struct Judge<'a> {
    churn: &'a Churn,
    /// By name: nothing older, and nothing missing.
    floor: BTreeMap<String, u64>,
    /// By how many versions what was served lay behind the upstream.
    behind: Vec<u64>,
    asked: u64,
}

impl Judge<'_> {
    fn must_hold(&mut self, name: &str, version: u64) {
        let floor = self.floor.entry(name.to_owned()).or_default();
        *floor = version.max(*floor);
    }

    /// Looks at all that is served in the dark.
    fn look(&mut self, proxy: &Proxy, tls: &Arc<ClientConfig>, dice: &mut Dice, when: &str) {
        let mut client = Client::try_connect(proxy.port, tls).expect("connected");
        let mut held = Vec::new();
        for view in VIEWS {
            let name = name(view);
            let reply = client.get_with(&view.target(""), &[view.accept()]);
            let Some(version) = self.judge(when, &name, &reply, version_of(view, &reply.body)) else { continue };
            let was = self.churn.list(view, version).unwrap_or_else(|| panic!("{when}: {name} never was at {version}"));
            let (is, was) = (items(view, &reply.body), items(view, &was));
            assert!(is == was, "{when}: {name} at {version} was another: {}", reply.text());
            held.push((view, version));
            self.behind.push(self.churn.version() - version);
        }
        for (view, version) in &held {
            // Of two collections that could hold an object, the newer one tells.
            let versions = held.iter().filter(|(other, _)| other.is_same_kind(*view)).map(|(_, version)| *version);
            let name = self.churn.some_name(*view, *version, dice);
            if let Some(name) = name
                && let Some(target) = view.object(&name)
            {
                let reply = client.get_with(&target, &[view.accept()]);
                let mut was = versions.map(|version| self.churn.object(*view, version, &name));
                let is = if view.protobuf { &reply.body } else { reply.body.trim_ascii_end() };
                let is = (reply.status() != 404).then_some(is);
                assert!(was.any(|was| was.as_deref() == is), "{when}: {target}: {} {}", reply.status(), reply.text());
                self.asked += 1;
            }
        }
        for path in DOCUMENTS {
            let reply = client.get(path);
            let Some(version) = self.judge(when, path, &reply, document_version(path, &reply.body)) else { continue };
            let was =
                self.churn.document(path, version).unwrap_or_else(|| panic!("{when}: {path} never was {version}"));
            assert!(reply.body == was, "{when}: {path} is a mix: {}", reply.text());
        }
        for metric in ["lite_apiserver_record_damaged_total", "lite_apiserver_record_errors_total"] {
            assert_eq!(proxy.metric(metric), 0, "{when}: {metric}\n{}", proxy.log());
        }
        for view in VIEWS {
            // Two views of one kind have one history.
            let same = VIEWS.iter().filter(|other| other.is_same_kind(view));
            let oldest = same.map(|view| self.floor.get(&name(*view)).copied().unwrap_or(0)).min().unwrap_or(0);
            self.churn.forget(view, oldest);
        }
    }

    /// The version that was served, which is not older than it must be; `None`: nothing was, and nothing need be.
    fn judge(&mut self, when: &str, name: &str, reply: &Reply, version: Option<u64>) -> Option<u64> {
        self.asked += 1;
        let floor = self.floor.get(name).copied().unwrap_or(0);
        if reply.status() == 503 && floor == 0 {
            return None;
        }
        assert_eq!(reply.status(), 200, "{when}: {name}, which was there at {floor}, is missing: {}", reply.text());
        let version = version.unwrap_or_else(|| panic!("{when}: {name} makes no sense: {}", reply.text()));
        assert!(version >= floor, "{when}: {name} is at {version} again, and was at {floor}");
        // What has been read from a disk is on it.
        self.must_hold(name, version);
        Some(version)
    }
}

/// A list's items: in protobuf as they are, in JSON as values without their types, which may be left out or not.
fn items(view: View, body: &[u8]) -> Vec<Vec<u8>> {
    if view.protobuf {
        let list = body.strip_prefix(b"k8s\0").and_then(|unknown| field(unknown, 2)).expect("a list");
        return fields(list, 2).expect("items").into_iter().map(<[u8]>::to_vec).collect();
    }
    let list: Value = serde_json::from_slice(body).expect("a list");
    let item = |item: &Value| {
        let mut item = item.clone();
        for member in ["kind", "apiVersion"] {
            item.as_object_mut().map(|item| item.remove(member));
        }
        item.to_string().into_bytes()
    };
    list["items"].as_array().expect("items").iter().map(item).collect()
}
