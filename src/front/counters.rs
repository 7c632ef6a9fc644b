//! What the front counts, for the admin endpoint to read. Holds numbers, means nothing by them.

use std::sync::atomic::AtomicUsize;

/// Numbers of one server; gauges say so, the others only grow (and wrap). `usize`, because 32-bit MIPS has no 64-bit
/// atomics. Read with `Ordering::Relaxed`: they order nothing.
#[derive(Debug, Default)]
pub struct Counters {
    /// Gauge: connections being served now, from their handshake on; those being refused are not among them.
    pub open: AtomicUsize,
    /// Connections accepted for service.
    pub accepted: AtomicUsize,
    /// Connections past the limit: told 429, or closed at once where even that was too much.
    pub refused: AtomicUsize,
    /// Connections that were closed for another's sake, because their clients were slow or idle.
    pub shed: AtomicUsize,
    /// Gauge: long-running requests now.
    pub lasting: AtomicUsize,
    /// Long-running requests past their share of the places.
    pub lasting_refused: AtomicUsize,
    /// Handshakes that failed or timed out, plain HTTP among them.
    pub tls_failures: AtomicUsize,
    /// Requests handed to the handler.
    pub requests: AtomicUsize,
    /// Requests answered 4xx or 5xx by the front itself, 429 past the limit excepted.
    pub bad_requests: AtomicUsize,
    /// Requests that were not answered whole: the handler gave up or panicked, the client went away, or the server
    /// stopped.
    pub torn: AtomicUsize,
    /// Panics of the handler.
    pub panics: AtomicUsize,
    /// Gauge: threads of the front: one that accepts, and one a connection.
    pub threads: AtomicUsize,
}
