//! Whether the upstream can be reached, as a pure state machine: events and the time go in, the new state and what is to
//! be done come out. The threads, sockets and clocks are `monitor.rs`.
//!
//! ```text
//!              ConnectFailed, ProbeFailed
//!        +------------------------------------------+
//!        |                                          v
//!      +----+  FirstByteTimeout, Broken  +---------+  ConnectFailed, ProbeFailed  +------+
//!      | Up | -------------------------> | Suspect | ---------------------------> | Down |
//!      +----+ <------------------------- +---------+                              +------+
//!        ^     Connected, Probe: Ok, NotReady                                       |
//!        +--------------------------------------------------------------------------+
//!                       ProbeOk, or ProbeNotReady for long enough
//! ```

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

/// What became known about the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An answer came.
    Connected,
    /// Name, TCP or TLS failed: no connection.
    ConnectFailed,
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
}

/// The time, by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// For spans.
    pub(super) instant: Instant,
    /// For people.
    pub(super) wall: SystemTime,
}

/// The link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Up,
    Suspect,
    Down {
        since: SystemTime,
        /// Pause before the next probe.
        pause: Duration,
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
    /// What it is called outside.
    pub(super) fn public(self) -> LinkState {
        match self {
            Self::Up => LinkState::Up,
            Self::Suspect => LinkState::Suspect,
            Self::Down { since, .. } => LinkState::Down { since },
        }
    }

    /// The table.
    pub(super) fn step(self, event: Event, now: Now) -> Step {
        match (self, event) {
            (Self::Up | Self::Suspect, Event::ConnectFailed | Event::ProbeFailed) => Step {
                state: Self::Down { since: now.wall, pause: PROBE_FASTEST, not_ready_since: None },
                raise: Some(Raise::Down),
                probe: Plan::After(PROBE_FASTEST),
            },
            (Self::Up | Self::Suspect, Event::FirstByteTimeout | Event::Broken) => self.to(Self::Suspect, Plan::Now),
            (Self::Up, Event::Connected) => self.to(Self::Up, Plan::Keep),
            (Self::Suspect, Event::Connected) | (Self::Up | Self::Suspect, Event::ProbeOk | Event::ProbeNotReady) => {
                self.to(Self::Up, Plan::Cancel)
            }
            (Self::Down { .. }, Event::ProbeOk) => {
                Step { state: Self::Up, raise: Some(Raise::Up), probe: Plan::Cancel }
            }
            (Self::Down { since, not_ready_since, .. }, Event::ProbeNotReady) => {
                let first = not_ready_since.unwrap_or(now.instant);
                if now.instant.saturating_duration_since(first) >= NOT_READY_PATIENCE {
                    return Step { state: Self::Up, raise: Some(Raise::Up), probe: Plan::Cancel };
                }
                // It will be ready soon, so it is asked often.
                let state = Self::Down { since, pause: PROBE_FASTEST, not_ready_since: Some(first) };
                self.to(state, Plan::After(PROBE_FASTEST))
            }
            (Self::Down { since, pause, .. }, Event::ProbeFailed) => {
                let pause = (pause + PROBE_FASTEST).min(PROBE_SLOWEST);
                self.to(Self::Down { since, pause, not_ready_since: None }, Plan::After(pause))
            }
            // An answer to a straggler: worth a look, but only a probe says that new connections can be made.
            (Self::Down { .. }, Event::Connected) => self.to(self, Plan::Now),
            (Self::Down { .. }, Event::ConnectFailed | Event::FirstByteTimeout | Event::Broken) => {
                self.to(self, Plan::Keep)
            }
        }
    }

    fn to(self, state: Self, probe: Plan) -> Step {
        debug_assert_eq!(matches!(self, Self::Down { .. }), matches!(state, Self::Down { .. }));
        Step { state, raise: None, probe }
    }

    /// When silence has lasted long enough to probe: `streams` answers are awaited or being read, the upstream was last
    /// heard at `heard`. `None`: silence means nothing.
    pub(super) fn quiet_probe(self, streams: usize, heard: Instant) -> Option<Instant> {
        (self == Self::Up && streams > 0).then(|| heard + QUIET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn at(seconds: u32) -> Now {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let passed = S * seconds;
        Now { instant: *START.get_or_init(Instant::now) + passed, wall: SystemTime::UNIX_EPOCH + passed }
    }

    fn down(pause: u32) -> State {
        State::Down { since: at(7).wall, pause: S * pause, not_ready_since: None }
    }

    #[test]
    fn the_table() {
        use Event::*;
        use State::{Suspect, Up};
        let went_down = State::Down { since: at(9).wall, pause: S, not_ready_since: None };
        let not_ready = State::Down { since: at(7).wall, pause: S, not_ready_since: Some(at(9).instant) };
        let table = [
            (Up, Connected, Up, None, Plan::Keep),
            (Up, ConnectFailed, went_down, Some(Raise::Down), Plan::After(S)),
            (Up, FirstByteTimeout, Suspect, None, Plan::Now),
            (Up, Broken, Suspect, None, Plan::Now),
            (Up, ProbeOk, Up, None, Plan::Cancel),
            (Up, ProbeNotReady, Up, None, Plan::Cancel),
            (Up, ProbeFailed, went_down, Some(Raise::Down), Plan::After(S)),
            (Suspect, Connected, Up, None, Plan::Cancel),
            (Suspect, ConnectFailed, went_down, Some(Raise::Down), Plan::After(S)),
            (Suspect, FirstByteTimeout, Suspect, None, Plan::Now),
            (Suspect, Broken, Suspect, None, Plan::Now),
            (Suspect, ProbeOk, Up, None, Plan::Cancel),
            (Suspect, ProbeNotReady, Up, None, Plan::Cancel),
            (Suspect, ProbeFailed, went_down, Some(Raise::Down), Plan::After(S)),
            (down(3), Connected, down(3), None, Plan::Now),
            (down(3), ConnectFailed, down(3), None, Plan::Keep),
            (down(3), FirstByteTimeout, down(3), None, Plan::Keep),
            (down(3), Broken, down(3), None, Plan::Keep),
            (down(3), ProbeOk, Up, Some(Raise::Up), Plan::Cancel),
            (down(3), ProbeNotReady, not_ready, None, Plan::After(S)),
            (down(3), ProbeFailed, down(4), None, Plan::After(4 * S)),
            (down(5), ProbeFailed, down(5), None, Plan::After(5 * S)),
        ];
        for (from, event, state, raise, probe) in table {
            assert_eq!(from.step(event, at(9)), Step { state, raise, probe }, "{from:?} {event:?}");
        }
    }

    #[test]
    fn an_upstream_that_never_gets_ready_is_taken_after_half_a_minute_in_a_row() {
        let waiting = down(1).step(Event::ProbeNotReady, at(10)).state;
        assert_eq!(waiting.step(Event::ProbeNotReady, at(39)).raise, None);
        assert_eq!(waiting.step(Event::ProbeNotReady, at(40)).raise, Some(Raise::Up));
        let again = waiting.step(Event::ProbeFailed, at(20)).state.step(Event::ProbeNotReady, at(39)).state;
        assert_eq!(again.step(Event::ProbeNotReady, at(41)).raise, None);
    }

    #[test]
    fn silence_is_probed_only_while_somebody_listens_to_a_link_that_is_up() {
        let heard = at(3).instant;
        assert_eq!(State::Up.quiet_probe(1, heard), Some(at(8).instant));
        assert_eq!(State::Up.quiet_probe(0, heard), None);
        assert_eq!(State::Suspect.quiet_probe(1, heard), None);
        assert_eq!(down(1).quiet_probe(1, heard), None);
    }
}
