//! The link: found down, found up, and what its holders see.

use super::*;

#[test]
fn a_refused_connection_takes_the_link_down_at_once() {
    let pki = Pki::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let upstream = pki.upstream(free, &[]);
    match upstream.fetch(&upstream.known(), &Credentials::None, request("GET", "/")) {
        Err(FetchError::Unreachable(why)) => {
            assert_eq!(why, format!("connection refused (127.0.0.1:{free})"));
        }
        other => panic!("{:?}", other.map(|a| a.status)),
    }
    assert!(is_down(upstream.link().state()));
    let outage = upstream.link().describe();
    assert!(
        outage.since.is_some() && outage.silence.is_none() && outage.reason.starts_with("connection refused"),
        "{outage:?}"
    );
}

#[test]
fn a_certificate_that_is_not_trusted_is_told_in_plain_words() {
    let (pki, other) = (Pki::new(), Pki::new());
    let server = StandIn::start(other.server(ALL_VERSIONS, false), number);
    let elsewhere = UpstreamConfig { tls_server_name: Some("elsewhere".into()), ..Pki::config(server.port) };
    for (config, certificates, words) in [
        (Pki::config(server.port), pki.certificates(&[]), "certificate not trusted: signed by an unknown authority"),
        (elsewhere, other.certificates(&[]), "certificate not trusted: made for another name"),
    ] {
        let upstream = Upstream::new(&config, &certificates, VerificationClock::new(SystemTime::now)).unwrap();
        match upstream.fetch(&upstream.known(), &Credentials::None, request("GET", "/")) {
            Err(FetchError::Unreachable(why)) => assert_eq!(why, words),
            other => panic!("{:?}", other.map(|a| a.status)),
        }
        assert!(is_down(upstream.link().state()));
    }
}

#[test]
fn a_black_hole_costs_the_first_request_a_connect_timeout_and_the_next_nothing() {
    let pki = Pki::new();
    let (listener, _filling) = race::tests::black_hole();
    let upstream = pki.upstream(listener.local_addr().unwrap().port(), &[]);
    let start = Instant::now();
    match upstream.fetch(&upstream.known(), &Credentials::None, request("GET", "/")) {
        Err(FetchError::Unreachable(why)) => assert!(why.starts_with("connect timed out"), "{why}"),
        other => panic!("{:?}", other.map(|a| a.status)),
    }
    assert!(start.elapsed() > Duration::from_millis(500));
    let start = Instant::now();
    assert!(upstream.fetch(&upstream.known(), &Credentials::None, request("GET", "/")).is_err());
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn an_upstream_that_accepts_and_says_nothing_fails_in_the_handshake() {
    let pki = Pki::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = pki.upstream(listener.local_addr().unwrap().port(), &[]);
    let start = Instant::now();
    match upstream.fetch(&upstream.known(), &Credentials::None, request("GET", "/")) {
        Err(FetchError::Unreachable(why)) => assert_eq!(why, "TLS handshake timed out"),
        other => panic!("{:?}", other.map(|a| a.status)),
    }
    assert!(start.elapsed() < LONG);
    assert!(is_down(upstream.link().state()));
}

#[test]
fn a_probe_finds_a_link_down_and_up_again_without_any_request() {
    let pki = Pki::new();
    let server = StandIn::start(pki.server(ALL_VERSIONS, false), number);
    server.ready.store(503, Ordering::SeqCst);
    let scene = Scene { upstream: pki.upstream(server.port, &[]), server };
    scene.wait_for(is_down);
    let up = scene.upstream.link().up_epoch();
    assert_eq!(scene.upstream.link().describe().reason, "/readyz answered 503");
    assert!(!up.has_ended());
    scene.server.ready.store(403, Ordering::SeqCst);
    let never = Epoch::new().unwrap();
    let waits = Waits { client: None, until: &never, stop: None };
    waits.on(up.as_fd(), rustix::event::PollFlags::IN, Some(Instant::now() + LONG)).unwrap();
    assert_eq!(scene.upstream.link().state(), LinkState::Up);
    assert!(!scene.upstream.link().monitors()[0].open().unwrap().down.has_ended());
    assert!(scene.upstream.link().describe().silence.is_some());
    assert_eq!(scene.get().unwrap(), b"1");
}

#[test]
fn a_watch_in_a_black_hole_ends_within_ten_seconds() {
    let scene = scene(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        exchange.wait_for_close();
        Then::Cut
    });
    // The first probe is over, and the prober asleep: the stream must wake it.
    std::thread::sleep(Duration::from_secs(1));
    let mut answer = scene.send("GET").unwrap();
    scene.server.ready.store(0, Ordering::SeqCst);
    let start = Instant::now();
    assert_eq!(answer.body.read(&mut [0; 9]).unwrap_err().kind(), io::ErrorKind::NetworkDown);
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
}

#[test]
fn shutdown_wakes_everyone_and_joins_its_threads() {
    let (begun, begins) = mpsc::channel();
    let scene = scene(move |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
        exchange.wait_for_close();
        Then::Cut
    });
    let held = scene.upstream.link().up_epoch();
    std::thread::scope(|threads| {
        let watch = threads.spawn(|| {
            let mut answer = scene.send("GET").unwrap();
            answer.body.read_exact(&mut [0]).unwrap();
            begun.send(()).unwrap();
            answer.body.read(&mut [0; 9]).unwrap_err().kind()
        });
        begins.recv_timeout(LONG).unwrap();
        scene.upstream.shutdown();
        assert_eq!(watch.join().unwrap(), io::ErrorKind::NetworkDown);
    });
    assert!(held.has_ended());
    scene.upstream.link().monitors()[0].report(Event::ProbeOk, "");
    assert!(is_down(scene.upstream.link().state()));
}

#[test]
fn a_probe_that_began_before_the_link_went_down_does_not_bring_it_back() {
    let whole = Link::new(std::iter::once("h".to_owned())).unwrap();
    let (begin, begun) = mpsc::channel();
    let (answer, answered) = mpsc::channel();
    let monitor = &whole.monitors()[0];
    monitor
        .start(move |_, _| {
            let _ = begin.send(());
            answered.recv().unwrap_or((Event::ProbeFailed, "the end".to_owned()))
        })
        .unwrap();
    begun.recv_timeout(LONG).unwrap();
    monitor.report(Event::ConnectFailed, "nobody listens any more");
    answer.send((Event::ProbeOk, String::new())).unwrap();
    // It is asked again, at once.
    begun.recv_timeout(LONG).unwrap();
    assert!(is_down(whole.state()));
    answer.send((Event::ProbeOk, String::new())).unwrap();
    let end = Instant::now() + LONG;
    while is_down(whole.state()) {
        assert!(Instant::now() < end, "a probe that began since does");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(answer);
}
