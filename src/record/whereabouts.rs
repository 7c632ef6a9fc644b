//! Where a node's pods live now, as their kubelet tells while the link is down; and recorded EndpointSlices, corrected by
//! that on their way to a client. Bytes in, bytes out; what is recorded knows nothing of it.
//!
//! An endpoint is corrected as the endpointslice controller would write it
//! (`staging/src/k8s.io/endpointslice/utils.go`, `podToEndpoint`; `util/controller_utils.go`, `ShouldPodBeInEndpoints`),
//! by its `targetRef`: the pod's addresses of the slice's family, and whether it is ready; one whose pod has ended, or has no
//! such address, is left out. So is one of a pod that has not been told of, at an address that another pod of the same node has by
//! now. No endpoint is added.
//!
//! **A corrected slice has a resourceVersion of its own**, because informers take what comes with the version that they hold
//! for no change, and tell nobody (client-go `tools/cache/shared_informer.go`, `OnUpdate`): another one for each correction, and
//! never one past the list's, since clients take it for their position.

use super::{Encoding, Pod, PodStatus, json, protobuf};
use core::net::IpAddr;
use std::collections::HashMap;

/// As many pods are known at most; a node has 110 unless it is told otherwise.
const MOST: usize = 1000;

/// What is known of pods that do not live as they are recorded.
#[derive(Debug, Clone, Default)]
pub struct Whereabouts {
    /// Grows with each thing learned.
    generation: u64,
    /// By uid.
    pods: HashMap<String, Pod>,
    /// Whose node's each address is that one of them has for itself.
    taken: HashMap<IpAddr, String>,
}

/// What came of being told of a pod.
#[derive(Debug)]
pub enum Learned {
    /// It lives as it is recorded, or as is known.
    Nothing,
    /// This is what is known now.
    News(Whereabouts),
    /// Too many are known already.
    TooMany,
}

/// What a slice says of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Endpoint<'a> {
    /// `targetRef`: kind, namespace, name, uid.
    pub(super) target: [&'a str; 4],
    /// `nodeName`
    pub(super) node: &'a str,
    /// `addresses`
    pub(super) addresses: Vec<&'a str>,
}

/// What becomes of an endpoint.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Becomes {
    /// It is as it was.
    AsItWas,
    /// It is none any more.
    Gone,
    /// It has these addresses.
    At { addresses: Vec<String>, ready: bool },
}

/// `Endpoint.conditions`; `None`: not said.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Conditions {
    pub(super) ready: Option<bool>,
    pub(super) serving: Option<bool>,
    pub(super) terminating: Option<bool>,
}

impl Conditions {
    /// The conditions of a pod that is ready or not. Where `ready` is not what `serving` is, its Service publishes addresses
    /// that are not ready, too.
    pub(super) fn of(self, ready: bool) -> Conditions {
        let was = self.ready.unwrap_or(true);
        let follows = !self.terminating.unwrap_or(false) && was == self.serving.unwrap_or(was);
        let serving = self.serving.map(|_| ready);
        Conditions { ready: Some(if follows { ready } else { was }), serving, ..self }
    }
}

impl Whereabouts {
    /// Nothing is known; corrected slices have versions from this number on.
    #[must_use]
    pub fn beginning_at(generation: u64) -> Whereabouts {
        Whereabouts { generation, ..Whereabouts::default() }
    }

    /// What is known once nothing is known any more.
    #[must_use]
    pub fn forgotten(&self) -> Whereabouts {
        Whereabouts { generation: self.generation, ..Whereabouts::default() }
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// Of how many pods something is known.
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// A pod that is recorded so has this status now. That it is as recorded is learned, too: a client may have been told
    /// otherwise, by a process before.
    pub fn learn(&self, recorded: &Pod, now: PodStatus) -> Learned {
        match self.pods.get(&recorded.uid) {
            Some(known) if known.status == now => return Learned::Nothing,
            None if self.pods.len() >= MOST => return Learned::TooMany,
            _ => {}
        }
        let mut pods = self.pods.clone();
        pods.insert(recorded.uid.clone(), Pod { status: now, ..recorded.clone() });
        let alone = pods.values().filter(|pod| !pod.host_network && !pod.status.is_over());
        let taken = alone.flat_map(|pod| pod.status.addresses.iter().map(|a| (*a, pod.node.clone()))).collect();
        Learned::News(Whereabouts { generation: self.generation + 1, pods, taken })
    }

    /// A slice, corrected; `None`: nothing is known of its endpoints, or it is no slice. `at`: the version of the list that
    /// it is in, where it is to have a version of its own. `anyway`: in that case, too.
    pub fn correct(&self, encoding: Encoding, slice: &[u8], at: Option<u64>, anyway: bool) -> Option<Vec<u8>> {
        let corrected = match encoding {
            Encoding::Json => json::corrected(slice, self, at, anyway),
            Encoding::Protobuf => protobuf::corrected(slice, self, at, anyway),
        };
        corrected.ok().flatten()
    }

    /// The same of the whole body of an answer, which is at its own version.
    pub fn correct_body(&self, encoding: Encoding, body: &[u8]) -> Option<Vec<u8>> {
        match encoding {
            Encoding::Json => self.correct(encoding, body, Some(0), false),
            Encoding::Protobuf => {
                let message = protobuf::message(body).ok()?;
                let corrected = self.correct(encoding, &body[message], Some(0), false)?;
                protobuf::with_message(body, &corrected).ok()
            }
        }
    }

    /// The version of a corrected slice that is recorded at `own`, in a list at `list`: another for each generation, not
    /// `own`, and not past the list's. `None`: it cannot have one.
    pub(super) fn version(&self, own: &str, list: u64) -> Option<String> {
        let own: u64 = own.parse().ok()?;
        let later = own.saturating_add(self.generation);
        let version = match list.max(own).saturating_sub(self.generation) {
            _ if later <= list => later,
            // More has been learned than there are versions: round and round below its own.
            0 => 1 + self.generation % own.saturating_sub(1).max(1),
            below => below,
        };
        Some(version.to_string())
    }

    /// What becomes of an endpoint of a slice of this `addressType`.
    pub(super) fn of(&self, endpoint: &Endpoint<'_>, address_type: &str) -> Becomes {
        let is_of_family = |address: &&IpAddr| match address_type {
            "IPv4" => address.is_ipv4(),
            "IPv6" => address.is_ipv6(),
            _ => false,
        };
        let [kind, namespace, name, uid] = endpoint.target;
        if kind != "Pod" || !matches!(address_type, "IPv4" | "IPv6") {
            return Becomes::AsItWas;
        }
        if let Some(pod) = self.pods.get(uid).filter(|pod| pod.namespace == namespace && pod.name == name) {
            let addresses = pod.status.addresses.iter().filter(is_of_family).filter(|a| is_lawful(a));
            let addresses: Vec<String> = addresses.map(ToString::to_string).collect();
            if pod.status.is_over() || addresses.is_empty() {
                return Becomes::Gone;
            }
            return Becomes::At { addresses, ready: pod.status.ready };
        }
        let mut parsed = endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok());
        let is_taken = parsed.any(|a| self.taken.get(&a).is_some_and(|node| node == endpoint.node));
        if is_taken { Becomes::Gone } else { Becomes::AsItWas }
    }
}

impl PodStatus {
    /// Its containers have ended for good.
    fn is_over(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }
}

/// What kube-apiserver takes for an endpoint's address (`pkg/apis/core/validation/validation.go`, `ValidateEndpointIP`).
fn is_lawful(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(link_local || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

#[cfg(test)]
mod tests;
