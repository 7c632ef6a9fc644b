//! A TLS server on loopback for the tests of this room: each connection has a thread that reads heads and plays a script.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::config::{Certificates, UpstreamConfig, VerificationClock};
use crate::upstream::Upstream;

pub(super) type Tls = StreamOwned<ServerConnection, TcpStream>;

/// A CA.
pub(super) struct Pki {
    issuer: Issuer<'static, KeyPair>,
    ca: rcgen::Certificate,
}

impl Pki {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), ca }
    }

    fn issue(&self, common_name: &str) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// The CA, and a key pair for clients of each of these names.
    pub(super) fn certificates(&self, names: &[&str]) -> Certificates {
        let pem = |name: &&str| {
            let (certificate, key) = self.issue(name);
            (certificate.pem(), key.serialize_pem())
        };
        let pairs: Vec<_> = names.iter().map(pem).collect();
        let (certificate, key) = pem(&"serving");
        Certificates::of_pem((&certificate, &key), None, Some(&self.ca.pem()), &pairs)
    }

    /// An upstream at this port of loopback, and key pairs of these names.
    pub(super) fn upstream(&self, port: u16, names: &[&str]) -> Upstream {
        let clock = VerificationClock::new(std::time::SystemTime::now);
        Upstream::new(&Pki::config(port), &self.certificates(names), clock).unwrap()
    }

    /// A server's configuration; client certificates are required with `mutual`.
    pub(super) fn server(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        mutual: bool,
    ) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (cert, key) = self.issue("upstream");
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions).unwrap();
        let builder = if mutual {
            let mut roots = RootCertStore::empty();
            roots.add(self.ca.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        Arc::new(builder.with_single_cert(vec![cert.der().clone()], key).unwrap())
    }

    /// The configuration of an upstream at this port of loopback.
    pub(super) fn config(port: u16) -> UpstreamConfig {
        UpstreamConfig::at("127.0.0.1", port)
    }
}

/// One request, its head read; the script answers on `tls`.
pub(super) struct Exchange<'a> {
    /// 1 for the first connection that is not a probe's, and so on.
    pub(super) connection: usize,
    pub(super) head: String,
    pub(super) tls: &'a mut Tls,
}

impl Exchange<'_> {
    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.tls.write_all(bytes.as_ref()).and_then(|()| self.tls.flush());
    }

    /// Blocks until the client closes the connection.
    pub(super) fn wait_for_close(&mut self) {
        let _ = io::copy(self.tls, &mut io::sink());
    }
}

/// What becomes of a connection after an exchange.
pub(super) enum Then {
    Next,
    /// `close_notify`, then the end.
    Close,
    /// The end, without a word.
    Cut,
}

/// The server. Its accepting thread ends with it; those of connections end with their connections.
pub(super) struct StandIn {
    pub(super) port: u16,
    /// The status that probes get; 0: none, ever.
    pub(super) ready: Arc<AtomicU16>,
    stop: Arc<AtomicBool>,
    accepting: Option<std::thread::JoinHandle<()>>,
}

impl StandIn {
    pub(super) fn start(
        tls: Arc<ServerConfig>,
        script: impl Fn(&mut Exchange<'_>) -> Then + Send + Sync + 'static,
    ) -> Self {
        Self::start_at(0, tls, script)
    }

    /// At this port, if it is not 0.
    pub(super) fn start_at(
        port: u16,
        tls: Arc<ServerConfig>,
        script: impl Fn(&mut Exchange<'_>) -> Then + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (ready, stop) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicBool::new(false)));
        let (answer, stopped, script) = (Arc::clone(&ready), Arc::clone(&stop), Arc::new(script));
        let connections = Arc::new(Mutex::new(0));
        let accepting = std::thread::spawn(move || {
            for socket in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let socket = socket.unwrap();
                socket.set_nodelay(true).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                let connection = StreamOwned::new(ServerConnection::new(Arc::clone(&tls)).unwrap(), socket);
                let (script, answer, connections) =
                    (Arc::clone(&script), Arc::clone(&answer), Arc::clone(&connections));
                std::thread::spawn(move || serve(connection, &*script, &answer, &connections));
            }
        });
        Self { port, ready, stop, accepting: Some(accepting) }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        self.accepting.take().unwrap().join().unwrap();
    }
}

fn serve(mut tls: Tls, script: &dyn Fn(&mut Exchange<'_>) -> Then, ready: &AtomicU16, connections: &Mutex<usize>) {
    let mut number = None;
    while let Some(head) = read_head(&mut tls) {
        if head.contains("/readyz HTTP/1.1\r\n") {
            let status = ready.load(Ordering::SeqCst);
            if status == 0 {
                let _ = io::copy(&mut tls, &mut io::sink());
                return;
            }
            let _ = write!(tls, "HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            return;
        }
        let connection = *number.get_or_insert_with(|| {
            let mut connections = connections.lock().unwrap();
            *connections += 1;
            *connections
        });
        match script(&mut Exchange { connection, head, tls: &mut tls }) {
            Then::Next => {}
            Then::Close => {
                tls.conn.send_close_notify();
                let _ = tls.flush();
                return;
            }
            Then::Cut => return,
        }
    }
}

fn read_head(tls: &mut Tls) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if tls.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// Counts the bytes of a chunked body up to its end.
pub(super) fn read_chunked(tls: &mut Tls) -> io::Result<u64> {
    let mut total = 0;
    loop {
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\r\n") {
            tls.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        let size = u64::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        io::copy(&mut tls.take(size), &mut io::sink())?;
        tls.read_exact(&mut [0; 2])?;
        total += size;
        if size == 0 {
            return Ok(total);
        }
    }
}
