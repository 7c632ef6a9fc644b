//! The endpoints of the Service `kubernetes`, named otherwise on the way to a client: those who reach the API by that Service
//! then reach an address of this node. Bytes in, bytes out; what is recorded knows nothing of it.
//!
//! One object is changed, `default/kubernetes`, as an EndpointSlice or, for the kube-proxies of before 1.19, as Endpoints:
//! kube-apiserver itself keeps both under that name (`pkg/controlplane/reconcilers/endpointsadapter.go`). Of it the
//! endpoints and their ports are changed, and nothing else: not its resourceVersion, not its labels. A Table's row shows
//! it as it is.
//!
//! **It keeps its length**, so that whatever holds it (a list in protobuf says how long it is before its first object, an
//! answer before its first byte) stays as it came, and streams. What is too long by that is filled up: JSON with blanks,
//! protobuf with a field that nobody knows. Room comes from `managedFields`, which kube-apiserver keeps of each object, no
//! client of Services reads, and is left out here.

use super::{Encoding, ListReader, Malformed, WatchReader, json, protobuf};
use std::fmt;

/// The object's namespace.
const NAMESPACE: &str = "default";

/// The object's name.
const NAME: &str = "kubernetes";

/// What kube-apiserver calls the Service's port (`pkg/controlplane/controller/kubernetesservice/controller.go`,
/// `createPortAndServiceSpec`): kube-proxy knows an endpoint's port by it.
pub(super) const PORT_NAME: &str = "https";

/// Where the endpoints lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// An IP address, as Go writes it.
    pub address: String,
    /// The port there.
    pub port: u16,
}

impl Destination {
    /// `EndpointSlice.addressType`: a slice of the other family is none of it.
    pub(super) fn address_type(&self) -> &'static str {
        if self.address.contains(':') { "IPv6" } else { "IPv4" }
    }
}

/// As which of its two kinds the object comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointsKind {
    /// `discovery.k8s.io` `EndpointSlice`
    Slice,
    /// `v1` `Endpoints`
    Legacy,
}

/// What kind of body it comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyShape {
    /// By itself.
    Object,
    /// In a list.
    List,
    /// In a watch's events.
    Events,
}

/// Why the object, which came, was passed on as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotRewritten {
    /// The body is not what its media type says.
    Malformed(Malformed),
    /// The slice is of another address family.
    OtherFamily,
    /// It would become longer than it is.
    NoRoom,
}

impl fmt::Display for NotRewritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotRewritten::Malformed(e) => write!(f, "the body is not understood: {e}"),
            NotRewritten::OtherFamily => f.write_str("its addresses are of the other IP family"),
            NotRewritten::NoRoom => f.write_str("it has no managedFields that could make room"),
        }
    }
}

impl From<Malformed> for NotRewritten {
    fn from(e: Malformed) -> Self {
        NotRewritten::Malformed(e)
    }
}

/// Passes one body on, with the object changed. Holds back no more than one object, and the piece that came last.
#[derive(Debug)]
pub struct Rewriter {
    encoding: Encoding,
    kind: EndpointsKind,
    to: Destination,
    max_object: usize,
    /// What came and is not passed on yet; of a watch, its reader holds it.
    held: Vec<u8>,
    walk: Walk,
    why_not: Option<NotRewritten>,
}

#[derive(Debug)]
enum Walk {
    Object,
    List(ListReader),
    Events(WatchReader),
    /// It is not understood, or too long: the rest passes.
    AsItIs,
}

impl Rewriter {
    /// A rewriter of one body. What is longer than `max_object` bytes is passed on as it is.
    pub fn new(
        encoding: Encoding,
        shape: BodyShape,
        kind: EndpointsKind,
        to: Destination,
        max_object: usize,
    ) -> Rewriter {
        let walk = match shape {
            BodyShape::Object => Walk::Object,
            BodyShape::List => Walk::List(ListReader::new(encoding, max_object)),
            BodyShape::Events => Walk::Events(WatchReader::new(encoding, max_object)),
        };
        Rewriter { encoding, kind, to, max_object, held: Vec::new(), walk, why_not: None }
    }

    /// Takes the next bytes, and appends what can be passed on.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let done = match &self.walk {
            Walk::Object => {
                self.held.extend_from_slice(bytes);
                if self.held.len() > self.max_object { Err(Malformed::TooLarge) } else { Ok(()) }
            }
            Walk::List(_) => self.list(bytes, out),
            Walk::Events(_) => self.events(bytes, out),
            Walk::AsItIs => {
                out.extend_from_slice(bytes);
                Ok(())
            }
        };
        if let Err(e) = done {
            self.why_not = Some(e.into());
            self.let_pass(out);
        }
    }

    /// The body has ended: appends what was held back.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if matches!(self.walk, Walk::Object) {
            let mut held = std::mem::take(&mut self.held);
            if let Ok(facts) = whole_object(self.encoding, &held) {
                let (range, is_it) = facts;
                if is_it {
                    self.rewrite(&mut held[range]);
                }
            }
            self.held = held;
        }
        self.let_pass(out);
    }

    /// Why the object was last passed on as it is, although it came; said once.
    pub fn why_not(&mut self) -> Option<NotRewritten> {
        self.why_not.take()
    }

    fn let_pass(&mut self, out: &mut Vec<u8>) {
        if let Walk::Events(reader) = &mut self.walk {
            self.held = reader.take_rest();
        }
        out.append(&mut self.held);
        self.walk = Walk::AsItIs;
    }

    fn list(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        let Walk::List(reader) = &mut self.walk else { return Ok(()) };
        self.held.extend_from_slice(bytes);
        let mut found = Vec::new();
        reader.feed(bytes, &mut |_, item| {
            if is_it(&item.facts.namespace, &item.facts.name) {
                found.push(item.bytes.to_vec());
            }
        })?;
        let whole = self.held.len().saturating_sub(reader.under_way());
        for object in found {
            // It ended in these bytes, so it is held, as it came.
            if let Some(at) = self.held.windows(object.len()).position(|held| held == object) {
                let mut held = std::mem::take(&mut self.held);
                self.rewrite(&mut held[at..at + object.len()]);
                self.held = held;
            }
        }
        out.extend(self.held.drain(..whole));
        Ok(())
    }

    fn events(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        let Walk::Events(reader) = &mut self.walk else { return Ok(()) };
        reader.push(bytes);
        while let Some(frame) = reader.next_frame()? {
            let begun = out.len();
            out.extend_from_slice(frame.raw);
            for (facts, range, _) in &frame.event.objects {
                if is_it(&facts.namespace, &facts.name) {
                    let object = &mut out[begun + range.start..begun + range.end];
                    if let Err(why) = put(self.encoding, self.kind, &self.to, object) {
                        self.why_not = Some(why);
                    }
                }
            }
        }
        out.extend(reader.take_blanks());
        Ok(())
    }

    fn rewrite(&mut self, object: &mut [u8]) {
        if let Err(why) = put(self.encoding, self.kind, &self.to, object) {
            self.why_not = Some(why);
        }
    }
}

fn is_it(namespace: &str, name: &str) -> bool {
    namespace == NAMESPACE && name == NAME
}

/// Where in a whole body of one object the object is, and whether it is the one.
fn whole_object(encoding: Encoding, body: &[u8]) -> Result<(std::ops::Range<usize>, bool), Malformed> {
    let mut reader = super::ObjectReader::new(encoding);
    reader.feed(body)?;
    reader.finish()?;
    let facts = reader.facts();
    let range = match encoding {
        Encoding::Json => 0..body.len(),
        Encoding::Protobuf => protobuf::message(body)?,
    };
    Ok((range, is_it(&facts.namespace, &facts.name)))
}

/// Changes the object in its place.
fn put(encoding: Encoding, kind: EndpointsKind, to: &Destination, object: &mut [u8]) -> Result<(), NotRewritten> {
    let changed = match encoding {
        Encoding::Json => json::with_endpoints(object, kind, to)?,
        Encoding::Protobuf => protobuf::with_endpoints(object, kind, to)?,
    };
    if let Some(changed) = changed {
        debug_assert_eq!(changed.len(), object.len());
        object.copy_from_slice(&changed);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
