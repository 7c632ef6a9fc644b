//! A view's file read back into what it holds. Replaying is mechanical: every decision (what is older, what a list
//! lacks) was made when the records were written.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use super::super::DocumentHead;
use super::super::disk::DiskFile;
use super::super::index::{Entry, Index};
use super::format::{BadHeader, Body, Chain, FOOT, HEAD, HEADER_LIMIT, Header, Loc, Record, RecordHead, State};

/// A document that is committed.
#[derive(Debug)]
pub(super) struct DocumentBody {
    pub(super) head: DocumentHead,
    pub(super) chunks: Vec<Loc>,
    /// Length of the body.
    pub(super) length: u64,
}

/// What is committed.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Document(Arc<DocumentBody>),
    Collection(Arc<Index<Loc>>),
}

impl Content {
    /// About what it takes in a log without any garbage.
    pub(super) fn weight(&self) -> u64 {
        match self {
            Content::Document(body) => body.length + body.head.head.len() as u64 + 100 * (1 + body.chunks.len() as u64),
            Content::Collection(index) => index.weight(),
        }
    }
}

/// A file read to its last commit.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) header: Header,
    pub(super) content: Content,
    pub(super) state: State,
    /// Where the last commit ended.
    pub(super) chain: Chain,
    /// Whether anything follows it.
    pub(super) tail: bool,
    /// A transaction number that no record bears.
    pub(super) next_tx: u64,
}

/// What a file turned out to be.
#[derive(Debug)]
pub(super) enum Scan {
    Committed(Box<Scanned>),
    /// Nothing was ever committed in it: made just before a crash, or by a writer that gave up.
    Nothing,
    /// Not what it should be, and why.
    Damaged(&'static str),
}

/// Reads the header alone.
pub(super) fn header(file: &dyn DiskFile) -> io::Result<Result<(Header, usize, u32), BadHeader>> {
    let mut bytes = vec![0; 4096];
    let mut length = fill(file, &mut bytes, 0)?;
    let mut parsed = Header::parse(&bytes[..length]);
    if parsed == Err(BadHeader::Torn) && length == bytes.len() {
        bytes.resize(HEADER_LIMIT, 0);
        length = fill(file, &mut bytes, 0)?;
        parsed = Header::parse(&bytes[..length]);
    }
    Ok(parsed)
}

/// Tells from a file's end what it holds, without reading all of it. `None` if that takes a [`scan`].
pub(super) fn last_state(file: &dyn DiskFile, header: &Header, header_length: usize) -> io::Result<Option<State>> {
    let mut end = file.len()?;
    // Records of a generation that was cut short may follow the last commit; past a few, a scan is as good.
    for _ in 0..16 {
        let Some(at) = end.checked_sub(FOOT as u64) else {
            return Ok(None);
        };
        let mut foot = [0; FOOT];
        if fill(file, &mut foot, at)? < FOOT {
            return Ok(None);
        }
        let length = RecordHead::length_before(foot);
        let Some(start) = end.checked_sub(length).filter(|&start| start >= header_length as u64) else {
            return Ok(None);
        };
        let mut record = vec![0; usize::try_from(length).unwrap_or(0)];
        fill(file, &mut record, start)?;
        // In a torn end any byte may look like a length that leads to a record; only the last one ends here.
        let ends_here = |head: &RecordHead| head.length() == length;
        let Some(head) = RecordHead::parse(&record, header.file_id, start).filter(ends_here) else {
            return Ok(None);
        };
        let Some(body) = head.body(&record) else {
            return Ok(None);
        };
        if body.state.is_some() {
            return Ok(body.state);
        }
        end = start;
    }
    Ok(None)
}

/// Reads a file from its beginning.
pub(super) fn scan(file: &dyn DiskFile) -> io::Result<Scan> {
    let (header, start, crc) = match header(file)? {
        Ok(parsed) => parsed,
        Err(BadHeader::Torn) => return Ok(Scan::Nothing),
        Err(BadHeader::Foreign) => return Ok(Scan::Damaged("not a file of ours")),
        Err(BadHeader::Version(_)) => return Ok(Scan::Damaged("of another version")),
        Err(BadHeader::Damaged) => return Ok(Scan::Damaged("its header is damaged")),
    };
    let mut window = Window { file, length: file.len()?, bytes: Vec::new(), at: 0 };
    let mut chain = Chain { file_id: header.file_id, offset: start as u64, prev: crc };
    let mut replay = Replay::default();
    let mut committed: Option<(Chain, State)> = None;
    let mut next_tx = 1;
    while let Some((head, record)) = window.record(chain)? {
        let loc = Loc { offset: chain.offset, length: head.length() as u32 };
        let Some(body) = head.body(record).filter(|body| replay.take(&head, body, loc).is_some()) else {
            break;
        };
        let state = body.state;
        next_tx = next_tx.max(head.tx.saturating_add(1));
        chain = Chain { offset: chain.offset + head.length(), prev: head.crc, ..chain };
        committed = state.map(|state| (chain, state)).or(committed);
    }
    // What cannot be read is a torn end, unless something after it says that it had been durable.
    if chain.offset < window.length && window.durable_after(chain)? > chain.offset {
        return Ok(Scan::Damaged("a record in its middle is damaged"));
    }
    let (Some((end, state)), Some(content)) = (committed, replay.content()) else {
        return Ok(Scan::Nothing);
    };
    let tail = end.offset < window.length;
    Ok(Scan::Committed(Box::new(Scanned { header, content, state, chain: end, tail, next_tx })))
}

/// Reads until `out` is full or the file ends; says how much.
fn fill(file: &dyn DiskFile, out: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < out.len() {
        match file.read_at(&mut out[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// Reads one record that is known to be at `loc` into `record` and checks it.
pub(super) fn read_record<'a>(
    file: &dyn DiskFile,
    file_id: u64,
    loc: Loc,
    record: &'a mut Vec<u8>,
) -> io::Result<Body<'a>> {
    record.resize(loc.length as usize, 0);
    fill(file, record, loc.offset)?;
    check_record(record, file_id, loc)
}

fn check_record(record: &[u8], file_id: u64, loc: Loc) -> io::Result<Body<'_>> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a recorded object is damaged");
    let head = RecordHead::parse(record, file_id, loc.offset).ok_or_else(damaged)?;
    head.body(record).ok_or_else(damaged)
}

/// How much is read ahead of records that are read one after the other.
const AHEAD: usize = 32 << 10;

/// Reads records that are known to be at some place. Where each follows the one before, as those of a list do that was
/// recorded at once, several are read at a time.
#[derive(Default)]
pub(super) struct Ahead {
    bytes: Vec<u8>,
    at: u64,
    /// Where the record ended that was read last.
    end: u64,
}

impl Ahead {
    /// Reads the record at `loc` and checks it. All records must have been in the file when the first one is read.
    pub(super) fn read(&mut self, file: &dyn DiskFile, file_id: u64, loc: Loc) -> io::Result<Body<'_>> {
        let (offset, length) = (loc.offset, loc.length as usize);
        let held = self.at..self.at + self.bytes.len() as u64;
        if !(held.contains(&offset) && offset + length as u64 <= held.end) {
            let wanted = if offset == self.end { length.max(AHEAD) } else { length };
            self.bytes.resize(wanted, 0);
            let got = fill(file, &mut self.bytes, offset)?;
            self.bytes.truncate(got);
            self.at = offset;
        }
        self.end = offset + length as u64;
        let start = (offset - self.at) as usize;
        check_record(self.bytes.get(start..start + length).unwrap_or_default(), file_id, loc)
    }
}

/// A file read in large pieces.
struct Window<'a> {
    file: &'a dyn DiskFile,
    length: u64,
    bytes: Vec<u8>,
    at: u64,
}

const PIECE: u64 = 256 << 10;

impl Window<'_> {
    fn slice(&mut self, offset: u64, length: u64) -> io::Result<Option<&[u8]>> {
        if offset.checked_add(length).is_none_or(|end| end > self.length) {
            return Ok(None);
        }
        let held = self.at..self.at + self.bytes.len() as u64;
        if !(held.contains(&offset) && offset + length <= held.end) {
            let wanted = length.max(PIECE).min(self.length - offset);
            self.bytes.resize(usize::try_from(wanted).map_err(io::Error::other)?, 0);
            let got = fill(self.file, &mut self.bytes, offset)?;
            self.bytes.truncate(got);
            self.at = offset;
        }
        let start = (offset - self.at) as usize;
        Ok(self.bytes.get(start..start + length as usize))
    }

    fn head(&mut self, chain: Chain) -> io::Result<Option<RecordHead>> {
        let bytes = self.slice(chain.offset, HEAD as u64)?;
        Ok(bytes.and_then(|bytes| RecordHead::parse(bytes, chain.file_id, chain.offset)))
    }

    /// The record that follows `chain`, its payload not yet checked.
    fn record(&mut self, chain: Chain) -> io::Result<Option<(RecordHead, &[u8])>> {
        let Some(head) = self.head(chain)?.filter(|head| head.prev == chain.prev) else {
            return Ok(None);
        };
        Ok(self.slice(chain.offset, head.length())?.map(|record| (head, record)))
    }

    /// How much of the file had been durable according to what looks like records after `chain`.
    fn durable_after(&mut self, chain: Chain) -> io::Result<u64> {
        let mut durable = 0;
        for offset in chain.offset + 1..self.length {
            if let Some(head) = self.head(Chain { offset, ..chain })? {
                durable = durable.max(head.durable);
            }
        }
        Ok(durable)
    }
}

/// What the records read so far say.
#[derive(Default)]
struct Replay {
    open: HashMap<u64, Transaction>,
    content: Option<Content>,
}

/// A transaction that is not committed yet.
#[derive(Default)]
struct Transaction {
    operations: Vec<Operation>,
    voids: HashSet<Box<str>>,
    envelope: Option<Arc<[u8]>>,
    since: Option<u64>,
    chunks: Vec<Loc>,
}

enum Operation {
    Put(Arc<Entry<Loc>>),
    Delete(Box<str>),
}

impl Replay {
    /// Takes a record; `None` if it makes no sense.
    fn take(&mut self, head: &RecordHead, body: &Body<'_>, loc: Loc) -> Option<()> {
        let transaction = self.open.entry(head.tx).or_default();
        match head.kind {
            Record::Put => {
                let (object, bytes) = body.object()?;
                let entry = Entry::new(&object, u32::try_from(bytes.len()).ok()?, loc);
                transaction.operations.push(Operation::Put(Arc::new(entry)));
            }
            Record::Delete => transaction.operations.push(Operation::Delete(body.key()?.into())),
            Record::Void => {
                transaction.voids.insert(body.key()?.into());
            }
            Record::Envelope => transaction.envelope = Some(body.rest.into()),
            Record::Chunk => transaction.chunks.push(loc),
            Record::Since => transaction.since = Some(body.since()?),
            Record::Collection => {}
            Record::Document => {
                let (head, length) = body.document()?;
                let chunks = std::mem::take(&mut transaction.chunks);
                self.content = Some(Content::Document(Arc::new(DocumentBody { head, chunks, length })));
            }
        }
        if let Some(state) = &body.state {
            let transaction = self.open.remove(&head.tx).unwrap_or_default();
            if head.kind != Record::Document {
                self.commit(transaction, state);
            }
        }
        Some(())
    }

    fn commit(&mut self, transaction: Transaction, state: &State) {
        let mut index = match self.content.take() {
            Some(Content::Collection(index)) => index,
            _ => Arc::default(),
        };
        let held = Arc::make_mut(&mut index);
        let mut objects = false;
        for operation in transaction.operations {
            match operation {
                Operation::Put(entry) if transaction.voids.contains(&entry.key) => continue,
                Operation::Put(entry) => held.put(entry),
                Operation::Delete(key) => held.delete(&key),
            }
            objects = true;
        }
        if let Some(envelope) = transaction.envelope {
            held.envelope = envelope;
        }
        held.settle(state.version, state.complete, objects);
        held.unchanged_since = transaction.since.or(held.unchanged_since);
        self.content = Some(Content::Collection(index));
    }

    fn content(&mut self) -> Option<Content> {
        self.content.take()
    }
}
