//! Bytes both ways between two TLS connections, on one thread: what an exec, an attach or a port-forward is once both
//! sides have said 101. Knows nothing of HTTP, of Kubernetes, or of who is at which end.
//!
//! ```text
//!          inbox -> rustls -> plaintext -> rustls -> socket
//!   near <=================================================> far      pass(near, far), pass(far, near), poll, again
//! ```
//!
//! - Whoever does not read is not read for: bytes are taken from one side only when the other has taken those before. A
//!   direction holds at most an `INBOX` of ciphertext and a `BATCH` of plaintext; an idle tunnel holds no buffers.
//! - TLS' goodbye (`close_notify`) is passed on, and the other direction goes on until it has its own.
//! - An end without a goodbye is a tear: what has come before it is delivered, then the whole tunnel ends.
//! - No time limit: a tunnel may be silent for as long as nothing happens. The sockets' keep-alive finds dead peers; what
//!   else may end it is a [`Lifeline`]'s to say.

mod end;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use end::End;

/// Ciphertext read at a time: a whole record (RFC 8446 section 5.2).
const INBOX: usize = 16 * 1024 + 256 + 5;
/// Plaintext handed on before it is sent.
const BATCH: usize = 16 * 1024;
/// Plaintext handed on in one direction before the other has its turn.
const TURN: usize = 256 * 1024;
/// How long buffers are kept for what may come next.
const WARM: Duration = Duration::from_secs(1);
/// A tunnel whose far end was heard within this is not lost, whatever the alarm says: kubectl's WebSockets are answered a
/// ping each five seconds (client-go `tools/remotecommand/websocket.go`, `pingPeriod`).
const QUIET: Duration = Duration::from_secs(8);
/// When the process is to end, so does a tunnel in which nothing has moved for so long.
const IDLE: Duration = Duration::from_secs(1);
/// Once an end is gone, the other may take what came before, as long as it takes something within this.
const DRAIN: Duration = Duration::from_secs(10);

/// What may end a tunnel from outside.
pub trait Lifeline {
    /// Readable when the far end may be lost.
    fn alarm(&self) -> BorrowedFd<'_>;
    /// Asked after an alarm, once the far end has not been heard for some seconds. `false`: it was a false one, and
    /// [`Lifeline::alarm`] is quiet again.
    fn is_lost(&mut self) -> bool;
    /// So many bytes have been passed on to the far end and from it since this was last called.
    fn moved(&mut self, up: usize, down: usize);
}

/// How a tunnel ended.
#[derive(Debug)]
pub enum Ending {
    /// Both directions came to their ends.
    Whole,
    /// The near end broke off.
    NearTorn(io::Error),
    /// The far end broke off.
    FarTorn(io::Error),
    /// The far end cannot be reached any more.
    Lost,
    /// The process is to end.
    Stopped,
}

/// Passes bytes both ways until one of the [`Ending`]s. `stop`: readable when the process is to end.
pub fn join<A, B>(mut near: End<'_, A>, mut far: End<'_, B>, stop: BorrowedFd<'_>, line: &mut dyn Lifeline) -> Ending {
    let mut clock = Clock::new();
    loop {
        let (up, down) = (pass(&mut near, &mut far), pass(&mut far, &mut near));
        if near.has_moved() | far.has_moved() {
            clock.moved(far.is_heard());
            line.moved(up, down);
        }
        if let Some(ending) = ending(&mut near, &mut far, &mut clock) {
            return ending;
        }
        match clock.due(Instant::now()) {
            Some(Due::Stopped) => return Ending::Stopped,
            Some(Due::Drained) => {
                near.deafen();
                far.deafen();
                continue;
            }
            Some(Due::Lost) if line.is_lost() => return Ending::Lost,
            Some(Due::Lost) => clock.alarmed = None,
            Some(Due::Cold) => {
                clock.warm = false;
                near.release();
                far.release();
            }
            None => {}
        }
        if near.has_more_for(&far) || far.has_more_for(&near) {
            continue;
        }
        if let Err(e) = wait(&mut near, &mut far, stop, line, &mut clock) {
            return Ending::NearTorn(e);
        }
    }
}

/// Hands on what `from` has, as long as `to` takes it; how many bytes. Never waits.
fn pass<A, B>(from: &mut End<'_, A>, to: &mut End<'_, B>) -> usize {
    let mut passed = 0;
    to.flush();
    while passed < TURN && to.takes() {
        let mut batch = 0;
        while batch < BATCH {
            let plaintext = from.plaintext();
            if plaintext.is_empty() {
                if !from.receive() {
                    break;
                }
                continue;
            }
            let taken = to.write(plaintext);
            if taken == 0 {
                break;
            }
            from.consume(taken);
            batch += taken;
        }
        if batch == 0 {
            break;
        }
        passed += batch;
        to.flush();
    }
    if from.has_ended() && to.takes() {
        to.say_goodbye();
    }
    // What TLS itself has to answer: alerts, key updates.
    from.flush();
    passed
}

/// Whether it is over, and how.
fn ending<A, B>(near: &mut End<'_, A>, far: &mut End<'_, B>, clock: &mut Clock) -> Option<Ending> {
    if near.is_gone() || far.is_gone() {
        clock.gone.get_or_insert_with(Instant::now);
    }
    let is_delivered = near.is_settled() && far.is_settled();
    if is_delivered && let Some(e) = far.torn() {
        return Some(Ending::FarTorn(e));
    }
    if is_delivered && let Some(e) = near.torn() {
        return Some(Ending::NearTorn(e));
    }
    let is_over = is_done(near, far) && is_done(far, near);
    is_over.then(|| match (near.has_ended(), far.has_ended()) {
        (true, true) => Ending::Whole,
        (true, false) => Ending::FarTorn(io::ErrorKind::BrokenPipe.into()),
        (false, _) => Ending::NearTorn(io::ErrorKind::BrokenPipe.into()),
    })
}

/// Whether this direction is at its end.
fn is_done<A, B>(from: &mut End<'_, A>, to: &mut End<'_, B>) -> bool {
    to.is_deaf() || from.has_ended() && to.is_told()
}

fn wait<A, B>(
    near: &mut End<'_, A>,
    far: &mut End<'_, B>,
    stop: BorrowedFd<'_>,
    line: &dyn Lifeline,
    clock: &mut Clock,
) -> io::Result<()> {
    let interests = [near.interest(far.takes()), far.interest(near.takes())];
    let alarm = line.alarm();
    let watched = [
        interests[0].map(|flags| PollFd::from_borrowed_fd(near.socket.as_fd(), flags)),
        interests[1].map(|flags| PollFd::from_borrowed_fd(far.socket.as_fd(), flags)),
        clock.stopping.is_none().then(|| PollFd::from_borrowed_fd(stop, PollFlags::IN)),
        clock.alarmed.is_none().then(|| PollFd::from_borrowed_fd(alarm, PollFlags::IN)),
    ];
    let places = watched.each_ref().map(Option::is_some);
    let mut watched: Vec<PollFd<'_>> = watched.into_iter().flatten().collect();
    let timeout = clock.next().map(|at| at.saturating_duration_since(Instant::now()));
    let timeout = timeout.map(|t| Timespec { tv_sec: t.as_secs().cast_signed(), tv_nsec: t.subsec_nanos().into() });
    match poll(&mut watched, timeout.as_ref()) {
        Err(rustix::io::Errno::INTR) => return Ok(()),
        other => other?,
    };
    let mut seen = watched.iter().map(PollFd::revents);
    let [near_seen, far_seen, stop_seen, alarm_seen] =
        places.map(|is_watched| if is_watched { seen.next() } else { None }.unwrap_or(PollFlags::empty()));
    near.saw(near_seen);
    far.saw(far_seen);
    let now = Instant::now();
    if !stop_seen.is_empty() {
        clock.stopping = Some(now);
    }
    if !alarm_seen.is_empty() {
        clock.alarmed = Some(now);
    }
    Ok(())
}

/// When what is to happen by the clock.
struct Clock {
    /// When anything last moved, and when the far end was last heard.
    moved: Instant,
    heard: Instant,
    /// There may be buffers.
    warm: bool,
    stopping: Option<Instant>,
    alarmed: Option<Instant>,
    gone: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Stopped,
    Drained,
    Lost,
    Cold,
}

impl Clock {
    fn new() -> Self {
        let now = Instant::now();
        Self { moved: now, heard: now, warm: true, stopping: None, alarmed: None, gone: None }
    }

    fn moved(&mut self, is_heard: bool) {
        self.moved = Instant::now();
        self.warm = true;
        if is_heard {
            self.heard = self.moved;
        }
    }

    fn deadlines(&self) -> [(Due, Option<Instant>); 4] {
        [
            (Due::Stopped, self.stopping.map(|at| at.max(self.moved + IDLE))),
            (Due::Drained, self.gone.map(|at| at.max(self.moved) + DRAIN)),
            (Due::Lost, self.alarmed.map(|at| at.max(self.heard) + QUIET)),
            (Due::Cold, self.warm.then(|| self.moved + WARM)),
        ]
    }

    fn due(&self, now: Instant) -> Option<Due> {
        self.deadlines().into_iter().find(|(_, at)| at.is_some_and(|at| at <= now)).map(|(due, _)| due)
    }

    fn next(&self) -> Option<Instant> {
        self.deadlines().into_iter().filter_map(|(_, at)| at).min()
    }
}
