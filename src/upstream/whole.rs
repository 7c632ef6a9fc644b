//! The link as a whole: up as long as one of the upstream's servers can be reached, down when none can.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::LinkState;
use super::monitor::Monitor;
use super::wait::Epoch;

/// What a person is told about a link that is down (or was).
#[derive(Debug, Clone)]
pub struct Outage {
    /// When the link was found down; `None`: it is not down.
    pub since: Option<SystemTime>,
    /// How long ago the upstream was last heard, to a tenth of a second; `None`: not since this process started.
    pub silence: Option<Duration>,
    /// What the last failure was, in a few words, of each server; empty if there was none.
    pub reason: String,
}

/// The link to the upstream.
pub struct Link {
    whole: Arc<Whole>,
    monitors: Vec<Monitor>,
}

/// How many servers are down, told by their monitors.
pub(super) struct Whole {
    book: Mutex<Book>,
}

struct Book {
    servers: usize,
    down: usize,
    /// When the last one went down; `None`: not all are.
    since: Option<SystemTime>,
    up: Arc<Epoch>,
    stopping: bool,
}

impl Link {
    /// A monitor for each of these names, none started yet.
    pub(super) fn new(names: impl ExactSizeIterator<Item = String>) -> io::Result<Self> {
        let book = Book { servers: names.len(), down: 0, since: None, up: Arc::new(Epoch::new()?), stopping: false };
        let whole = Arc::new(Whole { book: Mutex::new(book) });
        let monitors = names.map(|name| Monitor::new(name, &whole)).collect::<io::Result<_>>()?;
        Ok(Self { whole, monitors })
    }

    /// Each server's monitor, in their order.
    pub(super) fn monitors(&self) -> &[Monitor] {
        &self.monitors
    }

    /// The state now: up while any server is.
    pub fn state(&self) -> LinkState {
        self.whole.lock().since.map_or(LinkState::Up, |since| LinkState::Down { since })
    }

    /// Each server's `host:port` and state, in their order.
    pub fn servers(&self) -> impl Iterator<Item = (&str, LinkState)> {
        self.monitors.iter().map(|monitor| (monitor.name(), monitor.state()))
    }

    /// Ends (becomes readable) when the link comes up after this call, or when the process is to end.
    pub fn up_epoch(&self) -> Arc<Epoch> {
        Arc::clone(&self.whole.lock().up)
    }

    /// Since when the link is down, when it was last up, and why it is not.
    pub fn describe(&self) -> Outage {
        let since = self.whole.lock().since;
        let heard = self.monitors.iter().filter_map(|monitor| monitor.pulse().heard()).max();
        Outage { since, silence: heard.map(|heard| heard.elapsed()), reason: self.reason() }
    }

    /// Why no server can be reached.
    pub(super) fn reason(&self) -> String {
        if let [only] = self.monitors.as_slice() {
            return only.reason();
        }
        let told = self.monitors.iter().map(|monitor| (monitor.name(), monitor.reason()));
        let told = told.filter(|(_, reason)| !reason.is_empty()).map(|(name, reason)| format!("{name}: {reason}"));
        told.collect::<Vec<_>>().join("; ")
    }

    /// Ends all epochs, so that whoever waits on this link stops waiting, and joins the probers. The link is down from then
    /// on.
    pub(super) fn shutdown(&self) {
        {
            let mut book = self.whole.lock();
            book.stopping = true;
            book.up.end();
        }
        for monitor in &self.monitors {
            monitor.shutdown();
        }
    }
}

impl Whole {
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more server is down, since `wall`.
    pub(super) fn went_down(&self, wall: SystemTime, name: &str, reason: &str) {
        let mut book = self.lock();
        book.down += 1;
        let left = book.servers.saturating_sub(book.down);
        if left == 0 {
            book.since = Some(wall);
            // In case there was no descriptor for it when the last one ended.
            book.renew_epoch();
        }
        match left {
            _ if book.stopping => {}
            0 => log::warn!("the link to the upstream is down: {reason}"),
            _ => log::warn!("{name} cannot be reached: {reason}; {left} of {} are left", book.servers),
        }
    }

    /// One server fewer is down; it was for `lasted`.
    pub(super) fn came_up(&self, name: &str, lasted: Duration) {
        let mut book = self.lock();
        book.down = book.down.saturating_sub(1);
        if let Some(since) = book.since.take() {
            let lasted = SystemTime::now().duration_since(since).unwrap_or_default();
            log::warn!("the link to the upstream is up again after {} s", lasted.as_secs());
            book.up.end();
            book.renew_epoch();
        } else {
            log::warn!("{name} can be reached again after {} s", lasted.as_secs());
        }
    }
}

impl Book {
    fn renew_epoch(&mut self) {
        if !self.stopping {
            Epoch::renew(&mut self.up);
        }
    }
}
