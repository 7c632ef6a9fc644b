//! Bytes become objects: lists are split while they stream, watch streams are cut into events, single objects are
//! looked at for their metadata; and back again: recalled objects become lists and watch events.
//!
//! Objects are opaque. Only what must be known is read (their type, and of their metadata the name, namespace, uid and
//! resourceVersion); everything else is kept and given back byte for byte, so that kinds not invented yet just work.
//! Memory is bounded by the largest object, never by the length of a list.
//!
//! Pure: bytes in, bytes out. It knows neither where bytes come from nor where they are kept.

mod compose;
mod envelope;
mod event;
mod facts;
mod json;
mod labels;
mod pod;
mod protobuf;
mod readers;
mod rewrite;
mod status;
mod token_request;
mod whereabouts;

pub use compose::{ListWriter, Sizes};
pub use envelope::Envelope;
pub use event::{Event, EventKind, Frame, WatchReader};
pub use facts::{Facts, TypeMeta};
pub use labels::labels;
pub use pod::{Pod, PodStatus, StatusPatch};
pub use readers::{ListReader, ObjectReader};
pub use rewrite::{BodyShape, Destination, EndpointsKind, NotRewritten, Rewriter};
pub use status::StatusBody;
pub use token_request::minted_token;
pub use whereabouts::{Learned, Whereabouts};

use std::fmt;

/// How the bytes of a representation are walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// JSON text.
    Json,
    /// Kubernetes' protobuf: a message in an envelope that names its type.
    Protobuf,
}

impl Encoding {
    /// The encoding of a media type, parameters and all; `None`: nothing is known of its bytes.
    pub fn of(media_type: &str) -> Option<Encoding> {
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        [("application/json", Encoding::Json), (protobuf::MEDIA_TYPE, Encoding::Protobuf)]
            .into_iter()
            .find_map(|(name, encoding)| essence.eq_ignore_ascii_case(name).then_some(encoding))
    }
}

/// One object as it is kept.
#[derive(Debug)]
pub struct Item<'a> {
    /// What is known of it.
    pub facts: &'a Facts,
    /// Its bytes, as they came.
    pub bytes: &'a [u8],
    /// What recalling it needs to know, to be kept with it.
    pub flags: u32,
}

/// An object's flags: whether it names its type, and how long the removable beginning is in which it does.
pub(crate) mod flags {
    use super::Facts;

    const HAS_TYPE: u32 = 1 << 31;

    /// The flags of an object.
    pub(crate) fn of(facts: &Facts) -> u32 {
        let typed = if facts.type_meta.kind.is_empty() { 0 } else { HAS_TYPE };
        typed | u32::try_from(facts.type_prefix).unwrap_or(0).min(HAS_TYPE - 1)
    }

    /// Whether the object names its own type.
    pub(crate) fn has_type(flags: u32) -> bool {
        flags & HAS_TYPE != 0
    }

    /// How many bytes after the opening brace can be left out to make it bare.
    pub(crate) fn type_prefix(flags: u32) -> usize {
        (flags & !HAS_TYPE) as usize
    }
}

/// Why a body is not what its media type says, or not what can be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Not JSON, or not protobuf.
    Syntax,
    /// Nested deeper than any object is.
    TooDeep,
    /// It ended early.
    Truncated,
    /// Something follows its end.
    Trailing,
    /// An object, or what surrounds the objects of a list, is longer than may be recorded.
    TooLarge,
    /// It can be read in two ways: what must be known of it is said twice.
    Ambiguous,
    /// An object without `metadata.name`.
    NoName,
    /// A list is expected, and this is none.
    NotAList,
    /// An event of a type that is not known.
    UnknownEvent,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::Syntax => "it is not well-formed",
            Malformed::TooDeep => "it is nested too deep",
            Malformed::Truncated => "it ends early",
            Malformed::Trailing => "something follows its end",
            Malformed::TooLarge => "an object is larger than --max-object-size",
            Malformed::Ambiguous => "it can be read in two ways",
            Malformed::NoName => "an object has no metadata.name",
            Malformed::NotAList => "it is no list",
            Malformed::UnknownEvent => "an event has a type that is not known",
        })
    }
}

impl std::error::Error for Malformed {}
