//! Answers out of the record, streamed from the store as they are.

use super::counters::Source;
use super::find::{Finding, Found};
use super::rewrite::Outflow;
use super::tell::{self, Told};
use super::{Asked, Service, fields};
use crate::decide::{self, Fits, Match, Refusal};
use crate::front::{BodyLength, Exchange};
use crate::moment::{rfc3339, span};
use crate::record::{Encoding, Envelope, Sizes, Whereabouts};
use crate::request::{ApiRequest, Class, Selection};
use crate::store::{Collection, Document, ObjectRef, ViewKey};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::SystemTime;

/// What is gathered before it is handed to the front.
const CHUNK: usize = 16 * 1024;

impl Service {
    /// Stage: answer from the record what [`super::find`] found.
    pub(super) fn recall(&self, exchange: Exchange<'_>, asked: &Asked, finding: &Finding) -> io::Result<()> {
        let answered = match &finding.found {
            Some(Found::Document(key) | Found::Absent(key)) => match self.store.document(key) {
                Ok(Some(document)) => return self.recall_document(exchange, asked, document),
                other => other.err(),
            },
            Some(
                Found::Collection { key, .. }
                | Found::Member { collection: key, .. }
                | Found::Missing { collection: key },
            ) => match self.store.collection(key) {
                Ok(Some(collection)) => return self.recall_from(exchange, asked, finding, &*collection),
                other => other.err(),
            },
            None => None,
        };
        if let Some(e) = answered {
            log::warn!("{}: the record cannot be read: {e}", asked.shown_target());
        }
        self.refuse(exchange, asked, Refusal::NotRecorded, "")
    }

    fn recall_document(&self, exchange: Exchange<'_>, asked: &Asked, mut document: Document) -> io::Result<()> {
        let status = document.info.status;
        let head = fields::kept(&document.head);
        let extra: Vec<(&str, &[u8])> = head.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect();
        let at = document.info.recorded_at;
        if let Some(known) = self.corrected_by(asked)
            && let Some(encoding) = Encoding::of(&document.info.key.representation)
        {
            let mut body = Vec::new();
            document.body.read_to_end(&mut body)?;
            let body = known.correct_body(encoding, &body).unwrap_or(body);
            let length = BodyLength::Exact(body.len() as u64);
            let mut out = self.begin(exchange, asked, status, &extra, at, length)?;
            out.write_all(&body)?;
            return out.finish();
        }
        let length = BodyLength::Exact(document.length);
        let mut out = self.begin(exchange, asked, status, &extra, at, length)?;
        io::copy(&mut document.body, &mut out)?;
        out.finish()
    }

    /// Answers with a collection, one of its objects, or that it lacks the object.
    fn recall_from(
        &self,
        exchange: Exchange<'_>,
        asked: &Asked,
        finding: &Finding,
        collection: &dyn Collection,
    ) -> io::Result<()> {
        let query = &asked.request.query;
        let how = match how_asked(&asked.request) {
            Ok(how) => how,
            Err(why) => return self.tell(exchange, asked, &tell::invalid_options(why)),
        };
        let (version, wanted) = (collection.version(), query.resource_version().unwrap_or_default());
        match decide::fits(query.resource_version(), how, version) {
            Fits::Yes => {}
            Fits::Expired => return self.tell(exchange, asked, &tell::expired(wanted, version.unwrap_or_default())),
            Fits::TooLarge => return self.tell(exchange, asked, &tell::too_large(wanted, version.unwrap_or_default())),
        }
        let Some(envelope) = Envelope::decode(&collection.envelope()) else {
            return self.refuse(exchange, asked, Refusal::NotRecorded, "");
        };
        match &finding.found {
            Some(Found::Member { object, .. }) => self.recall_member(exchange, asked, collection, &envelope, object),
            Some(Found::Missing { .. }) => self.tell(exchange, asked, &not_found(asked)),
            Some(Found::Collection { selection, .. }) => {
                let corrected_by = self.corrected_by(asked);
                let part = Part { collection, envelope: &envelope, selection, corrected_by };
                self.recall_list(exchange, asked, &part)
            }
            _ => self.refuse(exchange, asked, Refusal::NotRecorded, ""),
        }
    }

    fn recall_member(
        &self,
        exchange: Exchange<'_>,
        asked: &Asked,
        collection: &dyn Collection,
        envelope: &Envelope,
        object: &str,
    ) -> io::Result<()> {
        let Some((reference, mut bytes)) = collection.get(object) else {
            return self.refuse(exchange, asked, Refusal::NotRecorded, "");
        };
        if let Some(known) = self.corrected_by(asked)
            && let Some(corrected) = known.correct(envelope.encoding(), &bytes, collection.version(), false)
        {
            bytes = corrected;
        }
        let mut body = Vec::with_capacity(bytes.len() + 128);
        let version = reference.version.map(|v| v.to_string()).unwrap_or_default();
        envelope.object(&bytes, reference.flags, &version, &mut body);
        let content_type = content_type(&collection.info().key);
        let extra = [("content-type", content_type.as_bytes())];
        let length = BodyLength::Exact(body.len() as u64);
        let mut out = self.begin(exchange, asked, 200, &extra, collection.info().recorded_at, length)?;
        out.write_all(&body)?;
        out.finish()
    }

    fn recall_list(&self, exchange: Exchange<'_>, asked: &Asked, part: &Part<'_>) -> io::Result<()> {
        let Part { collection, envelope, .. } = *part;
        // The answer's length is told before it is sent: what is selected by labels is read twice.
        let sizes = match part.sizes() {
            Ok(sizes) => sizes,
            Err(e) => {
                log::warn!("{}: the record cannot be read: {e}", asked.shown_target());
                return self.refuse(exchange, asked, Refusal::NotRecorded, "");
            }
        };
        let content_type = content_type(&collection.info().key);
        let extra = [("content-type", content_type.as_bytes())];
        let version = collection.version().map(|v| v.to_string()).unwrap_or_default();
        let mut list = envelope.list(&version, sizes);
        let length = BodyLength::Exact(list.length());
        let mut out = self.begin(exchange, asked, 200, &extra, collection.info().recorded_at, length)?;
        let mut piece = Vec::with_capacity(CHUNK);
        list.head(&mut piece);
        part.each(&mut |reference, bytes| {
            list.object(bytes, reference.flags, &mut piece);
            if piece.len() >= CHUNK {
                out.write_all(&piece)?;
                piece.clear();
            }
            Ok(())
        })?;
        list.tail(&mut piece);
        out.write_all(&piece)?;
        out.finish()
    }

    /// Begins an answer from the record: with its age, and a warning where a person reads it.
    fn begin<'a>(
        &'a self,
        exchange: Exchange<'a>,
        asked: &Asked,
        status: u16,
        extra: &[(&str, &[u8])],
        recorded_at: SystemTime,
        length: BodyLength,
    ) -> io::Result<Outflow<'a>> {
        self.counters.answered(&asked.request, status, Source::Record);
        let age = SystemTime::now().duration_since(recorded_at).unwrap_or_default();
        log::info!("{} {}: {status} from the record, {} old", asked.request.method, asked.shown_target(), span(age));
        let age_field = age.as_secs().to_string();
        let mut headers = extra.to_vec();
        headers.push(("age", age_field.as_bytes()));
        let warning;
        if asked.request.for_people() {
            let (outage, when) = (self.outage().phrase(), rfc3339(recorded_at));
            warning = tell::warning(&format!("{outage}; this is what was recorded at {when}"));
            headers.push(("warning", warning.as_bytes()));
        }
        let out = exchange.respond(status, &headers, length)?;
        Ok(self.outflow(asked, status, &headers, out))
    }
}

/// What of a collection is asked for.
pub(super) struct Part<'a> {
    pub(super) collection: &'a dyn Collection,
    pub(super) envelope: &'a Envelope,
    pub(super) selection: &'a Selection,
    /// By what its objects are corrected; `None`: they are as they are recorded.
    pub(super) corrected_by: Option<Arc<Whereabouts>>,
}

impl Part<'_> {
    /// How long a list of it will be.
    pub(super) fn sizes(&self) -> io::Result<Sizes> {
        let mut sizes = self.envelope.sizes();
        if self.corrected_by.is_some() {
            self.each(&mut |reference, bytes| {
                sizes.add(bytes.len() as u64, reference.flags);
                Ok(())
            })?;
        } else if self.selection.is_everything() {
            self.collection.lengths(&mut |flags, length| sizes.add(length, flags));
        } else if self.selection.needs_labels() {
            self.each(&mut |reference, bytes| {
                sizes.add(bytes.len() as u64, reference.flags);
                Ok(())
            })?;
        } else {
            self.collection.index(&mut |reference, length| {
                if self.selection.admits_key(&reference.key) {
                    sizes.add(length, reference.flags);
                }
            });
        }
        Ok(sizes)
    }

    /// Calls `visit` with each object that is asked for, until it fails. Bytes are read only where need be.
    pub(super) fn each(&self, visit: &mut dyn FnMut(&ObjectRef, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let Some(known) = &self.corrected_by else { return self.each_recorded(visit) };
        let (encoding, at) = (self.envelope.encoding(), self.collection.version());
        self.each_recorded(&mut |reference, bytes| {
            let corrected = known.correct(encoding, bytes, at, false);
            visit(reference, corrected.as_deref().unwrap_or(bytes))
        })
    }

    fn each_recorded(&self, visit: &mut dyn FnMut(&ObjectRef, &[u8]) -> io::Result<()>) -> io::Result<()> {
        if self.selection.is_everything() {
            return self.collection.each(visit);
        }
        if !self.selection.needs_labels() {
            let mut keys = Vec::new();
            self.collection.index(&mut |reference, _| {
                if self.selection.admits_key(&reference.key) {
                    keys.push(reference.key.clone());
                }
            });
            return keys.iter().try_for_each(|key| {
                let (reference, bytes) = self.collection.get(key).ok_or(io::ErrorKind::InvalidData)?;
                visit(&reference, &bytes)
            });
        }
        self.collection.each(&mut |reference, bytes| {
            if !self.selection.admits_key(&reference.key) {
                return Ok(());
            }
            let labels = self.envelope.labels(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            if self.selection.admits_labels(&labels) { visit(reference, bytes) } else { Ok(()) }
        })
    }
}

/// How a request means its resourceVersion; only a list can mean it in more than one way.
fn how_asked(request: &ApiRequest) -> Result<Match, &'static str> {
    if request.class != Class::List {
        return Ok(Match::NotOlderThan);
    }
    let query = &request.query;
    let is_set = |name: &str, nothing: &str| query.get(name).is_some_and(|v| !v.is_empty() && v != nothing);
    let (limited, continued) = (is_set("limit", "0"), is_set("continue", ""));
    decide::version_match(query.resource_version(), query.get("resourceVersionMatch"), limited, continued)
}

/// The media type under which a collection is sent: kube-apiserver sends Tables and their kin as plain JSON.
fn content_type(key: &ViewKey) -> &str {
    key.representation.split(';').next().unwrap_or(&key.representation)
}

/// 404, in kube-apiserver's own words (`staging/src/k8s.io/apimachinery/pkg/api/errors/errors.go`, `NewNotFound`).
fn not_found(asked: &Asked) -> Told {
    let (resource, name) = asked.request.target.resource().map_or_else(Default::default, |r| {
        let group = if r.group.is_empty() { String::new() } else { format!(".{}", r.group) };
        (format!("{}{group}", r.resource), r.name.clone().unwrap_or_default())
    });
    Told { code: 404, reason: "NotFound", message: format!("{resource} \"{name}\" not found"), cause: None }
}
