//! A connection's place among `--max-connections`, and who gives up his when all are taken. Owns the state by which that
//! is decided; closes nothing itself.
//!
//! ```text
//!              head complete              answered
//!   waiting ------------------> working -----------> waiting -> ...
//!    |   ^                       |    ^
//!    |   | until the client      |    | client sends its body, takes the answer
//!    |   | sends a whole head    v    |
//!    |   |                      waiting (within a request)
//!    v
//!   shed: no way back
//! ```
//!
//! When the limit is reached and somebody new comes, the connection is shed that has kept us waiting longest for a whole
//! request: in its handshake, half-way in a head, or idle between two requests; then, whoever has been a second with a
//! request's body, or has taken nothing of its answer for ten. What is being worked on, watches above all, is never shed:
//! where there is nothing else, the newcomer is told 429. Slow clients so cannot keep out others, however many they are,
//! and long-running requests cannot either: a share of the places is kept from them (`Exchange::lasts`).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Whoever makes us wait for longer is slow: clients are on the same machine.
const PROMPT: Duration = Duration::from_secs(1);
/// The same for taking an answer: a busy client may have other things to do, and the kernel's buffers to read first.
const TAKING: Duration = Duration::from_secs(10);

/// What a client is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// A whole request: handshake, head, and the time between two.
    Request,
    /// A request's body.
    Body,
    /// That it takes more of its answer.
    Taking,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting(Wait, Instant),
    Working,
    Shed,
}

/// How willingly a place is given up: compared, the least is the first to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    rank: u8,
    since: Instant,
}

/// One connection's, shared between its thread and the one that accepts.
#[derive(Debug)]
pub(super) struct Place(Mutex<State>);

impl Place {
    /// A place whose client is awaited from now on.
    pub(super) fn new() -> Self {
        Self(Mutex::new(State::Waiting(Wait::Request, Instant::now())))
    }

    /// A request is worked on from now on. `false`: the connection is shed.
    pub(super) fn work(&self) -> bool {
        self.enter(State::Working)
    }

    /// The next request is awaited from now on.
    pub(super) fn rest(&self) {
        self.enter(State::Waiting(Wait::Request, Instant::now()));
    }

    /// Waits by `f` for the client, as has been done since `since`, in the midst of what is done now.
    pub(super) fn during<T>(&self, wait: Wait, since: Instant, f: impl FnOnce() -> T) -> T {
        let before = *self.state();
        self.enter(State::Waiting(wait, since));
        let result = f();
        self.enter(before);
        result
    }

    /// How willingly it is given up at `now`; `None`: not at all.
    pub(super) fn claim(&self, now: Instant) -> Option<Claim> {
        let State::Waiting(wait, since) = *self.state() else { return None };
        let waited = now.saturating_duration_since(since);
        let rank = match wait {
            Wait::Request if waited >= PROMPT => 0,
            Wait::Body if waited >= PROMPT => 1,
            Wait::Taking if waited >= TAKING => 1,
            // In their midst of a handshake, most likely, as every newcomer is for a moment: after those who are slow.
            Wait::Request => 2,
            Wait::Body | Wait::Taking => return None,
        };
        Some(Claim { rank, since })
    }

    /// Sheds it, unless its client has come up in the meantime.
    pub(super) fn shed(&self) -> bool {
        let mut state = self.state();
        let waiting = matches!(*state, State::Waiting(..));
        if waiting {
            *state = State::Shed;
        }
        waiting
    }

    fn enter(&self, next: State) -> bool {
        let mut state = self.state();
        let stays = *state != State::Shed;
        if stays {
            *state = next;
        }
        stays
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(state: State) -> Place {
        Place(Mutex::new(state))
    }

    #[test]
    fn who_goes_first() {
        let begun = Instant::now();
        let now = begun + Duration::from_secs(100);
        let waiting = |wait, millis: u64| at(State::Waiting(wait, begun + Duration::from_millis(100_000 - millis)));
        let order = [
            waiting(Wait::Request, 30_000),
            waiting(Wait::Request, 1_000),
            waiting(Wait::Body, 40_000),
            waiting(Wait::Taking, 10_000),
            waiting(Wait::Body, 1_000),
            waiting(Wait::Request, 999),
            waiting(Wait::Request, 0),
        ];
        let claims: Vec<_> = order.iter().map(|place| place.claim(now).expect("given up")).collect();
        assert!(claims.is_sorted(), "{claims:?}");
        for kept in [waiting(Wait::Body, 999), waiting(Wait::Taking, 9_999), at(State::Working), at(State::Shed)] {
            assert_eq!(kept.claim(now), None, "{kept:?}");
        }
    }

    #[test]
    fn what_is_shed_is_never_worked_on_and_what_is_worked_on_never_shed() {
        let place = Place::new();
        assert!(place.work() && !place.shed());
        place.during(Wait::Body, Instant::now(), || assert!(place.shed()));
        assert!(!place.work(), "its client came too late");
        place.rest();
        assert!(!place.work() && !place.shed());
    }
}
