//! The endpoints of one object, named otherwise.

use super::token::{self, Span};
use crate::record::rewrite::PORT_NAME;
use crate::record::{Destination, EndpointsKind, Malformed, NotRewritten};
use std::ops::Range;

/// The whole object with its endpoints leading to `to`, as long as it was; `None`: it has none that could be led, as what
/// shows its metadata only.
pub(in crate::record) fn with_endpoints(
    object: &[u8],
    kind: EndpointsKind,
    to: &Destination,
) -> Result<Option<Vec<u8>>, NotRewritten> {
    let end = object.iter().rposition(|b| *b == b'}').ok_or(Malformed::Syntax)?;
    let members = token::members(object)?;
    let Destination { address, port } = to;
    let replaced: &[(&[u8], String)] = &match kind {
        EndpointsKind::Slice => [
            (
                b"endpoints".as_slice(),
                format!("[{{\"addresses\":[\"{address}\"],\"conditions\":{{\"ready\":true}}}}]"),
            ),
            (b"ports", format!("[{{\"name\":\"{PORT_NAME}\",\"protocol\":\"TCP\",\"port\":{port}}}]")),
        ]
        .to_vec(),
        EndpointsKind::Legacy => [(
            b"subsets".as_slice(),
            format!(
                "[{{\"addresses\":[{{\"ip\":\"{address}\"}}],\"ports\":[{{\"name\":\"{PORT_NAME}\",\"port\":{port},\"protocol\":\"TCP\"}}]}}]"
            ),
        )]
        .to_vec(),
    };
    if !replaced.iter().all(|(name, _)| members.iter().any(|m| m.key == *name)) {
        return Ok(None);
    }
    let mut out = Vec::with_capacity(object.len() + 64);
    let mut copied = 0;
    for member in &members {
        let value = &object[member.value.clone()];
        if member.key == b"addressType" && kind == EndpointsKind::Slice {
            if value != format!("\"{}\"", to.address_type()).as_bytes() {
                return Err(NotRewritten::OtherFamily);
            }
        } else if member.key == b"metadata" {
            if let Some(managed) = managed_fields(value)? {
                let (from, until) = (member.value.start + managed.start, member.value.start + managed.end);
                out.extend_from_slice(&object[copied..from]);
                copied = until;
            }
        } else if let Some((_, text)) = replaced.iter().find(|(name, _)| member.key == *name) {
            out.extend_from_slice(&object[copied..member.value.start]);
            out.extend_from_slice(text.as_bytes());
            copied = member.value.end;
        }
    }
    out.extend_from_slice(&object[copied..end]);
    let room = end.checked_sub(out.len()).ok_or(NotRewritten::NoRoom)?;
    out.resize(out.len() + room, b' ');
    out.extend_from_slice(&object[end..]);
    Ok(Some(out))
}

/// Where in an object's metadata `managedFields` is, with one comma beside it.
fn managed_fields(metadata: &[u8]) -> Result<Option<Range<usize>>, Malformed> {
    if !metadata.starts_with(b"{") {
        return Ok(None);
    }
    let members = token::members(metadata)?;
    let Some(index) = members.iter().position(|m| m.key == b"managedFields") else { return Ok(None) };
    let Span { at, value, .. } = &members[index];
    Ok(Some(match (index.checked_sub(1).and_then(|i| members.get(i)), members.get(index + 1)) {
        (_, Some(next)) => *at..next.at,
        (Some(before), None) => before.value.end..value.end,
        (None, None) => *at..value.end,
    }))
}
