//! An upstream that does what it is told, however wrong: a blocking TLS HTTP/1.1 server on loopback whose answers are
//! written by the test, byte by byte if it likes.

use super::pki::Pki;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub struct Received {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// How long the body was; of long ones only the length is kept.
    pub body_length: usize,
    /// The CN of the certificate that came with the connection.
    pub common_name: Option<String>,
    /// The certificate, DER.
    pub certificate: Option<Vec<u8>>,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// One connection, to be answered on.
pub struct Wire {
    tls: BufReader<StreamOwned<ServerConnection, TcpStream>>,
    common_name: Option<String>,
    certificate: Option<Vec<u8>>,
}

impl Read for Wire {
    /// What is no HTTP any more.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tls.read(buffer)
    }
}

type Script = dyn Fn(&Received, &mut Wire) -> io::Result<()> + Send + Sync;

impl Wire {
    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.tls.get_mut().write_all(bytes.as_ref())?;
        self.tls.get_mut().flush()
    }

    /// A whole answer with a length.
    pub fn answer(&mut self, status: u16, content_type: &str, body: impl AsRef<[u8]>) -> io::Result<()> {
        let body = body.as_ref();
        let head =
            format!("HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n", body.len());
        self.send([head.as_bytes(), body].concat())
    }

    /// A whole JSON answer.
    pub fn json(&mut self, status: u16, body: impl AsRef<[u8]>) -> io::Result<()> {
        self.answer(status, "application/json", body)
    }

    /// The head of a chunked JSON answer.
    pub fn begin_chunked(&mut self) -> io::Result<()> {
        self.send("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    }

    pub fn chunk(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let bytes = bytes.as_ref();
        self.send([format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat())
    }

    pub fn end_chunked(&mut self) -> io::Result<()> {
        self.send("0\r\n\r\n")
    }

    /// Breaks the connection off: nothing more is sent on it.
    pub fn cut(&mut self) -> io::Result<()> {
        let _ = self.tls.get_mut().sock.shutdown(Shutdown::Both);
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    /// Ends the connection as TLS has it.
    pub fn goodbye(&mut self) -> io::Result<()> {
        let stream = self.tls.get_mut();
        stream.conn.send_close_notify();
        stream.flush()?;
        let _ = stream.sock.shutdown(Shutdown::Write);
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    /// Says that nothing more is sent, and goes on reading.
    pub fn say_goodbye(&mut self) -> io::Result<()> {
        self.tls.get_mut().conn.send_close_notify();
        self.tls.get_mut().flush()
    }

    /// How long a read or a write may take at most.
    pub fn patience(&self, span: Duration) {
        let socket = &self.tls.get_ref().sock;
        socket.set_read_timeout(Some(span)).and_then(|()| socket.set_write_timeout(Some(span))).expect("a timeout");
    }

    /// Waits until the peer hangs up, at most `at_most`; true when it did.
    pub fn peer_hangs_up_within(&mut self, at_most: Duration) -> bool {
        let _ = self.tls.get_ref().sock.set_read_timeout(Some(at_most));
        let gone = match self.tls.fill_buf() {
            Ok(bytes) => bytes.is_empty(),
            Err(e) => !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        };
        let _ = self.tls.get_ref().sock.set_read_timeout(None);
        gone
    }

    /// Reads the next request's head; `None` at the connection's end.
    fn head(&mut self) -> io::Result<Option<Received>> {
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            if self.tls.read_until(b'\n', &mut line)? == 0 {
                return Ok(None);
            }
            match String::from_utf8_lossy(&line).trim_end() {
                "" if lines.is_empty() => {}
                "" => break,
                text => lines.push(text.to_owned()),
            }
        }
        let mut first = lines[0].split(' ').map(str::to_owned);
        let mut next = || first.next().unwrap_or_default();
        let headers =
            lines[1..].iter().filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        Ok(Some(Received {
            method: next(),
            target: next(),
            headers,
            common_name: self.common_name.clone(),
            certificate: self.certificate.clone(),
            ..Received::default()
        }))
    }

    fn body(&mut self, received: &mut Received) -> io::Result<()> {
        let mut left = received.header("content-length").and_then(|l| l.parse::<usize>().ok());
        let chunked = received.header("transfer-encoding").is_some();
        loop {
            if chunked {
                let mut size = String::new();
                self.tls.read_line(&mut size)?;
                left = Some(usize::from_str_radix(size.trim(), 16).map_err(|_| io::Error::other("a chunk's size"))?);
            }
            let size = left.unwrap_or(0);
            let mut piece = [0; 16 * 1024];
            let mut remaining = size;
            while remaining > 0 {
                let most = remaining.min(piece.len());
                let n = self.tls.read(&mut piece[..most])?;
                if n == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                remaining -= n;
                received.body_length += n;
                if received.body.len() < 1 << 20 {
                    received.body.extend_from_slice(&piece[..n]);
                }
            }
            if !chunked {
                return Ok(());
            }
            self.tls.read_line(&mut String::new())?;
            if size == 0 {
                return Ok(());
            }
        }
    }
}

/// The running upstream.
pub struct Upstream {
    address: IpAddr,
    port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    tls: Mutex<Arc<ServerConfig>>,
    script: Box<Script>,
    received: Mutex<Vec<Received>>,
    sockets: Mutex<Vec<TcpStream>>,
    open: AtomicUsize,
    stopping: AtomicBool,
}

impl Upstream {
    /// Starts it; `script` answers each request. An error from the script ends the connection.
    pub fn start(
        pki: &Pki,
        script: impl Fn(&Received, &mut Wire) -> io::Result<()> + Send + Sync + 'static,
    ) -> Upstream {
        Upstream::start_at("127.0.0.1", 0, pki, script)
    }

    /// The same at this address of the machine; 0: at any port.
    pub fn start_at(
        address: &str,
        port: u16,
        pki: &Pki,
        script: impl Fn(&Received, &mut Wire) -> io::Result<()> + Send + Sync + 'static,
    ) -> Upstream {
        let shared = Arc::new(Shared {
            tls: Mutex::new(Arc::new(tls(pki, pki))),
            script: Box::new(script),
            received: Mutex::default(),
            sockets: Mutex::default(),
            open: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        });
        let address: IpAddr = address.parse().expect("an address");
        let listener = TcpListener::bind((address, port)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let accepting = Some(accept(listener, Arc::clone(&shared)));
        Upstream { address, port, shared, accepting }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What has been received so far, probes of the link left out.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().expect("received").iter().filter(|r| r.path() != "/readyz").cloned().collect()
    }

    /// From now on it shows a certificate of this CA, and takes clients that have one of it; connections stay.
    pub fn belong_to(&self, pki: &Pki) {
        self.take_clients_of(pki, pki);
    }

    /// The same where clients have certificates of another CA than servers.
    pub fn take_clients_of(&self, clients: &Pki, pki: &Pki) {
        *self.shared.tls.lock().expect("tls") = Arc::new(tls(pki, clients));
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Cuts the cable: connections break, and new ones are refused.
    pub fn cut(&mut self) {
        self.refuse();
        for socket in self.shared.sockets.lock().expect("sockets").drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// New connections are refused; those that are there stay.
    pub fn refuse(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect((self.address, self.port));
        if let Some(accepting) = self.accepting.take() {
            accepting.join().expect("the accepting thread");
        }
    }

    /// Mends the cable: the same port is served again.
    pub fn heal(&mut self) {
        self.shared.stopping.store(false, Ordering::SeqCst);
        let mut bound = None;
        super::eventually("the port can be bound again", || {
            bound = TcpListener::bind((self.address, self.port)).ok();
            bound.is_some()
        });
        self.accepting = bound.map(|listener| accept(listener, Arc::clone(&self.shared)));
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.cut();
    }
}

fn accept(listener: TcpListener, shared: Arc<Shared>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            if shared.stopping.load(Ordering::SeqCst) {
                return;
            }
            if let Ok(copy) = socket.try_clone() {
                shared.sockets.lock().expect("sockets").push(copy);
            }
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                shared.open.fetch_add(1, Ordering::SeqCst);
                // A connection that breaks is the test's own doing.
                let _ = serve(socket, &shared);
                shared.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    })
}

fn serve(socket: TcpStream, shared: &Shared) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let tls = Arc::clone(&shared.tls.lock().expect("tls"));
    let connection = ServerConnection::new(tls).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    let certificate = stream.conn.peer_certificates().and_then(|c| c.first()).map(|c| c.to_vec());
    let common_name = certificate.as_deref().and_then(lite_apiserver::identity::common_name);
    let mut wire = Wire { tls: BufReader::new(stream), common_name, certificate };
    while let Some(mut received) = wire.head()? {
        if received.header("expect").is_some() {
            wire.send("HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        wire.body(&mut received)?;
        shared.received.lock().expect("received").push(received.clone());
        if received.path() == "/readyz" {
            wire.answer(200, "text/plain", "ok")?;
        } else {
            (shared.script)(&received, &mut wire)?;
        }
    }
    Ok(())
}

fn tls(pki: &Pki, clients: &Pki) -> ServerConfig {
    let pair = pki.pair("upstream");
    let chain: Vec<_> = CertificateDer::pem_file_iter(&pair.cert).expect("PEM").map(|c| c.expect("PEM")).collect();
    let key = PrivateKeyDer::from_pem_file(&pair.key).expect("PEM");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(clients.ca()).expect("PEM")).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .expect("a verifier");
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .expect("a certificate")
}
