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
    let upstream = pki.upstream(server.port, &["one", "two"]);
    for (name, other) in [("one", "two"), ("two", "one"), ("one", "two")] {
        let mut answer =
            upstream.fetch(&upstream.known(), &Credentials::Certificate(name.into()), request("GET", "/")).unwrap();
        let mut certificate = Vec::new();
        answer.body.read_to_end(&mut certificate).unwrap();
        assert!(
            certificate.windows(3).any(|w| w == name.as_bytes())
                && !certificate.windows(3).any(|w| w == other.as_bytes())
        );
    }
    match upstream.fetch(&upstream.known(), &Credentials::None, request("GET", "/")) {
        Err(FetchError::Unreachable(why)) => {
            assert!(why.starts_with("our certificate was refused"), "{why}");
        }
        other => panic!("{:?}", other.map(|a| a.status)),
    }
    // That is one identity's trouble: the link is there, and the others are served.
    std::thread::sleep(Duration::from_millis(300));
    assert!(!is_down(upstream.link().state()));
    upstream.fetch(&upstream.known(), &Credentials::Certificate("one".into()), request("GET", "/")).unwrap();
}

#[test]
fn tls_1_2_will_do_and_insecure_trusts_anyone() {
    let (pki, other) = (Pki::new(), Pki::new());
    let server = StandIn::start(other.server(&[&rustls::version::TLS12], false), number);
    let config = UpstreamConfig { insecure: true, ..Pki::config(server.port) };
    let upstream = Upstream::new(&config, &pki.certificates(&[]), VerificationClock::new(SystemTime::now)).unwrap();
    assert_eq!(upstream.fetch(&upstream.known(), &Credentials::None, request("GET", "/")).unwrap().status, 200);
    let until = Epoch::new().unwrap();
    let waits = Waits { client: None, until: &until, stop: None };
    let (socket, tls) = upstream.dial(&upstream.known(), &Credentials::None, &waits).unwrap();
    assert_eq!(tls.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
    assert!(socket.nodelay().unwrap());
}

#[test]
fn what_cannot_be_used_is_named_at_start() {
    let pki = Pki::new();
    let mut without = pki.certificates(&[]);
    without.upstream_roots = None;
    let table = [
        (Pki::config(1), without, "--insecure"),
        (UpstreamConfig { host: "a b".into(), ..Pki::config(1) }, pki.certificates(&[]), "a b"),
        (UpstreamConfig { tls_server_name: Some("c d".into()), ..Pki::config(1) }, pki.certificates(&[]), "c d"),
    ];
    for (config, certificates, word) in table {
        let clock = VerificationClock::new(SystemTime::now);
        let words = Upstream::new(&config, &certificates, clock).err().unwrap().to_string();
        assert!(words.contains(word), "{words}");
    }
}

#[test]
fn new_certificates_are_for_new_connections_and_old_ones_go_on() {
    let pki = Pki::new();
    let released = Arc::new(std::sync::Barrier::new(2));
    let gate = Arc::clone(&released);
    let server = StandIn::start(pki.server(ALL_VERSIONS, true), move |exchange| {
        if exchange.head.starts_with("GET /held") {
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhe");
            gate.wait();
            exchange.send("ld");
            return Then::Next;
        }
        number(exchange)
    });
    let first = pki.certificates(&["one", "two", "gone"]);
    let clock = VerificationClock::new(SystemTime::now);
    let upstream = Upstream::new(&Pki::config(server.port), &first, clock).unwrap();
    let ask = |name: &str| {
        let mut whole = String::new();
        let who = Credentials::Certificate(name.into());
        upstream.fetch(&upstream.known(), &who, request("GET", "/")).unwrap().body.read_to_string(&mut whole).unwrap();
        whole
    };
    assert_eq!([ask("one"), ask("one"), ask("two")], ["1", "1", "2"]);
    let (before, one) = (upstream.known(), Credentials::Certificate("one".into()));
    let mut held = upstream.fetch(&before, &one, request("GET", "/held")).unwrap();
    held.body.read_exact(&mut [0; 2]).unwrap();

    // One pair is new, one is the same, one has gone, one has come.
    let mut next = pki.certificates(&["one", "more"]);
    next.upstream_roots.clone_from(&first.upstream_roots);
    next.pairs.insert("two".into(), Arc::clone(&first.pairs["two"]));
    upstream.replace(&next).unwrap();
    assert_eq!([ask("one"), ask("two"), ask("more"), ask("one")], ["3", "2", "4", "3"]);
    assert!(!upstream.known().has_pair("gone"));
    // Who was identified by what was known before is sent by it.
    let gone = Credentials::Certificate("gone".into());
    assert_eq!(upstream.fetch(&before, &gone, request("GET", "/")).unwrap().status, 200);
    released.wait();
    let mut rest = String::new();
    held.body.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "ld", "what was under way ends well");

    // Other CAs: nothing is used that was verified by the old ones, and who does not chain to them is nobody.
    let mut other = next.clone();
    other.upstream_roots = Pki::new().certificates(&[]).upstream_roots;
    upstream.replace(&other).unwrap();
    assert!(upstream.fetch(&upstream.known(), &one, request("GET", "/")).is_err());
    upstream.replace(&next).unwrap();
    let probed = Instant::now();
    while is_down(upstream.link().state()) && probed.elapsed() < LONG {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(ask("two"), "6", "the probe, too, goes by what is known now");
}

#[test]
fn the_upstream_is_judged_at_the_time_given() {
    let pki = Pki::new();
    let server = StandIn::start(pki.server(ALL_VERSIONS, false), number);
    // rcgen's certificates begin in 1975.
    for (seconds, good) in [(0, false), (1_800_000_000, true)] {
        let clock = VerificationClock::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let upstream = Upstream::new(&Pki::config(server.port), &pki.certificates(&[]), clock).unwrap();
        let answer = upstream.fetch(&upstream.known(), &Credentials::None, request("GET", "/"));
        assert_eq!(answer.is_ok(), good, "{:?}", answer.err());
    }
}
