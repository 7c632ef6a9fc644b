//! What time it is, as far as this node can know. Edge boxes boot in 1970 and their clocks jump, so the system's clock is
//! believed forwards only: nothing is judged at a time before the newest that was ever vouched for, which is kept on disk
//! and goes on by itself while the process runs.
//!
//! Who vouches: the upstream, by the `Date` of its answers; where there is none, the system's clock at a moment when the
//! upstream was heard, since its certificate was valid then. A clock that is merely ahead is never kept: it would make
//! everything expire for good.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// An answer's `Date` is looked at so often at most.
const OFTEN: Duration = Duration::from_secs(10);

/// The clock by which certificates and tokens are judged.
#[derive(Debug)]
pub struct Clock {
    wall: fn() -> SystemTime,
    newest: Mutex<Vouched>,
}

/// A time that was vouched for.
#[derive(Debug, Clone, Copy)]
struct Vouched {
    time: SystemTime,
    /// When it was that time.
    at: Instant,
    /// The upstream has said so itself, in this life of the process.
    dated: bool,
}

impl Vouched {
    fn now(&self) -> SystemTime {
        self.time.checked_add(self.at.elapsed()).unwrap_or(self.time)
    }
}

impl Clock {
    /// A clock that starts no earlier than at what was `kept` of an earlier life.
    pub fn new(kept: Option<SystemTime>) -> Clock {
        Clock::with(SystemTime::now, kept)
    }

    /// The same with another clock than the system's.
    pub(super) fn with(wall: fn() -> SystemTime, kept: Option<SystemTime>) -> Clock {
        let time = kept.unwrap_or(SystemTime::UNIX_EPOCH);
        Clock { wall, newest: Mutex::new(Vouched { time, at: Instant::now(), dated: false }) }
    }

    /// The time by which things are judged now.
    pub fn now(&self) -> SystemTime {
        self.newest().now().max((self.wall)())
    }

    /// The time that may be kept while the upstream is heard.
    pub(super) fn vouched(&self) -> SystemTime {
        let newest = self.newest();
        if newest.dated { newest.now() } else { newest.now().max((self.wall)()) }
    }

    /// The upstream has answered; `date` reads what its answer says of the time.
    pub(super) fn heard(&self, date: impl FnOnce() -> Option<SystemTime>) {
        let newest = self.newest();
        if newest.dated && newest.at.elapsed() < OFTEN {
            return;
        }
        if let Some(time) = date() {
            let vouched = Vouched { time, at: Instant::now(), dated: true };
            *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = vouched;
        }
    }

    fn newest(&self) -> Vouched {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn is_about(a: SystemTime, b: SystemTime) -> bool {
        a >= b && a <= b + Duration::from_secs(5)
    }

    #[test]
    fn a_clock_that_went_back_is_not_believed() {
        let clock = Clock::with(|| at(7), Some(at(1_800_000_000)));
        assert!(is_about(clock.now(), at(1_800_000_000)));
        assert!(is_about(clock.vouched(), at(1_800_000_000)));
        let clock = Clock::with(|| at(1_800_000_600), Some(at(1_800_000_000)));
        assert_eq!(clock.now(), at(1_800_000_600));
        assert_eq!(Clock::with(|| at(7), None).now(), at(7), "nothing else is known");
    }

    #[test]
    fn it_goes_on_while_the_system_s_stands_still() {
        let clock = Clock::with(|| at(7), Some(at(1000)));
        let first = clock.now();
        std::thread::sleep(Duration::from_millis(20));
        assert!(clock.now() >= first + Duration::from_millis(20));
    }

    #[test]
    fn the_upstream_s_word_corrects_what_was_kept_either_way() {
        let clock = Clock::with(|| at(7), Some(at(1_800_000_000)));
        clock.heard(|| None);
        assert!(is_about(clock.now(), at(1_800_000_000)));
        clock.heard(|| Some(at(1_700_000_000)));
        assert!(is_about(clock.now(), at(1_700_000_000)));
        clock.heard(|| panic!("asked again at once"));
        // A clock that is ahead is judged by, as long as it is, and never kept.
        let ahead = Clock::with(|| at(4_000_000_000), None);
        ahead.heard(|| Some(at(1_700_000_000)));
        assert_eq!(ahead.now(), at(4_000_000_000));
        assert!(is_about(ahead.vouched(), at(1_700_000_000)));
    }
}
