//! A watch while the link is down: begun from the record, held open, ended cleanly when the link is back.

use super::counters::Source;
use super::find::{Finding, Found, held_at};
use super::recall::Part;
use super::rewrite::Outflow;
use super::whereabouts::Corrections;
use super::{Asked, Service, tell};
use crate::decide::{self, Opening, Refusal};
use crate::front::{BodyLength, Ends, Exchange};
use crate::record::{Envelope, EventKind};
use crate::request::Selection;
use crate::store::Collection;
use crate::upstream::{Epoch, LinkState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a held watch is sent a bookmark, if it asked for bookmarks: as often as kube-apiserver's own
/// (`staging/src/k8s.io/apiserver/pkg/storage/cacher/cacher.go`, `defaultBookmarkFrequency`).
const BOOKMARKS: Duration = Duration::from_secs(60);

/// client-go calls a watch that ends within its first second without an event a very short watch, and lists again.
pub(super) const SHORTEST: Duration = Duration::from_millis(1200);

/// Over how long the ends of held watches are spread once the link is back, evenly: in any half second a tenth of them.
const SPREAD: Duration = Duration::from_secs(5);

/// How much longer a watch is held whose client was told what kubelets tell, so that by then they have told the cluster:
/// a status that could not be patched is tried again each ten seconds (`pkg/kubelet/status/status_manager.go`, `syncPeriod`).
const TOLD_UPSTREAM: Duration = Duration::from_secs(12);

/// How long more news is waited for once there is some: after a boot it comes pod by pod.
const GATHER: Duration = Duration::from_millis(100);

/// As long as any watch is held, whatever it asks for.
const DAY: Duration = Duration::from_secs(86_400);

/// How long a watch is held while the link is not down (the upstream answers, but that it cannot serve): the client
/// then asks again.
const UNWELL: Duration = Duration::from_secs(15);

/// How long kube-apiserver keeps a watch without `timeoutSeconds` at least (`--min-request-timeout`, 1800 s).
const LONGEST: Duration = Duration::from_secs(1800);

impl Service {
    /// Stage: answer a watch from the record.
    pub(super) fn hold(&self, exchange: Exchange<'_>, asked: &Asked, finding: &Finding) -> io::Result<()> {
        // Taken before the link's state is acted on, so that no return of the link is missed.
        let up = self.upstream.link().up_epoch();
        let begun = Instant::now();
        let Some((collection, envelope, selection)) = self.collection_of(finding) else {
            return self.refuse(exchange, asked, Refusal::NotRecorded, "");
        };
        let mut corrections = self.corrections(asked);
        let corrected_by = corrections.as_ref().and_then(Corrections::known);
        let part = Part { collection: &*collection, envelope: &envelope, selection, corrected_by };
        let query = &asked.request.query;
        let bookmarks = query.flag("allowWatchBookmarks");
        let held = held_at(&*collection);
        let version = held.version;
        let held_at = version.map(|v| v.to_string()).unwrap_or_default();
        let opening = decide::opening(query.resource_version(), query.flag("sendInitialEvents"), bookmarks, held);
        self.counters.answered(&asked.request, 200, Source::Record);
        log::info!("{} {}: held from the record ({opening:?})", asked.request.method, asked.shown_target());
        let _open = self.counters.watch();

        let ends = exchange.ends();
        let content_type = envelope.watch_content_type();
        let headers = [("Content-Type", content_type.as_bytes())];
        let out = exchange.respond(200, &headers, BodyLength::Chunked)?;
        let mut out = self.outflow(asked, 200, &headers, out);
        let asked_version = query.resource_version().unwrap_or_default();
        let mut frame = Vec::new();
        match opening {
            Opening::Everything { bookmark } => {
                send_everything(&part, &mut out)?;
                corrections.as_mut().map_or(Ok(()), |c| c.all_told(&part))?;
                if bookmark {
                    envelope.bookmark(&held_at, true, &mut frame);
                }
            }
            Opening::Silence => {
                let told = corrections.as_mut().map_or(Ok(false), |c| {
                    c.doubt_what_the_client_holds();
                    c.tell(&part, &mut out)
                })?;
                if told && bookmarks {
                    envelope.bookmark(&held_at, false, &mut frame);
                }
            }
            Opening::Expired => {
                envelope.error(&tell::expired(asked_version, version.unwrap_or_default()).status(), &mut frame);
            }
            Opening::TooLarge => {
                envelope.error(&tell::too_large(asked_version, version.unwrap_or_default()).status(), &mut frame);
            }
        }
        out.write_all(&frame)?;
        out.flush()?;
        if matches!(opening, Opening::Expired | Opening::TooLarge) {
            return out.finish();
        }

        let timeout = query.get("timeoutSeconds").and_then(|s| s.parse().ok()).filter(|s| *s > 0);
        let longest = if matches!(self.upstream.link().state(), LinkState::Down { .. }) { DAY } else { UNWELL };
        let end = begun + timeout.map_or(LONGEST, Duration::from_secs).min(longest);
        let mut held = Held { end, up: Some(up), begun, departures: &self.departures, corrections };
        let _counted = self.departures.hold();
        held.stay(&ends, &part, bookmarks.then_some(held_at.as_str()), &mut out)?;
        // Not in the dark again: what the client holds is better than what is recorded.
        let dark = matches!(self.upstream.link().state(), LinkState::Down { .. });
        if held.has_to_list_again() && !dark {
            frame.clear();
            envelope.error(&tell::expired(&held_at, version.unwrap_or_default()).status(), &mut frame);
            out.write_all(&frame)?;
        }
        out.finish()
    }

    /// The collection that a finding names, its envelope, and what of it is asked for.
    fn collection_of<'f>(&self, finding: &'f Finding) -> Option<(Arc<dyn Collection>, Envelope, &'f Selection)> {
        let Some(Found::Collection { key, selection }) = &finding.found else { return None };
        let collection = self.store.collection(key).ok().flatten()?;
        let envelope = Envelope::decode(&collection.envelope())?;
        Some((collection, envelope, selection))
    }
}

/// Each object that is asked for as an ADDED event.
fn send_everything(part: &Part<'_>, out: &mut Outflow<'_>) -> io::Result<()> {
    let mut frame = Vec::new();
    let mut first = true;
    part.each(&mut |object, bytes| {
        frame.clear();
        let version = object.version.map(|v| v.to_string()).unwrap_or_default();
        part.envelope.event(EventKind::Added, bytes, object.flags, &version, first, &mut frame);
        first = false;
        out.write_all(&frame)
    })
}

/// All watches that are held open: how many there are, and who goes when once the link is back.
#[derive(Default)]
pub(super) struct Departures {
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    held: u32,
    /// The return of the link that they leave for; of how many when it came, and how many have their time already.
    leaving: Option<(Arc<Epoch>, u32, u32)>,
}

/// A held watch, counted for as long as it lives.
struct Counted<'a>(&'a Departures);

impl Departures {
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self) -> Counted<'_> {
        self.lock().held += 1;
        Counted(self)
    }

    /// How long after the link's return `up` the next watch is to leave.
    fn next(&self, up: Arc<Epoch>) -> Duration {
        let mut book = self.lock();
        let held = book.held.max(1);
        match &mut book.leaving {
            Some((of, all, next)) if Arc::ptr_eq(of, &up) => {
                let place = *next % *all;
                *next += 1;
                SPREAD * place / *all
            }
            leaving => {
                *leaving = Some((up, held, 1));
                Duration::ZERO
            }
        }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.lock().held -= 1;
    }
}

/// A watch that is held open.
struct Held<'a> {
    departures: &'a Departures,
    begun: Instant,
    /// When it is to end.
    end: Instant,
    /// Ends when the link is back; `None` once it is.
    up: Option<Arc<Epoch>>,
    /// What is told beside the record.
    corrections: Option<Corrections<'a>>,
}

impl Held<'_> {
    /// Stays until it is to end. `bookmarks`: the version that those which are asked for say.
    fn stay(&mut self, ends: &Ends, part: &Part<'_>, bookmarks: Option<&str>, out: &mut Outflow<'_>) -> io::Result<()> {
        let mut next_bookmark = self.begun + BOOKMARKS;
        while self.wait(ends, next_bookmark)? {
            let mut told = false;
            if let Some(corrections) = self.corrections.as_mut().filter(|c| c.has_news()) {
                std::thread::sleep(GATHER);
                corrections.renew();
                told = corrections.tell(part, out)?;
            }
            let is_time = Instant::now() >= next_bookmark;
            // After corrections, too: by each the client's position has become that of the slice.
            if let Some(version) = bookmarks.filter(|_| told || is_time) {
                let mut frame = Vec::new();
                part.envelope.bookmark(version, false, &mut frame);
                out.write_all(&frame)?;
            }
            if told || is_time {
                out.flush()?;
            }
            if is_time {
                next_bookmark += BOOKMARKS;
            }
        }
        Ok(())
    }

    /// Whether what the client holds of endpoints may not be the cluster's word.
    fn may_hold_corrections(&self) -> bool {
        self.corrections.as_ref().is_some_and(Corrections::may_be_held)
    }

    /// Whether it may not be that, and need not change there to become it.
    fn has_to_list_again(&self) -> bool {
        self.up.is_none() && self.may_hold_corrections()
    }

    /// Waits until `until` or longer, or until there are news; false when the watch is to end. An error when the client has
    /// gone.
    fn wait(&mut self, ends: &Ends, until: Instant) -> io::Result<bool> {
        let now = Instant::now();
        if now >= self.end {
            return Ok(false);
        }
        let wake = self.end.min(until).saturating_duration_since(now) + Duration::from_millis(1);
        let timeout = Timespec { tv_sec: wake.as_secs().cast_signed(), tv_nsec: wake.subsec_nanos().into() };
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut fds =
            vec![PollFd::from_borrowed_fd(ends.client(), gone), PollFd::from_borrowed_fd(ends.stop(), PollFlags::IN)];
        if let Some(up) = &self.up {
            fds.push(PollFd::from_borrowed_fd(up.as_fd(), PollFlags::IN));
        }
        // Last, because the link's return is not always waited for.
        fds.extend(
            self.corrections
                .as_ref()
                .and_then(Corrections::news)
                .map(|news| PollFd::from_borrowed_fd(news.as_fd(), PollFlags::IN)),
        );
        match poll(&mut fds, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => return Ok(true),
            other => other?,
        };
        let ready = |i: usize| fds.get(i).is_some_and(|fd| !fd.revents().is_empty());
        let (client_gone, stopping, link_is_back) = (ready(0), ready(1), self.up.is_some() && ready(2));
        if client_gone {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if link_is_back && let Some(up) = self.up.take() {
            let longer = if self.may_hold_corrections() { TOLD_UPSTREAM } else { Duration::ZERO };
            self.end = self.end.min((Instant::now() + self.departures.next(up) + longer).max(self.begun + SHORTEST));
        }
        Ok(!stopping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_held_leave_evenly_and_those_of_the_next_outage_anew() {
        let departures = Departures::default();
        let held: Vec<_> = (0..50).map(|_| departures.hold()).collect();
        for _ in 0..2 {
            let up = Arc::new(Epoch::new().expect("an epoch"));
            let times: Vec<_> = (0..50).map(|_| departures.next(Arc::clone(&up))).collect();
            let expected: Vec<_> = (0..50).map(|place| Duration::from_millis(100 * place)).collect();
            assert_eq!(times, expected);
            assert_eq!(departures.next(up), Duration::ZERO, "one that came later");
        }
        drop(held);
        assert_eq!(departures.lock().held, 0);
    }
}
