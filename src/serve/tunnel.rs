//! Exec, attach, port-forward: both sides speak another protocol from now on, and what they say is passed on unread.

use super::counters::{Counters, Source};
use super::{Asked, Service};
use crate::front::{Ends, Exchange};
use crate::tunnel::{self, End, Ending, Lifeline};
use crate::upstream::{Line, Tunnel};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

/// What a 101 is counted as.
const SWITCHING_PROTOCOLS: u16 = 101;

impl Service {
    /// Stage: join client and upstream, which has agreed, until both have ended.
    pub(super) fn tunnel(
        &self,
        exchange: Exchange<'_>,
        asked: &Asked,
        mut far: Tunnel<'_>,
        ends: &Ends,
    ) -> io::Result<()> {
        self.counters.answered(&asked.request, SWITCHING_PROTOCOLS, Source::Upstream);
        let _open = self.counters.tunnel();
        let mut near = match exchange.switch(&far.take_head()) {
            Ok(near) => near,
            Err(e) => {
                far.cut();
                return Err(e);
            }
        };
        let ending = {
            let (near_tls, near_socket) = near.parts();
            let (far_tls, far_socket, line) = far.parts();
            let mut line = Counted { line, counters: &self.counters };
            tunnel::join(End::new(near_tls, near_socket), End::new(far_tls, far_socket), ends.stop(), &mut line)
        };
        let why = match ending {
            Ending::Whole => {
                near.finish();
                return Ok(());
            }
            Ending::NearTorn(e) => e,
            Ending::FarTorn(e) => {
                far.parts().2.broke(&e.to_string());
                e
            }
            Ending::Lost => {
                log::info!("{} {}: cut, as the link is down", asked.request.method, asked.shown_target());
                io::ErrorKind::NetworkDown.into()
            }
            Ending::Stopped => io::ErrorKind::Interrupted.into(),
        };
        far.cut();
        Err(why)
    }
}

/// The way to the far end, and who counts what passes on it.
struct Counted<'a, 'l> {
    line: &'a mut Line<'l>,
    counters: &'a Counters,
}

impl Lifeline for Counted<'_, '_> {
    fn alarm(&self) -> BorrowedFd<'_> {
        self.line.alarm()
    }

    fn is_lost(&mut self) -> bool {
        self.line.is_down()
    }

    fn moved(&mut self, up: usize, down: usize) {
        self.counters.tunnelled_up.fetch_add(up, Ordering::Relaxed);
        self.counters.tunnelled_down.fetch_add(down, Ordering::Relaxed);
        if down > 0 {
            self.line.heard();
        }
    }
}
