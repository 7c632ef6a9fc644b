//! One view: its file, what it holds, and what is being written to it.
//!
//! Two locks. `writer` is held while the file is read, appended to or written anew, so that appends follow each other;
//! `shown` is what readers take, for as long as it takes to copy a pointer. Whoever needs both takes `writer` first.
//! Only a holder of `writer` changes what is shown, so that a plan made from it stays good until it is applied.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use super::super::disk::DiskFile;
use super::super::drafts::Drafts;
use super::super::index::Index;
use super::super::{Kind, StoreError, ViewInfo, ViewKey, lock};
use super::format::{Batch, Chain, Header, Loc, State};
use super::layout;
use super::scan::{self, Content, Scan, Scanned};
use super::shared::Shared;

pub(super) struct View {
    pub(super) id: u64,
    pub(super) key: ViewKey,
    pub(super) folder: PathBuf,
    /// The first part of its files' names.
    pub(super) name: String,
    pub(super) writer: Mutex<Writer>,
    pub(super) shown: Mutex<Shown>,
}

/// The writing side.
#[derive(Default)]
pub(super) struct Writer {
    /// Whether the file has been read, so that `log` and what is shown are known.
    pub(super) read: bool,
    /// The file that is appended to.
    pub(super) log: Option<Log>,
    /// The numbers of the view's files, ascending; only the last one counts, the others go when it is durable.
    pub(super) seqs: Vec<u64>,
    next_seq: u64,
    next_tx: u64,
    pub(super) drafts: Drafts<Loc>,
    /// Document writers that have put something into the file.
    pub(super) documents: usize,
    /// Counts how often the view was forgotten: what began before is abandoned.
    pub(super) removals: u64,
    /// Whether an older file than the last one has been removed, and may be there again after a power loss.
    pub(super) may_return: bool,
    /// Set when making the file durable has failed: the system may have thrown away what it could not write and call
    /// the next attempt a success, so only a new file can be trusted.
    pub(super) distrusted: bool,
}

pub(super) struct Log {
    pub(super) seq: u64,
    /// Where the next record goes; at offset 0 the header is still to be written.
    pub(super) chain: Chain,
    /// The end of the last record that commits. What follows it may be cut off after a crash.
    pub(super) committed: u64,
    /// How much of what is committed is known to be durable.
    pub(super) durable: u64,
    /// Whether there may be something after the last record, which must be cut off before the next one is written.
    cut: bool,
}

/// The reading side.
pub(super) struct Shown {
    pub(super) info: Option<ViewInfo>,
    /// `None`: nothing is recorded, or the file has not been read.
    pub(super) content: Option<Content>,
    pub(super) seq: u64,
    pub(super) file_id: u64,
    pub(super) used: Instant,
}

/// What a reader takes away: one state, and the file that it is in.
pub(super) struct Held {
    pub(super) info: ViewInfo,
    pub(super) content: Content,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) file_id: u64,
    pub(super) seq: u64,
}

impl View {
    /// A view whose files have the given numbers.
    pub(super) fn new(shared: &Shared, key: ViewKey, folder: PathBuf, mut seqs: Vec<u64>) -> Self {
        seqs.sort_unstable();
        let next_seq = seqs.last().map_or(1, |last| last.saturating_add(1));
        let (read, may_return) = (seqs.is_empty(), !seqs.is_empty() && !shared.has_settled());
        let writer = Writer { read, seqs, next_seq, next_tx: 1, may_return, ..Writer::default() };
        let shown = Shown { info: None, content: None, seq: 0, file_id: 0, used: Instant::now() };
        let name = layout::name(&key);
        let (writer, shown) = (Mutex::new(writer), Mutex::new(shown));
        Self { id: shared.next_view(), key, folder, name, writer, shown }
    }

    pub(super) fn path(&self, seq: u64) -> PathBuf {
        self.folder.join(layout::file_name(&self.name, seq))
    }

    pub(super) fn info(&self) -> Option<ViewInfo> {
        lock(&self.shown).info.clone()
    }

    /// Sets what is known of the view before its file has been read whole.
    pub(super) fn foretell(&self, state: &State, bytes: u64) {
        lock(&self.shown).info = Some(self.describe(state, bytes));
    }

    fn describe(&self, state: &State, bytes: u64) -> ViewInfo {
        ViewInfo {
            key: self.key.clone(),
            kind: if state.collection { Kind::Collection } else { Kind::Document },
            recorded_at: state.recorded_at,
            status: state.status,
            version: state.version,
            objects: state.objects as usize,
            complete: state.complete,
            bytes,
        }
    }

    /// Notes that the upstream confirmed what is held.
    pub(super) fn confirm(&self) {
        let mut shown = lock(&self.shown);
        shown.used = Instant::now();
        if let Some(info) = &mut shown.info {
            info.recorded_at = SystemTime::now();
        }
    }

    /// What is held now, read from the file if need be.
    pub(super) fn held(&self, shared: &Shared) -> Result<Option<Held>, StoreError> {
        for read in [false, true] {
            if let Some(held) = self.held_if_read(shared)? {
                return Ok(Some(held));
            }
            if !read {
                self.read(shared, &mut lock(&self.writer))?;
            }
        }
        Ok(None)
    }

    /// What is held now, if the file has been read.
    pub(super) fn held_if_read(&self, shared: &Shared) -> Result<Option<Held>, StoreError> {
        let mut shown = lock(&self.shown);
        shown.used = Instant::now();
        let (Some(info), Some(content)) = (&shown.info, &shown.content) else {
            return Ok(None);
        };
        // Opened under the lock: a file that is shown is not removed.
        let file = shared.open_file(self.id, shown.seq, &self.path(shown.seq))?;
        let (info, content) = (info.clone(), content.clone());
        Ok(Some(Held { info, content, file, file_id: shown.file_id, seq: shown.seq }))
    }

    /// Reads the file, unless that has been done.
    pub(super) fn read(&self, shared: &Shared, writer: &mut Writer) -> Result<(), StoreError> {
        while !writer.read {
            let Some(&seq) = writer.seqs.last() else {
                writer.read = true;
                let mut shown = lock(&self.shown);
                (shown.info, shown.content) = (None, None);
                break;
            };
            let path = self.path(seq);
            let file = shared.open_file(self.id, seq, &path)?;
            // Once more where it cannot be read: a disk that has stumbled need not have lost anything.
            let again = |error| {
                shared.failed("read", &path, error);
                scan::scan(&*file)
            };
            match scan::scan(&*file).or_else(again) {
                Ok(Scan::Committed(found)) if found.header.key == self.key && found.header.seq == seq => {
                    self.adopt(writer, *found);
                }
                Ok(Scan::Nothing) => {
                    shared.close(self.id, seq);
                    shared.remove_file(&path)?;
                    writer.seqs.pop();
                }
                Ok(Scan::Committed(_)) => self.give_up(shared, writer, "another view's file"),
                Ok(Scan::Damaged(why)) => self.give_up(shared, writer, why),
                Err(error) => {
                    shared.failed("read", &path, error);
                    self.give_up(shared, writer, "unreadable");
                }
            }
        }
        Ok(())
    }

    fn adopt(&self, writer: &mut Writer, found: Scanned) {
        let (seq, chain) = (found.header.seq, found.chain);
        writer.log = Some(Log { seq, chain, committed: chain.offset, durable: 0, cut: found.tail });
        writer.next_tx = writer.next_tx.max(found.next_tx);
        writer.read = true;
        let mut shown = lock(&self.shown);
        let confirmed = shown.info.as_ref().map(|info| info.recorded_at);
        let mut info = self.describe(&found.state, chain.offset);
        info.recorded_at = confirmed.unwrap_or(info.recorded_at).max(info.recorded_at);
        shown.info = Some(info);
        shown.content = Some(found.content);
        (shown.seq, shown.file_id) = (seq, chain.file_id);
    }

    /// Sets the newest file aside and forgets the view: what older files hold has been replaced long ago.
    pub(super) fn give_up(&self, shared: &Shared, writer: &mut Writer, why: &str) {
        // If they cannot be removed now, they are met again, and found stale.
        let _ = self.remove_older(shared, writer);
        if let Some(seq) = writer.seqs.pop() {
            shared.close(self.id, seq);
            shared.set_aside(&self.path(seq), why);
        }
        let _ = self.forget_files(shared, writer);
    }

    /// Removes all files but the last, and sees to it that none of them is there again when the last one goes.
    fn remove_older(&self, shared: &Shared, writer: &mut Writer) -> Result<(), StoreError> {
        while let [seq, _, ..] = writer.seqs[..] {
            shared.close(self.id, seq);
            shared.remove_file(&self.path(seq))?;
            writer.seqs.remove(0);
            writer.may_return = true;
        }
        if writer.may_return {
            shared.sync("sync", &self.folder, |dir| shared.disk.sync_dir(dir))?;
            writer.may_return = false;
        }
        Ok(())
    }

    fn forget_files(&self, shared: &Shared, writer: &mut Writer) -> Result<(), StoreError> {
        writer.drafts.clear();
        writer.documents = 0;
        writer.removals += 1;
        writer.log = None;
        writer.read = true;
        {
            let mut shown = lock(&self.shown);
            (shown.info, shown.content) = (None, None);
        }
        // The newest goes last: while it is there, no older one counts.
        let mut result = self.remove_older(shared, writer);
        if let ([seq], Ok(())) = (&writer.seqs[..], &result) {
            shared.close(self.id, *seq);
            result = shared.remove_file(&self.path(*seq));
            if result.is_ok() {
                writer.seqs.clear();
            }
        }
        shared.mark_dir(&self.folder);
        result
    }

    /// Forgets what is recorded; what is being written is abandoned.
    pub(super) fn forget(&self, shared: &Shared) -> Result<(), StoreError> {
        let mut writer = lock(&self.writer);
        self.forget_files(shared, &mut writer)?;
        // Each fails as long as something else is in it. The scope's own folder stays.
        for gone in self.folder.ancestors().take(2) {
            if shared.disk.remove_dir(gone).is_err() {
                break;
            }
            if let Some(above) = gone.parent() {
                shared.mark_dir(above);
            }
        }
        Ok(())
    }

    /// Forgets what is recorded because a reader found it damaged in the file with this number.
    pub(super) fn damaged(&self, shared: &Shared, seq: u64) {
        let mut writer = lock(&self.writer);
        if writer.log.as_ref().is_some_and(|log| log.seq == seq) {
            self.give_up(shared, &mut writer, "damaged");
        }
    }

    /// A transaction number that no record bears.
    pub(super) fn next_tx(writer: &mut Writer) -> u64 {
        let tx = writer.next_tx;
        writer.next_tx += 1;
        tx
    }

    pub(super) fn header(&self, seq: u64, file_id: u64) -> Header {
        Header { file_id, seq, key: self.key.clone() }
    }

    pub(super) fn create(&self, shared: &Shared, writer: &mut Writer) -> Result<Log, StoreError> {
        let mut seq = writer.next_seq;
        let mut made = self.try_create(shared, &self.path(seq));
        for _ in 0..8 {
            match made.as_ref().map_err(io::Error::kind) {
                // Between the two steps the folder may have gone with the last file of another view.
                Err(io::ErrorKind::NotFound) => {}
                // A file that could neither be read nor be moved out of the way.
                Err(io::ErrorKind::AlreadyExists) => seq = seq.saturating_add(1),
                _ => break,
            }
            made = self.try_create(shared, &self.path(seq));
        }
        let file = made.map_err(|error| shared.failed("create", &self.path(seq), error))?;
        shared.keep_open(self.id, seq, file);
        writer.next_seq = seq.saturating_add(1);
        writer.seqs.push(seq);
        shared.mark_dir(&self.folder);
        Ok(Log {
            seq,
            chain: Chain { file_id: layout::random(), offset: 0, prev: 0 },
            committed: 0,
            durable: 0,
            cut: false,
        })
    }

    fn try_create(&self, shared: &Shared, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        shared.make_dir(&self.folder)?;
        shared.disk.create(path)
    }

    /// Appends what `build` adds to a batch, in one write. After an error nothing has been appended.
    pub(super) fn append<T>(
        &self,
        shared: &Shared,
        writer: &mut Writer,
        build: impl FnOnce(&mut Batch) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if writer.log.is_none() {
            let log = self.create(shared, writer)?;
            writer.log = Some(log);
        }
        let Some(log) = &mut writer.log else {
            return Err(StoreError::NotRecorded);
        };
        let mut batch = Batch::new(log.chain, log.durable, &self.header(log.seq, log.chain.file_id));
        let built = build(&mut batch)?;
        self.write(shared, log, &batch)?;
        let mut shown = lock(&self.shown);
        if shown.seq == log.seq
            && let Some(info) = &mut shown.info
        {
            info.bytes = log.chain.offset;
        }
        Ok(built)
    }

    pub(super) fn write(&self, shared: &Shared, log: &mut Log, batch: &Batch) -> Result<(), StoreError> {
        let (seq, path) = (log.seq, self.path(log.seq));
        let file = shared.open_file(self.id, seq, &path)?;
        let failed = |doing, error| {
            // It may have been opened while the disk could only be read: the next attempt opens it anew.
            shared.close(self.id, seq);
            shared.failed(doing, &path, error)
        };
        if log.cut {
            file.set_len(log.chain.offset).map_err(|error| failed("cut", error))?;
            log.cut = false;
        }
        shared.numbers.bytes_written.fetch_add(batch.out.len() as u64, Ordering::Relaxed);
        if let Err(error) = file.write_all_at(&batch.out, log.chain.offset) {
            log.cut = true;
            return Err(failed("write", error));
        }
        log.chain = batch.chain;
        log.committed = batch.committed.unwrap_or(log.committed);
        Ok(())
    }

    /// Shows what the last append has committed.
    pub(super) fn show(self: &Arc<Self>, shared: &Shared, writer: &Writer, content: Content, state: &State) {
        if let Some(log) = &writer.log {
            let mut shown = lock(&self.shown);
            shown.info = Some(self.describe(state, log.chain.offset));
            shown.content = Some(content);
            (shown.seq, shown.file_id) = (log.seq, log.chain.file_id);
            shown.used = Instant::now();
        }
        shared.mark(self);
    }

    /// Shows that the last append has changed the collection that is held as `change` does. It is changed in place
    /// unless somebody is reading it.
    pub(super) fn show_change(
        self: &Arc<Self>,
        shared: &Shared,
        writer: &Writer,
        state: &State,
        change: impl FnOnce(&mut Index<Loc>),
    ) {
        {
            let mut shown = lock(&self.shown);
            if let (Some(Content::Collection(index)), Some(log)) = (&mut shown.content, &writer.log) {
                change(Arc::make_mut(index));
                shown.info = Some(self.describe(state, log.chain.offset));
            }
            shown.used = Instant::now();
        }
        shared.mark(self);
    }

    /// Shows that the collection misses something. The next record will say so on the disk; until then it holds what
    /// was complete before.
    pub(super) fn show_incomplete(&self) {
        let mut shown = lock(&self.shown);
        if let Some(Content::Collection(index)) = &mut shown.content {
            Arc::make_mut(index).complete = false;
        }
        if let Some(info) = &mut shown.info {
            info.complete = false;
        }
    }

    /// Ends what wrote to the file and gave up: a file in which nothing was ever committed goes at once.
    pub(super) fn tidy(&self, shared: &Shared, writer: &mut Writer) {
        let busy = !writer.drafts.is_empty() || writer.documents > 0;
        if !busy && writer.log.is_some() && lock(&self.shown).info.is_none() {
            let removals = writer.removals;
            let _ = self.forget_files(shared, writer);
            writer.removals = removals;
        }
    }

    /// Reads a record of what is held; [`StoreError::Damaged`] if it is not what was written.
    pub(super) fn read_record<'a>(
        &self,
        shared: &Shared,
        held: &Held,
        loc: Loc,
        record: &'a mut Vec<u8>,
    ) -> Result<super::format::Body<'a>, StoreError> {
        scan::read_record(&*held.file, held.file_id, loc, record).map_err(|error| {
            let path = self.path(held.seq);
            shared.failed("read", &path, error);
            StoreError::Damaged { path }
        })
    }

    /// How many objects' places are in memory, and since when nobody has asked; `None` if the index is in use.
    pub(super) fn idle(&self, shared: &Shared) -> Option<(usize, Instant)> {
        let writer = self.writer.try_lock().ok()?;
        let shown = self.shown.try_lock().ok()?;
        let Some(Content::Collection(index)) = &shown.content else {
            return None;
        };
        let busy = !writer.drafts.is_empty() || writer.documents > 0 || writer.distrusted || writer.seqs.len() > 1;
        (!busy && Arc::strong_count(index) == 1 && !shared.waits(self)).then(|| (index.len(), shown.used))
    }

    /// Forgets the index; the file is read again when somebody asks.
    pub(super) fn unread(&self, shared: &Shared) {
        if self.idle(shared).is_some() {
            let mut writer = lock(&self.writer);
            let busy = !writer.drafts.is_empty() || writer.documents > 0 || shared.waits(self);
            if !busy {
                writer.read = false;
                writer.log = None;
                lock(&self.shown).content = None;
            }
        }
    }

    /// Whether nothing is recorded and nobody is about to.
    pub(super) fn is_empty(&self) -> bool {
        let Ok(writer) = self.writer.try_lock() else {
            return false;
        };
        writer.seqs.is_empty() && writer.drafts.is_empty() && writer.documents == 0 && lock(&self.shown).info.is_none()
    }
}

impl Held {
    /// The state as a record of it would say.
    pub(super) fn state(&self) -> State {
        let info = &self.info;
        State {
            collection: info.kind == Kind::Collection,
            complete: info.complete,
            status: info.status,
            objects: u32::try_from(info.objects).unwrap_or(u32::MAX),
            version: info.version,
            recorded_at: info.recorded_at,
        }
    }
}
