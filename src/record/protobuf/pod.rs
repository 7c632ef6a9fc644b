//! What decides a pod's endpoints (`staging/src/k8s.io/api/core/v1/generated.proto`):
//!
//! ```text
//! Pod          1: metadata  2: PodSpec{10: nodeName  11: hostNetwork}
//!              3: PodStatus{1: phase  2: PodCondition{1: type  2: status}  6: podIP  12: PodIP{1: ip}}
//! ```

use super::meta::{self, OBJECT_META};
use super::wire::{self, Field};
use crate::record::pod::address;
use crate::record::{Malformed, Pod, PodStatus};

const SPEC: u32 = 2;
const STATUS: u32 = 3;

/// Reads a pod's message.
///
/// # Errors
/// It is none.
pub(in crate::record) fn pod(object: &[u8]) -> Result<Pod, Malformed> {
    let facts = meta::facts_of(object)?;
    let mut pod = Pod { namespace: facts.namespace, name: facts.name, uid: facts.uid, ..Pod::default() };
    for field in wire::fields(object) {
        let field = field?;
        match field.number {
            OBJECT_META => {}
            SPEC => spec(field.bytes(object)?, &mut pod)?,
            STATUS => pod.status = status(field.bytes(object)?)?,
            _ => {}
        }
    }
    Ok(pod)
}

fn spec(spec: &[u8], pod: &mut Pod) -> Result<(), Malformed> {
    for field in wire::fields(spec) {
        let field = field?;
        match field.number {
            10 => field.text(spec)?.clone_into(&mut pod.node),
            11 => pod.host_network = is_true(&field, spec)?,
            _ => {}
        }
    }
    Ok(())
}

fn status(message: &[u8]) -> Result<PodStatus, Malformed> {
    let (mut status, mut first) = (PodStatus::default(), None);
    for field in wire::fields(message) {
        let field = field?;
        match field.number {
            1 => field.text(message)?.clone_into(&mut status.phase),
            2 => {
                let [kind, value] = texts(field.bytes(message)?)?;
                status.ready |= kind == "Ready" && value == "True";
            }
            6 => first = address(field.text(message)?),
            12 => status.addresses.extend(address(texts(field.bytes(message)?)?[0])),
            _ => {}
        }
    }
    if status.addresses.is_empty() {
        status.addresses.extend(first);
    }
    Ok(status)
}

/// The texts that are a message's first and second field; empty where it has none.
fn texts(message: &[u8]) -> Result<[&str; 2], Malformed> {
    let mut texts = [""; 2];
    for field in wire::fields(message) {
        let field = field?;
        if let 1 | 2 = field.number
            && field.wire == wire::Wire::Bytes
        {
            texts[field.number as usize - 1] = field.text(message)?;
        }
    }
    Ok(texts)
}

/// The value of a field that is a bool.
///
/// # Errors
/// It is no varint.
pub(super) fn is_true(field: &Field, message: &[u8]) -> Result<bool, Malformed> {
    match (field.wire, wire::varint(&message[field.content.clone()])?) {
        (wire::Wire::Varint, Some((value, _))) => Ok(value != 0),
        _ => Err(Malformed::Syntax),
    }
}
