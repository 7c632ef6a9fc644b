//! `runtime.Unknown`, the envelope of every body: what type of message it holds, and the message.

use super::wire::{self, Field};
use crate::record::{Malformed, TypeMeta};
use std::ops::Range;

/// What every body begins with (`staging/src/k8s.io/apimachinery/pkg/runtime/serializer/protobuf/protobuf.go`,
/// `protoEncodingPrefix`).
pub(super) const MAGIC: &[u8; 4] = b"k8s\0";

/// `Unknown.typeMeta`
pub(super) const TYPE_META: u32 = 1;

/// `Unknown.raw`
pub(super) const RAW: u32 = 2;

const CONTENT_ENCODING: u32 = 3;
const CONTENT_TYPE: u32 = 4;

/// What follows `raw`, as kube-apiserver writes it: an empty contentEncoding and an empty contentType.
pub(super) const TAIL: &[u8] = b"\x1a\x00\x22\x00";

/// A whole body, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    /// What the message is.
    pub(super) type_meta: TypeMeta,
    /// Where in the body the message is.
    pub(super) raw: Range<usize>,
}

impl Unknown {
    /// Takes a whole body apart.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn read(body: &[u8]) -> Result<Unknown, Malformed> {
        let content = body.strip_prefix(MAGIC).ok_or(Malformed::Syntax)?;
        let (mut type_meta, mut raw) = (TypeMeta::default(), None);
        for field in wire::fields(content) {
            let field = field?;
            match field.number {
                RAW => {
                    field.bytes(content)?;
                    let range = MAGIC.len() + field.content.start..MAGIC.len() + field.content.end;
                    if raw.replace(range).is_some() {
                        return Err(Malformed::Syntax);
                    }
                }
                TYPE_META => type_meta = read_type(field.bytes(content)?)?,
                _ => check_other(&field, content)?,
            }
        }
        Ok(Unknown { type_meta, raw: raw.ok_or(Malformed::Truncated)? })
    }
}

/// Reads a TypeMeta.
///
/// # Errors
/// It is none.
pub(super) fn read_type(message: &[u8]) -> Result<TypeMeta, Malformed> {
    let mut type_meta = TypeMeta::default();
    for field in wire::fields(message) {
        let field = field?;
        match field.number {
            1 => field.text(message)?.clone_into(&mut type_meta.api_version),
            2 => field.text(message)?.clone_into(&mut type_meta.kind),
            _ => {}
        }
    }
    Ok(type_meta)
}

/// # Errors
/// A field beside type and message says that the message is no plain protobuf.
pub(super) fn check_other(field: &Field, content: &[u8]) -> Result<(), Malformed> {
    if matches!(field.number, CONTENT_ENCODING | CONTENT_TYPE) {
        let value = field.bytes(content)?;
        let plain = field.number == CONTENT_TYPE && value == super::MEDIA_TYPE.as_bytes();
        if !(value.is_empty() || plain) {
            return Err(Malformed::Syntax);
        }
    }
    Ok(())
}

/// Appends what stands before a message of `length` bytes.
pub(super) fn put_head(api_version: &str, kind: &str, length: u64, out: &mut Vec<u8>) {
    let mut type_meta = Vec::with_capacity(api_version.len() + kind.len() + 4);
    wire::put(1, api_version.as_bytes(), &mut type_meta);
    wire::put(2, kind.as_bytes(), &mut type_meta);
    out.extend_from_slice(MAGIC);
    wire::put(TYPE_META, &type_meta, out);
    wire::put_header(RAW, length, out);
}
