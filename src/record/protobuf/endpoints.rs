//! The endpoints of one object, named otherwise. The shapes (`staging/src/k8s.io/api/discovery/v1/generated.proto` and
//! `staging/src/k8s.io/api/core/v1/generated.proto`; `v1beta1` is as `v1`):
//!
//! ```text
//! EndpointSlice   1: metadata  2: Endpoint{1: addresses  2: {1: ready}}  3: EndpointPort{1: name  2: protocol  3: port}
//!                 4: addressType
//! Endpoints       1: metadata  2: EndpointSubset{1: {1: ip}  3: EndpointPort{1: name  2: port  3: protocol}}
//! ```

use super::meta::OBJECT_META;
use super::wire;
use crate::record::rewrite::PORT_NAME;
use crate::record::{Destination, EndpointsKind, Malformed, NotRewritten};

/// `ObjectMeta.managedFields`
const MANAGED_FIELDS: u32 = 17;

const SLICE_ENDPOINTS: u32 = 2;
const SLICE_PORTS: u32 = 3;
const SLICE_ADDRESS_TYPE: u32 = 4;
const SUBSETS: u32 = 2;

/// A field that nothing of Kubernetes has: every decoder steps over it. Its header takes three bytes.
const FILLING: u32 = 1000;

/// As long as one such field may be for its length to take one byte.
const LONGEST_FILLING: usize = 3 + 127;

/// The whole object's message with its endpoints leading to `to`, as long as it was; `None`: it has none that could be led,
/// as what shows its metadata only.
pub(in crate::record) fn with_endpoints(
    object: &[u8],
    kind: EndpointsKind,
    to: &Destination,
) -> Result<Option<Vec<u8>>, NotRewritten> {
    if !has_endpoints(object, kind)? {
        return Ok(None);
    }
    // That the endpoint is ready goes without saying, where that makes room, or makes it room that can be filled.
    for ready in [true, false] {
        let mut out = match kind {
            EndpointsKind::Slice => slice(object, to, ready),
            EndpointsKind::Legacy => legacy(object, to),
        }?;
        if object.len().checked_sub(out.len()).is_some_and(|room| fill(room, &mut out)) {
            return Ok(Some(out));
        }
    }
    Err(NotRewritten::NoRoom)
}

fn has_endpoints(object: &[u8], kind: EndpointsKind) -> Result<bool, Malformed> {
    let mark = match kind {
        EndpointsKind::Slice => SLICE_ADDRESS_TYPE,
        EndpointsKind::Legacy => SUBSETS,
    };
    for field in wire::fields(object) {
        if field?.number == mark {
            return Ok(true);
        }
    }
    Ok(false)
}

fn slice(object: &[u8], to: &Destination, ready: bool) -> Result<Vec<u8>, NotRewritten> {
    let (mut endpoint, mut port, mut out) = (Vec::new(), Vec::new(), Vec::with_capacity(object.len()));
    wire::put(1, to.address.as_bytes(), &mut endpoint);
    if ready {
        wire::put(2, b"\x08\x01", &mut endpoint);
    }
    wire::put(1, PORT_NAME.as_bytes(), &mut port);
    wire::put(2, b"TCP", &mut port);
    put_number(3, to.port, &mut port);
    for field in wire::fields(object) {
        let field = field?;
        match field.number {
            OBJECT_META => put_metadata(field.bytes(object)?, &mut out)?,
            SLICE_ENDPOINTS | SLICE_PORTS => {}
            SLICE_ADDRESS_TYPE if field.text(object)? != to.address_type() => return Err(NotRewritten::OtherFamily),
            SLICE_ADDRESS_TYPE => {
                wire::put(SLICE_ENDPOINTS, &endpoint, &mut out);
                wire::put(SLICE_PORTS, &port, &mut out);
                out.extend_from_slice(&object[field.whole]);
            }
            _ => out.extend_from_slice(&object[field.whole]),
        }
    }
    Ok(out)
}

fn legacy(object: &[u8], to: &Destination) -> Result<Vec<u8>, NotRewritten> {
    let (mut address, mut port, mut subset) = (Vec::new(), Vec::new(), Vec::new());
    wire::put(1, to.address.as_bytes(), &mut address);
    wire::put(1, PORT_NAME.as_bytes(), &mut port);
    put_number(2, to.port, &mut port);
    wire::put(3, b"TCP", &mut port);
    wire::put(1, &address, &mut subset);
    wire::put(3, &port, &mut subset);
    let (mut out, mut led) = (Vec::with_capacity(object.len()), false);
    for field in wire::fields(object) {
        let field = field?;
        match field.number {
            OBJECT_META => put_metadata(field.bytes(object)?, &mut out)?,
            SUBSETS if led => {}
            SUBSETS => {
                led = true;
                wire::put(SUBSETS, &subset, &mut out);
            }
            _ => out.extend_from_slice(&object[field.whole]),
        }
    }
    Ok(out)
}

fn put_number(field: u32, value: u16, out: &mut Vec<u8>) {
    wire::put_varint(u64::from(field) << 3, out);
    wire::put_varint(value.into(), out);
}

/// The metadata without `managedFields`.
fn put_metadata(metadata: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut kept = Vec::with_capacity(metadata.len());
    for field in wire::fields(metadata) {
        let field = field?;
        if field.number != MANAGED_FIELDS {
            kept.extend_from_slice(&metadata[field.whole]);
        }
    }
    wire::put(OBJECT_META, &kept, out);
    Ok(())
}

/// Appends as many bytes that mean nothing; false where no field is so short.
fn fill(mut room: usize, out: &mut Vec<u8>) -> bool {
    if matches!(room, 1 | 2) {
        return false;
    }
    while room > 0 {
        let mut length = room.min(LONGEST_FILLING);
        if matches!(room - length, 1 | 2) {
            length -= 3;
        }
        wire::put(FILLING, &[0; LONGEST_FILLING][..length - 3], out);
        room -= length;
    }
    true
}
