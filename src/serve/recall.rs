//! Answers out of the record, streamed from the store as they are.

use super::counters::Source;
use super::find::{Finding, Found};
use super::moment::{rfc3339, span};
use super::tell::{self, Told};
use super::{Asked, Service, fields};
use crate::decide::{self, Fits, Refusal};
use crate::front::{BodyLength, BodyWriter, Exchange};
use crate::record::Envelope;
use crate::store::{Collection, Document, ViewKey};
use std::io::{self, Write};
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
                Found::Collection(key) | Found::Member { collection: key, .. } | Found::Missing { collection: key },
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
        let length = BodyLength::Exact(document.length);
        let mut out = self.begin(exchange, asked, status, &extra, document.info.recorded_at, length)?;
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
        let exact = query.get("resourceVersionMatch") == Some("Exact");
        let continued = query.get("continue").is_some_and(|c| !c.is_empty());
        let (version, wanted) = (collection.version(), query.resource_version().unwrap_or_default());
        match decide::fits(query.resource_version(), exact, continued, version) {
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
            _ => self.recall_list(exchange, asked, collection, &envelope),
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
        let Some((reference, bytes)) = collection.get(object) else {
            return self.refuse(exchange, asked, Refusal::NotRecorded, "");
        };
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

    fn recall_list(
        &self,
        exchange: Exchange<'_>,
        asked: &Asked,
        collection: &dyn Collection,
        envelope: &Envelope,
    ) -> io::Result<()> {
        let mut sizes = envelope.sizes();
        collection.index(&mut |reference, length| sizes.add(length, reference.flags));
        let content_type = content_type(&collection.info().key);
        let extra = [("content-type", content_type.as_bytes())];
        let version = collection.version().map(|v| v.to_string()).unwrap_or_default();
        let mut list = envelope.list(&version, sizes);
        let length = BodyLength::Exact(list.length());
        let mut out = self.begin(exchange, asked, 200, &extra, collection.info().recorded_at, length)?;
        let mut piece = Vec::with_capacity(CHUNK);
        list.head(&mut piece);
        collection.each(&mut |reference, bytes| {
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
        &self,
        exchange: Exchange<'a>,
        asked: &Asked,
        status: u16,
        extra: &[(&str, &[u8])],
        recorded_at: SystemTime,
        length: BodyLength,
    ) -> io::Result<BodyWriter<'a>> {
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
        exchange.respond(status, &headers, length)
    }
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
