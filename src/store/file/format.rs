//! The bytes of a view's file: the header and the records (layout in [`super`]). Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::super::{DocumentHead, ObjectRef, StoreError, ViewKey};

/// First bytes of every file.
const MAGIC: [u8; 8] = *b"lite-api";
/// The version of the layout; a file of another one is set aside.
pub(super) const VERSION: u32 = 1;
/// A header longer than this is none.
pub(super) const HEADER_LIMIT: usize = 1 << 20;
/// The part before the texts, with a checksum of its own: their lengths can be believed before they are read.
const HEADER_FIXED: usize = 52;

/// Length of a record's head and foot.
pub(super) const HEAD: usize = 40;
pub(super) const FOOT: usize = 8;
const COMMITS: u8 = 1;
const STATE: usize = 24;

/// A file's header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// Random: records of one file mean nothing in another.
    pub(super) file_id: u64,
    /// The number in the file's name.
    pub(super) seq: u64,
    pub(super) key: ViewKey,
}

/// Why a header is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BadHeader {
    /// It was never written whole: a file that was made just before a crash.
    Torn,
    /// Not one of our files.
    Foreign,
    /// Of another version of the layout.
    Version(u32),
    Damaged,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let texts = [&self.key.scope, &self.key.path, &self.key.query, &self.key.representation];
        let length = HEADER_FIXED + texts.iter().map(|text| text.len()).sum::<usize>() + 4;
        let mut out = Vec::with_capacity(length);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(length as u32).to_le_bytes());
        out.extend_from_slice(&self.file_id.to_le_bytes());
        out.extend_from_slice(&self.seq.to_le_bytes());
        for text in texts {
            out.extend_from_slice(&(text.len() as u32).to_le_bytes());
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        for text in texts {
            out.extend_from_slice(text.as_bytes());
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header from a file's first bytes, all of them or at least [`HEADER_LIMIT`]. With it come its length
    /// and its checksum, with which the chain of records begins.
    pub(super) fn parse(bytes: &[u8]) -> Result<(Self, usize, u32), BadHeader> {
        if bytes.iter().take(HEADER_FIXED).all(|&byte| byte == 0) {
            return Err(BadHeader::Torn);
        }
        let mut fields = Fields(bytes);
        if fields.take(MAGIC.len()).ok_or(BadHeader::Torn)? != MAGIC {
            return Err(BadHeader::Foreign);
        }
        let version = fields.u32().ok_or(BadHeader::Torn)?;
        if version != VERSION {
            return Err(BadHeader::Version(version));
        }
        let (fixed, crc) = bytes.get(..HEADER_FIXED).ok_or(BadHeader::Torn)?.split_at(HEADER_FIXED - 4);
        if Fields(crc).u32() != Some(crc32fast::hash(fixed)) {
            return Err(BadHeader::Damaged);
        }
        let length = fields.u32().ok_or(BadHeader::Torn)? as usize;
        if !(HEADER_FIXED + 4..=HEADER_LIMIT).contains(&length) {
            return Err(BadHeader::Damaged);
        }
        let (covered, crc) = bytes.get(..length).ok_or(BadHeader::Torn)?.split_at(length - 4);
        let crc = Fields(crc).u32().ok_or(BadHeader::Damaged)?;
        if crc32fast::hash(covered) != crc {
            return Err(BadHeader::Damaged);
        }
        let header = Self::parse_fields(Fields(&covered[16..])).ok_or(BadHeader::Damaged)?;
        Ok((header, length, crc))
    }

    fn parse_fields(mut fields: Fields<'_>) -> Option<Self> {
        let (file_id, seq) = (fields.u64()?, fields.u64()?);
        let lengths = [fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?];
        fields.u32()?;
        let mut texts = lengths.iter().map(|&length| fields.text(length as usize));
        let key = ViewKey {
            scope: texts.next()??,
            path: texts.next()??,
            query: texts.next()??,
            representation: texts.next()??,
        };
        Some(Self { file_id, seq, key })
    }
}

/// What a record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Record {
    Put = 1,
    Delete = 2,
    /// What this transaction said of this key before does not count.
    Void = 3,
    Envelope = 4,
    /// A piece of a document's body.
    Chunk = 5,
    /// Nothing but the state after it: commits a collection.
    Collection = 6,
    /// What is known of a document: commits it.
    Document = 7,
    /// Since which version the collection has held the objects that this transaction makes of it.
    Since = 8,
}

impl Record {
    fn of(byte: u8) -> Option<Self> {
        use Record::{Chunk, Collection, Delete, Document, Envelope, Put, Since, Void};
        [Put, Delete, Void, Envelope, Chunk, Collection, Document, Since].into_iter().find(|&kind| kind as u8 == byte)
    }
}

/// The view's state after a record that commits: enough to tell what a file holds from its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct State {
    pub(super) collection: bool,
    pub(super) complete: bool,
    pub(super) status: u16,
    pub(super) objects: u32,
    pub(super) version: Option<u64>,
    pub(super) recorded_at: SystemTime,
}

impl State {
    fn encode(&self) -> [u8; STATE] {
        let bits = u8::from(self.collection) | u8::from(self.complete) << 1 | u8::from(self.version.is_some()) << 2;
        let since = self.recorded_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let mut out = [0; STATE];
        out[0] = bits;
        out[2..4].copy_from_slice(&self.status.to_le_bytes());
        out[4..8].copy_from_slice(&self.objects.to_le_bytes());
        out[8..16].copy_from_slice(&self.version.unwrap_or(0).to_le_bytes());
        out[16..24].copy_from_slice(&millis.to_le_bytes());
        out
    }

    fn parse(fields: &mut Fields<'_>) -> Option<Self> {
        let bits = fields.u8()?;
        fields.u8()?;
        let (status, objects) = (fields.u16()?, fields.u32()?);
        let (version, millis) = (fields.u64()?, fields.u64()?);
        Some(Self {
            collection: bits & 1 != 0,
            complete: bits & 2 != 0,
            status,
            objects,
            version: (bits & 4 != 0).then_some(version),
            recorded_at: UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH),
        })
    }
}

/// Where a record is. Packed, since each object in memory has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(Rust, packed(4))]
pub(super) struct Loc {
    pub(super) offset: u64,
    pub(super) length: u32,
}

/// Where the next record goes, and what it must follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Chain {
    pub(super) file_id: u64,
    pub(super) offset: u64,
    /// Checksum of the record before, or of the header.
    pub(super) prev: u32,
}

/// Records on their way to the end of a file.
pub(super) struct Batch {
    pub(super) out: Vec<u8>,
    pub(super) chain: Chain,
    /// What of the file is known to be durable.
    durable: u64,
    /// The end of the last record that commits, if there is one among them.
    pub(super) committed: Option<u64>,
}

impl Batch {
    /// Starts where `chain` says; with the file's header if that is its beginning.
    pub(super) fn new(chain: Chain, durable: u64, header: &Header) -> Self {
        let mut batch = Self { out: Vec::new(), chain, durable, committed: None };
        if chain.offset == 0 {
            batch.out = header.encode();
            let crc = batch.out.last_chunk().map_or(0, |crc| u32::from_le_bytes(*crc));
            batch.chain = Chain { file_id: header.file_id, offset: batch.out.len() as u64, prev: crc };
        }
        batch
    }

    /// Adds a record whose payload is the state, if it commits, and the parts.
    pub(super) fn record(
        &mut self,
        kind: Record,
        tx: u64,
        state: Option<&State>,
        parts: &[&[u8]],
    ) -> Result<Loc, StoreError> {
        let state_bytes = state.map(State::encode);
        let state_part = state_bytes.as_ref().map_or(&[][..], |bytes| &bytes[..]);
        let length = (state_part.len() + parts.iter().map(|part| part.len()).sum::<usize>()) as u64;
        let payload = u32::try_from(length).ok().filter(|&payload| payload < u32::MAX - (HEAD + FOOT) as u32);
        let payload = payload.ok_or(StoreError::TooLarge { what: "a record", length })?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(state_part);
        for part in parts {
            crc.update(part);
        }
        let mut head = [0; HEAD];
        head[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
        head[8..12].copy_from_slice(&payload.to_le_bytes());
        head[12] = kind as u8;
        head[13] = if state.is_some() { COMMITS } else { 0 };
        head[16..20].copy_from_slice(&self.chain.prev.to_le_bytes());
        head[24..32].copy_from_slice(&tx.to_le_bytes());
        head[32..40].copy_from_slice(&self.durable.to_le_bytes());
        let head_crc = head_crc(&head, self.chain.file_id, self.chain.offset);
        head[..4].copy_from_slice(&head_crc.to_le_bytes());
        let loc = Loc { offset: self.chain.offset, length: payload + (HEAD + FOOT) as u32 };
        self.out.reserve(loc.length as usize);
        self.out.extend_from_slice(&head);
        self.out.extend_from_slice(state_part);
        for part in parts {
            self.out.extend_from_slice(part);
        }
        self.out.extend_from_slice(&payload.to_le_bytes());
        self.out.extend_from_slice(&head_crc.to_le_bytes());
        self.chain.offset += u64::from(loc.length);
        self.chain.prev = head_crc;
        if state.is_some() {
            self.committed = Some(self.chain.offset);
        }
        Ok(loc)
    }

    /// Adds the record that puts an object.
    pub(super) fn put(
        &mut self,
        tx: u64,
        state: Option<&State>,
        object: &ObjectRef,
        bytes: &[u8],
    ) -> Result<Loc, StoreError> {
        let mut fixed = [0; 24];
        fixed[0..4].copy_from_slice(&object.flags.to_le_bytes());
        fixed[4..8].copy_from_slice(&length_of("an object's key", object.key.as_bytes())?.to_le_bytes());
        fixed[8..12].copy_from_slice(&length_of("an object's uid", object.uid.as_bytes())?.to_le_bytes());
        fixed[12] = u8::from(object.version.is_some());
        fixed[16..24].copy_from_slice(&object.version.unwrap_or(0).to_le_bytes());
        self.record(Record::Put, tx, state, &[&fixed, object.key.as_bytes(), object.uid.as_bytes(), bytes])
    }

    /// Adds the record that commits a document.
    pub(super) fn document(
        &mut self,
        tx: u64,
        state: &State,
        head: &DocumentHead,
        length: u64,
    ) -> Result<Loc, StoreError> {
        let mut fixed = [0; 16];
        fixed[0..4].copy_from_slice(&length_of("a document's uid", head.uid.as_bytes())?.to_le_bytes());
        fixed[8..16].copy_from_slice(&length.to_le_bytes());
        self.record(Record::Document, tx, Some(state), &[&fixed, head.uid.as_bytes(), &head.head])
    }
}

fn length_of(what: &'static str, bytes: &[u8]) -> Result<u32, StoreError> {
    u32::try_from(bytes.len()).map_err(|_| StoreError::TooLarge { what, length: bytes.len() as u64 })
}

/// A record belongs to its place: the same bytes in another file, or elsewhere in this one, are none.
fn head_crc(head: &[u8; HEAD], file_id: u64, offset: u64) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&file_id.to_le_bytes());
    crc.update(&offset.to_le_bytes());
    crc.update(&head[4..]);
    crc.finalize()
}

/// A record's head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RecordHead {
    pub(super) crc: u32,
    payload_crc: u32,
    payload: u32,
    pub(super) kind: Record,
    pub(super) commits: bool,
    pub(super) prev: u32,
    pub(super) tx: u64,
    pub(super) durable: u64,
}

impl RecordHead {
    /// Reads the head of the record at `offset`, if there is one.
    pub(super) fn parse(bytes: &[u8], file_id: u64, offset: u64) -> Option<Self> {
        let bytes: &[u8; HEAD] = bytes.first_chunk()?;
        let mut fields = Fields(bytes);
        let crc = fields.u32()?;
        if crc != head_crc(bytes, file_id, offset) {
            return None;
        }
        let (payload_crc, payload) = (fields.u32()?, fields.u32()?);
        let (kind, bits) = (Record::of(fields.u8()?)?, fields.u8()?);
        fields.u16()?;
        let prev = fields.u32()?;
        fields.u32()?;
        let (tx, durable) = (fields.u64()?, fields.u64()?);
        Some(Self { crc, payload_crc, payload, kind, commits: bits & COMMITS != 0, prev, tx, durable })
    }

    /// Length of the whole record.
    pub(super) fn length(&self) -> u64 {
        u64::from(self.payload) + (HEAD + FOOT) as u64
    }

    /// The record's body, from all its bytes, if they are what was written.
    pub(super) fn body<'a>(&self, record: &'a [u8]) -> Option<Body<'a>> {
        let (payload, foot) = record.get(HEAD..)?.split_at_checked(self.payload as usize)?;
        let mut foot = Fields(foot);
        if foot.u32()? != self.payload || foot.u32()? != self.crc || crc32fast::hash(payload) != self.payload_crc {
            return None;
        }
        let mut fields = Fields(payload);
        let state = if self.commits { Some(State::parse(&mut fields)?) } else { None };
        Some(Body { state, rest: fields.0 })
    }

    /// The length of the record that ends with this foot.
    pub(super) fn length_before(foot: [u8; FOOT]) -> u64 {
        u64::from(u32::from_le_bytes([foot[0], foot[1], foot[2], foot[3]])) + (HEAD + FOOT) as u64
    }
}

/// What is in a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Body<'a> {
    /// Of those that commit.
    pub(super) state: Option<State>,
    pub(super) rest: &'a [u8],
}

impl<'a> Body<'a> {
    /// Of a [`Record::Put`]: which object, and its bytes.
    pub(super) fn object(&self) -> Option<(ObjectRef, &'a [u8])> {
        let mut fields = Fields(self.rest);
        let (flags, key, uid) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let has_version = fields.u8()? != 0;
        fields.take(3)?;
        let version = fields.u64()?;
        let (key, uid) = (fields.text(key as usize)?, fields.text(uid as usize)?);
        Some((ObjectRef { key, uid, version: has_version.then_some(version), flags }, fields.0))
    }

    /// Of a [`Record::Put`]: its object's bytes alone.
    pub(super) fn object_bytes(&self) -> Option<&'a [u8]> {
        let mut fields = Fields(self.rest);
        fields.u32()?;
        let (key, uid) = (fields.u32()?, fields.u32()?);
        fields.take(12 + key as usize)?;
        fields.take(uid as usize)?;
        Some(fields.0)
    }

    /// Of a [`Record::Delete`] or [`Record::Void`]: the key.
    pub(super) fn key(&self) -> Option<&'a str> {
        std::str::from_utf8(self.rest).ok()
    }

    /// Of a [`Record::Since`]: the version.
    pub(super) fn since(&self) -> Option<u64> {
        Fields(self.rest).u64()
    }

    /// Of a [`Record::Document`]: its head, and its body's length.
    pub(super) fn document(&self) -> Option<(DocumentHead, u64)> {
        let state = self.state?;
        let mut fields = Fields(self.rest);
        let uid = fields.u32()?;
        fields.u32()?;
        let length = fields.u64()?;
        let uid = fields.text(uid as usize)?;
        Some((DocumentHead { status: state.status, uid, version: state.version, head: fields.0.to_vec() }, length))
    }
}

/// Takes fields off the front of bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self, length: usize) -> Option<String> {
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let key = ViewKey {
            scope: "cert:edge1".into(),
            path: "/api/v1/pods".into(),
            query: String::new(),
            representation: "application/json".into(),
        };
        Header { file_id: 0x0123_4567_89ab_cdef, seq: 3, key }
    }

    #[test]
    fn a_header_is_read_back_and_no_flipped_byte_of_it_passes() {
        let bytes = header().encode();
        let (read, length, _) = Header::parse(&bytes).unwrap();
        assert_eq!((read, length), (header(), bytes.len()));
        for i in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[i] ^= 0x10;
            assert!(Header::parse(&flipped).is_err(), "byte {i}");
            assert_eq!(Header::parse(&bytes[..i]), Err(BadHeader::Torn), "length {i}");
        }
    }

    #[test]
    fn a_record_is_read_back_only_where_it_was_written_and_as_it_was_written() {
        let start = Chain { file_id: 9, offset: 1000, prev: 5 };
        let mut batch = Batch::new(start, 77, &header());
        let object = ObjectRef { key: "ns/a".into(), uid: "u".into(), version: Some(8), flags: 2 };
        let state = State {
            collection: true,
            complete: true,
            status: 0,
            objects: 4,
            version: Some(8),
            recorded_at: UNIX_EPOCH + Duration::from_millis(1_234_567),
        };
        let loc = batch.put(6, Some(&state), &object, b"bytes").unwrap();
        assert_eq!(loc, Loc { offset: 1000, length: batch.out.len() as u32 });
        let head = RecordHead::parse(&batch.out, 9, 1000).unwrap();
        assert_eq!((head.tx, head.durable, head.prev, head.commits), (6, 77, 5, true));
        let body = head.body(&batch.out).unwrap();
        assert_eq!(body.state, Some(state));
        assert_eq!(body.object(), Some((object, &b"bytes"[..])));
        assert_eq!(body.object_bytes(), Some(&b"bytes"[..]));
        assert_eq!(RecordHead::parse(&batch.out, 9, 1001), None);
        assert_eq!(RecordHead::parse(&batch.out, 8, 1000), None);
        for i in 0..batch.out.len() {
            let mut flipped = batch.out.clone();
            flipped[i] ^= 0x01;
            let passes = RecordHead::parse(&flipped, 9, 1000).is_some_and(|head| head.body(&flipped).is_some());
            assert!(!passes, "byte {i}");
        }
    }
}
