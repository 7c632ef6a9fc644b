//! Clients that ask again as soon as they are answered, and cost little: connections are kept, two threads wait for all
//! of them, nothing is copied but what is looked at.

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// As many threads as there are cores on the machine that this was made for.
const THREADS: usize = 2;
/// What is read from a socket at a time.
const PIECE: usize = 64 * 1024;
/// The longest that nothing at all comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Kept connections to one proxy.
pub struct Clients {
    lines: Vec<Line>,
    request: Vec<u8>,
}

/// What was answered in a span.
#[derive(Clone, Copy, Default)]
pub struct Answered {
    pub requests: u64,
    pub seconds: f64,
}

impl Answered {
    pub fn rate(self) -> f64 {
        self.requests as f64 / self.seconds
    }
}

impl Clients {
    /// Connects, and asks once on each connection; that answer must be `body` to the byte.
    pub fn connect(
        port: u16,
        tls: &Arc<ClientConfig>,
        connections: usize,
        target: &str,
        media_type: &str,
        body: &[u8],
    ) -> io::Result<Clients> {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: {media_type}\r\nUser-Agent: bench\r\n\r\n"
        );
        let mut lines = Vec::new();
        for _ in 0..connections {
            lines.push(Line::connect(port, tls, body.len())?);
        }
        let mut clients = Clients { lines, request: request.into_bytes() };
        for line in &mut clients.lines {
            line.copy = Some(Vec::with_capacity(body.len()));
        }
        // Ever more at a time: the proxies connect upstream as they need to, not 64 times at once.
        let mut asked = 0;
        while asked < connections {
            let now = asked.max(1).min(connections - asked);
            clients.ask(asked..asked + now, Duration::ZERO)?;
            asked += now;
        }
        for line in &mut clients.lines {
            if line.copy.take().as_deref() != Some(body) {
                return Err(io::Error::other("an answer's body is not the upstream's"));
            }
        }
        Ok(clients)
    }

    /// Asks for a span on every connection, and waits for the answers that are due then. Errors: an answer is not 200, or
    /// not as long as it must be; a connection broke.
    pub fn ask_for(&mut self, span: Duration) -> io::Result<Answered> {
        self.ask(0..self.lines.len(), span)
    }

    fn ask(&mut self, which: Range<usize>, span: Duration) -> io::Result<Answered> {
        let start = Instant::now();
        let lines = &mut self.lines[which];
        let share = lines.len().div_ceil(THREADS);
        let request = &self.request;
        let counts: Vec<io::Result<u64>> = thread::scope(|scope| {
            let threads: Vec<_> =
                lines.chunks_mut(share).map(|lines| scope.spawn(move || drive(lines, request, start + span))).collect();
            threads.into_iter().map(|t| t.join().expect("no panic")).collect()
        });
        let seconds = start.elapsed().as_secs_f64();
        let requests = counts.into_iter().sum::<io::Result<u64>>()?;
        Ok(Answered { requests, seconds })
    }
}

fn drive(lines: &mut [Line], request: &[u8], until: Instant) -> io::Result<u64> {
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    for (index, line) in lines.iter_mut().enumerate() {
        epoll::add(&poll, &line.socket, EventData::new_u64(index as u64), EventFlags::IN)?;
        line.ask(request)?;
    }
    let mut piece = vec![0; PIECE];
    let mut events = Vec::with_capacity(64);
    let (mut due, mut answered) = (lines.len(), 0);
    let patience = rustix::event::Timespec::try_from(PATIENCE).expect("a timeout");
    while due > 0 {
        events.clear();
        if epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&patience))? == 0 {
            return Err(io::Error::other(format!("no byte came for {} s", PATIENCE.as_secs())));
        }
        for event in &events {
            let line = &mut lines[event.data.u64() as usize];
            if line.receive(&mut piece)? {
                answered += 1;
                if Instant::now() < until {
                    line.ask(request)?;
                } else {
                    due -= 1;
                }
            }
        }
    }
    Ok(answered)
}

/// One connection, with at most one answer due.
struct Line {
    tls: ClientConnection,
    socket: TcpStream,
    /// How long each body must be.
    length: usize,
    /// The head, as far as it is here; empty once it is whole.
    head: Vec<u8>,
    /// Bytes of the body that are still to come; `None` before the head is whole.
    left: Option<usize>,
    /// The body, where it is wanted.
    copy: Option<Vec<u8>>,
}

impl Line {
    fn connect(port: u16, tls: &Arc<ClientConfig>, length: usize) -> io::Result<Line> {
        let mut socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let mut tls = ClientConnection::new(Arc::clone(tls), name).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        socket.set_nonblocking(true)?;
        Ok(Line { tls, socket, length, head: Vec::new(), left: None, copy: None })
    }

    fn ask(&mut self, request: &[u8]) -> io::Result<()> {
        self.tls.writer().write_all(request)?;
        while self.tls.wants_write() {
            // A request is far smaller than a socket's buffer.
            self.tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    /// Reads once; true when the answer is whole.
    fn receive(&mut self, piece: &mut [u8]) -> io::Result<bool> {
        let count = match self.socket.read(piece) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return Ok(false),
            Err(e) => return Err(e),
        };
        let mut bytes = &piece[..count];
        let mut whole = false;
        while !bytes.is_empty() {
            self.tls.read_tls(&mut bytes)?;
            self.tls.process_new_packets().map_err(io::Error::other)?;
            loop {
                let plain = self.tls.reader().into_first_chunk().unwrap_or_default();
                if plain.is_empty() {
                    break;
                }
                let taken = plain.len();
                whole |= take(plain, &mut self.head, &mut self.left, self.length, self.copy.as_mut())?;
                self.tls.reader().consume(taken);
            }
        }
        Ok(whole)
    }
}

/// Takes plaintext; true when the answer is whole.
fn take(
    mut plain: &[u8],
    head: &mut Vec<u8>,
    left: &mut Option<usize>,
    length: usize,
    copy: Option<&mut Vec<u8>>,
) -> io::Result<bool> {
    if left.is_none() {
        let before = head.len();
        head.extend_from_slice(plain);
        let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(false) };
        plain = &plain[end + 4 - before..];
        head.truncate(end);
        check(head, length)?;
        head.clear();
        *left = Some(length);
    }
    let more = left.unwrap_or_default().checked_sub(plain.len());
    let more = more.ok_or_else(|| io::Error::other("an answer is longer than it says"))?;
    if let Some(copy) = copy {
        copy.extend_from_slice(plain);
    }
    *left = (more > 0).then_some(more);
    Ok(more == 0)
}

/// An answer must be 200, and of this length.
fn check(head: &[u8], length: usize) -> io::Result<()> {
    let text = String::from_utf8_lossy(head);
    let told = text.lines().find_map(|l| {
        let (name, value) = l.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
    });
    if text.starts_with("HTTP/1.1 200 ") && told == Some(length) {
        Ok(())
    } else {
        Err(io::Error::other(format!("not 200 with {length} bytes: {text}")))
    }
}
