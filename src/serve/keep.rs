//! Into the record: what is recorded of an answer while it passes.
//!
//! A [`Recorder`] never disturbs what it watches: it has no error to return. What it cannot make sense of, or cannot
//! write, it stops recording, says so, counts, and lets the bytes pass.

use super::find::{ABSENT, FORBIDDEN};
use super::keep_events::{Around, Events};
use super::keep_list::List;
use super::{Asked, Service, fields};
use crate::decide::Keep;
use crate::identity::{Claims, TokenHash};
use crate::record::{Encoding, Malformed, ObjectReader, TypeMeta, minted_token};
use crate::request::{Class, representation};
use crate::store::{DocumentHead, DocumentWriter, Kind, StoreError, ViewKey};
use crate::upstream::Answer;
use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::Ordering;

/// A short answer that is looked at as a whole (a 404's Status, a token, a review) may be this long.
const LONGEST_REPLY: usize = 256 * 1024;

/// Records one answer as it passes.
pub(super) struct Recorder<'a> {
    service: &'a Service,
    asked: &'a Asked,
    answer: Kept,
    sort: Sort,
    gave_up: bool,
}

/// What is kept of an answer's head.
pub(super) struct Kept {
    pub(super) status: u16,
    /// As sent; empty where there is none.
    pub(super) content_type: String,
    /// The fields that go with a document.
    pub(super) head: Vec<u8>,
}

/// What is being recorded.
enum Sort {
    /// Nothing, or nothing any more.
    Nothing,
    /// One object, of which too little is known yet to say under which key: what came so far.
    Unsure { start: Vec<u8>, reader: ObjectReader },
    /// A document, on its way to the store; `reader` where it is one object, so that it is known to be whole.
    Document { writer: Box<dyn DocumentWriter>, reader: Option<ObjectReader> },
    /// A list.
    List(Box<List>),
    /// A watch.
    Events(Box<Events>),
    /// A short answer that is looked at when it is whole.
    Short(Vec<u8>, Short),
}

/// What a short answer is kept as.
#[derive(Clone, Copy)]
enum Short {
    Absence,
    Reply,
    /// The object that a write returned.
    Written,
}

/// Why something is not recorded.
#[derive(Debug)]
pub(super) enum NotKept {
    /// The body is not what its media type says.
    Malformed(Malformed),
    /// The store could not take it.
    Store(StoreError),
    /// Nothing is known of this media type's bytes.
    MediaType(String),
    /// It is longer than `--max-object-size`, or than such an answer ever is.
    TooLong,
    /// The caller's token has not been accepted.
    NoScope,
    /// Nobody has said what stands around a list of these objects.
    NoEnvelope,
}

impl NotKept {
    /// Of its disk the store itself has spoken, once for all.
    pub(super) fn is_of_the_disk(&self) -> bool {
        matches!(self, NotKept::Store(StoreError::Io { .. }))
    }
}

impl fmt::Display for NotKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotKept::Malformed(e) => write!(f, "the body is not understood: {e}"),
            NotKept::Store(e) => e.fmt(f),
            NotKept::MediaType(t) => write!(f, "nothing is known of the media type {t:?}"),
            NotKept::TooLong => f.write_str("it is longer than --max-object-size"),
            NotKept::NoScope => f.write_str("the upstream has not accepted the client's token"),
            NotKept::NoEnvelope => f.write_str("nothing is known of what stands around a list of such objects"),
        }
    }
}

impl From<Malformed> for NotKept {
    fn from(e: Malformed) -> Self {
        NotKept::Malformed(e)
    }
}

impl From<StoreError> for NotKept {
    fn from(e: StoreError) -> Self {
        NotKept::Store(e)
    }
}

impl<'a> Recorder<'a> {
    /// Begins to record `answer` as `keep` says.
    pub(super) fn new(service: &'a Service, asked: &'a Asked, answer: &Answer<'_>, keep: Keep) -> Recorder<'a> {
        let kept = Kept {
            status: answer.status,
            content_type: fields::get(&answer.headers, "content-type").unwrap_or_default().to_owned(),
            head: fields::to_keep(&answer.headers),
        };
        let mut recorder = Recorder { service, asked, answer: kept, sort: Sort::Nothing, gave_up: false };
        match recorder.begin(
            keep,
            fields::get(&answer.headers, "content-encoding").is_some_and(|c| c != "gzip" || keep == Keep::Refresh),
        ) {
            Ok(sort) => recorder.sort = sort,
            Err(why) => recorder.give_up(&why),
        }
        recorder
    }

    fn begin(&self, keep: Keep, encoded: bool) -> Result<Sort, NotKept> {
        let encoding = Encoding::of(&self.answer.content_type);
        let unknown = || NotKept::MediaType(self.answer.content_type.clone());
        if matches!(keep, Keep::Document | Keep::Absence) {
            self.service.forget_refusal(self.asked);
        }
        if encoded {
            return Ok(Sort::Nothing);
        }
        Ok(match keep {
            Keep::Nothing => Sort::Nothing,
            Keep::Document => match encoding {
                Some(encoding) if self.asked.request.class == Class::Object => {
                    Sort::Unsure { start: Vec::new(), reader: ObjectReader::new(encoding) }
                }
                _ => {
                    let key = self.key(None)?;
                    let writer = self.service.store.begin_document(&key, self.document_head(String::new(), None))?;
                    Sort::Document { writer, reader: None }
                }
            },
            Keep::Collection => {
                Sort::List(Box::new(List::new(encoding.ok_or_else(unknown)?, self.service.options.max_object_size)))
            }
            Keep::Events => {
                let encoding = encoding.ok_or_else(unknown)?;
                let max_object = self.service.options.max_object_size;
                Sort::Events(Box::new(Events::new(encoding, max_object, &self.around())))
            }
            Keep::Absence => Sort::Short(Vec::new(), Short::Absence),
            Keep::Reply => Sort::Short(Vec::new(), Short::Reply),
            Keep::Refresh => Sort::Short(Vec::new(), Short::Written),
        })
    }

    /// Takes the next bytes of the body, which the client has already been sent.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        if let Err(why) = self.try_take(bytes) {
            self.give_up(&why);
        }
    }

    fn try_take(&mut self, bytes: &[u8]) -> Result<(), NotKept> {
        match &mut self.sort {
            Sort::Nothing | Sort::Events(_) => {}
            Sort::Short(body, _) => {
                if body.len() + bytes.len() > LONGEST_REPLY {
                    return Err(NotKept::TooLong);
                }
                body.extend_from_slice(bytes);
            }
            Sort::List(list) => list.take(bytes, self.service, self.asked, &self.answer)?,
            Sort::Document { writer, reader } => {
                if let Some(reader) = reader {
                    reader.feed(bytes)?;
                }
                writer.write(bytes)?;
            }
            Sort::Unsure { start, reader } => {
                reader.feed(bytes)?;
                start.extend_from_slice(bytes);
                if reader.is_known() {
                    self.settle()?;
                } else if start.len() > self.service.options.max_object_size {
                    return Err(NotKept::TooLong);
                }
            }
        }
        Ok(())
    }

    /// An object is known well enough: it is recorded already, or held by a live collection, or a new document begins.
    fn settle(&mut self) -> Result<(), NotKept> {
        let Sort::Unsure { start, reader } = std::mem::replace(&mut self.sort, Sort::Nothing) else { return Ok(()) };
        let facts = reader.facts();
        let key = self.key(Some(&facts.type_meta))?;
        let (uid, version) = (facts.uid.clone(), facts.resource_version.parse().ok());
        self.service.meet_object(&key.path, "", &uid);
        if self.service.is_live_elsewhere(self.asked, &key) || self.service.store.confirm_document(&key, &uid, version)
        {
            return Ok(());
        }
        let mut writer = self.service.store.begin_document(&key, self.document_head(uid, version))?;
        writer.write(&start)?;
        self.sort = Sort::Document { writer, reader: Some(reader) };
        Ok(())
    }

    /// Passes the next bytes of a watch on, whole events at a time, and folds each.
    ///
    /// # Errors
    /// The client could not be written to.
    pub(super) fn take_events(&mut self, bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
        let Sort::Events(events) = &mut self.sort else { return out.write_all(bytes) };
        let around = Around { service: self.service, asked: self.asked, answer: &self.answer };
        match events.take(bytes, &around, out)? {
            Ok(()) => Ok(()),
            Err(why) => {
                let held_back = events.take_rest();
                self.give_up(&why);
                out.write_all(&held_back)
            }
        }
    }

    /// Whether the client has been sent whole events only.
    pub(super) fn is_at_border(&self) -> bool {
        // A watch that is not understood is passed on as it comes: nobody knows where its borders are.
        matches!(&self.sort, Sort::Events(_))
    }

    fn around(&self) -> Around<'_> {
        Around { service: self.service, asked: self.asked, answer: &self.answer }
    }

    /// The body has ended whole: what was recorded of it becomes the record. False where something was to be recorded
    /// and could not be.
    pub(super) fn finish(mut self) -> bool {
        if self.gave_up {
            return false;
        }
        if matches!(self.sort, Sort::Unsure { .. })
            && let Err(why) = self.settle()
        {
            self.give_up(&why);
            return false;
        }
        let done = match std::mem::replace(&mut self.sort, Sort::Nothing) {
            Sort::Nothing | Sort::Unsure { .. } | Sort::Events(_) => Ok(()),
            Sort::Document { writer, reader } => self.finish_document(writer, reader),
            Sort::List(list) => list.finish(self.service, self.asked, &self.answer),
            Sort::Short(body, Short::Absence) => self.keep_absence(&body),
            Sort::Short(body, Short::Reply) => self.keep_reply(&body),
            Sort::Short(body, Short::Written) => self.keep_written(&body),
        };
        if let Err(why) = &done {
            self.give_up(why);
        }
        done.is_ok()
    }

    fn finish_document(&self, writer: Box<dyn DocumentWriter>, reader: Option<ObjectReader>) -> Result<(), NotKept> {
        if let Some(reader) = reader {
            reader.finish()?;
        }
        writer.commit()?;
        self.remove_documents(&self.view_path(), |key| key.representation == ABSENT)
    }

    /// A 404 is the newest word on an object: documents that say otherwise go.
    fn keep_absence(&self, body: &[u8]) -> Result<(), NotKept> {
        let key = ViewKey { representation: ABSENT.to_owned(), ..self.key(None)? };
        self.write_document(&key, body)?;
        self.remove_documents(&self.view_path(), |key| key.representation != ABSENT)
    }

    fn keep_reply(&self, body: &[u8]) -> Result<(), NotKept> {
        let mut key = self.key(None)?;
        if let Some(query) = &self.asked.reply_query {
            key.query.clone_from(query);
        }
        self.write_document(&key, body)?;
        if self.asked.request.class == Class::TokenRequest
            && let Some(encoding) = Encoding::of(&self.answer.content_type)
            && let Some(token) = minted_token(encoding, body)
        {
            self.service.accept(TokenHash::of(&token), Claims::read(&token).as_ref());
        }
        Ok(())
    }

    /// A write that the upstream carried out: what documents say of the object is old now. Where the answer is the whole
    /// object, its document is refreshed instead of dropped.
    fn keep_written(&self, body: &[u8]) -> Result<(), NotKept> {
        let Some(mut resource) = self.asked.request.target.resource().cloned() else { return Ok(()) };
        let mut reader = None;
        if let Some(encoding) = Encoding::of(&self.answer.content_type) {
            let mut read = ObjectReader::new(encoding);
            if read.feed(body).is_ok() && read.is_known() {
                reader = Some(read);
            }
        }
        if resource.subresource.as_deref().is_some_and(|s| s != "status") {
            return Ok(());
        }
        resource.subresource = None;
        if resource.name.is_none() {
            // Something was created: whoever was told that it does not exist was told so too early.
            let Some(name) = reader.as_ref().map(|r| r.facts().name.clone()) else { return Ok(()) };
            resource.name = Some(name);
            return self.remove_documents(&resource.path(), |_| true);
        }
        let path = resource.path();
        let refreshed = match reader {
            Some(reader) if self.asked.request.method != "DELETE" && reader.finish().is_ok() => {
                let facts = reader.facts();
                let key = ViewKey { path: path.clone(), query: String::new(), ..self.key(Some(&facts.type_meta))? };
                let recorded = self.service.store.views(&key.scope, &path).iter().any(|v| v.key == key);
                if recorded {
                    let head = self.document_head(facts.uid.clone(), facts.resource_version.parse().ok());
                    let mut writer = self.service.store.begin_document(&key, DocumentHead { status: 200, ..head })?;
                    writer.write(body)?;
                    writer.commit()?;
                }
                Some(key)
            }
            _ => None,
        };
        // Who may write it need not be permitted to read it.
        self.remove_documents(&path, |key| Some(key) != refreshed.as_ref() && key.representation != FORBIDDEN)
    }

    fn write_document(&self, key: &ViewKey, body: &[u8]) -> Result<(), NotKept> {
        let mut writer = self.service.store.begin_document(key, self.document_head(String::new(), None))?;
        writer.write(body)?;
        Ok(writer.commit()?)
    }

    fn document_head(&self, uid: String, version: Option<u64>) -> DocumentHead {
        DocumentHead { status: self.answer.status, uid, version, head: self.answer.head.clone() }
    }

    /// Removes those documents of a path, in the caller's scope, that `which` names.
    fn remove_documents(&self, path: &str, which: impl Fn(&ViewKey) -> bool) -> Result<(), NotKept> {
        let scope = self.service.recording_scope(self.asked).ok_or(NotKept::NoScope)?;
        for view in self.service.store.views(&scope, path) {
            if view.kind == Kind::Document && which(&view.key) {
                self.service.store.remove(&view.key)?;
            }
        }
        Ok(())
    }

    fn view_path(&self) -> String {
        self.asked.request.target.view_path()
    }

    /// The key under which this answer is recorded; `body_type` is the apiVersion and kind of its body, where known.
    fn key(&self, body_type: Option<&TypeMeta>) -> Result<ViewKey, NotKept> {
        self.answer.key(self.service, self.asked, body_type)
    }

    /// Stops recording: says why, and lets the rest pass.
    fn give_up(&mut self, why: &NotKept) {
        self.sort = Sort::Nothing;
        self.gave_up = true;
        self.service.counters.not_recorded.fetch_add(1, Ordering::Relaxed);
        let target = self.asked.shown_target();
        match why {
            why if why.is_of_the_disk() => log::debug!("{target} is not recorded: {why}"),
            NotKept::NoScope => log::debug!("{target} is not recorded: {why}"),
            NotKept::MediaType(t) => self.service.warn_once(t, &format!("{target} is not recorded: {why}")),
            NotKept::Store(e) => self.service.warn_once(&e.to_string(), &format!("{target} is not recorded: {why}")),
            NotKept::Malformed(_) | NotKept::TooLong | NotKept::NoEnvelope => {
                log::warn!("{target} is not recorded: {why}");
            }
        }
    }
}

impl Kept {
    /// The key under which this answer is recorded.
    pub(super) fn key(
        &self,
        service: &Service,
        asked: &Asked,
        body_type: Option<&TypeMeta>,
    ) -> Result<ViewKey, NotKept> {
        let scope = service.recording_scope(asked).ok_or(NotKept::NoScope)?;
        let representation =
            representation(&self.content_type, body_type.map(|t| (t.api_version.as_str(), t.kind.as_str())))
                .ok_or_else(|| NotKept::MediaType(self.content_type.clone()))?;
        Ok(ViewKey {
            scope,
            path: asked.request.target.view_path(),
            query: asked.request.query.selecting(),
            representation,
        })
    }
}
