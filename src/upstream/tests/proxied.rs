//! An HTTP proxy on the way.

use super::*;
use crate::config::ProxyConfig;
use std::io::{BufRead, BufReader, Write};

/// A proxy that notes each request's head, answers with `answer` and, if that begins so, passes bytes to the server that
/// was asked for.
fn proxy(answer: &'static str) -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (heads, seen) = mpsc::channel();
    std::thread::spawn(move || {
        for client in listener.incoming().map(Result::unwrap) {
            let mut lines = BufReader::new(client.try_clone().unwrap()).lines().map(Result::unwrap);
            let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
            let to = head[0].split(' ').nth(1).unwrap().to_owned();
            if heads.send(head.join("\n")).is_err() {
                return;
            }
            (&client).write_all(answer.as_bytes()).unwrap();
            if answer.starts_with("HTTP/1.1 200") {
                let server = TcpStream::connect(to).unwrap();
                let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || io::copy(&mut up, &mut &server));
                std::thread::spawn(move || io::copy(&mut down, &mut &client));
            }
        }
    });
    (port, seen)
}

fn upstream(pki: &Pki, port: u16, proxy: u16) -> Upstream {
    let mut config = Pki::config(port);
    let authorization = Some("Basic bWU6c2VjcmV0".to_owned());
    config.servers[0].proxy = Some(ProxyConfig { host: "127.0.0.1".into(), port: proxy, authorization });
    Upstream::new(&config, &pki.certificates(&[]), VerificationClock::new(SystemTime::now)).unwrap()
}

#[test]
fn a_proxy_is_asked_to_connect_and_never_sees_what_is_inside() {
    let pki = Pki::new();
    let server = StandIn::start(pki.server(ALL_VERSIONS, false), number);
    let (proxy, heads) = proxy("HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n");
    let scene = Scene { upstream: upstream(&pki, server.port, proxy), server };
    assert_eq!(scene.get().unwrap(), b"1");
    let head = heads.recv_timeout(LONG).unwrap();
    let expected = format!("CONNECT 127.0.0.1:{0} HTTP/1.1\nHost: 127.0.0.1:{0}\n", scene.server.port);
    assert!(head.starts_with(&expected), "{head}");
    assert!(head.ends_with("\nProxy-Authorization: Basic bWU6c2VjcmV0"), "{head}");
}

#[test]
fn a_proxy_that_refuses_is_named_with_its_words() {
    let pki = Pki::new();
    for (answer, words) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 3\r\n\r\nno!",
            "answered 407 Proxy Authentication Required",
        ),
        ("HTTP/1.0 502 Bad\r\n\r\n", "answered 502 Bad"),
        ("SSH-2.0-x\r\n\r\n", "the answer is not HTTP"),
    ] {
        let (port, heads) = proxy(answer);
        let upstream = upstream(&pki, 1, port);
        match upstream.fetch(&upstream.known(), &Credentials::None, request("GET", "/")) {
            Err(FetchError::Unreachable(why)) => assert_eq!(why, format!("proxy 127.0.0.1:{port}: {words}")),
            other => panic!("{:?}", other.map(|a| a.status)),
        }
        assert!(is_down(upstream.link().state()));
        drop(heads);
    }
}
