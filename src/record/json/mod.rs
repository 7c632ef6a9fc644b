//! JSON: bodies walked token by token, and written again from what was kept of them.

mod endpoints;
mod envelope;
mod event;
mod gathering;
mod list;
mod object;
mod pod;
mod slice;
mod token;

use crate::record::Malformed;

pub(super) use endpoints::with_endpoints;
pub(super) use envelope::{Envelope, FORMAT, put_error};
pub(super) use event::WatchReader;
pub(super) use list::ListReader;
pub(super) use object::ObjectReader;
pub(super) use pod::pod;
pub(super) use slice::corrected;

/// The labels of an object as it is kept.
///
/// # Errors
/// It is no object, or its labels are not text.
pub(super) fn labels(object: &[u8]) -> Result<Vec<(String, String)>, Malformed> {
    let mut within = object;
    for name in [b"metadata".as_slice(), b"labels"] {
        match token::members(within)?.into_iter().find(|m| m.key == name) {
            Some(member) if within[member.value.clone()].starts_with(b"{") => within = &within[member.value],
            _ => return Ok(Vec::new()),
        }
    }
    let text = |raw: &[u8]| serde_json::from_slice::<String>(raw).map_err(|_| Malformed::Syntax);
    let label = |m: token::Span| Ok((text(&[b"\"", m.key.as_slice(), b"\""].concat())?, text(&within[m.value])?));
    token::members(within)?.into_iter().map(label).collect()
}
