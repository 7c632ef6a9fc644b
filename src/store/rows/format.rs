//! The rows: their keys and what is in them. Pure.

use std::io;
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::super::index::Entry;
use super::super::{DocumentHead, Kind, ObjectRef, ViewInfo, ViewKey};

/// What [`FORMAT_KEY`] says of a database that this version reads.
pub(super) const FORMAT: &[u8] = b"lite-apiserver rows 1";
pub(super) const FORMAT_KEY: &[u8] = b"f";
pub(super) const VIEWS: &[u8] = b"v";
pub(super) const DRAFTS: &[u8] = b"d";
pub(super) const DOOMED: &[u8] = b"x";

/// Where bytes are: the number of what wrote them, and which of its pieces they are. Never used twice while the bytes
/// are there, so that what a place holds never changes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct Place {
    pub(super) batch: u64,
    pub(super) seq: u32,
}

fn key(table: u8, first: u64, second: Option<u32>, text: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(13 + text.len());
    key.push(table);
    key.extend_from_slice(&first.to_be_bytes());
    key.extend(second.into_iter().flat_map(u32::to_be_bytes));
    key.extend_from_slice(text.as_bytes());
    key
}

pub(super) fn view_key(view: u64) -> Vec<u8> {
    key(b'v', view, None, "")
}

pub(super) fn index_key(view: u64, object: &str) -> Vec<u8> {
    key(b'i', view, None, object)
}

pub(super) fn bytes_key(place: Place) -> Vec<u8> {
    key(b'o', place.batch, Some(place.seq), "")
}

/// The beginning of all keys of what one writer wrote.
pub(super) fn batch_keys(batch: u64) -> Vec<u8> {
    key(b'o', batch, None, "")
}

pub(super) fn draft_key(batch: u64) -> Vec<u8> {
    key(b'd', batch, None, "")
}

pub(super) fn doomed_key(place: Place) -> Vec<u8> {
    key(b'x', place.batch, Some(place.seq), "")
}

pub(super) fn note_key(name: &str) -> Vec<u8> {
    [b"n", name.as_bytes()].concat()
}

/// The number in the key of a view, of a draft or of a doomed place.
pub(super) fn number_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(1..9)?.try_into().ok()?))
}

/// The place in the key of a doomed place.
pub(super) fn place_of(key: &[u8]) -> Option<Place> {
    Some(Place { batch: number_of(key)?, seq: u32::from_be_bytes(key.get(9..13)?.try_into().ok()?) })
}

fn checksum(key: &[u8], parts: &[&[u8]]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&(key.len() as u32).to_le_bytes());
    crc.update(key);
    parts.iter().for_each(|part| crc.update(part));
    crc.finalize()
}

/// A row's value: these parts, behind a checksum of them and of the row's key.
pub(super) fn seal(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut value = Vec::with_capacity(4 + parts.iter().map(|part| part.len()).sum::<usize>());
    value.extend_from_slice(&checksum(key, parts).to_le_bytes());
    parts.iter().for_each(|part| value.extend_from_slice(part));
    value
}

pub(super) fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a row is not what was written")
}

/// What was sealed; `InvalidData` if it is not that.
pub(super) fn unseal<'a>(key: &[u8], value: &'a [u8]) -> io::Result<&'a [u8]> {
    let (crc, payload) = value.split_first_chunk().ok_or_else(damaged)?;
    if u32::from_le_bytes(*crc) == checksum(key, &[payload]) { Ok(payload) } else { Err(damaged()) }
}

/// Takes a payload apart.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk().ok_or_else(damaged)?;
        self.0 = rest;
        Ok(*first)
    }

    fn byte(&mut self) -> io::Result<u8> {
        self.array::<1>().map(|byte| byte[0])
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> io::Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn version(&mut self) -> io::Result<Option<u64>> {
        Ok((self.byte()? != 0, self.u64()?)).map(|(is, version)| is.then_some(version))
    }

    fn bytes(&mut self) -> io::Result<&'a [u8]> {
        let length = self.u32()? as usize;
        let (first, rest) = self.0.split_at_checked(length).ok_or_else(damaged)?;
        self.0 = rest;
        Ok(first)
    }

    fn text(&mut self) -> io::Result<String> {
        self.bytes().and_then(text)
    }
}

fn text(bytes: &[u8]) -> io::Result<String> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| damaged())
}

fn put_version(out: &mut Vec<u8>, version: Option<u64>) {
    out.push(u8::from(version.is_some()));
    out.extend_from_slice(&version.unwrap_or_default().to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// A view's row.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Row {
    /// The number under which its objects are listed.
    pub(super) id: u64,
    /// The number of the transaction that wrote it: two states of a view never have the same.
    pub(super) tx: u64,
    pub(super) recorded_at: SystemTime,
    /// About what it takes on disk.
    pub(super) bytes: u64,
    pub(super) content: Content,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Content {
    Document(Body),
    Collection(Listed),
}

impl Content {
    /// The bytes that a view's own row names: a document's body, a collection's envelope.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> + use<> {
        let (batch, seqs) = match self {
            Content::Document(body) => (body.batch, 0..body.pieces),
            Content::Collection(Listed { envelope, .. }) => (envelope.batch, envelope.seq..envelope.seq + 1),
        };
        seqs.map(move |seq| Place { batch, seq })
    }
}

/// A document's body: all pieces of one batch.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Body {
    pub(super) head: DocumentHead,
    pub(super) batch: u64,
    pub(super) pieces: u32,
    pub(super) length: u64,
}

/// What is known of a collection beside its objects.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Listed {
    pub(super) version: Option<u64>,
    pub(super) unchanged_since: Option<u64>,
    pub(super) complete: bool,
    pub(super) objects: u64,
    pub(super) envelope: Place,
}

impl Row {
    pub(super) fn info(&self, key: &ViewKey) -> ViewInfo {
        let mut info = ViewInfo {
            key: key.clone(),
            kind: Kind::Document,
            recorded_at: self.recorded_at,
            status: 0,
            version: None,
            objects: 1,
            complete: true,
            bytes: self.bytes,
        };
        match &self.content {
            Content::Document(body) => (info.status, info.version) = (body.head.status, body.head.version),
            Content::Collection(listed) => {
                info.kind = Kind::Collection;
                info.version = listed.version;
                info.objects = listed.objects as usize;
                info.complete = listed.complete;
            }
        }
        info
    }

    /// The row's payload.
    pub(super) fn encode(&self, key: &ViewKey) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.tx.to_le_bytes());
        let millis = self.recorded_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        out.extend_from_slice(&millis.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        for text in [&key.scope, &key.path, &key.query, &key.representation] {
            put_bytes(&mut out, text.as_bytes());
        }
        match &self.content {
            Content::Document(body) => {
                out.push(0);
                out.extend_from_slice(&u32::from(body.head.status).to_le_bytes());
                put_version(&mut out, body.head.version);
                put_bytes(&mut out, body.head.uid.as_bytes());
                put_bytes(&mut out, &body.head.head);
                out.extend_from_slice(&body.batch.to_le_bytes());
                out.extend_from_slice(&body.pieces.to_le_bytes());
                out.extend_from_slice(&body.length.to_le_bytes());
            }
            Content::Collection(listed) => {
                out.push(1);
                put_version(&mut out, listed.version);
                put_version(&mut out, listed.unchanged_since);
                out.push(u8::from(listed.complete));
                out.extend_from_slice(&listed.objects.to_le_bytes());
                out.extend_from_slice(&listed.envelope.batch.to_le_bytes());
                out.extend_from_slice(&listed.envelope.seq.to_le_bytes());
            }
        }
        out
    }

    /// The view that a row is of, and the row.
    pub(super) fn decode(id: u64, payload: &[u8]) -> io::Result<(ViewKey, Row)> {
        let mut fields = Fields(payload);
        let (tx, millis, bytes) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let recorded_at = UNIX_EPOCH.checked_add(Duration::from_millis(millis)).ok_or_else(damaged)?;
        let key = ViewKey {
            scope: fields.text()?,
            path: fields.text()?,
            query: fields.text()?,
            representation: fields.text()?,
        };
        let content = match fields.byte()? {
            0 => {
                let status = fields.u32()? as u16;
                let version = fields.version()?;
                let (uid, head) = (fields.text()?, fields.bytes()?.to_vec());
                let head = DocumentHead { status, uid, version, head };
                Content::Document(Body { head, batch: fields.u64()?, pieces: fields.u32()?, length: fields.u64()? })
            }
            1 => Content::Collection(Listed {
                version: fields.version()?,
                unchanged_since: fields.version()?,
                complete: fields.byte()? != 0,
                objects: fields.u64()?,
                envelope: Place { batch: fields.u64()?, seq: fields.u32()? },
            }),
            _ => return Err(damaged()),
        };
        Ok((key, Row { id, tx, recorded_at, bytes, content }))
    }

    /// The transaction that wrote a row, of its payload.
    pub(super) fn tx_of(payload: &[u8]) -> io::Result<u64> {
        Fields(payload).u64()
    }
}

/// The payload of an object's row in its collection's index.
pub(super) fn encode_entry(entry: &Entry<Place>) -> Vec<u8> {
    let mut object = ObjectRef::default();
    entry.describe(&mut object);
    let mut out = Vec::with_capacity(29 + object.uid.len());
    out.extend_from_slice(&entry.at.batch.to_le_bytes());
    out.extend_from_slice(&entry.at.seq.to_le_bytes());
    out.extend_from_slice(&entry.size.to_le_bytes());
    out.extend_from_slice(&entry.flags.to_le_bytes());
    put_version(&mut out, object.version);
    out.extend_from_slice(object.uid.as_bytes());
    out
}

/// An object of a collection, of the key and the payload of its row.
pub(super) fn decode_entry(key: &[u8], payload: &[u8]) -> io::Result<Entry<Place>> {
    let name: Range<usize> = 9..key.len();
    let name = text(key.get(name).ok_or_else(damaged)?)?;
    let mut fields = Fields(payload);
    let at = Place { batch: fields.u64()?, seq: fields.u32()? };
    let (size, flags, version) = (fields.u32()?, fields.u32()?, fields.version()?);
    Ok(Entry::new(&ObjectRef { key: name, uid: text(fields.0)?, version, flags }, size, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back_as_it_was_and_no_part_of_it_is_taken_for_it() {
        let key = ViewKey { scope: "s".into(), path: "/p".into(), query: "q".into(), representation: "r".into() };
        let recorded_at = UNIX_EPOCH + Duration::from_millis(1234);
        let head = DocumentHead { status: 404, uid: "u".into(), version: Some(7), head: b"h".to_vec() };
        let envelope = Place { batch: 4, seq: 5 };
        for content in [
            Content::Document(Body { head, batch: 3, pieces: 2, length: 9 }),
            Content::Collection(Listed {
                version: Some(1),
                unchanged_since: None,
                complete: true,
                objects: 8,
                envelope,
            }),
        ] {
            let row = Row { id: 6, tx: 11, recorded_at, bytes: 12, content };
            let payload = row.encode(&key);
            assert_eq!(Row::decode(6, &payload).unwrap(), (key.clone(), row));
            for length in 0..payload.len() {
                assert!(Row::decode(6, &payload[..length]).is_err(), "{length}");
            }
            let sealed = seal(b"k", &[&payload]);
            assert_eq!(unseal(b"k", &sealed).unwrap(), payload);
            assert!(unseal(b"l", &sealed).is_err(), "a row under another's key");
            for at in 0..sealed.len() {
                let mut other = sealed.clone();
                other[at] ^= 1;
                assert!(unseal(b"k", &other).is_err(), "{at}");
            }
        }
    }
}
