//! TLS: who the client proved to be, and what it is shown.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::support::*;
use crate::config::VerificationClock;
use crate::front::{Exchange, Server, Tls};

fn name_peer(exchange: Exchange<'_>) -> io::Result<()> {
    let text = match &exchange.peer.certificate {
        None => "nobody".to_owned(),
        Some(der) => format!("{}", der.len()),
    };
    say(exchange, &text)
}

fn ask(server: &Server, config: &Arc<rustls::ClientConfig>) -> io::Result<String> {
    let mut client = Client::connect_with(server.local_addrs()[0], Arc::clone(config))?;
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    Ok(client.reply()?.text().to_owned())
}

#[test]
fn client_certificates() {
    let server = serve(name_peer);
    assert_eq!(ask(&server, &client_config(None)).unwrap(), "nobody");
    let known = pki().authority.issue("kubelet", ClientAuth);
    let length = CertificateDer::from_pem_slice(known.certificate.as_bytes()).unwrap().len();
    let config = client_config(Some(&known));
    assert_eq!(ask(&server, &config).unwrap(), length.to_string());
    assert_eq!(ask(&server, &config).unwrap(), length.to_string(), "a resumed session is the same client's");
    for stranger in
        [Authority::new("test CA").issue("kubelet", ClientAuth), pki().authority.issue("kubelet", ServerAuth)]
    {
        let error = ask(&server, &client_config(Some(&stranger))).unwrap_err();
        assert!(error.to_string().contains("received fatal alert"), "{error}");
    }
    eventually("both are counted", || server.counters().tls_failures.load(Relaxed) == 2);
    assert_eq!(server.counters().requests.load(Relaxed), 3);
}

#[test]
fn sessions_are_resumed_until_the_configuration_changes() {
    let pki = pki();
    let certificates = certificates(&pki.server, Some(&pki.authority.pem));
    let tls = Arc::new(Tls::new(&certificates, VerificationClock::new(SystemTime::now)).unwrap());
    let server = Server::bind(options()).unwrap().serve(Arc::clone(&tls), handler(name_peer)).unwrap();
    let config = client_config(None);
    let handshake = || {
        let mut client = Client::connect_with(server.local_addrs()[0], Arc::clone(&config)).unwrap();
        client.get("/");
        client.stream.conn.handshake_kind().unwrap()
    };
    assert_eq!(handshake(), rustls::HandshakeKind::Full);
    assert_eq!(handshake(), rustls::HandshakeKind::Resumed);
    tls.replace(&certificates).unwrap();
    assert_eq!(handshake(), rustls::HandshakeKind::Resumed, "these very certificates are in use already");
    let mut changed = certificates.clone();
    changed.client_roots = self::certificates(&pki.server, Some(&pki.authority.pem)).client_roots;
    tls.replace(&changed).unwrap();
    assert_eq!(handshake(), rustls::HandshakeKind::Full);
}

#[test]
fn certificates_are_replaced_while_connections_stay() {
    let pki = pki();
    let tls = tls_of(&pki.server, None, SystemTime::now);
    let server = Server::bind(options()).unwrap().serve(Arc::clone(&tls), handler(name_peer)).unwrap();
    let shown = |client: &Client| client.stream.conn.peer_certificates().unwrap()[0].to_vec();
    let mut old = Client::connect(&server);
    old.get("/");
    let next = pki.authority.issue("server", ServerAuth);
    tls.replace(&certificates(&next, None)).unwrap();
    let new = Client::connect(&server);
    assert_ne!(shown(&old), shown(&new));
    assert_eq!(shown(&new), CertificateDer::from_pem_slice(next.certificate.as_bytes()).unwrap().to_vec());
    old.get("/");
}

#[test]
fn client_certificates_are_judged_at_the_time_given() {
    let pki = pki();
    // rcgen's certificates end in the year 4096.
    let late = || SystemTime::UNIX_EPOCH + Duration::from_secs(3000 * 366 * 24 * 3600);
    let tls = tls_of(&pki.server, Some(&pki.authority.pem), late);
    let server = Server::bind(options()).unwrap().serve(tls, handler(name_peer)).unwrap();
    assert!(ask(&server, &client_config(Some(&pki.authority.issue("kubelet", ClientAuth)))).is_err());
    assert_eq!(ask(&server, &client_config(None)).unwrap(), "nobody");
}

#[test]
fn tls_1_2_and_alpn() {
    let server = serve(name_peer);
    let mut config = (*client_config(None)).clone();
    for offered in [&["h2", "http/1.1"][..], &["http/1.1"], &["http/1.0"]] {
        config.alpn_protocols = offered.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let mut client = Client::connect_with(server.local_addrs()[0], Arc::new(config.clone())).unwrap();
        client.get("/");
        assert_eq!(client.stream.conn.alpn_protocol(), offered.last().map(|protocol| protocol.as_bytes()));
    }
    config.alpn_protocols = vec![b"h2".to_vec()];
    assert!(ask(&server, &Arc::new(config)).is_err());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki().authority.pem.as_bytes()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    assert_eq!(ask(&server, &Arc::new(config)).unwrap(), "nobody");
}

#[test]
fn plain_http_is_told_so_as_go_does() {
    use std::io::{Read as _, Write as _};
    let server = serve(name_peer);
    let mut socket = TcpStream::connect(server.local_addrs()[0]).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n");
    eventually("it is counted", || server.counters().tls_failures.load(Relaxed) == 1);
}
