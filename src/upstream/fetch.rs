//! One request through ureq: built, sent, sent once more where that is safe, and its failure put into words.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::http::response::Parts;
use ureq::http::uri::{Authority, PathAndQuery, Scheme};
use ureq::http::{HeaderName, HeaderValue, Method, Request, Response, Uri, Version};
use ureq::{Agent, Body, SendBody};

use super::answer::Streaming;
use super::attempt::{self, Attempt};
use super::buffers;
use super::fault::{Fault, io_words};
use super::link::Event;
use super::monitor::Monitor;
use super::wait::Epoch;
use super::{Answer, FetchError, Outgoing, OutgoingBody};

/// Fields that belong to one connection or to the framing, which is ours to make. `Expect` too: the front has answered it.
const OURS: [&str; 5] = ["host", "content-length", "transfer-encoding", "connection", "expect"];

/// Where requests go.
pub(super) struct Target {
    pub(super) authority: Authority,
    /// In front of each request's path; no slash at its end.
    pub(super) base_path: String,
}

/// A request on its way to one server after another.
pub(super) struct Sending<'r, 'c> {
    /// Its body is in `body`.
    pub(super) out: Outgoing<'r, 'c>,
    pub(super) body: Option<Upload<'r>>,
}

/// Why a server gave no answer.
pub(super) struct Failed {
    pub(super) error: FetchError,
    /// Whether another server may be asked instead: this one has seen nothing of the request, or it does no harm to ask
    /// twice.
    pub(super) elsewhere: bool,
}

impl<'r, 'c> Sending<'r, 'c> {
    pub(super) fn new(mut out: Outgoing<'r, 'c>) -> Self {
        let body = out.body.take().map(Upload::new).filter(|body| body.left != Some(0));
        Self { out, body }
    }

    /// Whether it may be sent though an earlier one may have been carried out (RFC 9110 section 9.2.2). As in Go's
    /// `http.Transport` (`shouldRetryRequest`) that is GET, HEAD and OPTIONS, not DELETE or PUT: a second DELETE could hit
    /// an object that was made again in the meantime.
    pub(super) fn is_harmless(&self) -> bool {
        self.body.is_none() && matches!(self.out.method, "GET" | "HEAD" | "OPTIONS")
    }

    fn may_repeat(&self, sent: u64) -> bool {
        self.body.as_ref().is_none_or(|body| !body.begun) && (sent == 0 || self.is_harmless())
    }
}

/// Sends a request to one server and returns the answer's head with its body to be streamed; tells `monitor` what that
/// showed. `first_byte`: the longest wait for the answer's first byte, connecting included where no body goes up.
pub(super) fn ask<'a>(
    agent: &Agent,
    target: &Target,
    monitor: &'a Monitor,
    sending: &mut Sending<'_, 'a>,
    first_byte: Duration,
) -> Result<Answer<'a>, Failed> {
    let unreachable = |why| Failed { error: FetchError::Unreachable(why), elsewhere: true };
    let signals = monitor.open().map_err(unreachable)?;
    let here = |error| Failed { error, elsewhere: false };
    let head = Head::new(target, sending).map_err(here)?;
    let stream = monitor.stream();
    let mut only_fresh = false;
    let begun = Instant::now();
    loop {
        let begun = sending.body.is_none().then_some(begun);
        let attempt = head.attempt(&sending.out, &signals.down, (begun, first_byte), only_fresh).map_err(here)?;
        let (result, attempt) = attempt::during(attempt, || match &mut sending.body {
            Some(body) => agent.run(head.request(SendBody::from_reader(body))),
            None => agent.run(head.request(())),
        });
        let Some(attempt) = attempt else {
            return Err(here(FetchError::Broken("no attempt".into())));
        };
        let error = match result {
            Ok(response) => {
                monitor.report(Event::Connected, "");
                let (client, stop) = (sending.out.client, sending.out.stop);
                return answer(response, Streaming::new(attempt.socket, client, signals, stop, monitor, stream))
                    .map_err(here);
            }
            Err(error) => error,
        };
        if let Some(error) = sending.body.as_mut().and_then(|body| body.failed.take()) {
            return Err(here(FetchError::ClientBody(error)));
        }
        let (failure, event) = judge(&error, &attempt, monitor);
        let repeatable = sending.may_repeat(attempt.sent);
        // A pooled connection may have been closed before the request came (RFC 9112 section 9.3.1).
        if !only_fresh && event == Some(Event::Broken) && !attempt.fresh && repeatable {
            // Its neighbours in the pool may be as old.
            only_fresh = true;
            continue;
        }
        let elsewhere = repeatable && failure.is_of_the_server();
        tell(monitor, &failure, event);
        return Err(Failed { error: failure, elsewhere });
    }
}

/// What a failure is called; `monitor` is told.
pub(super) fn failure(error: &ureq::Error, attempt: &Attempt, monitor: &Monitor) -> FetchError {
    let (failure, event) = judge(error, attempt, monitor);
    tell(monitor, &failure, event);
    failure
}

fn tell(monitor: &Monitor, failure: &FetchError, event: Option<Event>) {
    let Some(event) = event else { return };
    let reason = match failure {
        FetchError::Unreachable(why) | FetchError::Broken(why) => why.clone(),
        other => other.to_string(),
    };
    monitor.report(event, &reason);
}

/// A request's head, checked.
pub(super) struct Head {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) fields: Vec<(HeaderName, HeaderValue)>,
    longest_line: usize,
}

impl Head {
    pub(super) fn new(target: &Target, sending: &Sending<'_, '_>) -> Result<Self, FetchError> {
        let out = &sending.out;
        let unsendable = |what: &str, e: &dyn fmt::Display| FetchError::Unsendable(format!("{what}: {e}"));
        let method = Method::from_bytes(out.method.as_bytes()).map_err(|e| unsendable("the method", &e))?;
        // The http crate would cut a fragment off without a word.
        if !out.target.starts_with('/') || out.target.contains('#') {
            return Err(unsendable("the target", &"not an absolute path"));
        }
        let path = PathAndQuery::try_from(format!("{}{}", target.base_path, out.target))
            .map_err(|e| unsendable("the target", &e))?;
        let mut uri = ureq::http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTPS);
        uri.authority = Some(target.authority.clone());
        uri.path_and_query = Some(path);
        let uri = Uri::from_parts(uri).map_err(|e| unsendable("the target", &e))?;

        let mut longest_line = target.base_path.len() + out.target.len() + out.method.len();
        let mut fields = Vec::with_capacity(out.headers.len() + 1);
        for (name, value) in out.headers {
            if OURS.iter().any(|ours| name.eq_ignore_ascii_case(ours)) {
                continue;
            }
            longest_line = longest_line.max(name.len() + value.len());
            let named = HeaderName::from_bytes(name.as_bytes()).map_err(|e| unsendable(name, &e))?;
            fields.push((named, HeaderValue::from_bytes(value).map_err(|e| unsendable(name, &e))?));
        }
        match sending.body.as_ref().map(|body| body.left) {
            // Without a length ureq would send an empty chunked body.
            None if matches!(method, Method::POST | Method::PUT | Method::PATCH) => {
                fields.push((ureq::http::header::CONTENT_LENGTH, 0.into()));
            }
            Some(Some(length)) => {
                fields.push((ureq::http::header::CONTENT_LENGTH, length.into()));
            }
            _ => {}
        }
        // ` HTTP/1.1`, `: `, and two line ends.
        Ok(Self { method, uri, fields, longest_line: longest_line + 16 })
    }

    pub(super) fn request<B>(&self, body: B) -> Request<B> {
        let mut request = Request::new(body);
        request.method_mut().clone_from(&self.method);
        request.uri_mut().clone_from(&self.uri);
        for (name, value) in &self.fields {
            request.headers_mut().append(name, value.clone());
        }
        request
    }

    pub(super) fn attempt(
        &self,
        out: &Outgoing<'_, '_>,
        down: &Arc<Epoch>,
        (begun, first_byte): (Option<Instant>, Duration),
        only_fresh: bool,
    ) -> Result<Attempt, FetchError> {
        let client = out.client.map(|client| client.try_clone_to_owned()).transpose();
        Ok(Attempt {
            client: client.map_err(|e| FetchError::Unreachable(io_words(&e)))?,
            down: Arc::clone(down),
            first_byte,
            begun,
            longest_line: self.longest_line.max(buffers::SIZE),
            only_fresh,
            fresh: false,
            sent: 0,
            answer_by: None,
            socket: None,
        })
    }
}

pub(super) fn answer(response: Response<Body>, streaming: Streaming<'_>) -> Result<Answer<'_>, FetchError> {
    let (head, body) = response.into_parts();
    if head.status.as_u16() < 200 {
        // ureq swallows the others; a 101 nobody asked for would leave the client with a broken connection.
        return Err(FetchError::Broken(format!("the upstream answered {} unasked", head.status.as_u16())));
    }
    if let Some(why) = misframed(&head) {
        return Err(FetchError::Broken(why.to_owned()));
    }
    let headers =
        head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    Ok(Answer { status: head.status.as_u16(), headers, body: Box::new(streaming.body(body.into_reader())) })
}

/// Why nobody can tell where an answer's body ends, though ureq would: codings other than `chunked`, which it takes to last
/// until the connection's end, and any in HTTP/1.0, which knows none (RFC 9112 section 6.1; found by fuzzing).
pub(super) fn misframed(head: &Parts) -> Option<&'static str> {
    let codings = head.headers.get_all(ureq::http::header::TRANSFER_ENCODING);
    if codings.iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Some("the answer has a Transfer-Encoding other than chunked");
    }
    let old = head.version < Version::HTTP_11 && codings.iter().next().is_some();
    old.then_some("the answer has a Transfer-Encoding in HTTP/1.0")
}

/// What a failure is called, and what it says of the link.
fn judge(error: &ureq::Error, attempt: &Attempt, monitor: &Monitor) -> (FetchError, Option<Event>) {
    let broken = |why: String| (FetchError::Broken(why), Some(Event::Broken));
    match error {
        ureq::Error::Io(e) => match Fault::in_io(e) {
            Some(Fault::ClientGone) => (FetchError::ClientGone, None),
            Some(Fault::LinkDown) => (FetchError::Unreachable(monitor.reason()), None),
            Some(Fault::FirstByte) => (FetchError::TimedOut, Some(Event::FirstByteTimeout)),
            Some(Fault::Connect(why)) => (FetchError::Unreachable(why.clone()), Some(Event::ConnectFailed)),
            Some(Fault::Late(why)) => (FetchError::Unreachable(why.clone()), Some(Event::ConnectLate)),
            // One identity's trouble; a probe tells whether it is everybody's.
            Some(Fault::Refused(why)) => (FetchError::Unreachable(why.clone()), Some(Event::Broken)),
            Some(Fault::Torn(why)) => broken(why.clone()),
            None if e.kind() == io::ErrorKind::UnexpectedEof => broken("connection closed".into()),
            None => broken(io_words(e)),
        },
        ureq::Error::LargeResponseHeader(..) => {
            (FetchError::Broken(format!("the answer's head is larger than {} bytes", super::MAX_RESPONSE_HEAD)), None)
        }
        ureq::Error::Http(_) | ureq::Error::BadUri(_) => (FetchError::Unsendable(error.to_string()), None),
        ureq::Error::Protocol(_) if attempt.sent == 0 => (FetchError::Unsendable(error.to_string()), None),
        ureq::Error::Protocol(e) => broken(format!("the answer is not HTTP: {e}")),
        other => broken(other.to_string()),
    }
}

/// The client's body on its way through ureq: exactly as long as announced, and its own failures kept apart from the
/// connection's.
pub(super) struct Upload<'a> {
    reader: &'a mut dyn Read,
    pub(super) left: Option<u64>,
    begun: bool,
    pub(super) failed: Option<io::Error>,
}

impl<'a> Upload<'a> {
    pub(super) fn new(OutgoingBody { reader, length }: OutgoingBody<'a>) -> Self {
        Self { reader, left: length, begun: false, failed: None }
    }
}

impl Read for Upload<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.begun = true;
        let most = self.left.map_or(buf.len(), |left| usize::try_from(left).unwrap_or(usize::MAX).min(buf.len()));
        let outcome = match self.reader.read(&mut buf[..most]) {
            // ureq would ask for the rest for ever.
            Ok(0) if most > 0 && self.left.is_some() => Err(io::ErrorKind::UnexpectedEof.into()),
            other => other,
        };
        match outcome {
            Ok(amount) => {
                self.left = self.left.map(|left| left - amount as u64);
                Ok(amount)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => self.read(buf),
            Err(e) => {
                self.failed = Some(e);
                Err(io::Error::other("the client's body could not be read"))
            }
        }
    }
}

/// A raw connection's failure, in the words of a fetch.
pub(super) fn dial_failure(fault: Fault, client: Option<BorrowedFd<'_>>, monitor: &Monitor) -> FetchError {
    debug_assert!(client.is_some() || !matches!(fault, Fault::ClientGone));
    let (event, why) = match fault {
        Fault::ClientGone => return FetchError::ClientGone,
        Fault::LinkDown => return FetchError::Unreachable(monitor.reason()),
        Fault::FirstByte => return FetchError::TimedOut,
        Fault::Connect(why) => (Event::ConnectFailed, why),
        Fault::Late(why) => (Event::ConnectLate, why),
        Fault::Refused(why) | Fault::Torn(why) => (Event::Broken, why),
    };
    monitor.report(event, &why);
    FetchError::Unreachable(why)
}
