//! Slow clients, as many as there are places: those that ask for something are served all the same.

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::proxy::{NODE, Proxy};
use crate::{MAPS, Scene, event, list};
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PLACES: usize = 40;
/// So long that nothing but shedding explains an answer.
const PATIENT: [&str; 4] =
    ["--max-connections=40", "--handshake-timeout=600s", "--head-timeout=600s", "--idle-timeout=600s"];

/// How a client is slow.
const KINDS: [&str; 7] = [
    "TCP and nothing more",
    "half a ClientHello",
    "TLS and no request",
    "idle after a request",
    "half a head",
    "a body of one byte a second",
    "takes nothing of its answer",
];

/// Begins a slow connection; what it goes on with is [`drip`]'s.
enum Slow {
    Tcp(#[expect(dead_code, reason = "held open")] TcpStream),
    Tls(Box<Client>),
}

fn begin(proxy: &Proxy, kind: &str) -> Slow {
    let tcp = || TcpStream::connect(("127.0.0.1", proxy.port)).expect("connected");
    match kind {
        "TCP and nothing more" => Slow::Tcp(tcp()),
        "half a ClientHello" => {
            let mut socket = tcp();
            socket.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").expect("sent");
            Slow::Tcp(socket)
        }
        _ => {
            let mut client = proxy.client(None);
            match kind {
                "idle after a request" => assert_eq!(client.get("/healthz").status(), 200),
                "takes nothing of its answer" => client.request("GET", "/logs/big", &[]),
                "half a head" => client.send("GET /version HTTP/1.1\r\nHost: h\r\nX-"),
                "a body of one byte a second" => {
                    client.send(format!("PUT {MAPS}/one HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n"));
                }
                _ => {}
            }
            Slow::Tls(Box::new(client))
        }
    }
}

/// One byte more, where a byte keeps it going.
fn drip(slow: &mut Slow, kind: &str) {
    if let (Slow::Tls(client), "half a head" | "a body of one byte a second") = (slow, kind) {
        // It may have been shed.
        let _ = client.try_send("x");
    }
}

#[test]
fn slow_clients_in_every_place_keep_nobody_out() {
    for kind in KINDS {
        let scene = Scene::scripted(&PATIENT, |request, wire| {
            if request.target.contains("watch=1") {
                wire.begin_chunked()?;
                wire.chunk(event("ADDED", 101, "one"))?;
                wire.peer_hangs_up_within(Duration::from_secs(60));
                return wire.cut();
            }
            if request.target == "/logs/big" {
                // More than the kernel's buffers on the way hold.
                return wire.answer(200, "text/plain", vec![b'x'; 32 << 20]);
            }
            wire.json(200, list(100, &["one"]))
        });
        let mut watch = scene.proxy.client(Some(NODE));
        watch.request("GET", &format!("{MAPS}?watch=1"), &[]);
        assert_eq!(watch.head().expect("a head").status, 200);
        assert!(watch.chunk().expect("an event").starts_with(b"{\"type\":\"ADDED\""));

        // With the watch, all places.
        let mut slow: Vec<Slow> = (1..PLACES).map(|_| begin(&scene.proxy, kind)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let dripping = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                slow.iter_mut().for_each(|one| drip(one, kind));
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        // Whoever is slow with a body is shed after a second, no sooner; whoever takes nothing, ten after the buffers are full.
        std::thread::sleep(Duration::from_millis(if kind.starts_with("takes") { 14_000 } else { 2_500 }));
        assert_eq!(scene.proxy.metric("lite_apiserver_connections"), PLACES as u64, "{kind}: all places are taken");
        let (mut slowest, mut prompt) = (Duration::ZERO, Vec::new());
        for _ in 0..10 {
            let start = Instant::now();
            let mut client = scene.proxy.client(Some(NODE));
            let reply = client.get(MAPS);
            assert_eq!(reply.status(), 200, "{kind}: {}", reply.text());
            slowest = slowest.max(start.elapsed());
            prompt.push(client);
        }
        let shed = scene.proxy.metric("lite_apiserver_connections_shed_total");
        println!("{kind:28}: {} of them, ten GETs, the slowest answered after {slowest:?}; {shed} shed", PLACES - 1);
        assert_eq!(shed, 10, "{kind}: one for each newcomer");
        assert_eq!(scene.proxy.metric("lite_apiserver_connections_refused_total"), 0, "{kind}");
        // Far less than the proxy's patience, and far more than it takes.
        assert!(slowest < Duration::from_secs(30), "{kind}: {slowest:?}");
        // On a machine so busy that they took a second they come before whoever is slow within a request.
        let within = ["a body of one byte a second", "takes nothing of its answer"].contains(&kind);
        for client in prompt.iter_mut().filter(|_| !within) {
            assert_eq!(client.get(MAPS).status(), 200, "{kind}: who was idle for less is still there");
        }
        watch.patience(Duration::from_millis(300));
        let silent = watch.chunk().expect_err("nothing has happened");
        assert_eq!(silent.kind(), std::io::ErrorKind::WouldBlock, "{kind}: the watch is still open: {silent}");
        stop.store(true, Ordering::SeqCst);
        dripping.join().expect("dripping");
    }
}

#[test]
fn watches_cannot_take_all_places() {
    let scene = Scene::scripted(&["--max-connections=8"], |request, wire| {
        if request.target.contains("watch=1") {
            wire.begin_chunked()?;
            wire.peer_hangs_up_within(Duration::from_secs(60));
            return wire.cut();
        }
        wire.json(200, list(100, &["one"]))
    });
    let watch = || {
        let mut client = scene.proxy.client(Some(NODE));
        client.request("GET", &format!("{MAPS}?watch=1"), &[]);
        client
    };
    let mut watches: Vec<Client> = (0..7).map(|_| watch()).collect();
    watches.iter_mut().for_each(|w| assert_eq!(w.head().expect("a head").status, 200));
    let refused = watch().reply().expect("an answer");
    assert_eq!((refused.status(), refused.header("retry-after")), (429, Some("1")), "{}", refused.text());
    assert_eq!(refused.json()["kind"], "Status");
    let mut short = scene.proxy.client(Some(NODE));
    // The eighth place may be that of the refused watch for a moment more; client-go comes again.
    eventually("there is a place", || {
        let served = short.get(MAPS).status() == 200;
        if !served {
            short = scene.proxy.client(Some(NODE));
        }
        served
    });
    for _ in 0..20 {
        assert_eq!(short.get(MAPS).status(), 200, "short requests have a place");
    }
    drop(short);
    assert_eq!(scene.proxy.metric("lite_apiserver_long_requests"), 7);
    watches.pop();
    eventually("there is room for a watch again", || watch().head().expect("a head").status == 200);
}
