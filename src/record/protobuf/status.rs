//! `metav1.Status` as a body (`staging/src/k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto`).

use super::unknown::{self, TAIL};
use super::wire;
use crate::record::StatusBody;

/// The body of a Status.
pub(in crate::record) fn status(status: &StatusBody) -> Vec<u8> {
    let mut message = Vec::new();
    // What generated code writes of an empty ListMeta: selfLink, resourceVersion and continue, all empty.
    wire::put(1, b"\x0a\x00\x12\x00\x1a\x00", &mut message);
    wire::put(2, b"Failure", &mut message);
    wire::put(3, status.message.as_bytes(), &mut message);
    wire::put(4, status.reason.as_bytes(), &mut message);
    if let Some((reason, text)) = &status.cause {
        let mut cause = Vec::new();
        wire::put(1, reason.as_bytes(), &mut cause);
        wire::put(2, text.as_bytes(), &mut cause);
        let mut details = Vec::new();
        wire::put(4, &cause, &mut details);
        wire::put(5, &details, &mut message);
    }
    // Field 6, a varint.
    message.push(6 << 3);
    wire::put_varint(status.code.into(), &mut message);
    let mut body = Vec::with_capacity(message.len() + 32);
    unknown::put_head("v1", "Status", message.len() as u64, &mut body);
    body.extend_from_slice(&message);
    body.extend_from_slice(TAIL);
    body
}
