//! Lists and single objects, read while they stream, whatever their encoding.

use super::{Encoding, Envelope, Facts, Item, Malformed, TypeMeta, json, protobuf};

/// Splits one list. However its bytes are cut into pieces, the same comes out.
#[derive(Debug)]
pub struct ListReader(List);

#[derive(Debug)]
enum List {
    Json(Box<json::ListReader>),
    Protobuf(Box<protobuf::ListReader>),
}

impl ListReader {
    /// A reader of one list whose objects are at most `max_object` bytes long.
    pub fn new(encoding: Encoding, max_object: usize) -> ListReader {
        ListReader(match encoding {
            Encoding::Json => List::Json(Box::new(json::ListReader::new(max_object))),
            Encoding::Protobuf => List::Protobuf(Box::new(protobuf::ListReader::new(max_object))),
        })
    }

    /// Takes the next bytes, and calls `each` with every object that is whole: with the list's type as far as it is known
    /// (JSON lists of custom resources come with sorted members, their kind after the items), and the object.
    ///
    /// # Errors
    /// The body is no list, or one that cannot be recorded. What was handed out before is then not to be trusted.
    pub fn feed(&mut self, bytes: &[u8], each: &mut dyn FnMut(&TypeMeta, Item<'_>)) -> Result<(), Malformed> {
        match &mut self.0 {
            List::Json(reader) => reader.feed(bytes, each),
            List::Protobuf(reader) => reader.feed(bytes, each),
        }
    }

    /// How many of the bytes taken, from the last back, are of an object that is not whole yet, or of what is not known
    /// to be none.
    pub fn under_way(&self) -> usize {
        match &self.0 {
            List::Json(reader) => reader.under_way(),
            List::Protobuf(reader) => reader.under_way(),
        }
    }

    /// The body has ended.
    ///
    /// # Errors
    /// It was no list, or not a whole one.
    pub fn finish(self) -> Result<Envelope, Malformed> {
        match self.0 {
            List::Json(reader) => reader.finish().map(Envelope::of_json),
            List::Protobuf(reader) => reader.finish().map(Envelope::of_protobuf),
        }
    }
}

/// Learns what is to be known of one object without keeping it.
#[derive(Debug)]
pub struct ObjectReader(Object);

#[derive(Debug)]
enum Object {
    Json(Box<json::ObjectReader>),
    Protobuf(Box<protobuf::ObjectReader>),
}

impl ObjectReader {
    /// A reader of one object.
    pub fn new(encoding: Encoding) -> ObjectReader {
        ObjectReader(match encoding {
            Encoding::Json => Object::Json(Box::new(json::ObjectReader::new())),
            Encoding::Protobuf => Object::Protobuf(Box::new(protobuf::ObjectReader::new())),
        })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// The body is no object.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        match &mut self.0 {
            Object::Json(reader) => reader.feed(bytes),
            Object::Protobuf(reader) => reader.feed(bytes),
        }
    }

    /// What is known so far.
    pub fn facts(&self) -> &Facts {
        match &self.0 {
            Object::Json(reader) => reader.facts(),
            Object::Protobuf(reader) => reader.facts(),
        }
    }

    /// Whether all is known by which an object is recorded: its type and its version.
    pub fn is_known(&self) -> bool {
        self.facts().is_known()
    }

    /// # Errors
    /// The object has not been seen to its end.
    pub fn finish(&self) -> Result<(), Malformed> {
        match &self.0 {
            Object::Json(reader) => reader.finish(),
            Object::Protobuf(reader) => reader.finish(),
        }
    }
}
