//! A watch, cut into events while it streams.

use super::meta;
use super::unknown::Unknown;
use super::wire;
use crate::record::{Event, EventKind, Facts, Frame, Malformed};
use std::ops::Range;

/// How many bytes a frame's length takes, big end first
/// (`staging/src/k8s.io/apimachinery/pkg/util/framer/framer.go`, `lengthDelimitedFrameWriter`).
const LENGTH: usize = 4;

/// What an event has around its object, at most: types, lengths, the event's own name.
const AROUND: usize = 1024;

/// Cuts one watch into events. However its bytes come in pieces, the same comes out.
#[derive(Debug)]
pub(in crate::record) struct WatchReader {
    max_object: usize,
    pending: Vec<u8>,
    /// Of the pending bytes, those of the event handed out last.
    used: usize,
}

impl WatchReader {
    /// A reader of one watch whose events are about `max_object` bytes long at most.
    pub(in crate::record) fn new(max_object: usize) -> WatchReader {
        WatchReader { max_object, pending: Vec::new(), used: 0 }
    }

    /// Takes the next bytes.
    pub(in crate::record) fn push(&mut self, bytes: &[u8]) {
        self.drop_used();
        self.pending.extend_from_slice(bytes);
    }

    /// The next event that is whole; `None`: more bytes are needed.
    ///
    /// # Errors
    /// What came is no event, or one that is too long. [`WatchReader::take_rest`] has what was not handed out.
    pub(in crate::record) fn next_frame(&mut self) -> Result<Option<Frame<'_>>, Malformed> {
        self.drop_used();
        let Some((length, after)) = self.pending.split_first_chunk::<LENGTH>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > self.max_object.saturating_add(AROUND) {
            return Err(Malformed::TooLarge);
        }
        if length > after.len() {
            return Ok(None);
        }
        let event = read(&self.pending[..LENGTH + length])?;
        self.used = LENGTH + length;
        Ok(Some(Frame { raw: &self.pending[..self.used], event }))
    }

    /// Whether all bytes that came were whole events.
    pub(in crate::record) fn is_at_border(&self) -> bool {
        self.pending.len() == self.used
    }

    /// What came and was not handed out.
    pub(in crate::record) fn take_rest(&mut self) -> Vec<u8> {
        self.drop_used();
        std::mem::take(&mut self.pending)
    }

    fn drop_used(&mut self) {
        if self.used > 0 {
            self.pending.drain(..self.used);
            self.used = 0;
            // A watch is mostly idle, and many are.
            if self.pending.is_empty() {
                self.pending = Vec::new();
            }
        }
    }
}

/// Reads one whole frame: a bare `WatchEvent{1: type, 2: RawExtension{1: raw}}` whose raw is a body of its own.
fn read(frame: &[u8]) -> Result<Event, Malformed> {
    let kind = content(frame, LENGTH..frame.len(), 1)?.and_then(|k| EventKind::parse(&frame[k]));
    let extension = content(frame, LENGTH..frame.len(), 2)?;
    let (Some(kind), Some(extension)) = (kind, extension) else { return Err(Malformed::UnknownEvent) };
    let body = content(frame, extension, 1)?.ok_or(Malformed::UnknownEvent)?;
    let Unknown { type_meta, raw } = Unknown::read(&frame[body.clone()])?;
    let object = body.start + raw.start..body.start + raw.end;
    if kind == EventKind::Error {
        // A Status: it has no metadata of an object.
        return Ok(Event { kind, facts: Facts { type_meta, ..Facts::default() }, objects: Vec::new() });
    }
    let facts = Facts { type_meta, ..meta::facts_of(&frame[object.clone()])? };
    let objects = match kind {
        EventKind::Bookmark => Vec::new(),
        _ if facts.name.is_empty() => return Err(Malformed::NoName),
        _ => vec![(facts.clone(), object, 0)],
    };
    Ok(Event { kind, facts, objects })
}

/// Where in `all` the content of the field `number` is, of the message at `message`; the last one where there are several.
fn content(all: &[u8], message: Range<usize>, number: u32) -> Result<Option<Range<usize>>, Malformed> {
    let start = message.start;
    let message = &all[message];
    let mut found = None;
    for field in wire::fields(message) {
        let field = field?;
        if field.number == number {
            field.bytes(message)?;
            found = Some(start + field.content.start..start + field.content.end);
        }
    }
    Ok(found)
}
