//! Whether one server can be reached, as a pure state machine: events and the time go in, the new state and what is to be
//! done come out. The threads, sockets and clocks are `monitor.rs`.
//!
//! ```text
//!            ConnectFailed, ProbeFailed; ConnectLate, ProbeLate where nothing was heard meanwhile
//!        +------------------------------------------------------------------------+
//!        |                                                                        v
//!      +----+  FirstByteTimeout, Broken, ConnectLate, ProbeLate  +---------+   +------+
//!      | Up | -------------------------------------------------> | Suspect |-->| Down |
//!      +----+ <------------------------------------------------- +---------+   +------+
//!        ^     Connected, Probe: Ok, NotReady                                     |
//!        +------------------------------------------------------------------------+
//!             ProbeOk as often in a row as it has to be, or ProbeNotReady for long enough
//! ```
//!
//! A server that goes down soon after it came up flaps: each time one more good probe in a row is asked of it before it
//! is up again, so that answers come from one side and not from both in turn.

use std::time::{Duration, Instant, SystemTime};

use super::LinkState;

/// Time between two probes while down: grows by a second each time, up to [`PROBE_SLOWEST`].
const PROBE_FASTEST: Duration = Duration::from_secs(1);
/// A returned link is noticed within this and one probe.
const PROBE_SLOWEST: Duration = Duration::from_secs(5);
/// With streams open and nothing heard from the upstream for so long, a probe tells silence from a black hole.
pub(super) const QUIET: Duration = Duration::from_secs(5);
/// An upstream that has answered "not ready" for so long is taken as it is: one broken readiness check must not keep a
/// node offline for ever.
const NOT_READY_PATIENCE: Duration = Duration::from_secs(30);
/// Up for less than this is no recovery but a flap.
const STEADY: Duration = Duration::from_secs(30);
/// Good probes in a row, at most, before a flapping server counts as up; the first is not waited for.
const MOST_PROBES: u8 = 4;
/// Who was heard within this is there, however late a new connection is. Shorter than any connection may take to be made:
/// what came before it began says nothing.
const LIVELY: Duration = Duration::from_millis(1500);

/// What became known about the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An answer came.
    Connected,
    /// Name, TCP or TLS failed: no connection.
    ConnectFailed,
    /// There was no connection in time.
    ConnectLate,
    /// Connected, but the answer did not come in time.
    FirstByteTimeout,
    /// A connection broke.
    Broken,
    /// The probe was answered.
    ProbeOk,
    /// The probe was answered by an apiserver that is not ready (`/readyz`: 500): its authorizer may not have synced,
    /// and a 403 would be its word on what is recorded. It counts as reachable, but a link that was down stays down.
    ProbeNotReady,
    /// The probe failed, or something before the apiserver answered it (502, 503, 504).
    ProbeFailed,
    /// The probe was not answered in time.
    ProbeLate,
}

/// The time, by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// For spans.
    pub(super) instant: Instant,
    /// For people.
    pub(super) wall: SystemTime,
    /// When the server was last heard; `None`: never.
    pub(super) heard: Option<Instant>,
}

impl Now {
    /// Whether the server has just been heard: then lateness is a slow link's, not a dead one's.
    fn is_lively(self) -> bool {
        self.heard.is_some_and(|heard| self.instant.saturating_duration_since(heard) < LIVELY)
    }
}

/// A server, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// When it last came up after having been down; `None`: never.
    came_up: Option<Instant>,
    /// How many good probes in a row it takes to come up.
    probes: u8,
}

/// Whether it can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Up,
    Suspect,
    Down {
        since: SystemTime,
        /// Pause before the next probe.
        pause: Duration,
        /// Good probes in a row.
        good: u8,
        /// Since when each probe was answered "not ready".
        not_ready_since: Option<Instant>,
    },
}

/// The change that others must be woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Raise {
    Up,
    Down,
}

/// When to probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// As planned before.
    Keep,
    /// Not at all.
    Cancel,
    Now,
    /// After this pause; the shell adds some jitter.
    After(Duration),
}

/// What follows from an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) state: State,
    pub(super) raise: Option<Raise>,
    pub(super) probe: Plan,
}

impl State {
    /// A server of which nothing is known: taken for up.
    pub(super) const NEW: State = State { phase: Phase::Up, came_up: None, probes: 1 };

    /// What it is called outside.
    pub(super) fn public(self) -> LinkState {
        match self.phase {
            Phase::Up | Phase::Suspect => LinkState::Up,
            Phase::Down { since, .. } => LinkState::Down { since },
        }
    }

    /// The table.
    pub(super) fn step(self, event: Event, now: Now) -> Step {
        match (self.phase, event) {
            (Phase::Up | Phase::Suspect, Event::ConnectFailed | Event::ProbeFailed) => self.down(now),
            (Phase::Up | Phase::Suspect, Event::ConnectLate | Event::ProbeLate) if !now.is_lively() => self.down(now),
            (Phase::Up | Phase::Suspect, Event::ProbeLate) => self.to(Phase::Suspect, Plan::After(PROBE_FASTEST)),
            (Phase::Up | Phase::Suspect, Event::FirstByteTimeout | Event::Broken | Event::ConnectLate) => {
                self.to(Phase::Suspect, Plan::Now)
            }
            (Phase::Up, Event::Connected) => self.to(Phase::Up, Plan::Keep),
            (Phase::Suspect, Event::Connected)
            | (Phase::Up | Phase::Suspect, Event::ProbeOk | Event::ProbeNotReady) => self.to(Phase::Up, Plan::Cancel),
            (Phase::Down { since, good, .. }, Event::ProbeOk) => {
                if good + 1 >= self.probes {
                    return self.up(now);
                }
                let phase = Phase::Down { since, pause: PROBE_FASTEST, good: good + 1, not_ready_since: None };
                self.to(phase, Plan::After(PROBE_FASTEST))
            }
            (Phase::Down { since, not_ready_since, .. }, Event::ProbeNotReady) => {
                let first = not_ready_since.unwrap_or(now.instant);
                if now.instant.saturating_duration_since(first) >= NOT_READY_PATIENCE {
                    return self.up(now);
                }
                // It will be ready soon, so it is asked often.
                let phase = Phase::Down { since, pause: PROBE_FASTEST, good: 0, not_ready_since: Some(first) };
                self.to(phase, Plan::After(PROBE_FASTEST))
            }
            (Phase::Down { since, pause, .. }, Event::ProbeFailed | Event::ProbeLate) => {
                let pause = (pause + PROBE_FASTEST).min(PROBE_SLOWEST);
                self.to(Phase::Down { since, pause, good: 0, not_ready_since: None }, Plan::After(pause))
            }
            // An answer to a straggler: worth a look, but only a probe says that new connections can be made.
            (Phase::Down { .. }, Event::Connected) => self.to(self.phase, Plan::Now),
            (
                Phase::Down { .. },
                Event::ConnectFailed | Event::ConnectLate | Event::FirstByteTimeout | Event::Broken,
            ) => self.to(self.phase, Plan::Keep),
        }
    }

    fn to(self, phase: Phase, probe: Plan) -> Step {
        debug_assert_eq!(matches!(self.phase, Phase::Down { .. }), matches!(phase, Phase::Down { .. }));
        Step { state: State { phase, ..self }, raise: None, probe }
    }

    fn up(self, now: Now) -> Step {
        let state = State { phase: Phase::Up, came_up: Some(now.instant), ..self };
        Step { state, raise: Some(Raise::Up), probe: Plan::Cancel }
    }

    fn down(self, now: Now) -> Step {
        let flaps = self.came_up.is_some_and(|up| now.instant.saturating_duration_since(up) < STEADY);
        let phase = Phase::Down { since: now.wall, pause: PROBE_FASTEST, good: 0, not_ready_since: None };
        let probes = if flaps { (self.probes + 1).min(MOST_PROBES) } else { 1 };
        let state = State { phase, probes, ..self };
        Step { state, raise: Some(Raise::Down), probe: Plan::After(PROBE_FASTEST) }
    }

    /// When silence has lasted long enough to probe: `streams` answers are awaited or being read, the upstream was last
    /// heard at `heard`. `None`: silence means nothing.
    pub(super) fn quiet_probe(self, streams: usize, heard: Instant) -> Option<Instant> {
        (self.phase == Phase::Up && streams > 0).then(|| heard + QUIET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn at(seconds: u32) -> Now {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let passed = S * seconds;
        let instant = *START.get_or_init(Instant::now) + passed;
        Now { instant, wall: SystemTime::UNIX_EPOCH + passed, heard: None }
    }

    fn known(phase: Phase) -> State {
        State { phase, ..State::NEW }
    }

    fn down(pause: u32) -> Phase {
        Phase::Down { since: at(7).wall, pause: S * pause, good: 0, not_ready_since: None }
    }

    #[test]
    fn the_table() {
        use Event::*;
        use Phase::{Suspect, Up};
        let went_down = Phase::Down { since: at(9).wall, pause: S, good: 0, not_ready_since: None };
        let not_ready = Phase::Down { since: at(7).wall, pause: S, good: 0, not_ready_since: Some(at(9).instant) };
        let table = [
            (Up, Connected, Up, None, Plan::Keep),
            (Up, ConnectFailed, went_down, Some(Raise::Down), Plan::After(S)),
            (Up, ConnectLate, went_down, Some(Raise::Down), Plan::After(S)),
            (Up, FirstByteTimeout, Suspect, None, Plan::Now),
            (Up, Broken, Suspect, None, Plan::Now),
            (Up, ProbeOk, Up, None, Plan::Cancel),
            (Up, ProbeNotReady, Up, None, Plan::Cancel),
            (Up, ProbeFailed, went_down, Some(Raise::Down), Plan::After(S)),
            (Up, ProbeLate, went_down, Some(Raise::Down), Plan::After(S)),
            (Suspect, Connected, Up, None, Plan::Cancel),
            (Suspect, ConnectFailed, went_down, Some(Raise::Down), Plan::After(S)),
            (Suspect, ConnectLate, went_down, Some(Raise::Down), Plan::After(S)),
            (Suspect, FirstByteTimeout, Suspect, None, Plan::Now),
            (Suspect, Broken, Suspect, None, Plan::Now),
            (Suspect, ProbeOk, Up, None, Plan::Cancel),
            (Suspect, ProbeNotReady, Up, None, Plan::Cancel),
            (Suspect, ProbeFailed, went_down, Some(Raise::Down), Plan::After(S)),
            (Suspect, ProbeLate, went_down, Some(Raise::Down), Plan::After(S)),
            (down(3), Connected, down(3), None, Plan::Now),
            (down(3), ConnectFailed, down(3), None, Plan::Keep),
            (down(3), ConnectLate, down(3), None, Plan::Keep),
            (down(3), FirstByteTimeout, down(3), None, Plan::Keep),
            (down(3), Broken, down(3), None, Plan::Keep),
            (down(3), ProbeNotReady, not_ready, None, Plan::After(S)),
            (down(3), ProbeFailed, down(4), None, Plan::After(4 * S)),
            (down(3), ProbeLate, down(4), None, Plan::After(4 * S)),
            (down(5), ProbeFailed, down(5), None, Plan::After(5 * S)),
        ];
        for (from, event, to, raise, probe) in table {
            let step = known(from).step(event, at(9));
            assert_eq!((step.state.phase, step.raise, step.probe), (to, raise, probe), "{from:?} {event:?}");
        }
        let step = known(down(3)).step(ProbeOk, at(9));
        assert_eq!((step.state.phase, step.raise, step.probe), (Up, Some(Raise::Up), Plan::Cancel));
    }

    #[test]
    fn a_server_that_is_being_heard_is_late_and_not_gone() {
        let heard = |seconds: u32| Now { heard: Some(at(seconds).instant), ..at(9) };
        for (event, probe) in [(Event::ConnectLate, Plan::Now), (Event::ProbeLate, Plan::After(S))] {
            for from in [Phase::Up, Phase::Suspect] {
                let step = known(from).step(event, heard(8));
                assert_eq!((step.state.phase, step.raise, step.probe), (Phase::Suspect, None, probe));
                assert_eq!(known(from).step(event, heard(7)).raise, Some(Raise::Down));
            }
        }
        assert_eq!(
            known(Phase::Up).step(Event::ConnectFailed, heard(9)).raise,
            Some(Raise::Down),
            "refused is refused"
        );
    }

    #[test]
    fn a_flapping_server_has_to_be_good_for_longer_each_time_and_a_steady_one_is_trusted_again() {
        let mut state = State::NEW;
        let mut now = 0;
        for wanted in [1, 2, 3, 4, 4] {
            state = state.step(Event::ConnectFailed, at(now)).state;
            for good in 1..=wanted {
                assert!(matches!(state.phase, Phase::Down { .. }));
                let step = state.step(Event::ProbeOk, at(now + good));
                assert_eq!(step.raise.is_some(), good == wanted, "{good} of {wanted}");
                state = step.state;
            }
            now += wanted + 5;
        }
        let interrupted = state.step(Event::ConnectFailed, at(now)).state.step(Event::ProbeOk, at(now + 1)).state;
        let failed = interrupted.step(Event::ProbeFailed, at(now + 2)).state;
        assert!(matches!(failed.phase, Phase::Down { good: 0, .. }), "in a row: {failed:?}");
        let later = state.step(Event::ConnectFailed, at(now + 60)).state;
        assert_eq!(later.step(Event::ProbeOk, at(now + 61)).raise, Some(Raise::Up));
    }

    #[test]
    fn an_upstream_that_never_gets_ready_is_taken_after_half_a_minute_in_a_row() {
        let waiting = known(down(1)).step(Event::ProbeNotReady, at(10)).state;
        assert_eq!(waiting.step(Event::ProbeNotReady, at(39)).raise, None);
        assert_eq!(waiting.step(Event::ProbeNotReady, at(40)).raise, Some(Raise::Up));
        let again = waiting.step(Event::ProbeFailed, at(20)).state.step(Event::ProbeNotReady, at(39)).state;
        assert_eq!(again.step(Event::ProbeNotReady, at(41)).raise, None);
    }

    #[test]
    fn silence_is_probed_only_while_somebody_listens_to_a_link_that_is_up() {
        let heard = at(3).instant;
        assert_eq!(known(Phase::Up).quiet_probe(1, heard), Some(at(8).instant));
        assert_eq!(known(Phase::Up).quiet_probe(0, heard), None);
        assert_eq!(known(Phase::Suspect).quiet_probe(1, heard), None);
        assert_eq!(known(down(1)).quiet_probe(1, heard), None);
    }
}
