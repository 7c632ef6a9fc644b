//! Exec, attach and port-forward: what both sides say after a 101 passes unread, both ways, until both have ended.

use crate::support::client::{Client, Reply};
use crate::support::eventually;
use crate::support::proxy::{ADMIN, NODE};
use crate::support::upstream::{Received, Wire};
use crate::{MAPS, Scene};
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

const EXEC: &str = "/api/v1/namespaces/shop/pods/p/exec?command=sh";
const SPDY: &[&str] = &[
    "Connection: Upgrade",
    "Upgrade: SPDY/3.1",
    "X-Stream-Protocol-Version: v5.channel.k8s.io",
    "X-Stream-Protocol-Version: v4.channel.k8s.io",
];
const WEBSOCKET: &[&str] = &[
    "Connection: keep-alive, Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol: v5.channel.k8s.io",
];
const AGREED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Agreed: As-It-Is\r\n\r\n";
/// Longer than anything takes here.
const LONG: Duration = Duration::from_secs(20);

fn agree(wire: &mut Wire) -> io::Result<()> {
    wire.patience(LONG);
    wire.send(AGREED)
}

/// Sends back what comes until a clean end, and then its own. To single dots it says nothing.
fn echo(_: &Received, wire: &mut Wire) -> io::Result<()> {
    agree(wire)?;
    echo_on(wire)
}

fn echo_on(wire: &mut Wire) -> io::Result<()> {
    let mut piece = [0; 16 * 1024];
    loop {
        match wire.read(&mut piece)? {
            0 => return wire.goodbye(),
            n if piece[..n] == *b"." => {}
            n => wire.send(&piece[..n])?,
        }
    }
}

/// Asks for a tunnel, and it is dug.
fn open(scene: &Scene, cn: Option<&str>, headers: &[&str]) -> Client {
    let mut client = scene.proxy.client(cn);
    client.request("POST", EXEC, headers);
    assert_eq!(client.head().expect("a head").status, 101);
    client
}

fn says(client: &mut Client, expected: &[u8]) {
    let mut said = vec![0; expected.len()];
    client.read_exact(&mut said).unwrap_or_else(|e| panic!("{e} instead of {}", String::from_utf8_lossy(expected)));
    assert!(said == expected, "{}", String::from_utf8_lossy(&said));
}

/// Bytes of which no two places look alike.
fn bytes(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[test]
fn what_both_sides_say_passes_as_it_is() {
    let scene = Scene::scripted(&[], |_, wire| {
        wire.patience(LONG);
        // The first words come with the head.
        wire.send([AGREED.as_bytes(), b"welcome"].concat())?;
        echo_on(wire)
    });
    for (method, headers) in [("POST", SPDY), ("GET", WEBSOCKET)] {
        let mut client = scene.proxy.client(Some(NODE));
        // So do the client's.
        let lines: String = headers.iter().map(|h| format!("{h}\r\n")).collect();
        client.send(format!("{method} {EXEC} HTTP/1.1\r\nHost: h\r\nX-Remote-User: root\r\n{lines}\r\nhello"));
        let head = client.head().expect("a head");
        assert_eq!((head.status, head.header("x-agreed")), (101, Some("As-It-Is")));
        assert_eq!((head.header("upgrade"), head.header("connection")), (Some("SPDY/3.1"), Some("Upgrade")));
        assert_eq!(head.headers.len(), 3, "nothing is added: {head:?}");
        says(&mut client, b"welcomehello");
        for (n, length) in [1, 16 * 1024, 16 * 1024 + 1, 100, 200_000, 3 * 1024 * 1024].into_iter().enumerate() {
            let sent = bytes(length, n as u32);
            for piece in sent.chunks(64 * 1024) {
                client.send(piece);
                says(&mut client, piece);
            }
        }
        client.say_goodbye();
        assert_eq!(client.read(&mut [0; 10]).expect("a clean end"), 0);
    }
    let received = scene.upstream.received();
    let values = |request: &Received, name: &str| {
        let fields = request.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        fields.map(|(_, v)| v.clone()).collect::<Vec<_>>()
    };
    let [spdy, websocket] = &received[..] else { panic!("{received:?}") };
    assert_eq!((spdy.method.as_str(), websocket.method.as_str()), ("POST", "GET"));
    for request in &received {
        assert_eq!((request.target.as_str(), request.common_name.as_deref()), (EXEC, Some(NODE)));
        assert_eq!(values(request, "connection"), ["Upgrade"]);
        assert!(values(request, "x-remote-user").is_empty());
        assert!(request.header("host").is_some_and(|h| h.starts_with("127.0.0.1:")), "{request:?}");
    }
    assert_eq!(values(spdy, "upgrade"), ["SPDY/3.1"]);
    assert_eq!(values(spdy, "x-stream-protocol-version"), ["v5.channel.k8s.io", "v4.channel.k8s.io"]);
    assert_eq!(values(websocket, "upgrade"), ["websocket"]);
    assert_eq!(values(websocket, "sec-websocket-key"), ["dGhlIHNhbXBsZSBub25jZQ=="]);
    assert_eq!(values(websocket, "sec-websocket-protocol"), ["v5.channel.k8s.io"]);
    eventually("both are over", || scene.proxy.metric("lite_apiserver_tunnels") == 0);
    assert_eq!(scene.proxy.metric("lite_apiserver_tunnels_total"), 2);
    assert!(scene.proxy.metric("lite_apiserver_tunnel_bytes_total") > 12 * 1024 * 1024);
    assert_eq!(scene.proxy.metric("lite_apiserver_answers_torn_total"), 0);
}

#[test]
fn either_side_may_end_first_and_the_other_goes_on() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let scene = Scene::scripted(&[], move |request, wire| {
        agree(wire)?;
        if request.target.ends_with("upstream-first") {
            wire.send("the end")?;
            wire.say_goodbye()?;
        }
        let mut all = Vec::new();
        let read = wire.read_to_end(&mut all).map(|_| all);
        tell.lock().expect("tell").send(read.map_err(|e| e.kind())).expect("told");
        if request.target.ends_with("client-first") {
            wire.send(bytes(1_000_000, 7))?;
        }
        wire.goodbye()
    });
    let open = |target| {
        let mut client = scene.proxy.client(Some(NODE));
        client.request("POST", &format!("{EXEC}&x={target}"), SPDY);
        assert_eq!(client.head().expect("a head").status, 101);
        client
    };
    let mut client = open("client-first");
    client.send("all that I say");
    client.say_goodbye();
    assert_eq!(told.recv_timeout(LONG).expect("told").expect("a clean end"), b"all that I say");
    let mut all = Vec::new();
    client.read_to_end(&mut all).expect("a clean end");
    assert!(all == bytes(1_000_000, 7), "{} bytes", all.len());

    let mut client = open("upstream-first");
    let mut all = Vec::new();
    client.read_to_end(&mut all).expect("a clean end");
    assert_eq!(all, b"the end");
    std::thread::sleep(Duration::from_millis(300));
    client.send(bytes(1_000_000, 8));
    client.say_goodbye();
    assert!(told.recv_timeout(LONG).expect("told").expect("a clean end") == bytes(1_000_000, 8));
    eventually("both are over", || scene.proxy.metric("lite_apiserver_tunnels") == 0);
    eventually("both connections are closed", || scene.proxy.metric("lite_apiserver_connections") == 0);
}

#[test]
fn who_does_not_read_is_not_read_for() {
    const MUCH: usize = 200 << 20;
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let scene = Scene::scripted(&[], move |request, wire| {
        agree(wire)?;
        if request.target.ends_with("down") {
            wire.patience(Duration::from_secs(2));
            let piece = vec![7; 64 * 1024];
            let mut sent = 0;
            while sent < MUCH && wire.send(&piece).is_ok() {
                sent += piece.len();
            }
            tell.lock().expect("tell").send(sent).expect("told");
        }
        // As long as this is not ended, nothing is read.
        std::thread::sleep(Duration::from_secs(6));
        wire.cut()
    });
    let before = scene.proxy.peak_memory();
    let mut lazy = scene.proxy.client(Some(NODE));
    lazy.request("POST", &format!("{EXEC}&x=down"), SPDY);
    let sent = told.recv_timeout(LONG).expect("told");
    let mut busy = open(&scene, Some(NODE), SPDY);
    busy.patience(Duration::from_secs(2));
    let mut taken = 0;
    while taken < MUCH && busy.try_send(vec![7; 64 * 1024]).is_ok() {
        taken += 64 * 1024;
    }
    let grown = scene.proxy.peak_memory() - before;
    println!("taken from the upstream: {sent}, from the client: {taken}, memory: {grown}");
    // What there is, is in the kernel's buffers.
    assert!(sent < MUCH / 2 && taken < MUCH / 2, "{sent} {taken}");
    assert!(grown < 2 << 20, "{grown} bytes more in memory");
}

#[test]
fn an_upgrade_that_is_refused_is_an_answer_like_any_other() {
    let body = r#"{"kind":"Status","apiVersion":"v1","code":403,"reason":"Forbidden"}"#;
    let scene =
        Scene::scripted(&[], move |request, wire| match request.path().rsplit('/').next().unwrap_or_default() {
            "403" => wire.json(403, body),
            "400" => {
                wire.send("HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                std::thread::sleep(Duration::from_millis(100));
                wire.chunk("one ")?;
                wire.chunk("two")?;
                wire.end_chunked()
            }
            "500" => {
                for piece in ["HTT", "P/1.1 500 Oh\r\nContent-", "Length: 3\r", "\n\r\n", "o", "h!"] {
                    wire.send(piece)?;
                    std::thread::sleep(Duration::from_millis(30));
                }
                Ok(())
            }
            "200" => wire.answer(200, "text/plain", vec![b'x'; 300_000]),
            // Its end is the connection's.
            "404" => {
                wire.send("HTTP/1.1 404 No\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nnot here")?;
                wire.goodbye()
            }
            _ => wire.json(200, "{}"),
        });
    let mut client = scene.proxy.client(Some(NODE));
    let mut ask = |what: &str| -> Reply {
        client.request("POST", &format!("/api/v1/namespaces/shop/pods/p/exec/{what}"), SPDY);
        client.reply().expect("an answer")
    };
    let refused = ask("403");
    assert_eq!((refused.status(), refused.text().as_str()), (403, body));
    assert_eq!(refused.header("content-type"), Some("application/json"));
    for (what, status, text) in [("400", 400, "one two"), ("500", 500, "oh!"), ("404", 404, "not here")] {
        let refused = ask(what);
        assert_eq!((refused.status(), refused.text().as_str()), (status, text));
    }
    assert_eq!((ask("200").status(), ask("200").body.len()), (200, 300_000));
    // The connection goes on.
    assert_eq!(client.get("/api/v1/x").status(), 200);
    assert_eq!(scene.proxy.metric("lite_apiserver_tunnels_total"), 0);
    assert_eq!(scene.proxy.metric("lite_apiserver_connections_accepted_total"), 1);
    assert_eq!(scene.upstream.received().len(), 7, "each was asked for once");
}

#[test]
fn an_answer_that_is_none_is_a_502_and_one_that_does_not_come_a_504() {
    let scene = Scene::scripted(&["--slow-timeout=700ms"], |request, wire| {
        match request.path().rsplit('/').next().unwrap_or_default() {
            "garbage" => wire.send("SSH-2.0-OpenSSH_9.2\r\n\r\n")?,
            "large" => {
                wire.send("HTTP/1.1 101 Switching Protocols\r\n")?;
                let line = format!("X-Filling: {}\r\n", "x".repeat(1000));
                for _ in 0..1000 {
                    wire.send(&line)?;
                }
            }
            "torn" => wire.send("HTTP/1.1 101 Switching")?,
            "bad" => wire.send("HTTP/1.1 101 Switching Protocols\r\nno field\r\n\r\n")?,
            "old" => wire.send("HTTP/1.0 101 Switching Protocols\r\n\r\n")?,
            _ => std::thread::sleep(Duration::from_secs(5)),
        }
        wire.cut()
    });
    for (what, status) in
        [("garbage", 502), ("large", 502), ("torn", 502), ("bad", 502), ("old", 502), ("silence", 504)]
    {
        let mut client = scene.proxy.client(Some(NODE));
        let begun = Instant::now();
        client.request("POST", &format!("/api/v1/namespaces/shop/pods/p/exec/{what}"), SPDY);
        let reply = client.reply().expect("an answer");
        assert_eq!(reply.status(), status, "{what}: {}", reply.text());
        assert_eq!(reply.json()["kind"], "Status", "{what}");
        println!("{what}: {} after {:?}", reply.json()["message"], begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(4), "{what}");
        assert_eq!(client.get_with("/x?", &["Connection: close"]).status() / 100, 5, "{what}: the connection goes on");
    }
}

#[test]
fn when_the_upstream_dies_the_client_has_what_came_before_and_no_clean_end() {
    let scene = Scene::scripted(&[], |_, wire| {
        agree(wire)?;
        wire.send(bytes(500_000, 3))?;
        wire.cut()
    });
    let mut client = open(&scene, Some(NODE), SPDY);
    let mut all = Vec::new();
    let ended = client.read_to_end(&mut all);
    assert!(ended.is_err(), "a clean end");
    assert!(all == bytes(500_000, 3), "{} bytes", all.len());
    eventually("it is over", || scene.proxy.metric("lite_apiserver_tunnels") == 0);
    eventually("the connection is closed", || scene.proxy.metric("lite_apiserver_connections") == 0);
}

#[test]
fn when_the_client_dies_the_upstream_knows_at_once() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let scene = Scene::scripted(&[], move |_, wire| {
        agree(wire)?;
        let mut all = Vec::new();
        let read = wire.read_to_end(&mut all).map(|_| ()).map_err(|e| e.kind());
        tell.lock().expect("tell").send((all, read)).expect("told");
        wire.cut()
    });
    for dies in [Client::die, drop] {
        let mut client = open(&scene, Some(NODE), SPDY);
        client.send("half of a ");
        let begun = Instant::now();
        dies(client);
        let (all, ended) = told.recv_timeout(LONG).expect("told");
        println!("known after {:?}", begun.elapsed());
        // Not a clean end: half of what was to be said is not the whole.
        assert_eq!((all.as_slice(), ended), (&b"half of a "[..], Err(io::ErrorKind::UnexpectedEof)));
    }
    eventually("both are over", || scene.proxy.metric("lite_apiserver_tunnels") == 0);
    eventually("the connections are closed", || scene.upstream.open() == 0);
}

#[test]
fn in_the_dark_a_tunnel_is_refused_at_once_and_says_why() {
    let mut scene = Scene::scripted(&[], echo);
    scene.upstream.cut();
    // The first finds out, the others know.
    for (n, (method, headers)) in [("POST", SPDY), ("GET", WEBSOCKET), ("POST", SPDY)].into_iter().enumerate() {
        let mut client = scene.proxy.client(Some(NODE));
        let begun = Instant::now();
        client.request(method, EXEC, headers);
        let reply = client.reply().expect("an answer");
        let (took, status) = (begun.elapsed(), reply.json());
        assert_eq!((reply.status(), &status["reason"]), (503, &"ServiceUnavailable".into()), "{}", reply.text());
        let message = status["message"].as_str().expect("a message");
        assert!(message.contains("is down since 20") && message.contains("(connection "), "{message}");
        assert_eq!(reply.header("retry-after"), None, "client-go would sleep and try again inside the call");
        assert!(took < Duration::from_secs(2), "{n}: {took:?}");
        // The connection goes on.
        assert_eq!(client.get("/api/v1/pods").status(), 503);
    }
}

/// A client's CN and further fields, and the CN and `Authorization` with which it goes up.
type Who<'a> = (Option<&'a str>, &'a [&'a str], Option<&'a str>, Option<&'a str>);

#[test]
fn a_tunnel_is_dug_as_who_asks_for_it() {
    let scene = Scene::scripted(&[], echo);
    let token = "Authorization: Bearer tok-a";
    let asked: [Who<'_>; 6] = [
        (Some(NODE), &[], Some(NODE), None),
        (Some(ADMIN), &[token], Some(ADMIN), None),
        (None, &[token], None, Some("Bearer tok-a")),
        (Some("stranger"), &[], None, None),
        (None, &["Authorization: Basic Zm9vOmJhcg=="], None, None),
        (Some(ADMIN), &["Connection: authorization", token, "X-Remote-User: root"], Some(ADMIN), None),
    ];
    for (cn, extra, common_name, authorization) in asked {
        let mut client = open(&scene, cn, &[SPDY, extra].concat());
        client.send("x");
        says(&mut client, b"x");
        let received = scene.upstream.received();
        let last = received.last().expect("a request");
        assert_eq!(
            (last.common_name.as_deref(), last.header("authorization")),
            (common_name, authorization),
            "{extra:?}"
        );
        assert_eq!(last.header("x-remote-user"), None);
    }
}

#[test]
fn a_token_that_is_refused_a_tunnel_opens_nothing_any_more() {
    let mut scene = Scene::scripted(&[], |request, wire| {
        if request.header("upgrade").is_some() {
            wire.json(401, "{}")
        } else {
            wire.json(200, crate::list(100, &["x"]))
        }
    });
    let token = "Authorization: Bearer tok-a";
    assert_eq!(scene.proxy.client(None).get_with(MAPS, &[token]).status(), 200);
    let mut client = scene.proxy.client(None);
    client.request("POST", EXEC, &[SPDY, &[token]].concat());
    assert_eq!(client.reply().expect("an answer").status(), 401);
    scene.cut();
    assert_eq!(scene.proxy.client(None).get_with(MAPS, &[token]).status(), 503);
}

#[test]
fn fifty_tunnels_at_once_keep_apart() {
    let scene = Scene::scripted(&[], echo);
    let mut clients: Vec<Client> = (0..50).map(|_| open(&scene, Some(NODE), SPDY)).collect();
    for (seed, client) in clients.iter_mut().enumerate() {
        client.send(bytes(40_000, seed as u32 * 2 + 1));
    }
    assert_eq!(scene.proxy.metric("lite_apiserver_tunnels"), 50);
    assert_eq!(scene.proxy.metric("lite_apiserver_long_requests"), 50);
    for (seed, client) in clients.iter_mut().enumerate() {
        says(client, &bytes(40_000, seed as u32 * 2 + 1));
    }
    drop(clients);
    eventually("all are over", || scene.proxy.metric("lite_apiserver_tunnels") == 0);
    eventually("the connections are closed", || scene.upstream.open() == 0);
}

#[test]
fn silence_ends_no_tunnel_but_a_link_that_stays_down_does() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let mut scene =
        Scene::scripted(&["--timeout=200ms", "--slow-timeout=400ms", "--idle-timeout=1s"], move |request, wire| {
            count.fetch_add(1, Ordering::SeqCst);
            echo(request, wire)
        });
    let mut silent = open(&scene, Some(NODE), SPDY);
    let mut busy = open(&scene, Some(NODE), SPDY);
    std::thread::sleep(Duration::from_millis(2500));
    let find_out = |scene: &Scene| {
        let mut client = scene.proxy.client(None);
        client.request("GET", "/api/v1/x", SPDY);
        assert_eq!(client.reply().expect("an answer").status(), 503);
        scene.proxy.await_link(false);
    };
    // A hiccup: nobody is let in for a moment.
    scene.upstream.refuse();
    find_out(&scene);
    scene.heal();
    std::thread::sleep(Duration::from_secs(9));
    for client in [&mut silent, &mut busy] {
        client.send("still there");
        says(client, b"still there");
    }
    // The link stays down: whoever is heard still is no proof of the contrary, but is not cut.
    scene.upstream.refuse();
    find_out(&scene);
    let begun = Instant::now();
    silent.patience(Duration::from_millis(100));
    let mut ended = None;
    while begun.elapsed() < Duration::from_secs(12) {
        busy.send("still there");
        says(&mut busy, b"still there");
        // What is only sent proves nothing.
        let _ = silent.try_send(".");
        match silent.read(&mut [0; 10]) {
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            other => {
                assert!(other.is_err(), "not a clean end");
                ended.get_or_insert(begun.elapsed());
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
    println!("the silent one was cut after {ended:?}");
    assert!(ended.is_some_and(|after| after > Duration::from_secs(3)));
    assert_eq!(scene.proxy.metric("lite_apiserver_tunnels"), 1);
    assert_eq!(served.load(Ordering::SeqCst), 2);
}

#[test]
fn a_process_that_is_told_to_end_does_not_wait_for_an_idle_tunnel() {
    let mut scene = Scene::scripted(&["--shutdown-grace=15s"], echo);
    let mut client = open(&scene, Some(NODE), WEBSOCKET);
    client.send("x");
    says(&mut client, b"x");
    let (status, took) = scene.proxy.terminate();
    assert!(status.success() && took < Duration::from_secs(5), "{status} after {took:?}");
    assert!(client.read(&mut [0; 10]).is_err(), "a clean end");
}

#[test]
fn nobody_is_led_out_of_http_where_it_is_http_that_would_be_spoken() {
    let scene = Scene::scripted(&[], |_, wire| wire.json(200, "{}"));
    let headers = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"];
    let mut client = scene.proxy.client(Some(NODE));
    assert_eq!(client.get_with("/api/v1/x", &headers).status(), 200);
    let received = scene.upstream.received();
    for name in ["upgrade", "http2-settings", "connection"] {
        assert_eq!(received[0].header(name), None, "{name}");
    }
}

#[test]
fn a_wish_for_a_tunnel_may_have_a_body() {
    let scene = Scene::scripted(&[], |request, wire| {
        agree(wire)?;
        wire.send(&request.body)?;
        echo_on(wire)
    });
    let length = 100_000;
    let body = bytes(length, 5);
    let chunks: Vec<u8> =
        body.chunks(30_000).flat_map(|c| [format!("{:x}\r\n", c.len()).as_bytes(), c, b"\r\n"].concat()).collect();
    let framed = [
        (format!("Content-Length: {length}"), body.clone()),
        ("Transfer-Encoding: chunked".to_owned(), [&chunks[..], b"0\r\n\r\n"].concat()),
        (format!("Expect: 100-continue\r\nContent-Length: {length}"), body.clone()),
    ];
    for (framing, sent) in framed {
        let mut client = scene.proxy.client(Some(NODE));
        client.request("POST", EXEC, &[SPDY, &[&framing]].concat());
        if framing.starts_with("Expect") {
            assert_eq!(client.head().expect("a head").status, 100);
        }
        client.send([&sent[..], b"behind it"].concat());
        assert_eq!(client.head().expect("a head").status, 101, "{framing}");
        says(&mut client, &body);
        says(&mut client, b"behind it");
    }
    let received = scene.upstream.received();
    assert!(received.iter().all(|r| r.body == body && r.header("expect").is_none()));
    assert_eq!(received[1].header("transfer-encoding"), Some("chunked"));
}

#[test]
fn who_dies_is_not_waited_for_by_who_does_not_read() {
    let scene = Scene::scripted(&[], |_, wire| {
        agree(wire)?;
        std::thread::sleep(Duration::from_secs(30));
        wire.cut()
    });
    let mut client = open(&scene, Some(NODE), SPDY);
    client.patience(Duration::from_secs(1));
    while client.try_send(vec![7; 64 * 1024]).is_ok() {}
    client.die();
    let begun = Instant::now();
    eventually("it is over", || scene.proxy.metric("lite_apiserver_tunnels") == 0);
    println!("over after {:?}", begun.elapsed());
    eventually("the connection is closed", || scene.proxy.metric("lite_apiserver_connections") == 0);
}
