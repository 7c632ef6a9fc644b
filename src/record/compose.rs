//! A list, written again piece by piece: its objects differ by encoding only in what stands around each.

use super::flags;
use super::protobuf::wire;

/// How objects are written.
#[derive(Debug, Clone)]
pub(super) enum Style {
    /// As they are kept.
    AsTheyAre,
    /// Without their type where it can be left out: the items of a typed list.
    Bare,
    /// With their type, which is this.
    Typed(Vec<u8>),
    /// As a protobuf field of this number.
    Field(u32),
}

impl Style {
    /// How long an object of `length` bytes becomes.
    fn length(&self, length: u64, flags: u32) -> u64 {
        match self {
            Style::AsTheyAre => length,
            Style::Bare => length - flags::type_prefix(flags) as u64,
            Style::Typed(_) if flags::has_type(flags) => length,
            Style::Typed(text) => length + text.len() as u64,
            Style::Field(number) => wire::field_length(*number, length),
        }
    }

    /// Appends an object.
    pub(super) fn write(&self, bytes: &[u8], flags: u32, out: &mut Vec<u8>) {
        let (from, with): (usize, &[u8]) = match self {
            Style::Bare if flags::type_prefix(flags) > 0 => (1 + flags::type_prefix(flags), b"{"),
            Style::Typed(text) if !flags::has_type(flags) => {
                out.push(b'{');
                (1, text)
            }
            Style::Field(number) => {
                wire::put_header(*number, bytes.len() as u64, out);
                (0, b"")
            }
            _ => (0, b""),
        };
        out.extend_from_slice(with);
        out.extend_from_slice(bytes.get(from..).unwrap_or_default());
    }
}

/// Adds up how long a list's objects will be.
#[derive(Debug, Clone)]
pub struct Sizes {
    objects: u64,
    bytes: u64,
    style: Style,
}

impl Sizes {
    /// Nothing yet, of objects that will be written in this style.
    pub(super) fn new(style: Style) -> Sizes {
        Sizes { objects: 0, bytes: 0, style }
    }

    /// How long all objects are together, with what separates them.
    pub(super) fn total(&self) -> u64 {
        let commas = if matches!(self.style, Style::Field(_)) { 0 } else { self.objects.saturating_sub(1) };
        self.bytes + commas
    }

    /// One more object, of `length` bytes as it is kept.
    pub fn add(&mut self, length: u64, flags: u32) {
        self.objects += 1;
        self.bytes += self.style.length(length, flags);
    }
}

/// Writes a list, piece by piece.
#[derive(Debug)]
pub struct ListWriter {
    head: Vec<u8>,
    tail: Vec<u8>,
    length: u64,
    style: Style,
    begun: bool,
}

impl ListWriter {
    /// A list between this head and this tail, of objects that are these sizes.
    pub(super) fn new(head: Vec<u8>, tail: Vec<u8>, sizes: Sizes) -> ListWriter {
        let length = head.len() as u64 + sizes.total() + tail.len() as u64;
        ListWriter { head, tail, length, style: sizes.style, begun: false }
    }

    /// How many bytes the whole list has.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Appends what comes before the objects.
    pub fn head(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
    }

    /// Appends the next object.
    pub fn object(&mut self, bytes: &[u8], flags: u32, out: &mut Vec<u8>) {
        let between = !matches!(self.style, Style::Field(_));
        if std::mem::replace(&mut self.begun, true) && between {
            out.push(b',');
        }
        self.style.write(bytes, flags, out);
    }

    /// Appends what comes after the objects.
    pub fn tail(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.tail);
    }
}
