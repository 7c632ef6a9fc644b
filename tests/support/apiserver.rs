//! A small stand-in of an apiserver: objects in memory, lists, gets, writes, watches and a little discovery, in JSON and
//! as Tables, with resourceVersions that grow over all objects as etcd's do. It speaks as kube-apiserver 1.34 was seen
//! to speak; what it does not know it answers 404.

use super::pki::Pki;
use super::upstream::{Received, Upstream, Wire};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// The objects, shared with whoever churns them.
#[derive(Clone, Default)]
pub struct Cluster(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    version: u64,
    /// By `resource/namespace/name`.
    objects: BTreeMap<String, Value>,
    /// What happened, in order: version, type, resource, object.
    history: Vec<(u64, &'static str, String, Value)>,
}

/// The kinds it knows: resource, kind, apiVersion, path up to the namespace.
const KINDS: [(&str, &str, &str, &str); 3] = [
    ("configmaps", "ConfigMap", "v1", "/api/v1"),
    ("pods", "Pod", "v1", "/api/v1"),
    ("widgets", "Widget", "example.com/v1", "/apis/example.com/v1"),
];

impl Cluster {
    /// A cluster and the server in front of it.
    pub fn start(pki: &Pki) -> (Cluster, Upstream) {
        let cluster = Cluster::default();
        cluster.0.0.lock().expect("state").version = 100;
        let own = cluster.clone();
        let upstream = Upstream::start(pki, move |request, wire| own.answer(request, wire));
        (cluster, upstream)
    }

    /// Another server in front of the same objects.
    pub fn another_server(&self, pki: &Pki) -> Upstream {
        self.another_server_at("127.0.0.1", 0, pki)
    }

    /// The same at this address of the machine; 0: at any port.
    pub fn another_server_at(&self, address: &str, port: u16, pki: &Pki) -> Upstream {
        let own = self.clone();
        Upstream::start_at(address, port, pki, move |request, wire| own.answer(request, wire))
    }

    /// Creates or changes an object; its resourceVersion.
    pub fn put(&self, resource: &str, namespace: &str, name: &str, data: &Value) -> u64 {
        let (state, changed) = &*self.0;
        let mut state = state.lock().expect("state");
        state.version += 1;
        let version = state.version;
        let key = format!("{resource}/{namespace}/{name}");
        let (_, kind, api_version, _) = *KINDS.iter().find(|k| k.0 == resource).expect("a known kind");
        let known = state.objects.get(&key).and_then(|o| o["metadata"]["uid"].as_str().map(str::to_owned));
        let what = if known.is_some() { "MODIFIED" } else { "ADDED" };
        let uid = known.unwrap_or_else(|| format!("uid-{version}"));
        let object = json!({
            "apiVersion": api_version, "kind": kind,
            "metadata": {"name": name, "namespace": namespace, "uid": uid, "resourceVersion": version.to_string()},
            "data": data,
        });
        state.objects.insert(key, object.clone());
        state.history.push((version, what, resource.to_owned(), object));
        changed.notify_all();
        version
    }

    /// Deletes an object; false where there is none.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) -> bool {
        let (state, changed) = &*self.0;
        let mut state = state.lock().expect("state");
        let Some(mut object) = state.objects.remove(&format!("{resource}/{namespace}/{name}")) else { return false };
        state.version += 1;
        let version = state.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        state.history.push((version, "DELETED", resource.to_owned(), object));
        changed.notify_all();
        true
    }

    pub fn version(&self) -> u64 {
        self.0.0.lock().expect("state").version
    }

    fn answer(&self, request: &Received, wire: &mut Wire) -> io::Result<()> {
        let path = request.path();
        match path {
            "/version" => {
                return wire.json(200, json!({"major": "1", "minor": "34", "gitVersion": "v1.34.2"}).to_string());
            }
            "/api" => return wire.json(200, json!({"kind": "APIVersions", "versions": ["v1"]}).to_string()),
            "/apis" => {
                return wire.json(200, json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}).to_string());
            }
            _ => {}
        }
        let Some(asked) = Asked::parse(path) else {
            return status(wire, 404, "NotFound", "the server could not find the requested resource");
        };
        match (request.method.as_str(), &asked.name) {
            ("GET", None) if query(request, "watch").is_some() => self.watch(request, &asked, wire),
            ("GET", None) => wire.json(200, self.list(request, &asked)),
            ("GET", Some(name)) => match self.find(&asked, name) {
                Some(object) => wire.json(200, written(&object)),
                None => status(wire, 404, "NotFound", &format!("{} \"{name}\" not found", asked.resource)),
            },
            ("POST", None) => {
                let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
                let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                self.put(&asked.resource, &asked.namespace.clone().unwrap_or_default(), &name, &body["data"]);
                wire.json(201, written(&self.find(&asked, &name).unwrap_or_default()))
            }
            ("PUT", Some(name)) => {
                let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
                self.put(&asked.resource, &asked.namespace.clone().unwrap_or_default(), name, &body["data"]);
                wire.json(200, written(&self.find(&asked, name).unwrap_or_default()))
            }
            ("DELETE", Some(name)) => {
                if self.delete(&asked.resource, &asked.namespace.clone().unwrap_or_default(), name) {
                    wire.json(200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}).to_string())
                } else {
                    status(wire, 404, "NotFound", &format!("{} \"{name}\" not found", asked.resource))
                }
            }
            _ => {
                status(wire, 405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
            }
        }
    }

    fn find(&self, asked: &Asked, name: &str) -> Option<Value> {
        let key = format!("{}/{}/{name}", asked.resource, asked.namespace.as_deref().unwrap_or_default());
        self.0.0.lock().expect("state").objects.get(&key).cloned()
    }

    fn list(&self, request: &Received, asked: &Asked) -> String {
        let state = self.0.0.lock().expect("state");
        let objects: Vec<Value> = state
            .objects
            .iter()
            .filter(|(k, o)| k.starts_with(&format!("{}/", asked.resource)) && asked.covers(o))
            .map(|(_, o)| o.clone())
            .collect();
        let metadata = json!({"resourceVersion": state.version.to_string()});
        let (_, kind, api_version, _) = asked.kind;
        if wants_table(request) {
            let table = table(&objects, &metadata, true);
            let (columns, rows) = (&table["columnDefinitions"], &table["rows"]);
            return format!(
                "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{metadata},\"columnDefinitions\":{columns},\"rows\":{rows}}}"
            );
        }
        if api_version != "v1" {
            // Custom resources come with sorted members: their kind after the items.
            return json!({"kind": format!("{kind}List"), "apiVersion": api_version, "metadata": metadata, "items": objects}).to_string();
        }
        // A typed list's items are bare.
        let bare = |o: &Value| format!("{{\"metadata\":{},\"data\":{}}}", o["metadata"], o["data"]);
        let items = format!("[{}]", objects.iter().map(bare).collect::<Vec<_>>().join(","));
        format!(
            "{{\"kind\":\"{kind}List\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":{items}}}"
        )
    }

    fn watch(&self, request: &Received, asked: &Asked, wire: &mut Wire) -> io::Result<()> {
        let (mutex, changed) = &*self.0;
        let from = query(request, "resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
        let end = query(request, "timeoutSeconds")
            .and_then(|s| s.parse().ok())
            .map(|s| Instant::now() + Duration::from_secs(s));
        wire.begin_chunked()?;
        let mut seen: u64 = from;
        let mut columns = true;
        loop {
            let events: Vec<Value> = {
                let mut state = mutex.lock().expect("state");
                let news = |state: &State| {
                    state.history.iter().any(|(v, _, r, o)| *v > seen && *r == asked.resource && asked.covers(o))
                };
                if !news(&state) {
                    state = changed.wait_timeout(state, Duration::from_millis(50)).expect("state").0;
                }
                let found =
                    state.history.iter().filter(|(v, _, r, o)| *v > seen && *r == asked.resource && asked.covers(o));
                let events = found.map(|(_, what, _, object)| json!({"type": what, "object": object})).collect();
                seen = state.version;
                events
            };
            for mut event in events {
                if wants_table(request) {
                    let version = event["object"]["metadata"]["resourceVersion"].clone();
                    event["object"] = table(&[event["object"].take()], &json!({"resourceVersion": version}), columns);
                    columns = false;
                }
                wire.chunk(format!("{{\"type\":{},\"object\":{}}}\n", event["type"], written(&event["object"])))?;
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return wire.end_chunked();
            }
            if wire.peer_hangs_up_within(Duration::from_millis(1)) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
    }
}

/// A path below a kind.
struct Asked {
    kind: (&'static str, &'static str, &'static str, &'static str),
    resource: String,
    namespace: Option<String>,
    name: Option<String>,
}

impl Asked {
    fn parse(path: &str) -> Option<Asked> {
        KINDS.iter().find_map(|kind| {
            let rest: Vec<&str> = path.strip_prefix(kind.3)?.trim_matches('/').split('/').collect();
            let (namespace, rest) = match rest.as_slice() {
                ["namespaces", ns, rest @ ..] => (Some((*ns).to_owned()), rest),
                rest => (None, rest),
            };
            let (resource, name) = match rest {
                [resource] => (*resource, None),
                [resource, name] => (*resource, Some((*name).to_owned())),
                _ => return None,
            };
            (resource == kind.0).then(|| Asked { kind: *kind, resource: resource.to_owned(), namespace, name })
        })
    }

    fn covers(&self, object: &Value) -> bool {
        self.namespace.as_deref().is_none_or(|ns| object["metadata"]["namespace"] == ns)
    }
}

fn wants_table(request: &Received) -> bool {
    request.header("accept").is_some_and(|a| a.contains("as=Table"))
}

fn table(objects: &[Value], metadata: &Value, columns: bool) -> Value {
    let columns = if columns {
        json!([{"name": "Name", "type": "string"}, {"name": "Data", "type": "string"}])
    } else {
        Value::Null
    };
    let rows: Vec<Value> = objects
        .iter()
        .map(|o| {
            let partial =
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": o["metadata"]});
            json!({"cells": [o["metadata"]["name"], o["data"].to_string()], "object": partial})
        })
        .collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns, "rows": rows})
}

/// An object as kube-apiserver writes it: kind and apiVersion first where the kind is its own, members sorted where it is
/// a custom resource.
fn written(object: &Value) -> String {
    if object["apiVersion"] != "v1" {
        return object.to_string();
    }
    let member = |name: &str| format!("\"{name}\":{}", object[name]);
    format!("{{{},{},{},{}}}", member("kind"), member("apiVersion"), member("metadata"), member("data"))
}

fn query<'a>(request: &'a Received, name: &str) -> Option<&'a str> {
    let (_, query) = request.target.split_once('?')?;
    query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('='))
}

fn status(wire: &mut Wire, code: u16, reason: &str, message: &str) -> io::Result<()> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code});
    wire.json(code, body.to_string())
}
