//! This room as a whole against a TLS server on loopback that plays a script.

mod connections;
mod link;
mod patience;
mod proxied;
mod receiving;
mod sending;
mod servers;
mod stand_in;
mod upgrading;

use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustls::ALL_VERSIONS;

use super::*;
use stand_in::{Exchange, Pki, StandIn, Then, read_chunked};

/// Far longer than anything should take on the busiest machine, and shorter than 60 s.
const LONG: Duration = Duration::from_secs(40);

struct Scene {
    upstream: Upstream,
    server: StandIn,
}

fn scene(script: impl Fn(&mut Exchange<'_>) -> Then + Send + Sync + 'static) -> Scene {
    let pki = Pki::new();
    let server = StandIn::start(pki.server(ALL_VERSIONS, false), script);
    let upstream = pki.upstream(server.port, &[]);
    Scene { upstream, server }
}

fn request<'a>(method: &'a str, target: &'a str) -> Outgoing<'a, 'a> {
    Outgoing { method, target, headers: &[], body: None, first_byte: LONG, client: None, stop: None }
}

impl Scene {
    fn send(&self, method: &'static str) -> Result<Answer<'_>, FetchError> {
        self.upstream.fetch(&self.upstream.known(), &Credentials::None, request(method, "/x"))
    }

    /// The whole body of a GET.
    fn get(&self) -> io::Result<Vec<u8>> {
        let mut whole = Vec::new();
        let mut answer = self.send("GET").map_err(io::Error::other)?;
        answer.body.read_to_end(&mut whole)?;
        Ok(whole)
    }

    fn wait_for(&self, wanted: impl Fn(LinkState) -> bool) {
        let end = Instant::now() + LONG;
        while !wanted(self.upstream.link().state()) {
            assert!(Instant::now() < end, "the link stays {:?}", self.upstream.link().state());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn is_down(state: LinkState) -> bool {
    matches!(state, LinkState::Down { .. })
}

/// Answers with the connection's number.
fn number(exchange: &mut Exchange<'_>) -> Then {
    let number = exchange.connection.to_string();
    exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{number}", number.len()));
    Then::Next
}
