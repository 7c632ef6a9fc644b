//! The upstream's answer on its way to the client: streamed at once, and recorded as it passes.

use super::counters::Source;
use super::fields;
use super::find::Finding;
use super::hold::SHORTEST;
use super::keep::Recorder;
use super::rewrite::Outflow;
use super::{Asked, Errand, Service};
use crate::decide::{Keep, Patience};
use crate::front::{BodyLength, Ends, Exchange};
use crate::identity::Identity;
use crate::request::Class;
use crate::upstream::{Answer, Credentials, FetchError, Outgoing, OutgoingBody, Upgraded};
use flate2::bufread::MultiGzDecoder;
use std::io::{self, BufReader, Cursor, Read, Write};
use std::time::Instant;

/// What is read from the upstream at a time: a TLS record's payload.
pub(super) const CHUNK: usize = 16 * 1024;

/// The same for a watch, which is mostly idle, and many are: less memory each.
const EVENTS_CHUNK: usize = 4 * 1024;

/// How much of a 500 is looked at for etcd's own words.
const LONGEST_ERROR: u64 = 8 * 1024;

impl Service {
    /// Stage: ask the upstream.
    pub(super) fn fetch<'a>(
        &'a self,
        exchange: &mut Exchange<'_>,
        asked: &Asked,
        finding: &Finding,
        errand: &Errand,
        ends: &'a Ends,
    ) -> Result<Upgraded<'a>, FetchError> {
        let request = &asked.request;
        let identity = &asked.caller.identity;
        let headers = fields::up(request, identity, &exchange.head.headers, errand.keep, finding.found.is_some());
        let credentials = credentials(identity);
        let first_byte = match errand.patience {
            Patience::Short => self.options.timeout,
            Patience::Long => self.options.slow_timeout,
        };
        let mut question = asked.body.as_deref().unwrap_or_default();
        let body = match (&asked.body, exchange.head.body) {
            (Some(bytes), _) => Some(OutgoingBody { length: Some(bytes.len() as u64), reader: &mut question }),
            (None, BodyLength::None) => None,
            (None, BodyLength::Exact(length)) => Some(OutgoingBody { length: Some(length), reader: exchange.body() }),
            (None, BodyLength::Chunked) => Some(OutgoingBody { length: None, reader: exchange.body() }),
        };
        let stop = (request.class == Class::Watch).then(|| ends.stop());
        let (method, target) = (request.method.as_str(), request.raw_target.as_str());
        let outgoing =
            Outgoing { method, target, headers: &headers, body, first_byte, client: Some(ends.client()), stop };
        if request.class == Class::Upgrade {
            return self.upstream.upgrade(&errand.known, &credentials, outgoing);
        }
        self.upstream.fetch(&errand.known, &credentials, outgoing).map(Upgraded::Answer)
    }

    /// Stage: answer with what the upstream said, and record it.
    pub(super) fn relay(
        &self,
        exchange: Exchange<'_>,
        asked: &Asked,
        answer: Answer<'_>,
        keep: Keep,
    ) -> io::Result<()> {
        self.counters.answered(&asked.request, answer.status, Source::Upstream);
        let inflated = fields::is_gzipped(&asked.request, &answer.headers);
        let length = match fields::get(&answer.headers, "content-length").and_then(|l| l.parse().ok()) {
            Some(length) if !inflated => BodyLength::Exact(length),
            // RFC 9110 section 6.4.1: these have no body, whatever their fields say.
            _ if matches!(answer.status, 204 | 304) => BodyLength::None,
            _ => BodyLength::Chunked,
        };
        let recorder = Recorder::new(self, asked, &answer, keep);
        let headers = fields::down(&answer.headers, inflated);
        let out = exchange.respond(answer.status, &headers, length)?;
        let mut out = self.outflow(asked, answer.status, &headers, out);
        if asked.request.class == Class::Watch && answer.status == 200 {
            let _open = self.counters.watch();
            // The first event may be hours away: client-go waits for the head before it calls the watch begun.
            out.flush()?;
            return relay_events(answer.body, out, recorder);
        }
        if length == BodyLength::Chunked && asked.request.class == Class::Passing {
            // Logs that are followed, and the like.
            out.flush()?;
        }
        relay_body(plain_body(answer.body, inflated), out, recorder)
    }
}

/// The credentials that an identity's requests go up with.
pub(super) fn credentials(identity: &Identity) -> Credentials {
    match identity {
        Identity::Certificate { common_name } => Credentials::Certificate(common_name.clone()),
        Identity::Token { .. } | Identity::Anonymous => Credentials::None,
    }
}

/// An answer's body without the compression that we asked for, where it came `gzipped`. Apart from its callers, because a decoder is made on the
/// stack: 28 KB, which each connection's thread would keep, those of idle watches too.
#[inline(never)]
pub(super) fn plain_body<'a>(body: Box<dyn Read + 'a>, gzipped: bool) -> Box<dyn Read + 'a> {
    if gzipped { Box::new(MultiGzDecoder::new(BufReader::with_capacity(CHUNK, body))) } else { body }
}

/// Passes a body on. A body that ends before its time cuts the client's connection: the error that is returned leaves
/// `out` unfinished.
fn relay_body(mut body: impl Read, mut out: Outflow<'_>, mut recorder: Recorder<'_>) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let n = body.read(&mut chunk)?;
        if n == 0 {
            break;
        }
        out.write_all(&chunk[..n])?;
        if n < chunk.len() {
            // The upstream has no more for now, and may be slow with the rest.
            out.flush()?;
        }
        recorder.take(&chunk[..n]);
    }
    // The client first: what is recorded may wait for the disk.
    out.finish()?;
    recorder.finish();
    Ok(())
}

/// Passes a watch on, whole events only, each at once. However the upstream's stream ends, the client's ends cleanly:
/// it is at an event's border, and client-go then watches on from there.
fn relay_events(mut body: impl Read, mut out: Outflow<'_>, mut recorder: Recorder<'_>) -> io::Result<()> {
    let mut chunk = vec![0; EVENTS_CHUNK];
    let (begun, mut silent) = (Instant::now(), true);
    loop {
        let n = match body.read(&mut chunk) {
            Ok(0) => return out.finish(),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Err(e),
            Err(e) => {
                log::debug!("a watch ended early: {e}");
                if silent {
                    std::thread::sleep(SHORTEST.saturating_sub(begun.elapsed()));
                }
                break;
            }
        };
        recorder.take_events(&chunk[..n], &mut out)?;
        out.flush()?;
        silent = false;
    }
    if recorder.is_at_border() { out.finish() } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Tells a 500 by which kube-apiserver passes on that etcd failed from any other: etcd's client names itself in its
/// errors (`etcdserver: request timed out`, `etcdserver: leader changed`). What was read is put back.
pub(super) fn look_for_etcd_failure(mut answer: Answer<'_>) -> (Answer<'_>, bool) {
    if answer.status != 500 {
        return (answer, false);
    }
    let mut start = Vec::new();
    let failed_at = answer.body.by_ref().take(LONGEST_ERROR).read_to_end(&mut start).err();
    let etcd = start.windows(11).any(|w| w == b"etcdserver:");
    let rest: Box<dyn Read + '_> = match failed_at {
        Some(e) => Box::new(Failing(Some(e))),
        None => answer.body,
    };
    (Answer { body: Box::new(Cursor::new(start).chain(rest)), ..answer }, etcd)
}

/// A body whose rest could not be read.
struct Failing(Option<io::Error>);

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(self.0.take().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()))
    }
}
