//! One request's way through ureq up to the response head: what its waits must watch, and what the transport learned.
//!
//! ureq's `Transport` methods carry no word of the request they serve, and a pooled connection serves many. But
//! `Agent::run` does everything up to the response head on the thread that called it, and each client connection has a
//! thread of its own, so the current request's facts lie in a thread-local that exists exactly as long as that call.
//! A body needs none of this: its transport reports "nothing yet" and the body's reader waits itself (`answer.rs`).

use std::cell::RefCell;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::buffers;
use super::wait::{Epoch, Waits};

/// The facts of one attempt.
pub(super) struct Attempt {
    /// A duplicate of the client's socket: a thread-local cannot borrow. Closed when the head is here.
    pub(super) client: Option<OwnedFd>,
    /// Ends when the link is found down.
    pub(super) down: Arc<Epoch>,
    /// Longest wait for the response head: from `begun`, or, where a body goes up first, from the first wait for it.
    pub(super) first_byte: Duration,
    /// When the request began, before it had a connection; `None`: it has a body.
    pub(super) begun: Option<Instant>,
    /// Length of the longest line of the request's head: it must fit the output buffer.
    pub(super) longest_line: usize,
    /// Pooled connections are of no use (one of them has just turned out to be dead).
    pub(super) only_fresh: bool,

    /// The connector ran: this is no pooled connection.
    pub(super) fresh: bool,
    /// Bytes that the kernel took of this request.
    pub(super) sent: u64,
    /// When patience ends; set at the first wait for the head.
    pub(super) answer_by: Option<Instant>,
    /// The socket of the connection in use.
    pub(super) socket: Option<Arc<TcpStream>>,
}

impl Attempt {
    /// What its waits watch.
    pub(super) fn waits(&self) -> Waits<'_> {
        Waits { client: self.client.as_ref().map(AsFd::as_fd), until: &self.down, stop: None }
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Attempt>> = const { RefCell::new(None) };
}

/// Runs `f` with `attempt` as this thread's current one, and hands it back with what was learned. Does not nest.
pub(super) fn during<T>(attempt: Attempt, f: impl FnOnce() -> T) -> (T, Option<Attempt>) {
    /// Clears the place even where `f` panics: the thread may live on.
    struct Clear;
    impl Drop for Clear {
        fn drop(&mut self) {
            CURRENT.with_borrow_mut(Option::take);
        }
    }
    CURRENT.set(Some(attempt));
    let _clear = Clear;
    let result = f();
    (result, CURRENT.take())
}

/// This thread's current attempt, if `Agent::run` is on its stack.
pub(super) fn current<T>(f: impl FnOnce(Option<&mut Attempt>) -> T) -> T {
    CURRENT.with_borrow_mut(|current| f(current.as_mut()))
}

/// How large an output buffer must be now.
pub(super) fn longest_line() -> usize {
    current(|attempt| attempt.map_or(buffers::SIZE, |attempt| attempt.longest_line))
}
