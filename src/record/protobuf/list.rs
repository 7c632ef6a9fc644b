//! A list, split into its objects while it streams. What is not an object is the envelope, kept as it came.

use super::envelope::{Envelope, Parts, numbers};
use super::inflow::Inflow;
use super::meta;
use super::unknown::{self, RAW, TYPE_META};
use super::wire::{self, Header, Wire};
use crate::record::{Item, Malformed, TypeMeta};

/// Splits one list. However its bytes are cut into pieces, the same comes out.
#[derive(Debug)]
pub(in crate::record) struct ListReader {
    inflow: Inflow,
    max_object: usize,
    place: Place,
    parts: Parts,
    type_meta: TypeMeta,
    /// The field number of the items, once the list has said its type.
    items: u32,
    items_begun: bool,
}

/// Where in the list it stands, between two fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before anything.
    Magic,
    /// In the `Unknown`, before its message.
    Head,
    /// In the list's message, of which so many bytes are left.
    Within(u64),
    /// In the `Unknown`, after its message.
    Tail,
}

impl ListReader {
    /// A reader of one list whose objects are at most `max_object` bytes long.
    pub(in crate::record) fn new(max_object: usize) -> ListReader {
        ListReader {
            inflow: Inflow::default(),
            max_object,
            place: Place::Magic,
            parts: Parts::default(),
            type_meta: TypeMeta::default(),
            items: 0,
            items_begun: false,
        }
    }

    /// Takes the next bytes, and calls `each` with every object that is whole.
    ///
    /// # Errors
    /// The body is no list, or one that cannot be recorded. What was handed out before is then not to be trusted.
    pub(in crate::record) fn feed(
        &mut self,
        bytes: &[u8],
        each: &mut dyn FnMut(&TypeMeta, Item<'_>),
    ) -> Result<(), Malformed> {
        self.inflow.push(bytes);
        while self.step(each)?.is_some() {}
        Ok(())
    }

    /// Goes on by one field; `None`: it has not all come.
    fn step(&mut self, each: &mut dyn FnMut(&TypeMeta, Item<'_>)) -> Result<Option<()>, Malformed> {
        match self.place {
            Place::Magic => {
                let found = self.inflow.magic()?;
                if found.is_some() {
                    self.place = Place::Head;
                }
                Ok(found)
            }
            Place::Within(0) => {
                self.place = Place::Tail;
                Ok(Some(()))
            }
            Place::Within(left) => {
                let Some(header) = self.inflow.header(Some(left))? else { return Ok(None) };
                let used = self.within(&header, each)?;
                if used.is_some() {
                    self.place = Place::Within(left - header.total()?);
                }
                Ok(used)
            }
            Place::Head | Place::Tail => {
                let Some(header) = self.inflow.header(None)? else { return Ok(None) };
                self.outside(&header)
            }
        }
    }

    /// A field of the `Unknown`.
    fn outside(&mut self, header: &Header) -> Result<Option<()>, Malformed> {
        let in_head = self.place == Place::Head;
        if header.number == RAW {
            if !in_head || !header.is_minimal() {
                return Err(Malformed::NotAList);
            }
            let TypeMeta { api_version, kind } = &self.type_meta;
            // Every list's kind ends so; without, there is no knowing what the message is.
            if api_version.is_empty() || !kind.ends_with("List") {
                return Err(Malformed::NotAList);
            }
            self.items = numbers(&self.type_meta).items;
            self.inflow.skip(header.size as u64);
            self.place = Place::Within(header.content);
            return Ok(Some(()));
        }
        self.admit(header)?;
        let Some(whole) = self.inflow.take(header.total()?) else { return Ok(None) };
        for field in wire::fields(whole) {
            let field = field?;
            match (field.number, in_head) {
                (TYPE_META, true) => self.type_meta = unknown::read_type(field.bytes(whole)?)?,
                (TYPE_META, false) => return Err(Malformed::NotAList),
                _ => unknown::check_other(&field, whole)?,
            }
        }
        let into = if in_head { &mut self.parts.head } else { &mut self.parts.tail };
        into.extend_from_slice(whole);
        Ok(Some(()))
    }

    /// A field of the list's message.
    fn within(&mut self, header: &Header, each: &mut dyn FnMut(&TypeMeta, Item<'_>)) -> Result<Option<()>, Malformed> {
        let total = header.total()?;
        if header.number != self.items {
            self.admit(header)?;
            let Some(whole) = self.inflow.take(total) else { return Ok(None) };
            let into = if self.items_begun { &mut self.parts.after } else { &mut self.parts.before };
            into.extend_from_slice(whole);
            return Ok(Some(()));
        }
        // Items that go on after something else could not be written again as they came.
        if header.wire != Wire::Bytes || !header.is_minimal() || !self.parts.after.is_empty() {
            return Err(Malformed::NotAList);
        }
        if header.content > self.max_object as u64 {
            return Err(Malformed::TooLarge);
        }
        let Some(whole) = self.inflow.take(total) else { return Ok(None) };
        let bytes = &whole[header.size..];
        let facts = meta::facts_of(bytes)?;
        if facts.name.is_empty() {
            return Err(Malformed::NoName);
        }
        self.items_begun = true;
        each(&self.type_meta, Item { facts: &facts, bytes, flags: 0 });
        Ok(Some(()))
    }

    /// # Errors
    /// What is not an object would be too much to keep.
    fn admit(&self, header: &Header) -> Result<(), Malformed> {
        let kept = self.parts.length() as u64;
        if header.total()?.saturating_add(kept) > self.max_object as u64 { Err(Malformed::TooLarge) } else { Ok(()) }
    }

    /// How many of the bytes taken, from the last back, are of a field that is not whole yet.
    pub(in crate::record) fn under_way(&self) -> usize {
        self.inflow.rest().len()
    }

    /// The body has ended.
    ///
    /// # Errors
    /// It was no list, or not a whole one.
    pub(in crate::record) fn finish(self) -> Result<Envelope, Malformed> {
        let ended = matches!(self.place, Place::Tail | Place::Within(0)) && self.inflow.is_drained();
        if !ended {
            return Err(Malformed::Truncated);
        }
        Envelope::new(self.parts, self.type_meta)
    }
}
