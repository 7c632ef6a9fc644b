//! `--rewrite-kubernetes-service`: which bodies hold the endpoints of the Service `kubernetes`, and the way out on which
//! they are named otherwise; online and from the record alike. What is recorded is what the upstream said.
//!
//! The endpoints are what is changed, because all that pods know of the API leads through them: `KUBERNETES_SERVICE_HOST`
//! (which the kubelet takes from the Service: `pkg/kubelet/kubelet_pods.go`, `getServiceEnvVarMap`) and the name
//! `kubernetes.default.svc` both are the Service's clusterIP, and kube-proxy leads that to the endpoints
//! (`pkg/proxy/endpointslicecache.go`). So pods that run already are led, too, and so are those that use the name. Another
//! clusterIP in the Service would be seen by new pods' environment alone, and kube-proxy would lead *it* to the cloud.

use super::{Asked, Service};
use crate::front::BodyWriter;
use crate::record::{BodyShape, Encoding, EndpointsKind, Rewriter};
use crate::request::{ApiRequest, Class, Resource};
use std::io::{self, Write};

/// A body on its way to the client.
pub(super) struct Outflow<'a> {
    out: BodyWriter<'a>,
    rewriting: Option<Box<Rewriting<'a>>>,
}

struct Rewriting<'a> {
    rewriter: Rewriter,
    service: &'a Service,
    /// What is ready to be passed on.
    ready: Vec<u8>,
}

impl Service {
    /// The way out of an answer with this status and these fields.
    pub(super) fn outflow<'a>(
        &'a self,
        asked: &Asked,
        status: u16,
        headers: &[(impl AsRef<str>, impl AsRef<[u8]>)],
        out: BodyWriter<'a>,
    ) -> Outflow<'a> {
        let rewriter = || {
            let to = self.options.kubernetes_service.clone().filter(|_| status == 200)?;
            let (kind, shape) = may_hold_it(&asked.request)?;
            let field = |name: &str| {
                let found = headers.iter().find(|(n, _)| n.as_ref().eq_ignore_ascii_case(name));
                found.map(|(_, v)| String::from_utf8_lossy(v.as_ref()).into_owned())
            };
            if field("content-encoding").is_some() {
                return None;
            }
            let encoding = Encoding::of(&field("content-type")?)?;
            Some(Rewriter::new(encoding, shape, kind, to, self.options.max_object_size))
        };
        let rewriting = rewriter().map(|rewriter| Box::new(Rewriting { rewriter, service: self, ready: Vec::new() }));
        Outflow { out, rewriting }
    }
}

/// Where and as what a request's answer may hold the endpoints of `kubernetes`; `None`: nowhere, and it is not looked at.
fn may_hold_it(request: &ApiRequest) -> Option<(EndpointsKind, BodyShape)> {
    let Resource { group, resource, namespace, name, subresource: None, .. } = request.target.resource()? else {
        return None;
    };
    let kind = match (group.as_str(), resource.as_str()) {
        ("discovery.k8s.io", "endpointslices") => EndpointsKind::Slice,
        ("", "endpoints") => EndpointsKind::Legacy,
        _ => return None,
    };
    let shape = match request.class {
        Class::Object => BodyShape::Object,
        Class::List => BodyShape::List,
        Class::Watch => BodyShape::Events,
        _ => return None,
    };
    let is = |given: Option<&str>, wanted: &str| given.is_none_or(|given| given == wanted);
    let name = name.as_deref().or_else(|| request.query.only_name());
    (is(namespace.as_deref(), "default") && is(name, "kubernetes")).then_some((kind, shape))
}

impl Outflow<'_> {
    /// See [`BodyWriter::finish`].
    pub(super) fn finish(mut self) -> io::Result<()> {
        if let Some(rewriting) = &mut self.rewriting {
            rewriting.rewriter.finish(&mut rewriting.ready);
            rewriting.pass_on(&mut self.out)?;
        }
        self.out.finish()
    }
}

impl Rewriting<'_> {
    fn pass_on(&mut self, out: &mut BodyWriter<'_>) -> io::Result<()> {
        if let Some(why) = self.rewriter.why_not() {
            let message = format!(
                "the endpoints of the Service kubernetes are passed on as they are, and pods are led to the cloud: {why}"
            );
            self.service.warn_once(&message, &message);
        }
        out.write_all(&self.ready)?;
        // A watch is mostly idle, and many are.
        self.ready = Vec::new();
        Ok(())
    }
}

impl Write for Outflow<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(rewriting) = &mut self.rewriting else { return self.out.write(bytes) };
        rewriting.rewriter.feed(bytes, &mut rewriting.ready);
        rewriting.pass_on(&mut self.out)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_hold_it_is_looked_at() {
        let asked = |target: &str| may_hold_it(&ApiRequest::new("GET", target, &|_| None).expect("understood"));
        let slices = "/apis/discovery.k8s.io/v1/endpointslices";
        let own = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        for (target, shape) in [
            (slices.to_owned(), BodyShape::List),
            (format!("{slices}?labelSelector=%21service.kubernetes.io%2Fheadless&limit=500"), BodyShape::List),
            (format!("{slices}?watch=true&resourceVersion=9"), BodyShape::Events),
            (own.to_owned(), BodyShape::List),
            (format!("{own}/kubernetes"), BodyShape::Object),
            (format!("{own}/kubernetes?watch=true"), BodyShape::Events),
            (format!("{own}?fieldSelector=metadata.name%3Dkubernetes"), BodyShape::List),
        ] {
            assert_eq!(asked(&target), Some((EndpointsKind::Slice, shape)), "{target}");
        }
        assert_eq!(asked("/api/v1/endpoints"), Some((EndpointsKind::Legacy, BodyShape::List)));
        for target in [
            "/api/v1/services",
            "/api/v1/namespaces/default/services/kubernetes",
            "/apis/example.com/v1/endpointslices",
            "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices",
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/web",
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?fieldSelector=metadata.name%3Dweb",
            "/api/v1/pods",
            "/apis",
        ] {
            assert_eq!(asked(target), None, "{target}");
        }
    }
}
