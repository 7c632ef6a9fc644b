//! An upstream that never rests, and remembers what was when: some kinds of objects in JSON and protobuf, lists in one
//! piece, in pages and as a watch's initial events, watches with every kind of event, documents large and small.

use super::protobuf;
use super::upstream::{Received, Wire};
use serde_json::json;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Numbers that look like chance, the same for the same seed.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// What there is of each kind; the last one is a single object that nobody lists.
struct Resource {
    list: &'static str,
    query: &'static str,
    kind: &'static str,
    api_version: &'static str,
}

const KINDS: [Resource; 5] = [
    Resource { list: "/api/v1/namespaces/shop/configmaps", query: "", kind: "ConfigMap", api_version: "v1" },
    Resource { list: "/api/v1/pods", query: "fieldSelector=spec.nodeName%3Dedge1", kind: "Pod", api_version: "v1" },
    Resource { list: "/apis/example.com/v1/widgets", query: "", kind: "Widget", api_version: "example.com/v1" },
    Resource { list: "/api/v1/namespaces/shop/secrets", query: "", kind: "Secret", api_version: "v1" },
    Resource { list: "/api/v1/nodes", query: "", kind: "Node", api_version: "v1" },
];
const NODES: usize = 4;
pub const NODE: &str = "/api/v1/nodes/edge1";
/// A document of a few bytes, and one of many; each says which state of the upstream it shows.
pub const SMALL: &str = "/version";
pub const LARGE: &str = "/openapi/v2";

/// A collection as one client sees it: which kind, and how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    kind: usize,
    pub protobuf: bool,
}

pub const VIEWS: [View; 5] = [
    View { kind: 0, protobuf: false },
    View { kind: 0, protobuf: true },
    View { kind: 1, protobuf: true },
    View { kind: 2, protobuf: false },
    View { kind: 3, protobuf: false },
];

impl View {
    /// Where it is listed, with these parameters besides.
    pub fn target(self, more: &str) -> String {
        let Resource { list, query, .. } = KINDS[self.kind];
        let all: Vec<&str> = [query, more].into_iter().filter(|q| !q.is_empty()).collect();
        if all.is_empty() { list.to_owned() } else { format!("{list}?{}", all.join("&")) }
    }

    /// Where one of its objects is; `None` if that is no matter of this collection alone.
    pub fn object(self, name: &str) -> Option<String> {
        let Resource { list, .. } = KINDS[self.kind];
        list.contains("/namespaces/").then(|| format!("{list}/{name}"))
    }

    /// Whether both hold the same objects, if maybe written in another way.
    pub fn is_same_kind(self, other: View) -> bool {
        self.kind == other.kind
    }

    pub fn accept(self) -> &'static str {
        if self.protobuf { "Accept: application/vnd.kubernetes.protobuf" } else { "Accept: application/json" }
    }
}

/// One object at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Object {
    born: u64,
    version: u64,
}

type Objects = BTreeMap<String, Object>;

#[derive(Default)]
struct History {
    /// At `from`.
    base: Objects,
    from: u64,
    log: Vec<(u64, &'static str, String, Object)>,
    now: Objects,
}

impl History {
    fn at(&self, version: u64) -> Option<Objects> {
        let mut objects = self.base.clone();
        let told = self.log.iter().take_while(|(at, ..)| *at <= version);
        told.for_each(|(_, what, name, object)| fold(&mut objects, what, name, *object));
        (version >= self.from).then_some(objects)
    }
}

fn fold(objects: &mut Objects, what: &str, name: &str, object: Object) {
    match what {
        "DELETED" => drop(objects.remove(name)),
        _ => drop(objects.insert(name.to_owned(), object)),
    }
}

struct State {
    version: u64,
    kinds: [History; 5],
}

/// The upstream's state, shared by those who change it, ask it and judge by it.
#[derive(Clone)]
pub struct Churn(Arc<(Mutex<State>, Condvar)>);

impl Churn {
    pub fn new() -> Churn {
        let churn = Churn(Arc::new((Mutex::new(State { version: 100, kinds: Default::default() }), Condvar::new())));
        churn.change(&mut Dice::new(1), 100);
        churn
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().expect("state")
    }

    /// So many changes, of whatever comes.
    pub fn change(&self, dice: &mut Dice, times: u64) {
        let mut state = self.state();
        for _ in 0..times {
            state.version += 1;
            let version = state.version;
            let kind = dice.below(KINDS.len() as u64) as usize;
            let name = if kind == NODES { "edge1".to_owned() } else { format!("map-{}", dice.below(12)) };
            let history = &mut state.kinds[kind];
            let (what, born) = match history.now.get(&name) {
                Some(object) if kind != NODES && dice.below(4) == 0 => ("DELETED", object.born),
                Some(object) => ("MODIFIED", object.born),
                None => ("ADDED", version),
            };
            let object = Object { born, version };
            fold(&mut history.now, what, &name, object);
            history.log.push((version, what, name, object));
        }
        self.0.1.notify_all();
    }

    /// The newest resourceVersion.
    pub fn version(&self) -> u64 {
        self.state().version
    }

    /// When a view last changed.
    pub fn changed(&self, view: View) -> u64 {
        self.state().kinds[view.kind].log.last().map_or(0, |event| event.0)
    }

    /// Forgets what was before this version: nobody will ask for it.
    pub fn forget(&self, view: View, version: u64) {
        let mut state = self.state();
        let history = &mut state.kinds[view.kind];
        if let Some(base) = history.at(version) {
            (history.base, history.from) = (base, version);
            history.log.retain(|event| event.0 > version);
        }
    }

    /// The whole list as it was at a version; `None`: there never was one, or it is forgotten.
    pub fn list(&self, view: View, version: u64) -> Option<Vec<u8>> {
        let state = self.state();
        (version <= state.version).then_some(())?;
        Some(list(view, version, &state.kinds[view.kind].at(version)?, ""))
    }

    /// The name of some object that a view held at a version.
    pub fn some_name(&self, view: View, version: u64, dice: &mut Dice) -> Option<String> {
        let objects = self.state().kinds[view.kind].at(version)?;
        objects.keys().nth(dice.below(objects.len().max(1) as u64) as usize).cloned()
    }

    /// An object on its own as it was at a version; `None`: it was not there.
    pub fn object(&self, view: View, version: u64, name: &str) -> Option<Vec<u8>> {
        let objects = self.state().kinds[view.kind].at(version)?;
        objects.get(name).map(|object| body(view, name, *object))
    }

    /// A document as it was at a version; `None`: it never was.
    pub fn document(&self, path: &str, version: u64) -> Option<Vec<u8>> {
        let state = self.state();
        match path {
            NODE => {
                let event = state.kinds[NODES].log.iter().find(|event| event.0 == version)?;
                Some(body(View { kind: NODES, protobuf: false }, "edge1", event.3))
            }
            _ => (version <= state.version).then(|| stamped(path, version)),
        }
    }

    /// Answers as kube-apiserver would.
    pub fn answer(&self, request: &Received, wire: &mut Wire) -> io::Result<()> {
        let path = request.path();
        if path == NODE {
            let node = self.state().kinds[NODES].now.get("edge1").copied();
            return wire.json(200, body(View { kind: NODES, protobuf: false }, "edge1", node.expect("a node")));
        }
        if path == SMALL || path == LARGE {
            return wire.json(200, stamped(path, self.version()));
        }
        let protobuf = request.header("accept").is_some_and(|accept| accept.contains("protobuf"));
        let Some(kind) = KINDS.iter().position(|kind| kind.list == path) else {
            return wire.json(404, json!({"kind": "Status", "apiVersion": "v1", "code": 404}).to_string());
        };
        let view = View { kind, protobuf };
        if parameter(request, "watch").is_some() {
            self.watch(request, view, wire)
        } else {
            self.page(request, view, wire)
        }
    }

    fn page(&self, request: &Received, view: View, wire: &mut Wire) -> io::Result<()> {
        let limit = parameter(request, "limit").and_then(|l| l.parse().ok()).unwrap_or(usize::MAX);
        let token = parameter(request, "continue").and_then(|c| c.split_once('.'));
        let token = token.and_then(|(v, skip)| Some((v.parse().ok()?, skip.parse().ok()?)));
        let body = {
            let state = self.state();
            let (version, skip): (u64, usize) = token.unwrap_or((state.version, 0));
            let Some(all) = state.kinds[view.kind].at(version) else { return wire.json(410, "{}") };
            let left = all.len() - skip;
            let next = if left > limit { format!("{version}.{}", skip + limit) } else { String::new() };
            list(view, version, &all.into_iter().skip(skip).take(limit).collect(), &next)
        };
        begin(wire, view, "")?;
        for piece in body.chunks(1 + body.len() / 4) {
            wire.chunk(piece)?;
            std::thread::sleep(Duration::from_micros(300));
        }
        wire.end_chunked()
    }

    fn watch(&self, request: &Received, view: View, wire: &mut Wire) -> io::Result<()> {
        let initial = parameter(request, "sendInitialEvents").is_some();
        let from = parameter(request, "resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
        let mut dice = Dice::new(self.version());
        begin(wire, view, if view.protobuf { ";stream=watch" } else { "" })?;
        let mut seen = from;
        if initial {
            let (version, objects) = {
                let state = self.state();
                (state.version, state.kinds[view.kind].now.clone())
            };
            for (name, object) in &objects {
                wire.chunk(event(view, "ADDED", &body(view, name, *object)))?;
            }
            wire.chunk(bookmark(view, version, true))?;
            seen = version;
        }
        for _ in 0..2 + dice.below(20) {
            let events: Vec<u8> = {
                let mut state = self.state();
                if state.kinds[view.kind].log.last().is_none_or(|event| event.0 <= seen) {
                    state = self.0.1.wait_timeout(state, Duration::from_millis(5)).expect("state").0;
                }
                let news = state.kinds[view.kind].log.iter().filter(|event| event.0 > seen);
                let mut events = news
                    .flat_map(|(_, what, name, object)| event(view, what, &body(view, name, *object)))
                    .collect::<Vec<_>>();
                seen = state.version;
                if dice.below(4) == 0 {
                    events.extend(bookmark(view, seen, false));
                }
                events
            };
            if events.is_empty() {
                if wire.peer_hangs_up_within(Duration::from_millis(1)) {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            } else if dice.below(8) == 0 {
                // Chunks end where events do not.
                events.chunks(1 + events.len() / 3).try_for_each(|piece| wire.chunk(piece))?;
            } else {
                wire.chunk(events)?;
            }
        }
        if dice.below(6) == 0 && !view.protobuf {
            wire.chunk("{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\"reason\":\"Expired\",\"code\":410}}\n")?;
        }
        wire.end_chunked()
    }
}

fn parameter<'a>(request: &'a Received, name: &str) -> Option<&'a str> {
    let (_, query) = request.target.split_once('?')?;
    query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('='))
}

fn begin(wire: &mut Wire, view: View, more: &str) -> io::Result<()> {
    let media_type = if view.protobuf { "application/vnd.kubernetes.protobuf" } else { "application/json" };
    wire.send(format!("HTTP/1.1 200 OK\r\nContent-Type: {media_type}{more}\r\nTransfer-Encoding: chunked\r\n\r\n"))
}

/// What stands in an object, a few bytes or some thousands.
fn filling(name: &str, version: u64) -> String {
    let length = 20 + (version.wrapping_mul(0x9e37_79b9) >> 7) % 60 * 40;
    let word = format!("{name} at {version}; ");
    word.chars().cycle().take(length as usize).collect()
}

fn stamped(path: &str, version: u64) -> Vec<u8> {
    let times = if path == LARGE { 4000 } else { 1 };
    let text: Vec<String> = (0..times).map(|n| format!("\"{n}-{version}\"")).collect();
    format!("{{\"version\":{version},\"text\":[{}]}}", text.join(",")).into_bytes()
}

/// An object as it stands in a list: in protobuf its message, in JSON a bare one, unless it is somebody's own.
fn item(view: View, name: &str, object: Object) -> Vec<u8> {
    let Resource { kind, api_version, .. } = KINDS[view.kind];
    let Object { born, version } = object;
    if view.protobuf {
        let (uid, version_text) = (format!("uid-{born}"), version.to_string());
        let meta =
            protobuf::message(&[(1, name.as_bytes()), (3, b"shop"), (5, uid.as_bytes()), (6, version_text.as_bytes())]);
        let data = protobuf::message(&[(1, b"text"), (2, filling(name, version).as_bytes())]);
        return protobuf::message(&[(1, &meta), (2, &data)]);
    }
    let namespace = if view.kind == NODES { "" } else { "\"namespace\":\"shop\"," };
    let meta = format!("{{\"name\":\"{name}\",{namespace}\"uid\":\"uid-{born}\",\"resourceVersion\":\"{version}\"}}");
    let data = json!({"text": filling(name, version)});
    if api_version == "v1" {
        format!("{{\"metadata\":{meta},\"data\":{data}}}").into_bytes()
    } else {
        format!("{{\"apiVersion\":\"{api_version}\",\"data\":{data},\"kind\":\"{kind}\",\"metadata\":{meta}}}")
            .into_bytes()
    }
}

/// An object on its own.
fn body(view: View, name: &str, object: Object) -> Vec<u8> {
    typed(view, &item(view, name, object))
}

fn typed(view: View, item: &[u8]) -> Vec<u8> {
    let Resource { kind, api_version, .. } = KINDS[view.kind];
    match (view.protobuf, api_version) {
        (true, _) => protobuf::unknown(api_version, kind, item),
        (false, "v1") => [format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"v1\",").as_bytes(), &item[1..]].concat(),
        _ => item.to_vec(),
    }
}

fn list(view: View, version: u64, objects: &Objects, next: &str) -> Vec<u8> {
    let Resource { kind, api_version, .. } = KINDS[view.kind];
    let items = objects.iter().map(|(name, object)| item(view, name, *object));
    if view.protobuf {
        let meta = protobuf::message(&[(1, b""), (2, version.to_string().as_bytes()), (3, next.as_bytes())]);
        let mut message = protobuf::message(&[(1, &meta)]);
        items.for_each(|item| protobuf::put(2, &item, &mut message));
        return protobuf::unknown(api_version, &format!("{kind}List"), &message);
    }
    let next = if next.is_empty() { String::new() } else { format!(",\"continue\":\"{next}\"") };
    let meta = format!("{{\"resourceVersion\":\"{version}\"{next}}}");
    let items: Vec<String> = items.map(|item| String::from_utf8(item).expect("text")).collect();
    let items = items.join(",");
    if api_version == "v1" {
        format!("{{\"kind\":\"{kind}List\",\"apiVersion\":\"v1\",\"metadata\":{meta},\"items\":[{items}]}}")
            .into_bytes()
    } else {
        format!("{{\"apiVersion\":\"{api_version}\",\"items\":[{items}],\"kind\":\"{kind}List\",\"metadata\":{meta}}}")
            .into_bytes()
    }
}

fn event(view: View, what: &str, body: &[u8]) -> Vec<u8> {
    if view.protobuf {
        return protobuf::event(what, body);
    }
    [format!("{{\"type\":\"{what}\",\"object\":").as_bytes(), body, b"}\n"].concat()
}

fn bookmark(view: View, version: u64, initial_events_end: bool) -> Vec<u8> {
    let body = if view.protobuf {
        let text = version.to_string();
        let end = protobuf::message(&[(1, b"k8s.io/initial-events-end"), (2, b"true")]);
        let mut meta = protobuf::message(&[(6, text.as_bytes())]);
        if initial_events_end {
            protobuf::put(12, &end, &mut meta);
        }
        typed(view, &protobuf::message(&[(1, &meta)]))
    } else {
        let end = if initial_events_end { ",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}" } else { "" };
        let Resource { kind, api_version, .. } = KINDS[view.kind];
        format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{{\"resourceVersion\":\"{version}\"{end}}}}}").into_bytes()
    };
    event(view, "BOOKMARK", &body)
}
