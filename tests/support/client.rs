//! A client on a raw socket: sends what it is told, reads one answer at a time.

use super::pki::{Pair, Pki};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// One connection to the proxy.
pub struct Client {
    tls: BufReader<StreamOwned<ClientConnection, TcpStream>>,
}

/// An answer's head.
#[derive(Debug, Clone, Default)]
pub struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

/// A whole answer.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub head: Head,
    pub body: Vec<u8>,
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

impl Reply {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

/// The TLS side of clients: the proxy's CA, and a client certificate or none.
pub fn tls(ca: &Path, pair: Option<&Pair>) -> Arc<ClientConfig> {
    tls_of(&std::fs::read_to_string(ca).expect("a CA"), pair.map(Pair::texts).as_ref())
}

/// The same with the CAs, and a certificate and its key, as PEM texts.
pub fn tls_of(ca: &str, pair: Option<&(String, String)>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(ca.expect("PEM")).expect("a CA");
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    Arc::new(match pair {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).map(|c| c.expect("PEM")).collect();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(chain, key).expect("a pair")
        }
    })
}

impl Read for Client {
    /// What is no HTTP any more.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tls.read(buffer)
    }
}

impl Client {
    /// Connects to the proxy with a client certificate of this CN, or none.
    pub fn connect(port: u16, pki: &Pki, cn: Option<&str>) -> Client {
        Client::try_connect(port, &tls(&pki.ca(), cn.map(|cn| pki.pair(cn)).as_ref())).expect("connected")
    }

    pub fn try_connect(port: u16, tls: &Arc<ClientConfig>) -> io::Result<Client> {
        Client::try_connect_to(SocketAddr::from(([127, 0, 0, 1], port)), tls, Duration::from_secs(30))
    }

    /// Connects to whatever has a certificate for 127.0.0.1; no wait is longer than `patience`.
    pub fn try_connect_to(address: SocketAddr, tls: &Arc<ClientConfig>, patience: Duration) -> io::Result<Client> {
        Client::connect_as(address, tls, ServerName::try_from("127.0.0.1").expect("a name"), patience)
    }

    /// Connects to whatever has a certificate for this name.
    pub fn try_connect_as(
        address: SocketAddr,
        tls: &Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Client> {
        Client::connect_as(address, tls, name, Duration::from_secs(30))
    }

    fn connect_as(
        address: SocketAddr,
        tls: &Arc<ClientConfig>,
        name: ServerName<'static>,
        patience: Duration,
    ) -> io::Result<Client> {
        let socket = TcpStream::connect_timeout(&address, patience)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(patience))?;
        let connection = ClientConnection::new(Arc::clone(tls), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Client { tls: BufReader::new(stream) })
    }

    /// The bare connection; nothing may have been read from it.
    pub fn into_stream(self) -> impl Read + Write {
        self.tls.into_inner()
    }

    /// The socket, so that somebody else can end it.
    pub fn socket(&self) -> TcpStream {
        self.tls.get_ref().sock.try_clone().expect("a descriptor")
    }

    /// Says that nothing more is sent, and goes on reading.
    pub fn say_goodbye(&mut self) {
        self.tls.get_mut().conn.send_close_notify();
        self.tls.get_mut().flush().expect("sent");
    }

    /// Resets the connection, as the kernel does for a process that is killed before it has read all.
    pub fn die(self) {
        rustix::net::sockopt::set_socket_linger(&self.tls.get_ref().sock, Some(Duration::ZERO)).expect("set");
    }

    /// How long a read or a write may take at most.
    pub fn patience(&self, span: Duration) {
        let socket = &self.tls.get_ref().sock;
        socket.set_read_timeout(Some(span)).and_then(|()| socket.set_write_timeout(Some(span))).expect("a timeout");
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("sent");
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.tls.get_mut().write_all(bytes.as_ref())?;
        self.tls.get_mut().flush()
    }

    /// Sends a request without a body, with these further header lines.
    pub fn request(&mut self, method: &str, target: &str, headers: &[&str]) {
        let lines: String = headers.iter().map(|h| format!("{h}\r\n")).collect();
        self.send(format!("{method} {target} HTTP/1.1\r\nHost: h\r\n{lines}\r\n"));
    }

    pub fn get(&mut self, target: &str) -> Reply {
        self.get_with(target, &[])
    }

    pub fn get_with(&mut self, target: &str, headers: &[&str]) -> Reply {
        self.request("GET", target, headers);
        self.reply().expect("an answer")
    }

    /// The same where it may fail.
    pub fn try_get(&mut self, target: &str) -> io::Result<Reply> {
        self.try_send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"))?;
        self.reply()
    }

    /// Sends a request with a body and reads the answer.
    pub fn write(&mut self, method: &str, target: &str, headers: &[&str], body: &str) -> Reply {
        let lines: String = headers.iter().map(|h| format!("{h}\r\n")).collect();
        self.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n{lines}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        self.reply().expect("an answer")
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.tls.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// The next answer's head; 100 is an answer of its own.
    pub fn head(&mut self) -> io::Result<Head> {
        let first = self.line()?;
        let status =
            first.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| io::Error::other(first.clone()))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Head { status, headers });
            }
            let (name, value) = line.split_once(": ").ok_or_else(|| io::Error::other(line.clone()))?;
            headers.push((name.to_owned(), value.to_owned()));
        }
    }

    /// The next chunk of a chunked body; empty at its end.
    pub fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let size = self.line()?;
        let size = usize::from_str_radix(&size, 16).map_err(|_| io::Error::other(size))?;
        let mut bytes = vec![0; size + 2];
        self.tls.read_exact(&mut bytes)?;
        bytes.truncate(size);
        Ok(bytes)
    }

    /// A whole answer; an error where its body is torn.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let head = self.head()?;
        let body = self.body(&head)?;
        Ok(Reply { head, body })
    }

    /// The body that follows this head; an error where it is torn.
    pub fn body(&mut self, head: &Head) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if matches!(head.status, 204 | 304) {
            return Ok(body);
        }
        if let Some(length) = head.header("content-length") {
            body = vec![0; length.parse().map_err(io::Error::other)?];
            self.tls.read_exact(&mut body)?;
        } else if head.header("transfer-encoding").is_some() {
            loop {
                let chunk = self.chunk()?;
                if chunk.is_empty() {
                    break;
                }
                body.extend_from_slice(&chunk);
            }
        }
        Ok(body)
    }

    /// The next event of a watch, as JSON; `None` where the watch has ended cleanly.
    pub fn event(&mut self, buffer: &mut Vec<u8>) -> io::Result<Option<serde_json::Value>> {
        loop {
            if let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(io::Error::other);
            }
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Ok(None);
            }
            buffer.extend_from_slice(&chunk);
        }
    }

    /// The certificate that the proxy showed, DER.
    pub fn shown(&self) -> Vec<u8> {
        self.tls.get_ref().conn.peer_certificates().expect("a certificate")[0].to_vec()
    }

    /// Whether the connection has been ended from the other side.
    pub fn is_ended(&mut self) -> bool {
        self.tls.fill_buf().is_ok_and(<[u8]>::is_empty)
    }
}
