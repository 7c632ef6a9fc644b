//! One server's shell: keeps its state, wakes those who wait for a change, and owns the thread that probes it. What all
//! servers make together is `whole.rs`.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use super::LinkState;
use super::link::{Event, Now, Phase, Plan, Raise, State};
use super::wait::Epoch;
use super::whole::Whole;

/// The clock ticks of [`Pulse`]: coarse, so that 32 bits last for years (32-bit MIPS has no wider atomics).
const TICK: Duration = Duration::from_millis(100);

/// Time between two alarms, at least: a bad link fails all the time, and each alarm costs packets.
const ALARM_PAUSE: Duration = Duration::from_secs(20);

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
    pub(super) fn heard(&self) -> Option<Instant> {
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

/// What tells those who use a server what becomes of it.
pub(super) struct Signals {
    /// Ends when the server goes down, or at [`Monitor::shutdown`].
    pub(super) down: Arc<Epoch>,
    /// Ends when a connection to the server has failed in a way that others may have, too, without knowing it yet.
    pub(super) alarm: Arc<Epoch>,
}

/// What is known of one server, and the thread that probes it.
pub(super) struct Monitor {
    shared: Arc<Shared>,
    prober: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    /// `host:port`, for people.
    name: String,
    whole: Arc<Whole>,
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
    /// See [`Signals::alarm`].
    alarm: Arc<Epoch>,
    alarmed: Option<Instant>,
    went_down: Option<Instant>,
    stopping: bool,
}

/// What a probe found, with the reason where it failed.
pub(super) type Probed = (Event, String);

impl Monitor {
    /// Of a server that is taken for up. [`Monitor::start`] starts probing, at once.
    pub(super) fn new(name: String, whole: &Arc<Whole>) -> io::Result<Self> {
        let book = Book {
            state: State::NEW,
            probe_at: None,
            reason: String::new(),
            down: Arc::new(Epoch::new()?),
            alarm: Arc::new(Epoch::new()?),
            alarmed: None,
            went_down: None,
            stopping: false,
        };
        let shared = Shared {
            name,
            whole: Arc::clone(whole),
            calm: AtomicBool::new(true),
            book: Mutex::new(book),
            changed: Condvar::new(),
            sleeping: AtomicBool::new(false),
            pulse: Arc::new(Pulse::new()),
            stop: Epoch::new()?,
        };
        Ok(Self { shared: Arc::new(shared), prober: Mutex::new(None) })
    }

    /// Starts the thread that probes. `probe` blocks until it knows, and gives up when the epoch ends; it is told whether
    /// the server is down, so that nobody waits for it.
    pub(super) fn start(&self, probe: impl Fn(&Epoch, bool) -> Probed + Send + 'static) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("probe".into()).spawn(move || shared.keep_probing(&probe))?;
        *self.prober.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// `host:port`
    pub(super) fn name(&self) -> &str {
        &self.shared.name
    }

    /// The state now.
    pub(super) fn state(&self) -> LinkState {
        self.shared.lock().state.public()
    }

    /// What the last failure was, in a few words; empty if there was none.
    pub(super) fn reason(&self) -> String {
        self.shared.lock().reason.clone()
    }

    /// Tells what became known; `reason`, in a few words, is what a person is told if this takes the server down.
    pub(super) fn report(&self, event: Event, reason: &str) {
        self.shared.report(event, reason);
    }

    /// What a request to it must heed; where it is down, why.
    pub(super) fn open(&self) -> Result<Signals, String> {
        let book = self.shared.lock();
        match book.state.phase {
            Phase::Down { .. } => Err(book.reason.clone()),
            Phase::Up | Phase::Suspect => Ok(Signals { down: Arc::clone(&book.down), alarm: Arc::clone(&book.alarm) }),
        }
    }

    /// See [`Signals::alarm`].
    pub(super) fn alarm(&self) -> Arc<Epoch> {
        Arc::clone(&self.shared.lock().alarm)
    }

    /// What ends when the process is about to: then nothing streams on.
    pub(super) fn stop(&self) -> &Epoch {
        &self.shared.stop
    }

    /// Ends what waits for the server, and joins the prober. It is down from then on.
    pub(super) fn shutdown(&self) {
        self.shared.stop.end();
        let prober = {
            let mut book = self.shared.lock();
            if !book.stopping {
                book.stopping = true;
                if book.state.public() == LinkState::Up {
                    "shutting down".clone_into(&mut book.reason);
                    let now = self.shared.now();
                    book.state = book.state.step(Event::ConnectFailed, now).state;
                    self.shared.whole.went_down(now.wall, &self.shared.name, "shutting down");
                }
            }
            self.shared.calm.store(false, Ordering::Release);
            book.down.end();
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

impl Drop for Monitor {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        Now { instant: Instant::now(), wall: SystemTime::now(), heard: self.pulse.heard() }
    }

    fn report(&self, event: Event, reason: &str) {
        if event == Event::Connected && self.calm.load(Ordering::Acquire) {
            return;
        }
        self.take(event, reason, None);
    }

    /// `begun`: when the probe began whose outcome this is.
    fn take(&self, event: Event, reason: &str, begun: Option<Instant>) {
        let mut book = self.lock();
        if book.stopping {
            return;
        }
        let is_stale = begun.is_some_and(|begun| book.went_down.is_some_and(|down| down > begun));
        let event = match event {
            // Of a connection that was made before another found out that none can be made any more: worth another look.
            Event::ProbeOk | Event::ProbeNotReady if is_stale => Event::Connected,
            event => event,
        };
        let now = self.now();
        let step = book.state.step(event, now);
        let was = std::mem::replace(&mut book.state, step.state);
        if was != step.state {
            log::debug!("{}: {event:?}: {was:?} -> {:?}", self.name, step.state);
        }
        if !matches!(event, Event::Connected | Event::ProbeOk) {
            reason.clone_into(&mut book.reason);
        }
        match step.probe {
            Plan::Keep => {}
            Plan::Cancel => book.probe_at = None,
            Plan::Now => book.probe_at = Some(Instant::now()),
            Plan::After(pause) => book.probe_at = Some(Instant::now() + pause + jitter(pause)),
        }
        match (step.raise, was.phase) {
            (Some(Raise::Down), _) => {
                book.went_down = Some(now.instant);
                book.down.end();
                self.whole.went_down(now.wall, &self.name, reason);
            }
            (Some(Raise::Up), Phase::Down { since, .. }) => {
                self.whole.came_up(&self.name, now.wall.duration_since(since).unwrap_or_default());
            }
            _ => {}
        }
        book.renew_epoch();
        if matches!(event, Event::FirstByteTimeout | Event::Broken | Event::ConnectLate) {
            book.raise_alarm();
        }
        self.calm.store(step.state.phase == Phase::Up, Ordering::Release);
        self.changed.notify_all();
    }

    fn keep_probing(&self, probe: &dyn Fn(&Epoch, bool) -> Probed) {
        let mut book = self.lock();
        book.probe_at = Some(Instant::now());
        while !book.stopping {
            book.renew_epoch();
            let heard = self.pulse.heard().unwrap_or(self.pulse.start);
            let quiet = book.state.quiet_probe(self.pulse.streams.load(Ordering::Relaxed), heard);
            let due = [book.probe_at, quiet].into_iter().flatten().min();
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                book.probe_at = None;
                let is_down = book.state.public() != LinkState::Up;
                drop(book);
                let begun = Instant::now();
                let (event, reason) = probe(&self.stop, is_down);
                self.take(event, &reason, Some(begun));
                book = self.lock();
            } else if let Some(left) = left {
                book = self.changed.wait_timeout(book, left).unwrap_or_else(PoisonError::into_inner).0;
            } else {
                self.sleeping.store(true, Ordering::SeqCst);
                if self.pulse.streams.load(Ordering::SeqCst) == 0 || book.state.phase != Phase::Up {
                    book = self.changed.wait(book).unwrap_or_else(PoisonError::into_inner);
                }
                self.sleeping.store(false, Ordering::SeqCst);
            }
        }
    }
}

impl Book {
    /// Has the connections that are there looked after, but not all the time.
    fn raise_alarm(&mut self) {
        if self.alarmed.is_none_or(|at| at.elapsed() > ALARM_PAUSE)
            && let Ok(fresh) = Epoch::new()
        {
            self.alarmed = Some(Instant::now());
            std::mem::replace(&mut self.alarm, Arc::new(fresh)).end();
        }
    }

    /// In case the last one has ended; each change and each probe tries again.
    fn renew_epoch(&mut self) {
        if !self.stopping {
            Epoch::renew(&mut self.down);
        }
    }
}

/// Up to a quarter of `pause`, from the clock's small digits: enough that nodes do not probe in step.
fn jitter(pause: Duration) -> Duration {
    let digits = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    pause / 4 * (digits / 1000 % 100) / 100
}
