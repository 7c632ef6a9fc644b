//! What we say when there is no answer: every refusal as one `metav1.Status`, in the client's own representation.

use super::counters::Source;
use super::{Asked, Service};
use crate::decide::Refusal;
use crate::front::{BodyLength, Exchange};
use crate::moment::{rfc3339, span};
use crate::record::{Encoding, StatusBody};
use crate::request::Class;
use std::io::{self, Write};
use std::time::SystemTime;

/// What is to be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// HTTP status.
    pub code: u16,
    /// `metav1.StatusReason`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// A machine's cause (`metav1.CauseType`), where client-go looks for one.
    pub cause: Option<&'static str>,
}

/// What is known of the outage, for people.
#[derive(Debug, Clone)]
pub(super) struct Outage {
    /// Since when; `None`: the link is not known to be down.
    pub since: Option<SystemTime>,
    /// Why, in a few words; may be empty.
    pub reason: String,
    /// The moment at which this is said.
    pub now: SystemTime,
}

impl Outage {
    /// `the link to the cluster is down since … (reason)`.
    pub(super) fn phrase(&self) -> String {
        let mut text = match self.since {
            Some(since) => {
                let ago =
                    self.now.duration_since(since).map_or_else(|_| String::new(), |d| format!(", {} ago", span(d)));
                format!("the link from this node to the cluster is down since {}{ago}", rfc3339(since))
            }
            None => "the cluster cannot be reached from this node".to_owned(),
        };
        if !self.reason.is_empty() {
            text.push_str(&format!(" ({})", self.reason));
        }
        text
    }
}

/// The words for a refusal.
pub(super) fn words(why: Refusal, class: Class, outage: &Outage, detail: &str) -> Told {
    let down = outage.phrase();
    let told = |code, reason, message| Told { code, reason, message, cause: None };
    match why {
        Refusal::LinkDown if class == Class::Write => {
            told(503, "ServiceUnavailable", format!("{down}; nothing was changed, try again when it is back"))
        }
        Refusal::LinkDown => {
            told(503, "ServiceUnavailable", format!("{down}; this needs the cluster, try again when it is back"))
        }
        Refusal::NotRecorded => told(
            503,
            "ServiceUnavailable",
            format!("{down}; this was not read through this node before, so nothing is recorded to answer with"),
        ),
        Refusal::UnknownToken => told(
            503,
            "ServiceUnavailable",
            format!("{down}; this token was not seen to be accepted by the cluster before, so it opens no record"),
        ),
        Refusal::ExpiredToken => told(401, "Unauthorized", format!("{down}; this token had expired before")),
        Refusal::GraceOver => told(
            503,
            "ServiceUnavailable",
            format!("{down}, which is longer than recorded data may be served (--offline-grace)"),
        ),
        Refusal::NotAcceptable => told(
            406,
            "NotAcceptable",
            format!("{down}; what is recorded has none of the media types asked for: it is {detail}"),
        ),
        Refusal::TimedOut => told(
            504,
            "Timeout",
            format!("the cluster did not answer in time ({detail}); what was asked may have been done all the same"),
        ),
        Refusal::Broken => told(
            502,
            "InternalError",
            format!(
                "the connection to the cluster broke before its answer came ({detail}); what was asked may have been done all the same"
            ),
        ),
        Refusal::Unsendable => told(400, "BadRequest", format!("the request cannot be passed on: {detail}")),
    }
}

/// 410: what the client has seen is not what the record holds; it must list again. The code and words are
/// kube-apiserver's own (`staging/src/k8s.io/apimachinery/pkg/api/errors/errors.go`, `NewResourceExpired`).
pub(super) fn expired(asked: &str, held: u64) -> Told {
    Told { code: 410, reason: "Expired", message: format!("too old resource version: {asked} ({held})"), cause: None }
}

/// 504: the client asks for something newer than the record (`staging/src/k8s.io/apiserver/pkg/storage/errors.go`,
/// `NewTooLargeResourceVersionError`).
pub(super) fn too_large(asked: &str, held: u64) -> Told {
    Told {
        code: 504,
        reason: "Timeout",
        message: format!("Too large resource version: {asked}, current: {held}"),
        cause: Some("ResourceVersionTooLarge"),
    }
}

/// 422: a list whose options contradict each other, in kube-apiserver's own words (`NewInvalid` in the same file).
pub(super) fn invalid_options(why: &str) -> Told {
    let message = format!("ListOptions.meta.k8s.io \"\" is invalid: {why}");
    Told { code: 422, reason: "Invalid", message, cause: None }
}

impl Told {
    /// The Status that says it.
    pub(super) fn status(&self) -> StatusBody {
        StatusBody {
            code: self.code,
            reason: self.reason.to_owned(),
            message: self.message.clone(),
            cause: self.cause.map(|c| (c.to_owned(), self.message.clone())),
        }
    }
}

impl Service {
    /// Answers with a Status. There is never a `Retry-After`: client-go would sleep and try again inside the call
    /// (`rest/with_retry.go`).
    pub(super) fn tell(&self, exchange: Exchange<'_>, asked: &Asked, told: &Told) -> io::Result<()> {
        self.counters.answered(&asked.request, told.code, Source::Refused);
        log::info!("{} {}: {} {}", asked.request.method, asked.shown_target(), told.code, told.message);
        // client-go's discovery does not read the Status of an error (`discovery_client.go` takes `Result.Raw`): kubectl
        // says that the server cannot handle the request, and no more. Warnings it prints.
        let warning = warning(&told.message);
        let for_discovery = [("Warning", warning.as_bytes())];
        let extra: &[_] = if asked.request.class == Class::Discovery { &for_discovery } else { &[] };
        send(exchange, Encoding::of(asked.request.accept.first()), extra, told)
    }

    /// Answers that long-running requests have taken all places that they may take; client-go waits, and asks again.
    pub(super) fn tell_busy(&self, exchange: Exchange<'_>, asked: &Asked) -> io::Result<()> {
        let message = "too many watches and other long-running requests go through this node's lite-apiserver (--max-connections)";
        let told = Told { code: 429, reason: "TooManyRequests", message: message.to_owned(), cause: None };
        self.counters.answered(&asked.request, told.code, Source::Refused);
        self.warn_once("long-running", message);
        send(exchange, Encoding::of(asked.request.accept.first()), &[("Retry-After", b"1")], &told)
    }

    /// Answers with the Status of a refusal.
    pub(super) fn refuse(&self, exchange: Exchange<'_>, asked: &Asked, why: Refusal, detail: &str) -> io::Result<()> {
        let told = words(why, asked.request.class, &self.outage(), detail);
        self.tell(exchange, asked, &told)
    }
}

/// Sends a Status as the whole answer.
pub(super) fn send(
    exchange: Exchange<'_>,
    encoding: Option<Encoding>,
    extra: &[(&str, &[u8])],
    told: &Told,
) -> io::Result<()> {
    let (content_type, body) = told.status().encode(encoding);
    let headers = [&[("Content-Type", content_type.as_bytes())], extra].concat();
    let mut out = exchange.respond(told.code, &headers, BodyLength::Exact(body.len() as u64))?;
    out.write_all(&body)?;
    out.finish()
}

/// A `Warning` field (RFC 7234 section 5.5), which kubectl prints.
pub(super) fn warning(text: &str) -> String {
    format!("299 lite-apiserver \"{}\"", quotable(text))
}

/// A text as it may stand in a quoted-string (RFC 9110 section 5.6.4) without escapes, which not every client undoes.
fn quotable(text: &str) -> String {
    text.chars().map(|c| if c == '"' || c == '\\' || !(' '..='~').contains(&c) { '\'' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn people_learn_what_is_wrong_and_since_when() {
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_529_115);
        let outage =
            Outage { since: Some(since), reason: "connection refused".into(), now: since + Duration::from_secs(125) };
        let told = words(Refusal::LinkDown, Class::Write, &outage, "");
        assert_eq!(
            told.message,
            "the link from this node to the cluster is down since 2026-11-24T14:05:15Z, 2m ago (connection refused); \
             nothing was changed, try again when it is back"
        );
        assert_eq!((told.code, told.reason), (503, "ServiceUnavailable"));
        // A clock that went back says nothing of how long.
        let outage = Outage { now: since - Duration::from_secs(1), ..outage };
        assert!(!words(Refusal::NotRecorded, Class::List, &outage, "").message.contains("ago"));
    }
}
