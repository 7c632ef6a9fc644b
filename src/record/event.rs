//! Watch events, whatever their encoding.

use super::{Encoding, Facts, Item, Malformed, json, protobuf};

/// What an event tells (`staging/src/k8s.io/apimachinery/pkg/watch/watch.go`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// The object is there now.
    Added,
    /// The object has changed.
    Modified,
    /// The object is gone; what comes with it is its last state.
    Deleted,
    /// Nothing else happened up to this resourceVersion.
    Bookmark,
    /// The watch has failed; a Status says why.
    Error,
}

impl EventKind {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Added => "ADDED",
            EventKind::Modified => "MODIFIED",
            EventKind::Deleted => "DELETED",
            EventKind::Bookmark => "BOOKMARK",
            EventKind::Error => "ERROR",
        }
    }

    pub(super) fn parse(text: &[u8]) -> Option<EventKind> {
        use EventKind::{Added, Bookmark, Deleted, Error, Modified};
        [Added, Modified, Deleted, Bookmark, Error].into_iter().find(|k| k.name().as_bytes() == text)
    }
}

/// One event.
#[derive(Debug)]
pub struct Event {
    /// What it tells.
    pub kind: EventKind,
    /// What is known of the event's object: of a Table, its own type and version.
    pub facts: Facts,
    /// The objects that it is about: what is known of each, where in the event it stands, and the flags to keep with it.
    pub(super) objects: Vec<(Facts, std::ops::Range<usize>, u32)>,
}

/// One event and its bytes.
#[derive(Debug)]
pub struct Frame<'a> {
    /// The bytes as they came, with what follows the event up to the next.
    pub raw: &'a [u8],
    /// What they say.
    pub event: Event,
}

impl Frame<'_> {
    /// The objects that the event is about: one, or a Table's rows.
    pub fn items(&self) -> impl Iterator<Item = Item<'_>> {
        self.event.objects.iter().map(|(facts, range, flags)| Item {
            facts,
            bytes: &self.raw[range.clone()],
            flags: *flags,
        })
    }
}

/// Cuts one watch into events. However its bytes come in pieces, the same comes out.
#[derive(Debug)]
pub struct WatchReader(Walk);

#[derive(Debug)]
enum Walk {
    Json(json::WatchReader),
    Protobuf(protobuf::WatchReader),
}

impl WatchReader {
    /// A reader of one watch whose events are about `max_object` bytes long at most.
    pub fn new(encoding: Encoding, max_object: usize) -> WatchReader {
        WatchReader(match encoding {
            Encoding::Json => Walk::Json(json::WatchReader::new(max_object)),
            Encoding::Protobuf => Walk::Protobuf(protobuf::WatchReader::new(max_object)),
        })
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Walk::Json(reader) => reader.push(bytes),
            Walk::Protobuf(reader) => reader.push(bytes),
        }
    }

    /// The next event that is whole; `None`: more bytes are needed.
    ///
    /// # Errors
    /// What came is no event, or one that is too long. [`WatchReader::take_rest`] has what was not handed out.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, Malformed> {
        match &mut self.0 {
            Walk::Json(reader) => reader.next_frame(),
            Walk::Protobuf(reader) => reader.next_frame(),
        }
    }

    /// What separates the event handed out last from the next, where it came after the event itself.
    pub fn take_blanks(&mut self) -> Vec<u8> {
        match &mut self.0 {
            Walk::Json(reader) => reader.take_blanks(),
            // Frames follow each other directly.
            Walk::Protobuf(_) => Vec::new(),
        }
    }

    /// Whether all bytes that came were whole events.
    pub fn is_at_border(&self) -> bool {
        match &self.0 {
            Walk::Json(reader) => reader.is_at_border(),
            Walk::Protobuf(reader) => reader.is_at_border(),
        }
    }

    /// What came and was not handed out.
    pub fn take_rest(&mut self) -> Vec<u8> {
        match &mut self.0 {
            Walk::Json(reader) => reader.take_rest(),
            Walk::Protobuf(reader) => reader.take_rest(),
        }
    }
}
