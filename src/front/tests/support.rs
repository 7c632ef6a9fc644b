//! Certificates made on the spot, a server with the handler that a test brings, and a client that hides nothing.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::config::{Certificates, VerificationClock};
use crate::front::{Exchange, Handler, Server, ServerOptions, Tls};

/// Longer than anything takes on a busy machine; a test that waits so long has failed.
pub(super) const LONG: Duration = Duration::from_secs(20);

pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) pem: String,
}

pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(super) fn issue(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> Pair {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }
}

/// What all tests share; making keys takes a while in debug builds.
pub(super) struct Pki {
    pub(super) authority: Authority,
    pub(super) server: Pair,
}

pub(super) fn pki() -> &'static Pki {
    static PKI: OnceLock<Pki> = OnceLock::new();
    PKI.get_or_init(|| {
        let authority = Authority::new("test CA");
        let server = authority.issue("server", ExtendedKeyUsagePurpose::ServerAuth);
        Pki { authority, server }
    })
}

pub(super) fn certificates(pair: &Pair, client_ca: Option<&str>) -> Certificates {
    Certificates::of_pem((&pair.certificate, &pair.key), client_ca, None, &[])
}

/// TLS with the client certificates judged at the time that the clock tells.
pub(super) fn tls_of(pair: &Pair, client_ca: Option<&str>, clock: fn() -> SystemTime) -> Arc<Tls> {
    Arc::new(Tls::new(&certificates(pair, client_ca), VerificationClock::new(clock)).unwrap())
}

struct Closure<F>(F);

impl<F: Fn(Exchange<'_>) -> io::Result<()> + Send + Sync + 'static> Handler for Closure<F> {
    fn handle(&self, exchange: Exchange<'_>) -> io::Result<()> {
        (self.0)(exchange)
    }
}

pub(super) fn handler<F>(handle: F) -> Arc<dyn Handler>
where
    F: Fn(Exchange<'_>) -> io::Result<()> + Send + Sync + 'static,
{
    Arc::new(Closure(handle))
}

pub(super) fn options() -> ServerOptions {
    ServerOptions {
        addresses: vec!["127.0.0.1:0".parse().unwrap()],
        max_connections: 64,
        handshake_timeout: LONG,
        head_timeout: LONG,
        idle_timeout: LONG,
        stall_timeout: LONG,
    }
}

pub(super) fn tls() -> Arc<Tls> {
    let pki = pki();
    tls_of(&pki.server, Some(&pki.authority.pem), SystemTime::now)
}

pub(super) fn serve_with<F>(options: &ServerOptions, handle: F) -> Server
where
    F: Fn(Exchange<'_>) -> io::Result<()> + Send + Sync + 'static,
{
    Server::bind(options.clone()).unwrap().serve(tls(), handler(handle)).unwrap()
}

pub(super) fn serve<F>(handle: F) -> Server
where
    F: Fn(Exchange<'_>) -> io::Result<()> + Send + Sync + 'static,
{
    serve_with(&options(), handle)
}

pub(super) fn client_config(pair: Option<&Pair>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki().authority.pem.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match pair {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    })
}

/// A socket that remembers the raw bytes that were read from it.
pub(super) struct Tap {
    pub(super) socket: TcpStream,
    pub(super) seen: Vec<u8>,
}

impl Read for Tap {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.socket.read(buffer)?;
        self.seen.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

impl Write for Tap {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.socket.write(data)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

pub(super) struct Client {
    pub(super) stream: rustls::StreamOwned<ClientConnection, Tap>,
}

/// One answer as it came.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The `reason` of a Status.
    pub(super) fn reason(&self) -> String {
        let status: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(status["code"], self.status);
        status["reason"].as_str().unwrap().to_owned()
    }
}

impl Client {
    pub(super) fn connect(server: &Server) -> Self {
        Self::connect_with(server.local_addrs()[0], client_config(None)).unwrap()
    }

    /// Connects and finishes the handshake as the client sees it; a TLS 1.3 server may still refuse afterwards.
    pub(super) fn connect_with(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(LONG))?;
        socket.set_write_timeout(Some(LONG))?;
        socket.set_nodelay(true)?;
        let tls = ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
        let mut stream = rustls::StreamOwned::new(tls, Tap { socket, seen: Vec::new() });
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self { stream })
    }

    pub(super) fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
        self.stream.flush().unwrap();
    }

    pub(super) fn get(&mut self, target: &str) -> Reply {
        self.send(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        self.reply().unwrap()
    }

    /// Everything up to the blank line, which is included.
    pub(super) fn head(&mut self) -> io::Result<String> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if self.stream.read(&mut byte)? == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    String::from_utf8_lossy(&head).into_owned(),
                ));
            }
            head.push(byte[0]);
        }
        Ok(String::from_utf8(head).unwrap())
    }

    /// One whole answer to anything but HEAD.
    pub(super) fn reply(&mut self) -> io::Result<Reply> {
        let mut reply = self.bodiless_reply()?;
        if reply.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(&self.line()?, 16).unwrap();
                let chunk = self.exactly(size)?;
                assert_eq!(self.line()?, "");
                if size == 0 {
                    return Ok(reply);
                }
                reply.body.extend_from_slice(&chunk);
            }
        }
        match reply.header("content-length") {
            Some(length) => reply.body = self.exactly(length.parse().unwrap())?,
            None if reply.status == 204 || reply.status == 304 => {}
            None => {
                self.stream.read_to_end(&mut reply.body)?;
            }
        }
        Ok(reply)
    }

    pub(super) fn bodiless_reply(&mut self) -> io::Result<Reply> {
        let head = self.head()?;
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap();
        let headers = lines
            .map(|line| {
                let (name, value) = line.split_once(": ").unwrap();
                (name.to_ascii_lowercase(), value.to_owned())
            })
            .collect();
        Ok(Reply { status, headers, body: Vec::new() })
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(self.exactly(1)?);
        }
        line.truncate(line.len() - 2);
        Ok(String::from_utf8(line).unwrap())
    }

    pub(super) fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }

    /// What comes after the last answer: nothing and TLS' goodbye, else an error.
    pub(super) fn goodbye(&mut self) -> io::Result<()> {
        match self.stream.read(&mut [0; 64])? {
            0 => Ok(()),
            count => panic!("{count} bytes more"),
        }
    }
}

/// Bodies of TLS records of application data among raw bytes, by their lengths on the wire.
pub(super) fn records(mut raw: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    while let [kind, _, _, high, low, rest @ ..] = raw {
        let length = usize::from(*high) << 8 | usize::from(*low);
        if *kind == 23 {
            lengths.push(length);
        }
        raw = &rest[length..];
    }
    lengths
}

/// Answers 200 with the text.
pub(super) fn say(exchange: Exchange<'_>, text: &str) -> io::Result<()> {
    use crate::front::BodyLength;
    let mut body = exchange.respond(200, &[("Content-Type", b"text/plain")], BodyLength::Exact(text.len() as u64))?;
    body.write_all(text.as_bytes())?;
    body.finish()
}

pub(super) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONG, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A gate that a handler waits before.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<(Mutex<bool>, std::sync::Condvar)>);

impl Gate {
    pub(super) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    pub(super) fn pass(&self) {
        let (state, timeout) = self.0.1.wait_timeout_while(self.0.0.lock().unwrap(), LONG, |open| !*open).unwrap();
        drop(state);
        assert!(!timeout.timed_out(), "the gate stayed shut");
    }
}
