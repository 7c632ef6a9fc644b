//! What an apiserver holds and says, as plainly as it can be written down: the history of some configmaps, the state at
//! each version, and the bodies of lists, pages, events and bookmarks, in JSON and in protobuf.

use std::collections::BTreeMap;

/// The views that are asked for: path, labelSelector, and what of a key and an `app` label belongs to it.
pub(super) const VIEWS: [(&str, &str); 4] = [
    ("/api/v1/configmaps", ""),
    ("/api/v1/namespaces/x/configmaps", ""),
    ("/api/v1/configmaps", "a"),
    ("/api/v1/namespaces/x/configmaps", "a"),
];

/// The version before anything happened.
pub(super) const FIRST: u64 = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) version: u64,
    pub(super) uid: String,
    pub(super) app: &'static str,
}

type State = BTreeMap<String, Object>;

/// Everything that happened: after `FIRST + i` events, the state was the `i`-th.
pub(super) struct Upstream {
    states: Vec<State>,
    /// The key that each event is about.
    keys: Vec<String>,
    pub(super) protobuf: bool,
}

impl Upstream {
    pub(super) fn new(protobuf: bool) -> Upstream {
        Upstream { states: vec![State::new()], keys: Vec::new(), protobuf }
    }

    pub(super) fn newest(&self) -> u64 {
        FIRST + self.keys.len() as u64
    }

    pub(super) fn put(&mut self, key: &str, app: &'static str) {
        let version = self.newest() + 1;
        let mut state = self.at(self.newest()).clone();
        let uid = state.get(key).map_or_else(|| format!("u{version}"), |o| o.uid.clone());
        state.insert(key.to_owned(), Object { version, uid, app });
        self.push(key, state);
    }

    pub(super) fn delete(&mut self, key: &str) {
        let mut state = self.at(self.newest()).clone();
        if state.remove(key).is_some() {
            self.push(key, state);
        }
    }

    fn push(&mut self, key: &str, state: State) {
        self.states.push(state);
        self.keys.push(key.to_owned());
    }

    fn at(&self, version: u64) -> &State {
        &self.states[(version - FIRST) as usize]
    }

    /// What a view holds at a version, in the order of a list.
    pub(super) fn view(&self, view: usize, version: u64) -> Vec<(&str, &Object)> {
        let covered = self.at(version).iter().filter(|(key, object)| covers(view, key, object));
        covered.map(|(key, object)| (key.as_str(), object)).collect()
    }

    /// The same by key and version.
    pub(super) fn versions(&self, view: usize, version: u64) -> Vec<(&str, u64)> {
        self.view(view, version).into_iter().map(|(key, object)| (key, object.version)).collect()
    }

    /// What a list's body is at a version; of a page, `part` of it and the token for the next.
    pub(super) fn list(&self, version: u64, objects: &[(&str, &Object)], token: Option<&str>) -> Vec<u8> {
        if self.protobuf {
            let token = token.unwrap_or_default();
            let meta = [field(1, b""), field(2, version.to_string().as_bytes()), field(3, token.as_bytes())].concat();
            let items: Vec<u8> = objects.iter().flat_map(|(key, object)| field(2, &message(key, object))).collect();
            return body("ConfigMapList", &[field(1, &meta), items].concat());
        }
        let items: Vec<String> = objects.iter().map(|(key, object)| format!("{{{}", text(key, object))).collect();
        let token = token.map(|t| format!(",\"continue\":\"{t}\",\"remainingItemCount\":7")).unwrap_or_default();
        let meta = format!("{{\"resourceVersion\":\"{version}\"{token}}}");
        let items = items.join(",");
        format!("{{\"kind\":\"ConfigMapList\",\"apiVersion\":\"v1\",\"metadata\":{meta},\"items\":[{items}]}}\n").into()
    }

    /// What a watch of a view is told of the event at `version`; `None`: nothing.
    pub(super) fn event(&self, view: usize, version: u64) -> Option<Vec<u8>> {
        let key = &self.keys[(version - FIRST - 1) as usize];
        let of = |version| self.at(version).get(key).filter(|object| covers(view, key, object));
        let (kind, object) = match (of(version - 1), of(version)) {
            (None, None) => return None,
            (None, Some(new)) => ("ADDED", new.clone()),
            (Some(_), Some(new)) => ("MODIFIED", new.clone()),
            (Some(old), None) => ("DELETED", Object { version, ..old.clone() }),
        };
        Some(self.frame(kind, key, &object))
    }

    pub(super) fn frame(&self, kind: &str, key: &str, object: &Object) -> Vec<u8> {
        if self.protobuf {
            return frame(kind, &message(key, object));
        }
        let object = text(key, object);
        format!("{{\"type\":\"{kind}\",\"object\":{{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",{object}}}\n").into()
    }

    pub(super) fn bookmark(&self, version: u64, initial_events_end: bool) -> Vec<u8> {
        if self.protobuf {
            let entry = [field(1, b"k8s.io/initial-events-end"), field(2, b"true")].concat();
            let annotation = if initial_events_end { field(12, &entry) } else { Vec::new() };
            return frame("BOOKMARK", &field(1, &[field(6, version.to_string().as_bytes()), annotation].concat()));
        }
        let annotation =
            if initial_events_end { ",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}" } else { "" };
        format!("{{\"type\":\"BOOKMARK\",\"object\":{{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"{version}\",\"creationTimestamp\":null{annotation}}}}}}}\n").into()
    }
}

fn covers(view: usize, key: &str, object: &Object) -> bool {
    let (path, app) = VIEWS[view];
    (!path.contains("/namespaces/x/") || key.starts_with("x/")) && (app.is_empty() || object.app == app)
}

/// An object after its opening brace and its type.
fn text(key: &str, object: &Object) -> String {
    let (namespace, name) = key.split_once('/').expect("a namespace");
    let Object { version, uid, app } = object;
    format!(
        "\"metadata\":{{\"name\":\"{name}\",\"namespace\":\"{namespace}\",\"uid\":\"{uid}\",\"resourceVersion\":\"{version}\",\"labels\":{{\"app\":\"{app}\"}}}},\"data\":{{\"v\":\"{version}\"}}}}"
    )
}

/// A protobuf field of bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = content.len();
    while length > 127 {
        out.push((length & 127) as u8 | 128);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(content);
    out
}

fn message(key: &str, object: &Object) -> Vec<u8> {
    let (namespace, name) = key.split_once('/').expect("a namespace");
    let label = [field(1, b"app"), field(2, object.app.as_bytes())].concat();
    let version = object.version.to_string();
    let meta = [
        field(1, name.as_bytes()),
        field(3, namespace.as_bytes()),
        field(5, object.uid.as_bytes()),
        field(6, version.as_bytes()),
        field(11, &label),
    ];
    [field(1, &meta.concat()), field(2, version.as_bytes())].concat()
}

fn body(kind: &str, raw: &[u8]) -> Vec<u8> {
    let of_type = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
    [b"k8s\0".as_slice(), &field(1, &of_type), &field(2, raw), b"\x1a\x00\x22\x00"].concat()
}

fn frame(kind: &str, object: &[u8]) -> Vec<u8> {
    let event = [field(1, kind.as_bytes()), field(2, &field(1, &body("ConfigMap", object)))].concat();
    [(event.len() as u32).to_be_bytes().as_slice(), &event].concat()
}
