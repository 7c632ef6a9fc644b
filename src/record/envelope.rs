//! A collection's envelope, whatever its encoding.

use super::compose::{ListWriter, Sizes};
use super::{Encoding, EventKind, Facts, Malformed, StatusBody, TypeMeta, json, protobuf};

/// What is left of a list without its objects, and what is made of it again: lists, single objects, watch events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope(Form);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Json(json::Envelope),
    Protobuf(protobuf::Envelope),
}

impl Envelope {
    pub(super) fn of_json(envelope: json::Envelope) -> Envelope {
        Envelope(Form::Json(envelope))
    }

    pub(super) fn of_protobuf(envelope: protobuf::Envelope) -> Envelope {
        Envelope(Form::Protobuf(envelope))
    }

    /// The envelope of a list of objects of which only a watch has told, at this resourceVersion. `None`: there is none
    /// to be made up, as of a Table, whose columns must be known.
    pub fn of_objects(encoding: Encoding, object: &Facts, resource_version: &str) -> Option<Envelope> {
        let TypeMeta { api_version, kind } = &object.type_meta;
        if api_version.is_empty() || kind.is_empty() || kind == "Table" {
            return None;
        }
        let list = TypeMeta { api_version: api_version.clone(), kind: format!("{kind}List") };
        match encoding {
            // What is typed in kube-apiserver begins with its type, and is bare in a list; a custom resource is neither.
            Encoding::Json => {
                json::Envelope::of_type(list, object.type_prefix == 0, resource_version).ok().map(Self::of_json)
            }
            Encoding::Protobuf => protobuf::Envelope::of_type(list, resource_version).ok().map(Self::of_protobuf),
        }
    }

    /// How the objects that belong to it are encoded.
    pub fn encoding(&self) -> Encoding {
        match &self.0 {
            Form::Json(_) => Encoding::Json,
            Form::Protobuf(_) => Encoding::Protobuf,
        }
    }

    /// The list's own type.
    pub fn type_meta(&self) -> &TypeMeta {
        match &self.0 {
            Form::Json(envelope) => envelope.type_meta(),
            Form::Protobuf(envelope) => envelope.type_meta(),
        }
    }

    /// The list's resourceVersion; empty where it has none.
    pub fn resource_version(&self) -> &str {
        match &self.0 {
            Form::Json(envelope) => envelope.resource_version(),
            Form::Protobuf(envelope) => envelope.resource_version(),
        }
    }

    /// `metadata.continue`: more of the list is to be had.
    pub fn continue_token(&self) -> Option<&str> {
        match &self.0 {
            Form::Json(envelope) => envelope.continue_token(),
            Form::Protobuf(envelope) => envelope.continue_token(),
        }
    }

    /// The envelope as bytes to keep.
    pub fn encode(&self) -> Vec<u8> {
        match &self.0 {
            Form::Json(envelope) => envelope.encode(),
            Form::Protobuf(envelope) => envelope.encode(),
        }
    }

    /// Reads what [`Envelope::encode`] wrote; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Envelope> {
        match *bytes.first()? {
            json::FORMAT => json::Envelope::decode(bytes).map(Envelope::of_json),
            protobuf::FORMAT => protobuf::Envelope::decode(bytes).map(Envelope::of_protobuf),
            _ => None,
        }
    }

    /// Begins to count how long the list will be.
    pub fn sizes(&self) -> Sizes {
        match &self.0 {
            Form::Json(envelope) => envelope.sizes(),
            Form::Protobuf(envelope) => envelope.sizes(),
        }
    }

    /// The list at a resourceVersion, to be written piece by piece; as it was, but for what speaks of pages, which is left
    /// out: a recalled list is whole.
    pub fn list(&self, resource_version: &str, sizes: Sizes) -> ListWriter {
        match &self.0 {
            Form::Json(envelope) => envelope.list(resource_version, sizes),
            Form::Protobuf(envelope) => envelope.list(resource_version, sizes),
        }
    }

    /// One object as the answer to a get.
    pub fn object(&self, bytes: &[u8], flags: u32, resource_version: &str, out: &mut Vec<u8>) {
        match &self.0 {
            Form::Json(envelope) => envelope.object(bytes, flags, resource_version, out),
            Form::Protobuf(envelope) => envelope.object(bytes, out),
        }
    }

    /// One event of a watch. `first`: nothing was sent before it; a Table then names its columns, later ones do not.
    pub fn event(
        &self,
        kind: EventKind,
        object: &[u8],
        flags: u32,
        resource_version: &str,
        first: bool,
        out: &mut Vec<u8>,
    ) {
        match &self.0 {
            Form::Json(envelope) => envelope.event(kind, object, flags, resource_version, first, out),
            Form::Protobuf(envelope) => envelope.event(kind, object, out),
        }
    }

    /// A BOOKMARK. `initial_events_end`: it says that the initial events were all.
    pub fn bookmark(&self, resource_version: &str, initial_events_end: bool, out: &mut Vec<u8>) {
        match &self.0 {
            Form::Json(envelope) => envelope.bookmark(resource_version, initial_events_end, out),
            Form::Protobuf(envelope) => envelope.bookmark(resource_version, initial_events_end, out),
        }
    }

    /// An ERROR event.
    pub fn error(&self, status: &StatusBody, out: &mut Vec<u8>) {
        match &self.0 {
            Form::Json(_) => json::put_error(status, out),
            Form::Protobuf(_) => protobuf::put_error(status, out),
        }
    }

    /// `metadata.labels` of one of its objects; of a Table's row, those of the object that the row shows.
    ///
    /// # Errors
    /// It is no object of this encoding, or its labels are not text.
    pub fn labels(&self, object: &[u8]) -> Result<Vec<(String, String)>, Malformed> {
        match &self.0 {
            Form::Json(envelope) => envelope.labels(object),
            Form::Protobuf(_) => protobuf::labels(object),
        }
    }

    /// The media type of a watch of this collection.
    pub fn watch_content_type(&self) -> &'static str {
        match &self.0 {
            Form::Json(_) => "application/json",
            Form::Protobuf(_) => protobuf::WATCH_MEDIA_TYPE,
        }
    }
}
