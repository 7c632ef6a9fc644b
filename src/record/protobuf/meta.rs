//! What is read from the metadata of an object or a list, by field number.

use super::wire;
use crate::record::{Facts, Malformed};
use std::ops::Range;

/// Of every object.
pub(super) const OBJECT_META: u32 = 1;

const LABELS: u32 = 11;
const ANNOTATIONS: u32 = 12;

/// The annotation with which kube-apiserver ends the initial events of a watch
/// (`staging/src/k8s.io/apimachinery/pkg/apis/meta/v1/types.go`, `InitialEventsAnnotationKey`).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Which fact a field of ObjectMeta is.
pub(super) fn fact(facts: &mut Facts, number: u32) -> Option<&mut String> {
    match number {
        1 => Some(&mut facts.name),
        3 => Some(&mut facts.namespace),
        5 => Some(&mut facts.uid),
        6 => Some(&mut facts.resource_version),
        _ => None,
    }
}

/// Reads what is to be known of a whole object's message. As protobuf has it, what comes later wins.
///
/// # Errors
/// It is no message, or its metadata is none.
pub(super) fn facts_of(object: &[u8]) -> Result<Facts, Malformed> {
    let mut facts = Facts::default();
    for field in wire::fields(object) {
        let field = field?;
        if field.number == OBJECT_META {
            object_meta(field.bytes(object)?, &mut facts)?;
        }
    }
    Ok(facts)
}

fn object_meta(meta: &[u8], facts: &mut Facts) -> Result<(), Malformed> {
    for field in wire::fields(meta) {
        let field = field?;
        if let Some(fact) = fact(facts, field.number) {
            field.text(meta)?.clone_into(fact);
        } else if field.number == ANNOTATIONS {
            let (key, value) = entry(field.bytes(meta)?)?;
            if key == INITIAL_EVENTS_END.as_bytes() {
                facts.initial_events_end = value == b"true";
            }
        }
    }
    Ok(())
}

/// The labels of an object as it is kept.
///
/// # Errors
/// It is no message, or its metadata is none.
pub(in crate::record) fn labels(object: &[u8]) -> Result<Vec<(String, String)>, Malformed> {
    let mut labels = Vec::new();
    for field in wire::fields(object) {
        let field = field?;
        if field.number != OBJECT_META {
            continue;
        }
        let meta = field.bytes(object)?;
        for field in wire::fields(meta) {
            let field = field?;
            if field.number == LABELS {
                let (key, value) = entry(field.bytes(meta)?)?;
                labels.push((wire::text(key)?.to_owned(), wire::text(value)?.to_owned()));
            }
        }
    }
    Ok(labels)
}

/// An entry of a map of text: `{1: key, 2: value}`.
fn entry(entry: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (mut key, mut value): (&[u8], &[u8]) = (b"", b"");
    for field in wire::fields(entry) {
        let field = field?;
        match field.number {
            1 => key = field.bytes(entry)?,
            2 => value = field.bytes(entry)?,
            _ => {}
        }
    }
    Ok((key, value))
}

/// The ObjectMeta that a BOOKMARK's object has, with the empty fields that generated code writes.
pub(super) fn bookmark_meta(resource_version: &str, initial_events_end: bool) -> Vec<u8> {
    let mut out = Vec::new();
    (1..=5).for_each(|text| wire::put(text, b"", &mut out));
    wire::put(6, resource_version.as_bytes(), &mut out);
    // generation, a varint; creationTimestamp.
    out.extend_from_slice(b"\x38\x00\x42\x00");
    if initial_events_end {
        let mut entry = Vec::new();
        wire::put(1, INITIAL_EVENTS_END.as_bytes(), &mut entry);
        wire::put(2, b"true", &mut entry);
        wire::put(ANNOTATIONS, &entry, &mut out);
    }
    out
}

/// What is read from a ListMeta.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ListMeta {
    pub(super) resource_version: String,
    pub(super) continue_token: String,
}

impl ListMeta {
    /// Reads the ListMeta that is field `number` of what a list has beside its items.
    ///
    /// # Errors
    /// It is none, or there are two.
    pub(super) fn read(list: &[u8], number: u32) -> Result<Option<ListMeta>, Malformed> {
        let mut read = ListMeta::default();
        let Some(range) = place(list, number)? else { return Ok(None) };
        let meta = &list[range];
        for field in wire::fields(meta) {
            let field = field?;
            match field.number {
                2 => field.text(meta)?.clone_into(&mut read.resource_version),
                3 => field.text(meta)?.clone_into(&mut read.continue_token),
                _ => {}
            }
        }
        Ok(Some(read))
    }
}

/// Where the content of the list's metadata is.
fn place(list: &[u8], number: u32) -> Result<Option<Range<usize>>, Malformed> {
    let mut found = None;
    for field in wire::fields(list) {
        let field = field?;
        if field.number == number {
            field.bytes(list)?;
            // Two are one that is merged, for a reader with a schema; what is written to one then says too little.
            if found.replace(field.content).is_some() {
                return Err(Malformed::NotAList);
            }
        }
    }
    Ok(found)
}

/// What a list has beside its items, with its metadata changed: at this resourceVersion, and whole, so with an empty
/// `continue` and without `remainingItemCount`, as kube-apiserver's generated code writes a whole list. All else is copied.
pub(super) fn at_version(list: &[u8], number: u32, resource_version: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(list.len() + 32);
    // It was read before it was kept: an error cannot be.
    for field in wire::fields(list).map_while(Result::ok) {
        if field.number == number {
            let meta = list_meta_at(&list[field.content], resource_version);
            wire::put(number, &meta, &mut out);
        } else {
            out.extend_from_slice(&list[field.whole]);
        }
    }
    out
}

fn list_meta_at(meta: &[u8], resource_version: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(meta.len() + 32);
    for field in wire::fields(meta).map_while(Result::ok) {
        match field.number {
            2 => wire::put(2, resource_version.as_bytes(), &mut out),
            3 => wire::put(3, b"", &mut out),
            4 => {}
            _ => out.extend_from_slice(&meta[field.whole]),
        }
    }
    out
}
