//! What goes up.

use super::*;

#[test]
fn a_request_goes_up_as_it_is_with_host_and_framing_and_nothing_else() {
    let (heads, seen) = mpsc::channel();
    let scene = scene(move |exchange| {
        heads.send(exchange.head.clone()).unwrap();
        exchange.send("HTTP/1.1 204 No Content\r\n\r\n");
        Then::Next
    });
    let headers: Vec<(String, Vec<u8>)> = [
        ("Accept", "a"),
        ("accept", "b"),
        ("Host", "proxy"),
        ("Content-Length", "9"),
        ("Expect", "100-continue"),
        ("X-Y", "\u{e9}"),
    ]
    .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
    .into();
    let port = scene.server.port;
    for (method, framing) in [("GET", ""), ("POST", "content-length: 0\r\n"), ("DELETE", ""), ("BREW", "")] {
        let out = Outgoing { headers: &headers, ..request(method, "/api/v1/pods?labelSelector=%21a&x={1}") };
        assert_eq!(scene.upstream.fetch(&scene.upstream.known(), &Credentials::None, out).unwrap().status, 204);
        let head = seen.recv_timeout(LONG).unwrap();
        let expected = format!(
            "{method} /api/v1/pods?labelSelector=%21a&x={{1}} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\naccept: a\r\naccept: b\r\nx-y: \u{e9}\r\n{framing}\r\n"
        );
        assert_eq!(head, expected);
    }
}

#[test]
fn a_base_path_and_a_header_line_larger_than_the_buffers_go_up() {
    let pki = Pki::new();
    let (heads, seen) = mpsc::channel();
    let server = StandIn::start(pki.server(ALL_VERSIONS, false), move |exchange| {
        heads.send(exchange.head.clone()).unwrap();
        number(exchange)
    });
    let mut config = Pki::config(server.port);
    config.servers[0].base_path = "/k8s/c1".into();
    let upstream = Upstream::new(&config, &pki.certificates(&[]), VerificationClock::new(SystemTime::now)).unwrap();
    let headers = [("authorization".to_owned(), vec![b'x'; 50_000])];
    let out = Outgoing { headers: &headers, ..request("GET", "/api") };
    assert_eq!(upstream.fetch(&upstream.known(), &Credentials::None, out).unwrap().status, 200);
    let head = seen.recv_timeout(LONG).unwrap();
    assert!(head.starts_with("GET /k8s/c1/api HTTP/1.1\r\n") && head.len() > 50_000, "{} bytes", head.len());
}

#[test]
fn what_cannot_be_sent_is_said_and_is_no_fault_of_the_link() {
    let scene = scene(number);
    let bad_value = [("a".to_owned(), b"b\r\nc: d".to_vec())];
    let bad_name = [("a b".to_owned(), Vec::new())];
    for (target, headers) in
        [("x", &[][..]), ("/a b", &[]), ("/<", &[]), ("/a#b", &[]), ("/x", &bad_value), ("/x", &bad_name)]
    {
        let outcome = scene.upstream.fetch(
            &scene.upstream.known(),
            &Credentials::None,
            Outgoing { headers, ..request("GET", target) },
        );
        assert!(matches!(outcome.map(|a| a.status), Err(FetchError::Unsendable(_))), "{target} {headers:?}");
    }
    let outcome =
        scene.upstream.fetch(&scene.upstream.known(), &Credentials::Certificate("who".into()), request("GET", "/"));
    assert!(matches!(outcome.map(|a| a.status), Err(FetchError::Unsendable(_))));
    assert_eq!(scene.upstream.link().state(), LinkState::Up);
}

#[test]
fn bodies_stream_up_chunked_and_by_length() {
    const SIZE: u64 = 20_000_000;
    let scene = scene(|exchange| {
        let total = if exchange.head.contains("transfer-encoding: chunked\r\n") {
            read_chunked(exchange.tls).unwrap()
        } else {
            assert!(exchange.head.contains("content-length: 20000000\r\n"), "{}", exchange.head);
            io::copy(&mut exchange.tls.take(SIZE), &mut io::sink()).unwrap()
        };
        exchange.send(format!("HTTP/1.1 201 Created\r\nContent-Length: 8\r\n\r\n{total}"));
        Then::Next
    });
    for length in [None, Some(SIZE)] {
        for method in ["PUT", "DELETE"] {
            // One byte more than announced is there: it must not be taken.
            let mut reader = io::repeat(7).take(SIZE + u64::from(length.is_some()));
            let body = Some(OutgoingBody { reader: &mut reader, length });
            let mut answer = scene
                .upstream
                .fetch(&scene.upstream.known(), &Credentials::None, Outgoing { body, ..request(method, "/x") })
                .unwrap();
            let mut whole = String::new();
            answer.body.read_to_string(&mut whole).unwrap();
            assert_eq!((answer.status, whole.as_str()), (201, "20000000"), "{method} {length:?}");
        }
    }
}

#[test]
fn a_body_that_ends_early_or_fails_is_the_clients_fault() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::TimedOut.into())
        }
    }
    let scene = scene(|exchange| {
        exchange.wait_for_close();
        Then::Cut
    });
    let mut short = &b"abc"[..];
    for (reader, length, kind) in [
        (&mut short as &mut dyn Read, Some(4), io::ErrorKind::UnexpectedEof),
        (&mut Failing, None, io::ErrorKind::TimedOut),
    ] {
        let body = Some(OutgoingBody { reader, length });
        match scene.upstream.fetch(
            &scene.upstream.known(),
            &Credentials::None,
            Outgoing { body, ..request("PUT", "/x") },
        ) {
            Err(FetchError::ClientBody(e)) => assert_eq!(e.kind(), kind),
            other => panic!("{:?}", other.map(|a| a.status)),
        }
    }
    assert_eq!(scene.upstream.link().state(), LinkState::Up);
}

#[test]
fn an_answer_that_comes_before_the_body_is_through_is_the_answer() {
    for closes in [false, true] {
        let (done, until) = mpsc::channel::<()>();
        let until = std::sync::Mutex::new(until);
        let scene = scene(move |exchange| {
            exchange.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno");
            // The body is not read: the answer must be noticed while nothing can be written, or when that fails.
            let patience = if closes { Duration::from_secs(1) } else { 3 * LONG };
            let _ = until.lock().unwrap().recv_timeout(patience);
            Then::Close
        });
        let mut reader = io::repeat(7).take(50_000_000);
        let out = Outgoing {
            body: Some(OutgoingBody { reader: &mut reader, length: Some(50_000_000) }),
            ..request("PUT", "/x")
        };
        let start = Instant::now();
        let mut answer = scene.upstream.fetch(&scene.upstream.known(), &Credentials::None, out).unwrap();
        let mut whole = Vec::new();
        answer.body.read_to_end(&mut whole).unwrap();
        assert_eq!((answer.status, whole), (413, b"no".to_vec()));
        // Not because the kernel gave the connection up.
        assert!(start.elapsed() < wakefulness::UNACKNOWLEDGED / 2);
        drop(done);
    }
}
