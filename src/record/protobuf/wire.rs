//! The wire format (<https://protobuf.dev/programming-guides/encoding/>): varints, fields, and nothing of what they mean.

use crate::record::Malformed;
use std::ops::Range;

/// How a field's content is delimited. Groups are not among them: nothing of Kubernetes has any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::record) enum Wire {
    /// A varint.
    Varint,
    /// Eight bytes.
    I64,
    /// A length and as many bytes: text, bytes or a message.
    Bytes,
    /// Four bytes.
    I32,
}

/// What stands before a field's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::record) struct Header {
    /// The field's number.
    pub(in crate::record) number: u32,
    /// How its content is delimited.
    pub(in crate::record) wire: Wire,
    /// How many bytes tag and length take.
    pub(in crate::record) size: usize,
    /// How many bytes the content has, after them.
    pub(in crate::record) content: u64,
}

impl Header {
    /// The header at the beginning of `bytes`; `None`: more bytes are needed.
    ///
    /// # Errors
    /// No field begins so.
    pub(in crate::record) fn read(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
        let Some((tag, size)) = varint(bytes)? else { return Ok(None) };
        let number = u32::try_from(tag >> 3).ok().filter(|n| (1..1 << 29).contains(n)).ok_or(Malformed::Syntax)?;
        let rest = &bytes[size..];
        let (wire, size, content) = match tag & 7 {
            0 => match varint(rest)? {
                Some((_, length)) => (Wire::Varint, size, length as u64),
                None => return Ok(None),
            },
            1 => (Wire::I64, size, 8),
            2 => match varint(rest)? {
                Some((length, length_size)) => (Wire::Bytes, size + length_size, length),
                None => return Ok(None),
            },
            5 => (Wire::I32, size, 4),
            _ => return Err(Malformed::Syntax),
        };
        Ok(Some(Header { number, wire, size, content }))
    }

    /// How many bytes the whole field has.
    ///
    /// # Errors
    /// More than there can be.
    pub(in crate::record) fn total(&self) -> Result<u64, Malformed> {
        self.content.checked_add(self.size as u64).ok_or(Malformed::Syntax)
    }

    /// Whether [`put_header`] would write the same: then the header need not be kept.
    pub(in crate::record) fn is_minimal(&self) -> bool {
        self.wire == Wire::Bytes && self.size as u64 == field_length(self.number, self.content) - self.content
    }
}

/// The varint at the beginning of `bytes` and how many bytes it takes; `None`: more bytes are needed.
///
/// # Errors
/// It does not fit 64 bits.
pub(in crate::record) fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, Malformed> {
    let mut value = 0;
    for (i, byte) in bytes.iter().enumerate() {
        // The tenth byte has room for one bit.
        if i == 9 && *byte > 1 {
            return Err(Malformed::Syntax);
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(Some((value, i + 1)));
        }
    }
    Ok(None)
}

/// One field of a whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::record) struct Field {
    /// Its number.
    pub(in crate::record) number: u32,
    /// How its content is delimited.
    pub(in crate::record) wire: Wire,
    /// Where in the message it stands, tag and all.
    pub(in crate::record) whole: Range<usize>,
    /// Where in the message its content stands.
    pub(in crate::record) content: Range<usize>,
}

impl Field {
    /// The content of a field that has to be text, bytes or a message.
    ///
    /// # Errors
    /// It is none of them.
    pub(in crate::record) fn bytes<'m>(&self, message: &'m [u8]) -> Result<&'m [u8], Malformed> {
        if self.wire == Wire::Bytes { Ok(&message[self.content.clone()]) } else { Err(Malformed::Syntax) }
    }

    /// The content of a field that has to be text.
    ///
    /// # Errors
    /// It is none.
    pub(in crate::record) fn text<'m>(&self, message: &'m [u8]) -> Result<&'m str, Malformed> {
        text(self.bytes(message)?)
    }
}

/// # Errors
/// It is not UTF-8.
pub(in crate::record) fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed::Syntax)
}

/// The fields of a whole message, in the order in which they stand. After an error there is nothing more.
pub(in crate::record) fn fields(message: &[u8]) -> impl Iterator<Item = Result<Field, Malformed>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = message.get(at..).filter(|rest| !rest.is_empty())?;
        let field = field(rest, at);
        at = field.as_ref().map_or(message.len(), |f| f.whole.end);
        Some(field)
    })
}

/// The field at the beginning of `rest`, which begins at `at` of the message.
fn field(rest: &[u8], at: usize) -> Result<Field, Malformed> {
    let header = Header::read(rest)?.ok_or(Malformed::Syntax)?;
    let total = usize::try_from(header.total()?).ok().filter(|t| *t <= rest.len()).ok_or(Malformed::Syntax)?;
    let (whole, content) = (at..at + total, at + header.size..at + total);
    Ok(Field { number: header.number, wire: header.wire, whole, content })
}

/// How many bytes a field of `content` bytes takes.
pub(in crate::record) fn field_length(number: u32, content: u64) -> u64 {
    varint_length(u64::from(number) << 3) + varint_length(content) + content
}

fn varint_length(value: u64) -> u64 {
    u64::from((64 - (value | 1).leading_zeros()).div_ceil(7))
}

/// Appends a varint.
pub(in crate::record) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends what stands before `length` bytes of text, bytes or a message.
pub(in crate::record) fn put_header(number: u32, length: u64, out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | 2, out);
    put_varint(length, out);
}

/// Appends a field of text, bytes or a message.
pub(in crate::record) fn put(number: u32, content: &[u8], out: &mut Vec<u8>) {
    put_header(number, content.len() as u64, out);
    out.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back_and_say_their_length() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, u64::from(u32::MAX), u64::MAX >> 1, u64::MAX] {
            let mut out = Vec::new();
            put_varint(value, &mut out);
            assert_eq!(out.len() as u64, varint_length(value), "{value}");
            assert_eq!(varint(&out), Ok(Some((value, out.len()))));
            for cut in 0..out.len() {
                assert_eq!(varint(&out[..cut]), Ok(None), "more is needed");
            }
        }
        assert_eq!(varint(&[0xff; 10]), Err(Malformed::Syntax), "more than 64 bits");
        assert_eq!(varint(&[0x80; 11]), Err(Malformed::Syntax));
        assert_eq!(varint(&[0x80, 0]), Ok(Some((0, 2))), "longer than it must be, but a varint");
    }

    #[test]
    fn a_message_is_its_fields() {
        // 1: varint 150, 2: "ab", 3: eight bytes, 16: four bytes.
        let message = b"\x08\x96\x01\x12\x02ab\x1912345678\x85\x011234";
        let found: Vec<Field> = fields(message).collect::<Result<_, _>>().expect("fields");
        let shown: Vec<_> = found.iter().map(|f| (f.number, f.wire, &message[f.content.clone()])).collect();
        let want: [(u32, Wire, &[u8]); 4] = [
            (1, Wire::Varint, b"\x96\x01"),
            (2, Wire::Bytes, b"ab"),
            (3, Wire::I64, b"12345678"),
            (16, Wire::I32, b"1234"),
        ];
        assert_eq!(shown, want);
        assert_eq!(found.iter().map(|f| f.whole.len()).sum::<usize>(), message.len());
        let borders: Vec<usize> = found.iter().map(|f| f.whole.end).collect();
        for cut in (1..message.len()).filter(|c| !borders.contains(c)) {
            assert!(fields(&message[..cut]).any(|f| f.is_err()), "cut at {cut}");
        }
    }

    #[test]
    fn what_no_field_is_is_refused() {
        for bad in [
            &b"\x00\x00"[..],                                      // number 0
            b"\x0b",                                               // a group
            b"\x0e",                                               // wire type 6
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",       // a length beyond all bytes
            b"\x12\xf6\xff\xff\xff\xff\xff\xff\xff\xff\x01abcdef", // one that overflows with its header
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",           // a number beyond all numbers
        ] {
            assert_eq!(fields(bad).collect::<Vec<_>>(), [Err(Malformed::Syntax)], "{bad:x?}");
        }
    }

    #[test]
    fn only_a_header_that_is_written_again_the_same_is_minimal() {
        let minimal = |bytes: &[u8]| Header::read(bytes).expect("a header").expect("whole").is_minimal();
        assert!(minimal(b"\x12\x02"));
        assert!(!minimal(b"\x12\x82\x00"));
        assert!(!minimal(b"\x92\x00\x02"));
        assert!(!minimal(b"\x10\x02"), "a varint has no length");
        assert!(!minimal(b"\x90\x00\x02"), "nor has it where its tag is as long as tag and length");
    }
}
