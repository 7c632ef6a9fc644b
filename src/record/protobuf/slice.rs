//! An EndpointSlice, corrected. What is changed of it is written anew, with the lengths of all that it stands in; all else
//! stays as it came. The shapes (`staging/src/k8s.io/api/discovery/v1/generated.proto`; `v1beta1` is as `v1`):
//!
//! ```text
//! EndpointSlice   1: metadata  2: Endpoint, repeated  3: ports  4: addressType
//! Endpoint        1: address, repeated  2: EndpointConditions{1: ready  2: serving  3: terminating}
//!                 4: ObjectReference{1: kind  2: namespace  3: name  4: uid}  6: nodeName
//! ```

use super::meta::OBJECT_META;
use super::pod::is_true;
use super::wire;
use crate::record::whereabouts::{Becomes, Conditions, Endpoint};
use crate::record::{Malformed, Whereabouts};

const ENDPOINTS: u32 = 2;
const ADDRESS_TYPE: u32 = 4;

const ADDRESSES: u32 = 1;
const CONDITIONS: u32 = 2;
const TARGET_REF: u32 = 4;
const NODE_NAME: u32 = 6;

/// `ObjectMeta.resourceVersion`
const RESOURCE_VERSION: u32 = 6;

/// See [`Whereabouts::correct`].
///
/// # Errors
/// It is no slice.
pub(in crate::record) fn corrected(
    slice: &[u8],
    by: &Whereabouts,
    at: Option<u64>,
    anyway: bool,
) -> Result<Option<Vec<u8>>, Malformed> {
    let mut family = None;
    for field in wire::fields(slice) {
        let field = field?;
        if field.number == ADDRESS_TYPE {
            family = Some(field.text(slice)?);
        }
    }
    // What shows its metadata only has none.
    let Some(family) = family else { return Ok(None) };
    let (mut out, mut touched) = (Vec::with_capacity(slice.len() + 64), anyway);
    for field in wire::fields(slice) {
        let field = field?;
        match field.number {
            OBJECT_META => wire::put(OBJECT_META, &at_version(field.bytes(slice)?, by, at)?, &mut out),
            ENDPOINTS => {
                let endpoint = field.bytes(slice)?;
                match by.of(&understood(endpoint)?, family) {
                    Becomes::AsItWas => out.extend_from_slice(&slice[field.whole]),
                    Becomes::Gone => touched = true,
                    Becomes::At { addresses, ready } => {
                        touched = true;
                        wire::put(ENDPOINTS, &moved(endpoint, &addresses, ready)?, &mut out);
                    }
                }
            }
            _ => out.extend_from_slice(&slice[field.whole]),
        }
    }
    Ok(touched.then_some(out))
}

fn at_version(metadata: &[u8], by: &Whereabouts, at: Option<u64>) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(metadata.len() + 8);
    for field in wire::fields(metadata) {
        let field = field?;
        let version = match (field.number, at) {
            (RESOURCE_VERSION, Some(list)) => by.version(field.text(metadata)?, list),
            _ => None,
        };
        match version {
            Some(version) => wire::put(RESOURCE_VERSION, version.as_bytes(), &mut out),
            None => out.extend_from_slice(&metadata[field.whole]),
        }
    }
    Ok(out)
}

fn understood(message: &[u8]) -> Result<Endpoint<'_>, Malformed> {
    let mut endpoint = Endpoint::default();
    for field in wire::fields(message) {
        let field = field?;
        match field.number {
            ADDRESSES => endpoint.addresses.push(field.text(message)?),
            TARGET_REF => {
                let target = field.bytes(message)?;
                for field in wire::fields(target) {
                    let field = field?;
                    if let Some(part) = (field.number as usize).checked_sub(1)
                        && let Some(part) = endpoint.target.get_mut(part)
                    {
                        *part = field.text(target)?;
                    }
                }
            }
            NODE_NAME => endpoint.node = field.text(message)?,
            _ => {}
        }
    }
    Ok(endpoint)
}

/// The endpoint at other addresses.
fn moved(endpoint: &[u8], addresses: &[String], ready: bool) -> Result<Vec<u8>, Malformed> {
    let (mut conditions, mut unknown, mut rest) = (Conditions::default(), Vec::new(), Vec::new());
    for field in wire::fields(endpoint) {
        let field = field?;
        match field.number {
            ADDRESSES => {}
            CONDITIONS => {
                let held = field.bytes(endpoint)?;
                for field in wire::fields(held) {
                    let field = field?;
                    match field.number {
                        1 => conditions.ready = Some(is_true(&field, held)?),
                        2 => conditions.serving = Some(is_true(&field, held)?),
                        3 => conditions.terminating = Some(is_true(&field, held)?),
                        _ => unknown.extend_from_slice(&held[field.whole]),
                    }
                }
            }
            _ => rest.extend_from_slice(&endpoint[field.whole]),
        }
    }
    let (now, mut written) = (conditions.of(ready), Vec::new());
    for (number, value) in [(1, now.ready), (2, now.serving), (3, now.terminating)] {
        if let Some(value) = value {
            wire::put_varint(number << 3, &mut written);
            wire::put_varint(value.into(), &mut written);
        }
    }
    written.extend_from_slice(&unknown);
    let mut out = Vec::with_capacity(endpoint.len() + 16);
    addresses.iter().for_each(|address| wire::put(ADDRESSES, address.as_bytes(), &mut out));
    wire::put(CONDITIONS, &written, &mut out);
    out.extend_from_slice(&rest);
    Ok(out)
}
