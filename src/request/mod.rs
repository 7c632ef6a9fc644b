//! What was asked: method, target and header fields of one HTTP request become one [`ApiRequest`].
//!
//! Owns the meaning of Kubernetes' paths, query parameters and media types. Pure: it neither knows who asked
//! (`identity`) nor what will be done about it (`decide`), and it never looks at a body.

mod media;
mod path;
mod query;
mod selector;

pub use media::{Accept, MediaType, representation};
pub use path::{Resource, Target};
pub use query::Query;
pub use selector::Selection;

/// What kind of thing a request is: the rows of design.md's table "What is decided".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// GET of one object, or of its `status` or `scale`.
    Object,
    /// GET of a collection.
    List,
    /// A watch of a collection, or of one object (which Kubernetes treats as a collection of one).
    Watch,
    /// Discovery, `/version` and `/openapi/…`: the same for every authenticated client.
    Discovery,
    /// A read that is forwarded and never recorded: health, metrics, logs, `…/proxy`, leases, events, unknown paths.
    Passing,
    /// Anything with `Connection: Upgrade`: exec, attach, port-forward.
    Upgrade,
    /// `POST …/serviceaccounts/NAME/token`.
    TokenRequest,
    /// TokenReview, SubjectAccessReview and their kin: questions that are asked by POST.
    Review,
    /// Every other method: something is to change upstream.
    Write,
}

/// One request, understood.
#[derive(Debug, Clone)]
pub struct ApiRequest {
    /// The method, as sent.
    pub method: String,
    /// The target as it goes upstream: origin form, as sent.
    pub raw_target: String,
    /// What the path means.
    pub target: Target,
    /// The query parameters, decoded.
    pub query: Query,
    /// The representations that the client takes, in its order.
    pub accept: Accept,
    /// Which row of the table it falls under.
    pub class: Class,
}

/// Why a request cannot be understood; always a 400.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotUnderstood(pub String);

impl ApiRequest {
    /// Understands one request. A wish for HTTP/2 is not heard, as RFC 9110 section 7.8 allows: within that protocol nobody
    /// would look at what is asked, and of whom it claims to be. `header` looks a field up by its lower-case name (several fields joined by `, `).
    ///
    /// # Errors
    /// A target whose percent-encoding is broken, or that the upstream client library could not send.
    pub fn new(
        method: &str,
        raw_target: &str,
        header: &dyn Fn(&str) -> Option<String>,
    ) -> Result<ApiRequest, NotUnderstood> {
        let (raw_path, raw_query) = raw_target.split_once('?').unwrap_or((raw_target, ""));
        if let Some(bad) = raw_target
            .bytes()
            .find(|b| matches!(b, b'<' | b'>' | b'`' | b'"' | b'\\' | b'^' | b'{' | b'|' | b'}' | b'#'))
        {
            let place = char::from(bad);
            return Err(NotUnderstood(format!("the request target holds {place:?}; send it percent-encoded")));
        }
        let mut query = Query::parse(raw_query)?;
        let mut target = path::understand(raw_path)?;
        let upgrade = header("connection").is_some_and(|v| has_token(&v, "upgrade"))
            && header("upgrade").is_some_and(|v| !has_token(&v, "h2c"));
        let class = classify(method, &target, &query, upgrade);
        if class == Class::Watch {
            target.as_collection(&mut query);
        }
        Ok(ApiRequest {
            method: method.to_owned(),
            raw_target: raw_target.to_owned(),
            target,
            query,
            accept: Accept::parse(header("accept").as_deref()),
            class,
        })
    }

    /// Whether answering it changes nothing upstream and needs no request body.
    pub fn is_read(&self) -> bool {
        matches!(self.class, Class::Object | Class::List | Class::Watch | Class::Discovery | Class::Passing)
    }

    /// Whether answering it may take for ever: kube-apiserver's own list of long-running requests
    /// (`cmd/kube-apiserver/app/options`, `BasicLongRunningRequestCheck`).
    pub fn is_long_running(&self) -> bool {
        let subresource = self.target.resource().and_then(|r| r.subresource.as_deref()).unwrap_or_default();
        let first = subresource.split('/').next().unwrap_or_default();
        matches!(self.class, Class::Watch | Class::Upgrade)
            || matches!(first, "attach" | "exec" | "log" | "portforward" | "proxy")
    }

    /// Whether the method is HEAD: answered like GET, without a body, and never recorded.
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// Whether a person reads the answer: kubectl prints Tables, and the `Warning` headers that come with them.
    pub fn for_people(&self) -> bool {
        self.accept.wants_table()
    }
}

/// Whether a comma-separated header value names `token`, in any case (RFC 9110 section 5.6.1).
fn has_token(value: &str, token: &str) -> bool {
    value.split(',').any(|t| t.trim().eq_ignore_ascii_case(token))
}

/// Resources that are asked by POST and answered without being kept: `authentication.k8s.io` and
/// `authorization.k8s.io` have no others.
fn is_review(resource: &Resource) -> bool {
    matches!(resource.group.as_str(), "authentication.k8s.io" | "authorization.k8s.io") && resource.name.is_none()
}

/// Leases and events change all the time, and stale ones mislead: they are never recorded.
fn is_fleeting(resource: &Resource) -> bool {
    matches!(
        (resource.group.as_str(), resource.resource.as_str()),
        ("coordination.k8s.io", "leases") | ("" | "events.k8s.io", "events")
    )
}

fn classify(method: &str, target: &Target, query: &Query, upgrade: bool) -> Class {
    if upgrade {
        return Class::Upgrade;
    }
    if !matches!(method, "GET" | "HEAD") {
        return match target {
            Target::Resource(r) if method == "POST" && is_review(r) => Class::Review,
            Target::Resource(r)
                if method == "POST"
                    && r.group.is_empty()
                    && r.resource == "serviceaccounts"
                    && r.subresource.as_deref() == Some("token") =>
            {
                Class::TokenRequest
            }
            _ => Class::Write,
        };
    }
    match target {
        Target::Discovery { .. } => Class::Discovery,
        Target::Other { .. } => Class::Passing,
        Target::Resource(r) if is_fleeting(r) => Class::Passing,
        Target::Resource(r) => match (&r.name, r.subresource.as_deref()) {
            (_, None) if r.watch_path || query.is_watch() => Class::Watch,
            (None, None) => Class::List,
            (Some(_), None | Some("status" | "scale")) => Class::Object,
            _ => Class::Passing,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, target: &str) -> ApiRequest {
        ApiRequest::new(method, target, &|_| None).expect("understood")
    }

    #[test]
    fn each_row_of_the_table_is_recognised() {
        let cases = [
            ("GET", "/api/v1/namespaces/default/pods/a", Class::Object),
            ("GET", "/api/v1/namespaces/default", Class::Object),
            ("GET", "/api/v1/namespaces/default/status", Class::Object),
            ("GET", "/apis/apps/v1/namespaces/x/deployments/d/scale", Class::Object),
            ("HEAD", "/api/v1/nodes/n", Class::Object),
            ("GET", "/api/v1/pods", Class::List),
            ("GET", "/apis/example.com/v1/namespaces/x/widgets?limit=500", Class::List),
            ("GET", "/api/v1/pods?watch=true", Class::Watch),
            ("GET", "/api/v1/pods?watch=1", Class::Watch),
            ("GET", "/api/v1/pods?watch=false", Class::List),
            ("GET", "/api/v1/watch/namespaces/x/pods", Class::Watch),
            ("GET", "/api/v1/namespaces/x/pods/a?watch=true", Class::Watch),
            ("GET", "/api", Class::Discovery),
            ("GET", "/apis/", Class::Discovery),
            ("GET", "/apis/apps", Class::Discovery),
            ("GET", "/apis/apps/v1", Class::Discovery),
            ("GET", "/version", Class::Discovery),
            ("GET", "/openapi/v3/apis/apps/v1?hash=AB", Class::Discovery),
            ("GET", "/healthz", Class::Passing),
            ("GET", "/readyz/etcd", Class::Passing),
            ("GET", "/metrics", Class::Passing),
            ("GET", "/api/v1/namespaces/x/pods/a/log", Class::Passing),
            ("GET", "/api/v1/namespaces/x/services/a/proxy/path/below", Class::Passing),
            ("GET", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n", Class::Passing),
            ("GET", "/api/v1/events", Class::Passing),
            ("GET", "/apis/events.k8s.io/v1/events?watch=true", Class::Passing),
            ("POST", "/api/v1/namespaces/x/serviceaccounts/s/token", Class::TokenRequest),
            ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", Class::Review),
            ("POST", "/apis/authorization.k8s.io/v1/namespaces/x/localsubjectaccessreviews", Class::Review),
            ("POST", "/api/v1/namespaces/x/pods", Class::Write),
            ("PATCH", "/api/v1/nodes/n/status", Class::Write),
            ("DELETE", "/api/v1/namespaces/x/pods/a", Class::Write),
        ];
        for (method, target, class) in cases {
            assert_eq!(ask(method, target).class, class, "{method} {target}");
        }
    }

    #[test]
    fn an_upgrade_is_one_whatever_the_path() {
        let header = |name: &str| match name {
            "connection" => Some("keep-alive, Upgrade".to_owned()),
            "upgrade" => Some("SPDY/3.1".to_owned()),
            _ => None,
        };
        let got = ApiRequest::new("POST", "/api/v1/namespaces/x/pods/a/exec?command=sh", &header);
        assert_eq!(got.expect("understood").class, Class::Upgrade);
    }

    #[test]
    fn a_watch_is_the_view_of_its_list() {
        let list = ask("GET", "/api/v1/namespaces/x/pods?fieldSelector=metadata.name%3Da");
        for same in [
            "/api/v1/namespaces/x/pods?fieldSelector=metadata.name%3Da&watch=true&resourceVersion=9",
            "/api/v1/watch/namespaces/x/pods?fieldSelector=metadata.name%3Da",
            "/api/v1/namespaces/x/pods/a?watch=true",
            "/api/v1/watch/namespaces/x/pods/a",
        ] {
            let watch = ask("GET", same);
            assert_eq!(watch.target.view_path(), list.target.view_path(), "{same}");
            assert_eq!(watch.query.selecting(), list.query.selecting(), "{same}");
        }
    }

    #[test]
    fn a_target_that_cannot_be_sent_is_named() {
        let err = ApiRequest::new("GET", "/api/v1/pods?labelSelector=a<b", &|_| None).unwrap_err();
        assert!(err.0.contains("'<'"), "{}", err.0);
        assert!(ApiRequest::new("GET", "/api/v1/pods/%zz", &|_| None).is_err());
    }
}
