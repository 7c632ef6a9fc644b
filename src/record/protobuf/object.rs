//! One object, looked at while it streams.

use super::inflow::Inflow;
use super::meta::{self, OBJECT_META};
use super::unknown::{self, RAW, TYPE_META};
use super::wire::{self, Header, Wire};
use crate::record::{Facts, Malformed};

/// The longest type, name, uid or resourceVersion that is read: names are at most 253 bytes, uids 36.
const LONGEST: u64 = 4096;

/// Learns what is to be known of one object without keeping it.
#[derive(Debug)]
pub(in crate::record) struct ObjectReader {
    inflow: Inflow,
    place: Place,
    facts: Facts,
}

/// Where in the body it stands, between two fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before anything.
    Magic,
    /// In the `Unknown`, before its message.
    Head,
    /// In the object's message, of which so many bytes are left.
    Within(u64),
    /// In the object's metadata, of which so many bytes are left, as of the object after it.
    Metadata { left: u64, after: u64 },
    /// In the `Unknown`, after its message.
    Tail,
}

impl ObjectReader {
    /// A reader of one object.
    pub(in crate::record) fn new() -> ObjectReader {
        ObjectReader { inflow: Inflow::default(), place: Place::Magic, facts: Facts::default() }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// The body is no object.
    pub(in crate::record) fn feed(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        self.inflow.push(bytes);
        while let Some(place) = self.step()? {
            self.place = place;
        }
        Ok(())
    }

    /// Goes on by one field, and tells where it stands then; `None`: what is read of the field has not all come.
    fn step(&mut self) -> Result<Option<Place>, Malformed> {
        let left = match self.place {
            Place::Magic => return Ok(self.inflow.magic()?.map(|()| Place::Head)),
            Place::Within(0) => return Ok(Some(Place::Tail)),
            Place::Metadata { left: 0, after } => return Ok(Some(Place::Within(after))),
            Place::Within(left) | Place::Metadata { left, .. } => Some(left),
            Place::Head | Place::Tail => None,
        };
        let Some(header) = self.inflow.header(left)? else { return Ok(None) };
        let total = header.total()?;
        match self.place {
            Place::Within(left) if header.number == OBJECT_META => {
                if header.wire != Wire::Bytes {
                    return Err(Malformed::Syntax);
                }
                self.inflow.skip(header.size as u64);
                Ok(Some(Place::Metadata { left: header.content, after: left - total }))
            }
            Place::Within(left) => {
                self.inflow.skip(total);
                Ok(Some(Place::Within(left - total)))
            }
            Place::Metadata { left, after } => {
                Ok(self.metadata(&header)?.map(|()| Place::Metadata { left: left - total, after }))
            }
            _ => self.outside(&header),
        }
    }

    /// A field of the metadata.
    fn metadata(&mut self, header: &Header) -> Result<Option<()>, Malformed> {
        let Some(fact) = meta::fact(&mut self.facts, header.number) else {
            self.inflow.skip(header.total()?);
            return Ok(Some(()));
        };
        let Some(whole) = take_short(&mut self.inflow, header)? else { return Ok(None) };
        if header.wire != Wire::Bytes {
            return Err(Malformed::Syntax);
        }
        wire::text(&whole[header.size..])?.clone_into(fact);
        Ok(Some(()))
    }

    /// A field of the `Unknown`.
    fn outside(&mut self, header: &Header) -> Result<Option<Place>, Malformed> {
        if header.number == RAW {
            if self.place != Place::Head || header.wire != Wire::Bytes {
                return Err(Malformed::Syntax);
            }
            self.inflow.skip(header.size as u64);
            return Ok(Some(Place::Within(header.content)));
        }
        let place = self.place;
        let Some(whole) = take_short(&mut self.inflow, header)? else { return Ok(None) };
        for field in wire::fields(whole) {
            let field = field?;
            if field.number == TYPE_META {
                self.facts.type_meta = unknown::read_type(field.bytes(whole)?)?;
            } else {
                unknown::check_other(&field, whole)?;
            }
        }
        Ok(Some(place))
    }

    /// What is known so far.
    pub(in crate::record) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// # Errors
    /// The object has not been seen to its end.
    pub(in crate::record) fn finish(&self) -> Result<(), Malformed> {
        let ended = self.place == Place::Tail && self.inflow.is_drained();
        if ended { Ok(()) } else { Err(Malformed::Truncated) }
    }
}

/// Uses a field of which nobody expects much; `None`: it has not all come.
fn take_short<'i>(inflow: &'i mut Inflow, header: &Header) -> Result<Option<&'i [u8]>, Malformed> {
    let total = header.total()?;
    if total > LONGEST { Err(Malformed::TooLarge) } else { Ok(inflow.take(total)) }
}
