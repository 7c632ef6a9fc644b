//! Kubernetes' paths, as `staging/src/k8s.io/apiserver/pkg/endpoints/request/requestinfo.go` (`NewRequestInfo`) reads them.

use super::{NotUnderstood, Query};

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An API resource.
    Resource(Resource),
    /// `/api`, `/apis`, their groups and versions, `/version`, `/openapi/…`.
    Discovery {
        /// The path, decoded and encoded again; with a slash at its end it is another.
        path: String,
    },
    /// Any other path; nothing is known of it.
    Other {
        /// The path as sent.
        path: String,
    },
}

/// A resource, or one object or subresource of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: String,
    /// API version, e.g. `v1`.
    pub version: String,
    /// Namespace; `None` for cluster-scoped objects and for lists over all namespaces.
    pub namespace: Option<String>,
    /// Plural resource name, e.g. `pods`.
    pub resource: String,
    /// Object name.
    pub name: Option<String>,
    /// Subresource and what follows it, e.g. `status`, `proxy/path`.
    pub subresource: Option<String>,
    /// The old `/api/v1/watch/…` form.
    pub watch_path: bool,
}

/// Subresources of a namespace object itself; any other segment there is a namespaced resource
/// (`namespaceSubresources` in requestinfo.go).
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl Target {
    /// The path of the view that a read of this target reads: canonically encoded, never with `/watch/`.
    pub fn view_path(&self) -> String {
        match self {
            Target::Resource(r) => r.path(),
            Target::Discovery { path } | Target::Other { path } => path.clone(),
        }
    }

    /// The resource, where it is one.
    pub fn resource(&self) -> Option<&Resource> {
        match self {
            Target::Resource(r) => Some(r),
            _ => None,
        }
    }

    /// Turns a watch of one object into what Kubernetes makes of it: a watch of the collection with
    /// `fieldSelector=metadata.name=NAME` (`staging/src/k8s.io/apiserver/pkg/endpoints/handlers/get.go`, `ListResource`).
    pub(super) fn as_collection(&mut self, query: &mut Query) {
        if let Target::Resource(r) = self {
            r.watch_path = false;
            if let Some(name) = r.name.take() {
                query.require_name(&name);
            }
        }
    }
}

impl Resource {
    /// The canonical path of this resource.
    pub fn path(&self) -> String {
        let mut path = self.prefix();
        // A namespace object is cluster-scoped, though requestinfo.go puts its name into the namespace too.
        if let Some(ns) = &self.namespace {
            path.push_str("/namespaces/");
            encode(ns, &mut path);
        }
        path.push('/');
        encode(&self.resource, &mut path);
        if let Some(name) = &self.name {
            path.push('/');
            encode(name, &mut path);
        }
        if let Some(sub) = &self.subresource {
            path.push('/');
            path.push_str(sub);
        }
        path
    }

    fn prefix(&self) -> String {
        if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        }
    }

    /// The collections that could hold this object or this narrower list, nearest first: that of its namespace, that
    /// of all namespaces. Empty for subresources, which are no objects of a collection.
    pub fn covering_paths(&self) -> Vec<String> {
        if self.subresource.is_some() {
            return Vec::new();
        }
        let mut collection = Resource { name: None, ..self.clone() };
        let mut paths = vec![collection.path()];
        if collection.namespace.take().is_some() {
            paths.push(collection.path());
        }
        paths
    }

    /// The key under which a collection keeps this object: `namespace/name`, or `name` where there is no namespace.
    pub fn object_key(&self) -> Option<String> {
        let name = self.name.as_ref()?;
        Some(match &self.namespace {
            Some(ns) => format!("{ns}/{name}"),
            None => name.clone(),
        })
    }
}

/// Understands a path. Whatever it cannot place is [`Target::Other`].
pub(super) fn understand(raw: &str) -> Result<Target, NotUnderstood> {
    let mut segments = Vec::new();
    // One slash at each end, no more: `//apis` is another path than `/apis` to the upstream, whose 404 would else be
    // taken for the word on `/apis`.
    let inner = raw.strip_prefix('/').unwrap_or(raw);
    for part in inner.strip_suffix('/').unwrap_or(inner).split('/') {
        segments.push(
            decode(part).ok_or_else(|| {
                NotUnderstood(format!("the path segment {part:?} is not valid percent-encoded UTF-8"))
            })?,
        );
    }
    let other = || Target::Other { path: raw.to_owned() };
    // An inner empty, `.` or `..` segment means something else to the upstream than to us: it is nothing we know.
    if segments.iter().any(|s| s.is_empty() || s == "." || s == ".." || s.contains('/')) {
        return Ok(other());
    }
    let names: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (group, version, rest) = match names.as_slice() {
        ["version" | "api" | "apis"] | ["openapi", ..] | ["api" | "apis", _] | ["apis", _, _] => {
            let mut path = String::new();
            for name in &names {
                path.push('/');
                encode(name, &mut path);
            }
            // kube-apiserver answers some of them with the slash too (`/apis/`), others not (`/openapi/v2/`).
            if raw.ends_with('/') {
                path.push('/');
            }
            return Ok(Target::Discovery { path });
        }
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Ok(other()),
    };
    Ok(resource(group, version, rest).map_or_else(other, Target::Resource))
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Option<Resource> {
    let (watch_path, rest) = match rest {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        _ => (false, rest),
    };
    let (namespace, rest) = match rest {
        ["namespaces", _, sub, ..] if NAMESPACE_SUBRESOURCES.contains(sub) => (None, rest),
        ["namespaces", ns, rest @ ..] if !rest.is_empty() => (Some((*ns).to_owned()), rest),
        _ => (None, rest),
    };
    let (resource, rest) = rest.split_first()?;
    let (name, rest) = rest.split_first().map_or((None, rest), |(n, r)| (Some((*n).to_owned()), r));
    let subresource = (!rest.is_empty()).then(|| {
        let mut path = String::new();
        for (i, part) in rest.iter().enumerate() {
            if i > 0 {
                path.push('/');
            }
            encode(part, &mut path);
        }
        path
    });
    Some(Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        namespace,
        resource: (*resource).to_owned(),
        name,
        subresource,
        watch_path,
    })
}

/// Percent-decodes one path segment; `None` where the encoding is broken or the result is no UTF-8.
fn decode(part: &str) -> Option<String> {
    percent_decode(part.as_bytes(), false)
}

/// Percent-decodes; with `plus`, `+` is a blank, as in a query (Go's `url.ParseQuery`).
pub(super) fn percent_decode(bytes: &[u8], plus: bool) -> Option<String> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    while let Some(&b) = rest.next() {
        out.push(match b {
            b'%' => hex(*rest.next()?)? << 4 | hex(*rest.next()?)?,
            b'+' if plus => b' ',
            b => b,
        });
    }
    String::from_utf8(out).ok()
}

fn hex(b: u8) -> Option<u8> {
    char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

/// Appends `part` percent-encoded: all but the characters that RFC 3986 calls unreserved, and `:`.
pub(super) fn encode(part: &str, out: &mut String) {
    for b in part.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b':') {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn res(path: &str) -> Resource {
        match understand(path).expect("understood") {
            Target::Resource(r) => r,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn paths_are_canonical() {
        for (path, canonical) in [
            ("/api/v1/namespaces/default/pods/a", "/api/v1/namespaces/default/pods/a"),
            ("/api/v1/namespaces", "/api/v1/namespaces"),
            ("/api/v1/namespaces/", "/api/v1/namespaces"),
            ("/api/v1/namespaces/default", "/api/v1/namespaces/default"),
            ("/api/v1/namespaces/default/finalize", "/api/v1/namespaces/default/finalize"),
            (
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node",
            ),
            ("/apis/g/v1/namespaces/x/pods/a/proxy/p/q%20r", "/apis/g/v1/namespaces/x/pods/a/proxy/p/q%20r"),
        ] {
            assert_eq!(res(path).path(), canonical, "{path}");
        }
    }

    #[test]
    fn what_covers_an_object() {
        assert_eq!(res("/api/v1/namespaces/x/pods/a").covering_paths(), ["/api/v1/namespaces/x/pods", "/api/v1/pods"]);
        assert_eq!(res("/api/v1/namespaces/x").covering_paths(), ["/api/v1/namespaces"]);
        assert_eq!(res("/api/v1/namespaces/x/pods/a/status").covering_paths(), Vec::<String>::new());
        assert_eq!(res("/api/v1/namespaces/x/pods/a").object_key().as_deref(), Some("x/a"));
        assert_eq!(res("/api/v1/nodes/n").object_key().as_deref(), Some("n"));
    }

    #[test]
    fn strange_paths_are_nothing_we_know() {
        for path in [
            "/",
            "//",
            "/foo",
            "//apis",
            "/apis//",
            "//api/v1/pods",
            "/api/v1/pods//",
            "/api/v1/pods/..",
            "/api/v1/%2e%2e/pods",
            "/api//v1/pods",
            "/api/v1/namespaces/x/pods/a%2Fb",
            "/api/v1/./pods",
        ] {
            assert!(matches!(understand(path), Ok(Target::Other { .. })), "{path}");
        }
        let slash = understand("/openapi/v2/").map(|t| t.view_path());
        assert_ne!(slash, understand("/openapi/v2").map(|t| t.view_path()));
        assert!(understand("/api/v1/pods/%f").is_err());
        assert!(understand("/api/v1/pods/%ff").is_err());
    }
}
