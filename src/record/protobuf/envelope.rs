//! What is left of a list without its objects, and what is made of it again: lists, single objects, watch events.

use super::meta::{self, ListMeta};
use super::unknown::{self, MAGIC, RAW, TAIL};
use super::wire;
use crate::record::compose::{ListWriter, Sizes, Style};
use crate::record::{EventKind, Malformed, StatusBody, TypeMeta};

/// What stands around a list's objects, as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parts {
    /// Of the `Unknown`, what comes before its message.
    pub(super) head: Vec<u8>,
    /// Of the message, what comes before the items.
    pub(super) before: Vec<u8>,
    /// Of the message, what comes after the items.
    pub(super) after: Vec<u8>,
    /// Of the `Unknown`, what comes after its message.
    pub(super) tail: Vec<u8>,
}

impl Parts {
    pub(super) fn length(&self) -> usize {
        self.head.len() + self.before.len() + self.after.len() + self.tail.len()
    }
}

/// The envelope of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::record) struct Envelope {
    parts: Parts,
    type_meta: TypeMeta,
    list_meta: ListMeta,
}

/// The version of what [`Envelope::encode`] writes; JSON has another.
pub(in crate::record) const FORMAT: u8 = 2;

/// Of a list's message: the field numbers of its metadata and of its items.
pub(super) struct Numbers {
    pub(super) metadata: u32,
    pub(super) items: u32,
}

/// The field numbers of a list: one type has them the other way round
/// (`staging/src/k8s.io/apimachinery/pkg/apis/meta/v1beta1/generated.proto`, `PartialObjectMetadataList`).
pub(super) fn numbers(type_meta: &TypeMeta) -> Numbers {
    if type_meta.api_version == "meta.k8s.io/v1beta1" && type_meta.kind == "PartialObjectMetadataList" {
        Numbers { metadata: 2, items: 1 }
    } else {
        Numbers { metadata: 1, items: 2 }
    }
}

impl Envelope {
    /// The envelope of a list that came in these parts.
    ///
    /// # Errors
    /// Its metadata is none.
    pub(super) fn new(parts: Parts, type_meta: TypeMeta) -> Result<Envelope, Malformed> {
        let number = numbers(&type_meta).metadata;
        let (before, after) = (ListMeta::read(&parts.before, number)?, ListMeta::read(&parts.after, number)?);
        let list_meta = match (before, after) {
            (Some(_), Some(_)) => return Err(Malformed::NotAList),
            (Some(meta), None) | (None, Some(meta)) => meta,
            (None, None) => ListMeta::default(),
        };
        Ok(Envelope { parts, type_meta, list_meta })
    }

    /// The envelope of a list of this type, as kube-apiserver writes it.
    ///
    /// # Errors
    /// None that could be.
    pub(in crate::record) fn of_type(type_meta: TypeMeta, resource_version: &str) -> Result<Envelope, Malformed> {
        let Numbers { metadata: number, items } = numbers(&type_meta);
        let (mut of_type, mut head, mut metadata, mut list) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        wire::put(1, type_meta.api_version.as_bytes(), &mut of_type);
        wire::put(2, type_meta.kind.as_bytes(), &mut of_type);
        wire::put(unknown::TYPE_META, &of_type, &mut head);
        for (field, text) in [(1, ""), (2, resource_version), (3, "")] {
            wire::put(field, text.as_bytes(), &mut metadata);
        }
        wire::put(number, &metadata, &mut list);
        let (before, after) = if number < items { (list, Vec::new()) } else { (Vec::new(), list) };
        Envelope::new(Parts { head, before, after, tail: TAIL.to_vec() }, type_meta)
    }

    /// The list's own type.
    pub(in crate::record) fn type_meta(&self) -> &TypeMeta {
        &self.type_meta
    }

    /// The list's resourceVersion; empty where it has none.
    pub(in crate::record) fn resource_version(&self) -> &str {
        &self.list_meta.resource_version
    }

    /// `metadata.continue`: more of the list is to be had.
    pub(in crate::record) fn continue_token(&self) -> Option<&str> {
        Some(self.list_meta.continue_token.as_str()).filter(|t| !t.is_empty())
    }

    /// The envelope as bytes to keep: a format byte, then six strings, each after its length as four bytes, big end first.
    pub(in crate::record) fn encode(&self) -> Vec<u8> {
        let Parts { head, before, after, tail } = &self.parts;
        let (api_version, kind) = (self.type_meta.api_version.as_bytes(), self.type_meta.kind.as_bytes());
        let mut out = vec![FORMAT];
        for part in [head, before, after, tail, api_version, kind] {
            out.extend_from_slice(&(part.len() as u32).to_be_bytes());
            out.extend_from_slice(part);
        }
        out
    }

    /// Reads what [`Envelope::encode`] wrote; `None` for anything else.
    pub(in crate::record) fn decode(bytes: &[u8]) -> Option<Envelope> {
        let [FORMAT, rest @ ..] = bytes else { return None };
        let mut rest = rest;
        let mut part = || {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (part, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            rest = after;
            Some(part.to_vec())
        };
        let parts = Parts { head: part()?, before: part()?, after: part()?, tail: part()? };
        let type_meta =
            TypeMeta { api_version: String::from_utf8(part()?).ok()?, kind: String::from_utf8(part()?).ok()? };
        if rest.is_empty() { Envelope::new(parts, type_meta).ok() } else { None }
    }

    /// Begins to count how long the list will be.
    pub(in crate::record) fn sizes(&self) -> Sizes {
        Sizes::new(Style::Field(numbers(&self.type_meta).items))
    }

    /// The list at a resourceVersion, to be written piece by piece; as it was, but whole.
    pub(in crate::record) fn list(&self, resource_version: &str, sizes: Sizes) -> ListWriter {
        let metadata = numbers(&self.type_meta).metadata;
        let before = meta::at_version(&self.parts.before, metadata, resource_version);
        let mut tail = meta::at_version(&self.parts.after, metadata, resource_version);
        let message = before.len() as u64 + sizes.total() + tail.len() as u64;
        let mut head = [MAGIC.as_slice(), &self.parts.head].concat();
        wire::put_header(RAW, message, &mut head);
        head.extend_from_slice(&before);
        tail.extend_from_slice(&self.parts.tail);
        ListWriter::new(head, tail, sizes)
    }

    /// One object as the answer to a get. kube-apiserver names every list after its items.
    pub(in crate::record) fn object(&self, bytes: &[u8], out: &mut Vec<u8>) {
        let TypeMeta { api_version, kind } = &self.type_meta;
        unknown::put_head(api_version, kind.strip_suffix("List").unwrap_or(kind), bytes.len() as u64, out);
        out.extend_from_slice(bytes);
        out.extend_from_slice(TAIL);
    }

    /// One event of a watch.
    pub(in crate::record) fn event(&self, kind: EventKind, object: &[u8], out: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(object.len() + 128);
        self.object(object, &mut body);
        put_frame(kind, &body, out);
    }

    /// A BOOKMARK. `initial_events_end`: it says that the initial events were all.
    pub(in crate::record) fn bookmark(&self, resource_version: &str, initial_events_end: bool, out: &mut Vec<u8>) {
        let metadata = meta::bookmark_meta(resource_version, initial_events_end);
        let mut object = Vec::new();
        wire::put(meta::OBJECT_META, &metadata, &mut object);
        self.event(EventKind::Bookmark, &object, out);
    }
}

/// Appends an ERROR event.
pub(in crate::record) fn put_error(status: &StatusBody, out: &mut Vec<u8>) {
    put_frame(EventKind::Error, &super::status(status), out);
}

/// Appends a frame: a length of four bytes, and an event with this body.
fn put_frame(kind: EventKind, body: &[u8], out: &mut Vec<u8>) {
    let mut event = Vec::with_capacity(32);
    wire::put(1, kind.name().as_bytes(), &mut event);
    let extension = wire::field_length(1, body.len() as u64);
    wire::put_header(2, extension, &mut event);
    wire::put_header(1, body.len() as u64, &mut event);
    let length = event.len() + body.len();
    out.extend_from_slice(&(length as u32).to_be_bytes());
    out.extend_from_slice(&event);
    out.extend_from_slice(body);
}
