//! The admin endpoint: `/healthz`, `/readyz` and `/metrics` over plain HTTP on a loopback address, by `tiny_http`.
//!
//! Owns the little server, what asks it, and the Prometheus text format. It knows no other room: what it shows is handed in as
//! [`Pages`], so that it can show nothing that was not meant for it.

mod ask;
mod exposition;

pub(crate) use ask::{ask, is_well};
pub use exposition::Exposition;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use tiny_http::{Header, Method, Response, Server};

/// What the endpoint shows.
pub struct Pages {
    /// The body of `/metrics`.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// `Ok`: ready to serve clients; else why not.
    pub ready: Box<dyn Fn() -> Result<String, String> + Send + Sync>,
}

/// The running endpoint; dropped, it stops and its thread is joined.
pub struct Admin {
    server: Arc<Server>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Starts answering whoever connects to `listener`, on a thread of its own.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(listener: TcpListener, pages: Pages) -> io::Result<Admin> {
        let server = Arc::new(Server::from_listener(listener, None).map_err(io::Error::other)?);
        let own = Arc::clone(&server);
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
            for request in own.incoming_requests() {
                let (status, body) = page(request.method(), request.url(), &pages);
                let mut response = Response::from_string(body).with_status_code(status);
                if let Ok(header) = Header::from_bytes("Content-Type", "text/plain; version=0.0.4; charset=utf-8") {
                    response.add_header(header);
                }
                if let Err(e) = request.respond(response) {
                    log::debug!("admin: the answer could not be sent: {e}");
                }
            }
        })?;
        Ok(Admin { server, thread: Some(thread) })
    }

    /// Where it listens; the port that was picked where 0 was asked for.
    pub fn address(&self) -> Option<SocketAddr> {
        self.server.server_addr().to_ip()
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.server.unblock();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("admin: its thread had panicked");
        }
    }
}

fn page(method: &Method, url: &str, pages: &Pages) -> (u16, String) {
    if !matches!(method, Method::Get | Method::Head) {
        return (405, "only GET\n".to_owned());
    }
    match url.split('?').next().unwrap_or(url) {
        "/healthz" | "/livez" => (200, "ok\n".to_owned()),
        "/readyz" => match (pages.ready)() {
            Ok(text) => (200, text),
            Err(why) => (503, why),
        },
        "/metrics" => (200, (pages.metrics)()),
        _ => (404, "pages: /healthz /readyz /metrics\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    fn get(address: SocketAddr, path: &str) -> String {
        let mut socket = TcpStream::connect(address).expect("connect");
        write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("write");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("read");
        answer
    }

    #[test]
    fn it_shows_its_pages_and_stops() {
        let pages = Pages { metrics: Box::new(|| "m 1\n".to_owned()), ready: Box::new(|| Err("not yet\n".to_owned())) };
        let admin = Admin::start(TcpListener::bind("127.0.0.1:0").expect("a port"), pages).expect("start");
        let address = admin.address().expect("an IP address");
        assert!(get(address, "/healthz").starts_with("HTTP/1.1 200 "));
        assert!(get(address, "/metrics").ends_with("m 1\n"));
        assert!(get(address, "/readyz").starts_with("HTTP/1.1 503 "));
        assert!(get(address, "/").starts_with("HTTP/1.1 404 "));
        drop(admin);
        // tiny_http's accepting thread closes the socket a moment after its server is dropped.
        let closed = (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            TcpStream::connect(address).is_err()
        });
        assert!(closed, "nothing listens any more");
    }
}
