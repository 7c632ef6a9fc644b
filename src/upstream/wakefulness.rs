//! How soon a connection is given up whose other end is not heard any more, whatever became of it: the network lost it, a
//! router forgot it, the address is another's now. The kernel finds out; here it is told how hard to look.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;

/// A request that is not acknowledged for so long is lost (`TCP_USER_TIMEOUT`), and who sent it is told: sooner than kubelet
/// and its like, who wait ten seconds, and late enough for four in a row to have been lost and sent again.
pub(super) const UNACKNOWLEDGED: Duration = Duration::from_secs(8);
/// A silent stream is asked for a sign of life (TCP keep-alive) after so long, ...
const IDLE: Duration = Duration::from_secs(15);
/// ... then as often as this, ...
const INTERVAL: Duration = Duration::from_secs(5);
/// ... and is lost when so many found no answer.
const TIMES: u32 = 3;
/// While something is wrong with another connection to the same server: every second, and lost after so many.
const ALERT_TIMES: u32 = 8;
const ALERT_INTERVAL: Duration = Duration::from_secs(1);
/// How long that lasts.
pub(super) const ALERT: Duration = Duration::from_secs(12);

/// While a request goes up.
pub(super) fn of_a_request(socket: impl AsFd) -> Result<(), Errno> {
    keep_alive(&socket, IDLE, INTERVAL, TIMES)?;
    // The kernel counts it from what was last heard, also for keep-alive and a closed window: it must not be set where
    // those are normal.
    sockopt::set_tcp_user_timeout(socket, UNACKNOWLEDGED.as_millis() as u32)
}

/// While an answer streams that may be silent for hours.
pub(super) fn of_a_stream(socket: impl AsFd) -> Result<(), Errno> {
    sockopt::set_tcp_user_timeout(&socket, 0)?;
    keep_alive(socket, IDLE, INTERVAL, TIMES)
}

/// The same while there is reason to doubt.
pub(super) fn of_a_doubtful_stream(socket: impl AsFd) -> Result<(), Errno> {
    sockopt::set_tcp_user_timeout(&socket, 0)?;
    keep_alive(socket, ALERT_INTERVAL, ALERT_INTERVAL, ALERT_TIMES)
}

fn keep_alive(socket: impl AsFd, idle: Duration, interval: Duration, times: u32) -> Result<(), Errno> {
    sockopt::set_tcp_keepintvl(&socket, interval)?;
    sockopt::set_tcp_keepcnt(&socket, times)?;
    // The last, because it sets the timer.
    sockopt::set_tcp_keepidle(socket, idle)
}
