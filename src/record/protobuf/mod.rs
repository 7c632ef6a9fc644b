//! `application/vnd.kubernetes.protobuf`, walked without a schema: the wire format, the envelope that every body has, and
//! the metadata that every object and every list begins with. All else is bytes, and stays as it came.
//!
//! The shapes (`generated.proto` in `staging/src/k8s.io/apimachinery/pkg/runtime` and `pkg/apis/meta/v1`):
//!
//! ```text
//! body        k8s\0 Unknown
//! Unknown     1: TypeMeta{1: apiVersion, 2: kind}  2: raw, the message itself  3: contentEncoding  4: contentType
//! a list      1: ListMeta  2: an item, repeated        (meta.k8s.io/v1beta1 PartialObjectMetadataList: the other way round)
//! an object   1: ObjectMeta  …
//! ListMeta    1: selfLink  2: resourceVersion  3: continue  4: remainingItemCount
//! ObjectMeta  1: name  3: namespace  5: uid  6: resourceVersion  11: labels  12: annotations  …
//! a watch     frames: a length of four bytes, big end first, and a bare WatchEvent{1: type, 2: RawExtension{1: body}}
//! ```
//!
//! An object is kept bare: the bytes of its message, with neither what a list puts before it nor an `Unknown` around it.
//! So the items of lists and the objects of events are kept alike, and no flags go with them.

mod endpoints;
mod envelope;
mod event;
mod inflow;
mod list;
mod meta;
mod object;
mod pod;
mod slice;
mod status;
mod unknown;
pub(super) mod wire;

pub(super) use endpoints::with_endpoints;
pub(super) use envelope::{Envelope, FORMAT, put_error};
pub(super) use event::WatchReader;
pub(super) use list::ListReader;
pub(super) use meta::labels;
pub(super) use object::ObjectReader;
pub(super) use pod::pod;
pub(super) use slice::corrected;
pub(super) use status::status;

/// The media type of a body.
pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// The media type of a watch, as kube-apiserver has it
/// (`staging/src/k8s.io/apiserver/pkg/endpoints/handlers/watch.go`, `serveWatchHandler`).
pub(super) const WATCH_MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// Where in a whole body its message is.
///
/// # Errors
/// It is no body.
pub(super) fn message(body: &[u8]) -> Result<std::ops::Range<usize>, crate::record::Malformed> {
    unknown::Unknown::read(body).map(|unknown| unknown.raw)
}

/// A whole body with another message.
///
/// # Errors
/// It is no body.
pub(super) fn with_message(body: &[u8], message: &[u8]) -> Result<Vec<u8>, crate::record::Malformed> {
    unknown::Unknown::read(body)?;
    let mut out = Vec::with_capacity(body.len() + message.len());
    out.extend_from_slice(unknown::MAGIC);
    let content = &body[unknown::MAGIC.len()..];
    for field in wire::fields(content) {
        let field = field?;
        if field.number == unknown::RAW {
            wire::put(unknown::RAW, message, &mut out);
        } else {
            out.extend_from_slice(&content[field.whole]);
        }
    }
    Ok(out)
}

/// The text in a body at a path of field numbers; `None` where there is none.
pub(super) fn text_at<const N: usize>(body: &[u8], path: [u32; N]) -> Option<String> {
    let mut at = &body[unknown::Unknown::read(body).ok()?.raw];
    for number in path {
        let field = wire::fields(at).filter_map(Result::ok).find(|f| f.number == number)?;
        at = field.bytes(at).ok()?;
    }
    wire::text(at).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests;
