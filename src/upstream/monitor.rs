//! The link's shell: keeps its state, wakes those who wait for a change, and owns the thread that probes.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use super::LinkState;
use super::link::{Event, Now, Plan, Raise, State};
use super::wait::Epoch;

/// The clock ticks of [`Pulse`]: coarse, so that 32 bits last for years (32-bit MIPS has no wider atomics).
const TICK: Duration = Duration::from_millis(100);

/// When the upstream was last heard, and by how many it is listened to. Touched by every read, so it is atomics only.
#[derive(Debug)]
pub(super) struct Pulse {
    start: Instant,
    /// Ticks from `start` to the last sign of life, plus one; 0: none yet.
    heard: AtomicU32,
    streams: AtomicUsize,
}

impl Pulse {
    fn new() -> Self {
        Self { start: Instant::now(), heard: AtomicU32::new(0), streams: AtomicUsize::new(0) }
    }

    /// The upstream was heard now.
    pub(super) fn beat(&self) {
        let ticks = (self.start.elapsed().as_millis() / TICK.as_millis()) as u32;
        self.heard.store(ticks.saturating_add(1), Ordering::Relaxed);
    }

    /// When the upstream was last heard; `None`: never.
    fn heard(&self) -> Option<Instant> {
        let ticks = self.heard.load(Ordering::Relaxed);
        ticks.checked_sub(1).map(|ticks| self.start + TICK * ticks)
    }
}

/// An answer that is awaited or being read; counted for as long as it lives.
pub(super) struct Stream(Arc<Shared>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.pulse.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a person is told about a link that is down (or was).
#[derive(Debug, Clone)]
pub struct Outage {
    /// When the link was found down; `None`: it is not down.
    pub since: Option<SystemTime>,
    /// How long ago the upstream was last heard, to a tenth of a second; `None`: not since this process started.
    pub silence: Option<Duration>,
    /// What the last failure was, in a few words; empty if there was none.
    pub reason: String,
}

/// The link to the upstream: its state, and the thread that probes it.
pub struct Link {
    shared: Arc<Shared>,
    prober: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    /// Up, and nothing to do when an answer comes: spares each request the lock.
    calm: AtomicBool,
    book: Mutex<Book>,
    changed: Condvar,
    /// The prober sleeps until it is told of a change: the first stream must wake it. Else it looks by itself, and not
    /// every request has to.
    sleeping: AtomicBool,
    pulse: Arc<Pulse>,
    /// Ends when the prober is to stop.
    stop: Epoch,
}

struct Book {
    state: State,
    probe_at: Option<Instant>,
    reason: String,
    down: Arc<Epoch>,
    up: Arc<Epoch>,
    stopping: bool,
}

/// What a probe found, with the reason where it failed.
pub(super) type Probed = (Event, String);

impl Link {
    /// A link that is taken for up. [`Link::start`] starts probing, at once.
    pub(super) fn new() -> io::Result<Self> {
        let book = Book {
            state: State::Up,
            probe_at: None,
            reason: String::new(),
            down: Arc::new(Epoch::new()?),
            up: Arc::new(Epoch::new()?),
            stopping: false,
        };
        let shared = Shared {
            calm: AtomicBool::new(true),
            book: Mutex::new(book),
            changed: Condvar::new(),
            sleeping: AtomicBool::new(false),
            pulse: Arc::new(Pulse::new()),
            stop: Epoch::new()?,
        };
        Ok(Self { shared: Arc::new(shared), prober: Mutex::new(None) })
    }

    /// Starts the thread that probes. `probe` blocks until it knows, and gives up when the epoch ends.
    pub(super) fn start(&self, probe: impl Fn(&Epoch) -> Probed + Send + 'static) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("probe".into()).spawn(move || shared.keep_probing(&probe))?;
        *self.prober.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// The state now.
    pub fn state(&self) -> LinkState {
        self.shared.lock().state.public()
    }

    /// Tells what became known; `reason`, in a few words, is what a person is told if this takes the link down.
    pub fn report(&self, event: Event, reason: &str) {
        self.shared.report(event, reason);
    }

    /// Ends (becomes readable) when the link is found down after this call, or at [`Link::shutdown`].
    pub fn down_epoch(&self) -> Arc<Epoch> {
        Arc::clone(&self.shared.lock().down)
    }

    /// Ends (becomes readable) when the link comes up after this call, or at [`Link::shutdown`].
    pub fn up_epoch(&self) -> Arc<Epoch> {
        Arc::clone(&self.shared.lock().up)
    }

    /// What ends when the link goes down, or, where it is down, why.
    pub(super) fn open(&self) -> Result<Arc<Epoch>, String> {
        let book = self.shared.lock();
        match book.state {
            State::Down { .. } => Err(book.reason.clone()),
            State::Up | State::Suspect => Ok(Arc::clone(&book.down)),
        }
    }

    /// Since when the link is down, when it was last up, and why it is not.
    pub fn describe(&self) -> Outage {
        let book = self.shared.lock();
        let since = match book.state {
            State::Down { since, .. } => Some(since),
            State::Up | State::Suspect => None,
        };
        let silence = self.shared.pulse.heard().map(|heard| heard.elapsed());
        Outage { since, silence, reason: book.reason.clone() }
    }

    /// Ends both epochs, so that whoever waits on this link stops waiting, and joins the prober. The link is down from
    /// then on.
    pub fn shutdown(&self) {
        self.shared.stop.end();
        let prober = {
            let mut book = self.shared.lock();
            book.stopping = true;
            if !matches!(book.state, State::Down { .. }) {
                "shutting down".clone_into(&mut book.reason);
                book.state = book.state.step(Event::ConnectFailed, now()).state;
            }
            self.shared.calm.store(false, Ordering::Release);
            book.down.end();
            book.up.end();
            self.shared.changed.notify_all();
            self.prober.lock().unwrap_or_else(PoisonError::into_inner).take()
        };
        if let Some(prober) = prober
            && prober.join().is_err()
        {
            log::error!("the probe thread panicked");
        }
    }

    pub(super) fn pulse(&self) -> &Arc<Pulse> {
        &self.shared.pulse
    }

    /// Counts one more answer that is awaited.
    pub(super) fn stream(&self) -> Stream {
        self.shared.pulse.streams.fetch_add(1, Ordering::SeqCst);
        if self.shared.sleeping.load(Ordering::SeqCst) {
            // Under the lock: the prober holds it from before it says so until it really sleeps.
            let _book = self.shared.lock();
            self.shared.changed.notify_all();
        }
        Stream(Arc::clone(&self.shared))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, event: Event, reason: &str) {
        if event == Event::Connected && self.calm.load(Ordering::Acquire) {
            return;
        }
        let mut book = self.lock();
        if book.stopping {
            return;
        }
        let step = book.state.step(event, now());
        let was = std::mem::replace(&mut book.state, step.state);
        if was != step.state {
            log::debug!("link: {event:?}: {was:?} -> {:?}", step.state);
        }
        if matches!(
            event,
            Event::ConnectFailed | Event::FirstByteTimeout | Event::Broken | Event::ProbeFailed | Event::ProbeNotReady
        ) {
            reason.clone_into(&mut book.reason);
        }
        match step.probe {
            Plan::Keep => {}
            Plan::Cancel => book.probe_at = None,
            Plan::Now => book.probe_at = Some(Instant::now()),
            Plan::After(pause) => book.probe_at = Some(Instant::now() + pause + jitter(pause)),
        }
        match (step.raise, was) {
            (Some(Raise::Down), _) => {
                log::warn!("the link to the upstream is down: {reason}");
                book.down.end();
            }
            (Some(Raise::Up), State::Down { since, .. }) => {
                let lasted = SystemTime::now().duration_since(since).unwrap_or_default();
                log::warn!("the link to the upstream is up again after {} s", lasted.as_secs());
                book.up.end();
            }
            _ => {}
        }
        book.renew_epochs();
        self.calm.store(step.state == State::Up, Ordering::Release);
        self.changed.notify_all();
    }

    fn keep_probing(&self, probe: &dyn Fn(&Epoch) -> Probed) {
        let mut book = self.lock();
        book.probe_at = Some(Instant::now());
        while !book.stopping {
            book.renew_epochs();
            let heard = self.pulse.heard().unwrap_or(self.pulse.start);
            let quiet = book.state.quiet_probe(self.pulse.streams.load(Ordering::Relaxed), heard);
            let due = [book.probe_at, quiet].into_iter().flatten().min();
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                book.probe_at = None;
                drop(book);
                let (event, reason) = probe(&self.stop);
                self.report(event, &reason);
                book = self.lock();
            } else if let Some(left) = left {
                book = self.changed.wait_timeout(book, left).unwrap_or_else(PoisonError::into_inner).0;
            } else {
                self.sleeping.store(true, Ordering::SeqCst);
                if self.pulse.streams.load(Ordering::SeqCst) == 0 || book.state != State::Up {
                    book = self.changed.wait(book).unwrap_or_else(PoisonError::into_inner);
                }
                self.sleeping.store(false, Ordering::SeqCst);
            }
        }
    }
}

impl Book {
    /// Puts fresh epochs in the place of ended ones, for those who ask from now on. Where no file descriptor is left the
    /// old one stays, its holders wake too early, and the next change or probe tries again.
    fn renew_epochs(&mut self) {
        if self.stopping {
            return;
        }
        for epoch in [&mut self.down, &mut self.up] {
            if epoch.has_ended() {
                match Epoch::new() {
                    Ok(fresh) => *epoch = Arc::new(fresh),
                    Err(e) => log::error!("no file descriptor to watch the link with: {e}"),
                }
            }
        }
    }
}

fn now() -> Now {
    Now { instant: Instant::now(), wall: SystemTime::now() }
}

/// Up to a quarter of `pause`, from the clock's small digits: enough that nodes do not probe in step.
fn jitter(pause: Duration) -> Duration {
    let digits = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    pause / 4 * (digits / 1000 % 100) / 100
}
