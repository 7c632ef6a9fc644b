//! Kubernetes' protobuf, as far as a test must write and read it: messages of fields that are text, bytes or messages.

/// A message of these fields.
pub fn message(fields: &[(u64, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    fields.iter().for_each(|(number, content)| put(*number, content, &mut out));
    out
}

/// Appends a field.
pub fn put(number: u64, content: &[u8], out: &mut Vec<u8>) {
    out.extend(varint(number << 3 | 2));
    out.extend(varint(content.len() as u64));
    out.extend_from_slice(content);
}

pub fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// A body: the message, and what type it is (`runtime.Unknown`, as design.md has it).
pub fn unknown(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let type_meta = message(&[(1, api_version.as_bytes()), (2, kind.as_bytes())]);
    [b"k8s\0", message(&[(1, &type_meta), (2, raw), (3, b""), (4, b"")]).as_slice()].concat()
}

/// An event of a watch: its length and the event.
pub fn event(what: &str, body: &[u8]) -> Vec<u8> {
    let event = message(&[(1, what.as_bytes()), (2, &message(&[(1, body)]))]);
    [(event.len() as u32).to_be_bytes().as_slice(), &event].concat()
}

/// The contents of a message's fields of this number; `None` where it is none of ours.
pub fn fields(mut message: &[u8], number: u64) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        let length = usize::try_from(take_varint(&mut message)?).ok()?;
        let (content, rest) = (tag & 7 == 2).then(|| message.split_at_checked(length))??;
        if tag >> 3 == number {
            found.push(content);
        }
        message = rest;
    }
    Some(found)
}

/// The first field of this number.
pub fn field(message: &[u8], number: u64) -> Option<&[u8]> {
    fields(message, number)?.first().copied()
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
