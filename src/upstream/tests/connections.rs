//! Connections: kept, given up, and whose they are.

use super::*;

#[test]
fn a_connection_is_used_again_after_a_whole_answer_of_any_kind() {
    let scene = scene(|exchange| {
        if exchange.head.starts_with("GET") {
            return number(exchange);
        }
        exchange.send(match exchange.head.split(' ').next() {
            Some("HEAD") => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
            Some("PUT") => "HTTP/1.1 204 No Content\r\n\r\n",
            Some("POST") => "HTTP/1.1 304 Not Modified\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        });
        Then::Next
    });
    for (method, body) in [("HEAD", ""), ("PUT", ""), ("POST", ""), ("DELETE", "abc"), ("HEAD", "")] {
        let mut whole = String::new();
        scene.send(method).unwrap().body.read_to_string(&mut whole).unwrap();
        assert_eq!(whole, body, "{method}");
        assert_eq!(scene.get().unwrap(), b"1", "{method}");
    }
}

#[test]
fn what_tls_says_after_the_handshake_does_not_close_an_idle_connection() {
    let scene = scene(|exchange| {
        let then = number(exchange);
        std::thread::sleep(Duration::from_millis(100));
        // Late, like a session ticket; the connection is in the pool by now.
        exchange.tls.conn.refresh_traffic_keys().unwrap();
        exchange.send("");
        then
    });
    for _ in 0..3 {
        assert_eq!(scene.get().unwrap(), b"1");
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn an_answer_that_is_dropped_half_read_takes_its_connection_with_it() {
    let (closed, seen) = mpsc::channel();
    let scene = scene(move |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc");
        exchange.wait_for_close();
        closed.send(()).unwrap();
        Then::Cut
    });
    let mut answer = scene.send("GET").unwrap();
    answer.body.read_exact(&mut [0; 3]).unwrap();
    drop(answer);
    seen.recv_timeout(LONG).unwrap();
}

#[test]
fn a_connection_that_the_server_closed_while_idle_is_not_used() {
    for script in [|e: &mut Exchange<'_>| (number(e), Then::Close).1, |e: &mut Exchange<'_>| (number(e), Then::Cut).1] {
        let scene = scene(script);
        assert_eq!(scene.get().unwrap(), b"1");
        std::thread::sleep(Duration::from_millis(300));
        // Not even a request that may not be repeated fails.
        let mut whole = String::new();
        scene.send("POST").unwrap().body.read_to_string(&mut whole).unwrap();
        assert_eq!(whole, "2");
    }
}

#[test]
fn a_get_on_a_connection_that_is_just_being_closed_is_repeated_and_a_write_is_not() {
    let first = AtomicUsize::new(0);
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let scene = scene(move |exchange| {
        count.fetch_add(1, Ordering::SeqCst);
        // Each connection takes one request; the second is read and not answered: what the client sees of a close that
        // crosses its request.
        if first.swap(exchange.connection, Ordering::SeqCst) == exchange.connection {
            Then::Close
        } else {
            number(exchange)
        }
    });
    assert_eq!(scene.get().unwrap(), b"1");
    assert_eq!(scene.get().unwrap(), b"2");
    assert_eq!(requests.load(Ordering::SeqCst), 3);
    for method in ["POST", "DELETE", "PUT", "PATCH"] {
        match scene.send(method) {
            Err(FetchError::Broken(why)) => assert_eq!(why, "connection closed", "{method}"),
            other => panic!("{method}: {:?}", other.map(|a| a.status)),
        }
        scene.get().unwrap();
    }
    assert_eq!(requests.load(Ordering::SeqCst), 11);
}

#[test]
fn one_stale_connection_makes_all_of_the_pool_suspect() {
    const OLD: usize = 3;
    let together = std::sync::Barrier::new(OLD);
    let seen = AtomicUsize::new(0);
    let scene = scene(move |exchange| {
        if exchange.connection > OLD {
            exchange.send(format!("HTTP/1.1 204 No Content\r\nX-Connection: {}\r\n\r\n", exchange.connection));
            return Then::Next;
        }
        if seen.fetch_add(1, Ordering::SeqCst) >= OLD {
            return Then::Cut;
        }
        together.wait();
        number(exchange)
    });
    std::thread::scope(|threads| {
        for _ in 0..OLD {
            threads.spawn(|| scene.get().unwrap());
        }
    });
    // Its single repetition must not meet the next stale one; and the fresh connection is kept, as always.
    for _ in 0..2 {
        let answer = scene.send("GET").unwrap();
        assert_eq!((answer.status, answer.headers[0].1.as_slice()), (204, &b"4"[..]));
    }
}

#[test]
fn a_fresh_connection_that_breaks_is_no_leftover_and_nothing_is_repeated() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let scene = scene(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Then::Close
    });
    assert!(matches!(scene.send("GET").map(|a| a.status), Err(FetchError::Broken(_))));
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[test]
fn certificates_go_up_per_identity_and_never_for_others() {
    let pki = Pki::new();
    let server = StandIn::start(pki.server(ALL_VERSIONS, true), |exchange| {
        let certificate = exchange.tls.conn.peer_certificates().unwrap()[0].clone();
        exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", certificate.len()));
        exchange.send(certificate);
        Then::Next
    });
    let pairs = vec![pki.pair("one"), pki.pair("two")];
    let upstream = Upstream::new(&UpstreamConfig { pairs, ..pki.config(server.port) }).unwrap();
    for (name, other) in [("one", "two"), ("two", "one"), ("one", "two")] {
        let mut answer = upstream.fetch(&Credentials::Certificate(name.into()), request("GET", "/")).unwrap();
        let mut certificate = Vec::new();
        answer.body.read_to_end(&mut certificate).unwrap();
        assert!(
            certificate.windows(3).any(|w| w == name.as_bytes())
                && !certificate.windows(3).any(|w| w == other.as_bytes())
        );
    }
    match upstream.fetch(&Credentials::None, request("GET", "/")) {
        Err(FetchError::Unreachable(why)) => {
            assert!(why.starts_with("our certificate was refused"), "{why}");
        }
        other => panic!("{:?}", other.map(|a| a.status)),
    }
    // That is one identity's trouble: the link is there, and the others are served.
    std::thread::sleep(Duration::from_millis(300));
    assert!(!is_down(upstream.link().state()));
    upstream.fetch(&Credentials::Certificate("one".into()), request("GET", "/")).unwrap();
}

#[test]
fn tls_1_2_will_do_and_insecure_trusts_anyone() {
    let (pki, other) = (Pki::new(), Pki::new());
    let server = StandIn::start(other.server(&[&rustls::version::TLS12], false), number);
    let config = UpstreamConfig { insecure: true, ca_file: None, ..pki.config(server.port) };
    let upstream = Upstream::new(&config).unwrap();
    assert_eq!(upstream.fetch(&Credentials::None, request("GET", "/")).unwrap().status, 200);
    let (socket, tls) = upstream.dial(&Credentials::None, None).unwrap();
    assert_eq!(tls.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
    assert!(socket.nodelay().unwrap());
}

#[test]
fn bad_files_are_named_at_start() {
    let pki = Pki::new();
    let missing = pki.file("none.pem");
    let mut pair = pki.pair("one");
    spoil(&pair.key);
    let table = [
        (UpstreamConfig { ca_file: Some(missing), ..pki.config(1) }, "none.pem"),
        (UpstreamConfig { ca_file: None, ..pki.config(1) }, "--insecure"),
        (UpstreamConfig { pairs: vec![pair.clone()], ..pki.config(1) }, "one.key: holds no PEM private key"),
        (UpstreamConfig { host: "a b".into(), ..pki.config(1) }, "a b"),
        (UpstreamConfig { tls_server_name: Some("c d".into()), ..pki.config(1) }, "c d"),
    ];
    for (config, word) in table {
        let words = Upstream::new(&config).err().unwrap().to_string();
        assert!(words.contains(word), "{words}");
    }
    pair.key = pki.pair("two").key;
    let words = Upstream::new(&UpstreamConfig { pairs: vec![pair], ..pki.config(1) }).err().unwrap().to_string();
    assert!(words.contains("one.pem and its key"), "{words}");
}
