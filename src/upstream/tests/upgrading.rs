//! Asking for another protocol.

use super::*;
use std::io::Write as _;

#[test]
fn the_wish_goes_up_as_it_is_below_the_base_path() {
    let pki = Pki::new();
    let (heads, seen) = mpsc::channel();
    let server = StandIn::start(pki.server(ALL_VERSIONS, false), move |exchange| {
        heads.send(exchange.head.clone()).unwrap();
        exchange.send("HTTP/1.1 101 Yes\r\nUpgrade: x\r\n\r\nfirst words");
        exchange.wait_for_close();
        Then::Close
    });
    let mut config = Pki::config(server.port);
    config.servers[0].base_path = "/k8s/c1".into();
    let upstream = Upstream::new(&config, &pki.certificates(&[]), VerificationClock::new(SystemTime::now)).unwrap();
    let long = "x".repeat(40_000);
    let headers: Vec<(String, Vec<u8>)> = [
        ("Upgrade", "x"),
        ("Connection", "close"),
        ("Host", "proxy"),
        ("A", "1"),
        ("A", "2"),
        ("Authorization", &long),
    ]
    .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
    .into();
    let known = upstream.known();
    let out = Outgoing { headers: &headers, ..request("POST", "/exec?command=a%20b") };
    let Ok(Upgraded::Tunnel(mut tunnel)) = upstream.upgrade(&known, &Credentials::None, out) else {
        panic!("no tunnel");
    };
    assert_eq!(tunnel.take_head(), b"HTTP/1.1 101 Yes\r\nUpgrade: x\r\n\r\nfirst words");
    assert_eq!(tunnel.take_head(), b"");
    let head = seen.recv_timeout(LONG).unwrap();
    let port = server.port;
    let expected = format!(
        "POST /k8s/c1/exec?command=a%20b HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nupgrade: x\r\na: 1\r\na: 2\r\nauthorization: {long}\r\ncontent-length: 0\r\n\r\n"
    );
    assert_eq!(head, expected);
    let (tls, mut socket, line) = tunnel.parts();
    assert!(!line.is_down());
    tls.writer().write_all(b"x").unwrap();
    assert!(tls.write_tls(&mut socket).unwrap() > 0);
}

#[test]
fn a_closed_window_does_not_end_a_tunnel() {
    let scene = scene(|exchange| {
        exchange.send("HTTP/1.1 101 Yes\r\n\r\n");
        exchange.wait_for_close();
        Then::Close
    });
    let Ok(Upgraded::Tunnel(mut tunnel)) =
        scene.upstream.upgrade(&scene.upstream.known(), &Credentials::None, request("GET", "/x"))
    else {
        panic!("no tunnel");
    };
    // Linux lets the user timeout count a closed window; the keep-alive probes are what is left to find a dead peer.
    let socket = tunnel.parts().1;
    assert_eq!(rustix::net::sockopt::tcp_user_timeout(socket).unwrap(), 0);
    assert!(rustix::net::sockopt::socket_keepalive(socket).unwrap());
}

#[test]
fn when_the_link_is_found_down_the_alarm_rings_until_it_is_up_again() {
    let scene = scene(|exchange| {
        exchange.send("HTTP/1.1 101 Yes\r\n\r\n");
        exchange.wait_for_close();
        Then::Close
    });
    scene.wait_for(|state| state == LinkState::Up);
    let Ok(Upgraded::Tunnel(mut tunnel)) =
        scene.upstream.upgrade(&scene.upstream.known(), &Credentials::None, request("GET", "/x"))
    else {
        panic!("no tunnel");
    };
    let line = tunnel.parts().2;
    let rings = |line: &Line<'_>| {
        let mut watched = [rustix::event::PollFd::from_borrowed_fd(line.alarm(), rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut watched, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    };
    assert!(!rings(line));
    scene.upstream.link().monitors()[0].report(Event::ConnectFailed, "a test");
    assert!(rings(line) && line.is_down());
    scene.upstream.link().monitors()[0].report(Event::ProbeOk, "");
    assert!(rings(line), "until it is looked at");
    assert!(!line.is_down() && !rings(line));
}
