//! Several servers that stand for one cluster.

use super::*;
use crate::config::Balance;

/// Servers that each answer with its own letter, and the upstream that they are.
struct Cluster {
    pki: Pki,
    servers: Vec<StandIn>,
    upstream: Upstream,
}

fn letter(letter: char) -> impl Fn(&mut Exchange<'_>) -> Then + Send + Sync + 'static {
    move |exchange| {
        exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{letter}"));
        Then::Close
    }
}

fn upstream(pki: &Pki, ports: &[u16], balance: Balance) -> Upstream {
    let servers = ports.iter().map(|port| Pki::config(*port).servers.remove(0)).collect();
    let config = UpstreamConfig { servers, balance, ..Pki::config(1) };
    Upstream::new(&config, &pki.certificates(&[]), VerificationClock::new(SystemTime::now)).unwrap()
}

fn cluster(balance: Balance) -> Cluster {
    let pki = Pki::new();
    let start = |name| StandIn::start(pki.server(ALL_VERSIONS, false), letter(name));
    let servers: Vec<_> = ['a', 'b', 'c'].map(start).into();
    let ports: Vec<_> = servers.iter().map(|server| server.port).collect();
    let upstream = upstream(&pki, &ports, balance);
    Cluster { pki, servers, upstream }
}

fn get(upstream: &Upstream) -> Result<String, FetchError> {
    let mut answer = upstream.fetch(&upstream.known(), &Credentials::None, request("GET", "/x"))?;
    let mut text = String::new();
    answer.body.read_to_string(&mut text).unwrap();
    Ok(text)
}

fn states(upstream: &Upstream) -> Vec<bool> {
    upstream.link().servers().map(|(_, state)| state == LinkState::Up).collect()
}

fn wait_for(upstream: &Upstream, wanted: &[bool]) {
    let end = Instant::now() + LONG;
    while states(upstream) != wanted {
        assert!(Instant::now() < end, "the servers stay {:?}", states(upstream));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_first_that_can_be_reached_is_asked_or_each_in_turn() {
    let Cluster { upstream, servers: _servers, .. } = cluster(Balance::Priority);
    assert_eq!([(); 3].map(|()| get(&upstream).unwrap()), ["a", "a", "a"]);
    let Cluster { upstream, servers: _servers, .. } = cluster(Balance::RoundRobin);
    assert_eq!([(); 4].map(|()| get(&upstream).unwrap()), ["a", "b", "c", "a"]);
}

#[test]
fn a_server_that_is_gone_is_passed_over_and_the_link_stays_up_until_all_are() {
    let Cluster { upstream, mut servers, pki } = cluster(Balance::Priority);
    assert_eq!(get(&upstream).unwrap(), "a");
    let port = servers[0].port;
    drop(servers.remove(0));
    assert_eq!(get(&upstream).unwrap(), "b", "a refuses connections");
    assert_eq!(states(&upstream), [false, true, true]);
    assert_eq!(upstream.link().state(), LinkState::Up);
    assert!(upstream.link().describe().since.is_none());
    let up = upstream.link().up_epoch();
    servers.clear();
    let Err(FetchError::Unreachable(why)) = get(&upstream) else { panic!("nobody is left") };
    assert!(why.matches("127.0.0.1:").count() >= 3 && why.contains("; "), "{why}");
    assert!(is_down(upstream.link().state()) && !up.has_ended());

    let _again = StandIn::start_at(port, pki.server(ALL_VERSIONS, false), letter('A'));
    wait_for(&upstream, &[true, false, false]);
    assert!(up.has_ended());
    assert_eq!(get(&upstream).unwrap(), "A");
}

#[test]
fn what_was_sent_is_not_sent_to_another_unless_that_does_no_harm() {
    let pki = Pki::new();
    let cut = StandIn::start(pki.server(ALL_VERSIONS, false), |_| Then::Cut);
    let gateway = StandIn::start(pki.server(ALL_VERSIONS, false), |exchange| {
        exchange.send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
        Then::Next
    });
    let good = StandIn::start(pki.server(ALL_VERSIONS, false), letter('c'));
    let upstream = upstream(&pki, &[cut.port, gateway.port, good.port], Balance::Priority);
    assert_eq!(get(&upstream).unwrap(), "c");
    let post = || upstream.fetch(&upstream.known(), &Credentials::None, request("POST", "/x"));
    assert!(matches!(post(), Err(FetchError::Broken(_))), "it may have been carried out");
    drop(cut);
    assert_eq!(get(&upstream).unwrap(), "c", "whoever asks finds out");
    assert_eq!(states(&upstream), [false, true, true]);
    assert_eq!(post().unwrap().status, 503, "the gateway's word on a write is passed on");
    drop(good);
    assert_eq!(upstream.fetch(&upstream.known(), &Credentials::None, request("GET", "/x")).unwrap().status, 503);
    assert_eq!(states(&upstream), [false, true, false]);
}

#[test]
fn a_server_that_says_nothing_leaves_time_for_the_next() {
    let pki = Pki::new();
    let silent = StandIn::start(pki.server(ALL_VERSIONS, false), |exchange| {
        exchange.wait_for_close();
        Then::Cut
    });
    let good = StandIn::start(pki.server(ALL_VERSIONS, false), letter('b'));
    let upstream = upstream(&pki, &[silent.port, good.port], Balance::Priority);
    let patience = Outgoing { first_byte: Duration::from_secs(4), ..request("GET", "/x") };
    let mut answer = upstream.fetch(&upstream.known(), &Credentials::None, patience).unwrap();
    let mut text = String::new();
    answer.body.read_to_string(&mut text).unwrap();
    assert_eq!(text, "b");
}

#[test]
fn a_watch_stays_where_it_is_and_ends_with_its_own_server_only() {
    let pki = Pki::new();
    let stay = |exchange: &mut Exchange<'_>| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n");
        exchange.wait_for_close();
        Then::Cut
    };
    let a = StandIn::start(pki.server(ALL_VERSIONS, false), stay);
    let b = StandIn::start(pki.server(ALL_VERSIONS, false), stay);
    let upstream = upstream(&pki, &[a.port, b.port], Balance::RoundRobin);
    let known = upstream.known();
    let watch = &|| upstream.fetch(&known, &Credentials::None, request("GET", "/x")).unwrap();
    let (begun, begins) = mpsc::channel();
    let end = &|mut watch: Answer<'_>| {
        watch.body.read_exact(&mut [0]).unwrap();
        begun.send(()).unwrap();
        watch.body.read(&mut [0]).unwrap_err().kind()
    };
    std::thread::scope(|threads| {
        let first = threads.spawn(|| end(watch()));
        begins.recv_timeout(LONG).unwrap();
        let second = threads.spawn(|| end(watch()));
        begins.recv_timeout(LONG).unwrap();
        upstream.link().monitors()[0].report(Event::ConnectFailed, "gone");
        assert_eq!(first.join().unwrap(), io::ErrorKind::NetworkDown);
        assert!(!second.is_finished(), "the other server's watch goes on");
        upstream.link().monitors()[1].report(Event::ConnectFailed, "gone too");
        assert_eq!(second.join().unwrap(), io::ErrorKind::NetworkDown);
    });
}

#[test]
fn a_connection_of_its_own_goes_to_the_first_that_can_be_reached_and_names_its_host() {
    let pki = Pki::new();
    let good = StandIn::start(pki.server(ALL_VERSIONS, false), letter('b'));
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let upstream = upstream(&pki, &[free, good.port], Balance::Priority);
    let known = upstream.known();
    let dialled = upstream.dial(&known, &Credentials::None, None).unwrap();
    assert_eq!(dialled.socket.peer_addr().unwrap().port(), good.port);
    assert_eq!(upstream.servers[dialled.place].host, format!("127.0.0.1:{}", good.port));
    assert!(!dialled.tls.is_handshaking());
}
