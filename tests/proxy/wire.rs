//! HTTP as it goes wrong, and as it must go right: torn, slow and false answers, many requests on a connection, bounds.

use crate::support::eventually;
use crate::support::proxy::NODE;
use crate::{MAPS, Scene, list, map};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The ways in which a list can come torn.
const TEARS: [&str; 4] =
    ["chunks that stop", "a length that is not reached", "a clean end in mid-list", "bytes that are no JSON"];

#[test]
fn a_torn_list_is_cut_for_the_client_and_never_recorded() {
    for tear in TEARS {
        let turn = AtomicUsize::new(0);
        let mut scene = Scene::scripted(&[], move |_, wire| {
            if turn.fetch_add(1, Ordering::SeqCst) == 0 {
                return wire.json(200, list(100, &["one", "two"]));
            }
            let whole = list(200, &["three", "four", "five"]);
            let half = &whole[..whole.len() * 2 / 3];
            match tear {
                "chunks that stop" => {
                    wire.begin_chunked()?;
                    wire.chunk(half)?;
                    wire.cut()
                }
                "a length that is not reached" => {
                    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ";
                    wire.send(format!("{head}{}\r\n\r\n{half}", whole.len()))?;
                    wire.cut()
                }
                "a clean end in mid-list" => wire.json(200, half),
                _ => wire.json(200, half.replace("three", "thr\u{1}ee\"")),
            }
        });
        assert_eq!(scene.proxy.get(MAPS).status(), 200);
        let mut client = scene.proxy.client(Some(NODE));
        client.request("GET", MAPS, &[]);
        let torn = client.reply();
        // What the upstream ends cleanly, however wrong, is the upstream's word; what it tears must not look whole.
        assert_eq!(torn.is_err(), tear.contains("stop") || tear.contains("not reached"), "{tear}: {torn:?}");
        scene.cut();
        assert_eq!(scene.proxy.get(MAPS).text(), list(100, &["one", "two"]), "{tear}");
    }
}

#[test]
fn an_object_that_dies_half_way_is_cut_and_never_recorded() {
    let mut scene = Scene::scripted(&[], |_, wire| {
        wire.begin_chunked()?;
        wire.chunk(&map(7, "one")[..40])?;
        wire.cut()
    });
    let target = format!("{MAPS}/one");
    let mut client = scene.proxy.client(Some(NODE));
    client.request("GET", &target, &[]);
    assert_eq!(client.head().expect("a head").status, 200);
    assert_eq!(client.chunk().expect("what came").len(), 40);
    assert!(client.chunk().is_err(), "the end must not look like one");
    assert!(client.is_ended() || client.chunk().is_err());
    scene.cut();
    assert_eq!(scene.proxy.get(&target).status(), 503);
}

#[test]
fn an_upstream_that_speaks_no_http_is_told_as_a_status() {
    let scene = Scene::scripted(&[], |_, wire| {
        wire.send("SSH-2.0-OpenSSH_9.9 is not HTTP at all\r\n\r\n\0\0\0\0")?;
        wire.cut()
    });
    let reply = scene.proxy.get(MAPS);
    assert_eq!(reply.status(), 502, "{}", reply.text());
    assert_eq!(reply.json()["kind"], "Status");
    assert_eq!(reply.json()["code"], 502);
}

#[test]
fn a_slow_first_byte_is_waited_for_where_nothing_is_recorded_and_not_where_something_is() {
    let slow = Arc::new(AtomicUsize::new(0));
    let turn = Arc::clone(&slow);
    let scene = Scene::scripted(&["--timeout=300ms"], move |_, wire| {
        if turn.fetch_add(1, Ordering::SeqCst) == 0 {
            // Longer than --timeout, shorter than --slow-timeout.
            std::thread::sleep(Duration::from_millis(900));
            return wire.json(200, list(100, &["one"]));
        }
        std::thread::sleep(Duration::from_secs(15));
        wire.json(200, list(200, &["late"]))
    });
    let first = scene.proxy.get(MAPS);
    assert_eq!((first.status(), first.header("age")), (200, None), "{}", first.text());
    // The client has the list before the record does.
    eventually("the list is recorded", || scene.proxy.metric("lite_apiserver_record_views") == 1);
    let start = Instant::now();
    let second = scene.proxy.get(MAPS);
    assert_eq!(second.text(), list(100, &["one"]));
    assert!(second.header("age").is_some());
    assert!(start.elapsed() < Duration::from_secs(12), "it waited for the upstream: {:?}", start.elapsed());
}

#[test]
fn a_write_that_gets_no_answer_is_not_said_to_have_failed() {
    let scene = Scene::scripted(&["--slow-timeout=500ms"], |_, wire| {
        std::thread::sleep(Duration::from_secs(3));
        wire.json(200, "{}")
    });
    let reply = scene.proxy.client(Some(NODE)).write("PUT", &format!("{MAPS}/one"), &[], &map(1, "one"));
    assert_eq!(reply.status(), 504, "{}", reply.text());
    assert!(reply.text().contains("may have been done all the same"), "{}", reply.text());
}

#[test]
fn a_body_is_asked_for_only_when_it_can_be_taken() {
    let mut scene = Scene::scripted(&[], |request, wire| wire.json(201, &request.body));
    let expect =
        format!("POST {MAPS} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n");
    let mut client = scene.proxy.client(Some(NODE));
    client.send(format!("{expect}Content-Length: 2\r\n\r\n"));
    assert_eq!(client.head().expect("a head").status, 100);
    client.send("{}");
    assert_eq!(client.reply().expect("an answer").text(), "{}");
    scene.cut();
    let mut client = scene.proxy.client(Some(NODE));
    client.send(format!("{expect}Content-Length: 2\r\n\r\n"));
    assert_eq!(client.head().expect("a head").status, 503, "the link is down: the body is not wanted");
}

#[test]
fn a_thousand_requests_on_one_connection() {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let scene = Scene::scripted(&[], move |_, wire| {
        let n = seen.fetch_add(1, Ordering::SeqCst);
        match n % 3 {
            0 => {
                wire.begin_chunked()?;
                wire.chunk(format!("{n} in "))?;
                wire.chunk("chunks")?;
                wire.end_chunked()
            }
            _ => wire.answer(200, "text/plain", format!("{n} with a length")),
        }
    });
    let mut client = scene.proxy.client(Some(NODE));
    for n in 0..1000 {
        let reply = client.get("/healthz");
        let expected = if n % 3 == 0 { format!("{n} in chunks") } else { format!("{n} with a length") };
        assert_eq!(reply.text(), expected);
    }
    assert!(scene.upstream.open() <= 3, "one connection is used again: {} are open", scene.upstream.open());
    assert_eq!(scene.proxy.metric("lite_apiserver_connections_accepted_total"), 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let scene = Scene::scripted(&[], |request, wire| {
        // The first is the slowest.
        if request.target == "/healthz?1" {
            std::thread::sleep(Duration::from_millis(200));
        }
        wire.answer(200, "text/plain", [request.target.as_bytes(), b" ", &request.body].concat())
    });
    let mut client = scene.proxy.client(Some(NODE));
    let post = "POST /healthz?2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    client.send(format!(
        "GET /healthz?1 HTTP/1.1\r\nHost: h\r\n\r\n{post}HEAD /healthz?3 HTTP/1.1\r\nHost: h\r\n\r\nGET /healthz?4 HTTP/1.1\r\nHost: h\r\n\r\n"
    ));
    assert_eq!(client.reply().expect("1").text(), "/healthz?1 ");
    assert_eq!(client.reply().expect("2").text(), "/healthz?2 abc");
    assert_eq!(client.head().expect("3").status, 200, "HEAD has no body, whatever the upstream sent");
    assert_eq!(client.reply().expect("4").text(), "/healthz?4 ");
}

#[test]
fn head_says_what_get_would() {
    let scene = Scene::scripted(&[], |request, wire| {
        let body = if request.method == "HEAD" { "" } else { "0123456789" };
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\n{body}"))
    });
    let mut client = scene.proxy.client(Some(NODE));
    client.request("HEAD", "/version", &[]);
    let head = client.head().expect("a head");
    assert_eq!((head.status, head.header("content-length")), (200, Some("10")));
    assert_eq!(client.get("/version").text(), "0123456789");
}

#[test]
fn what_no_server_should_take_is_refused() {
    let scene = Scene::scripted(&[], |_, wire| wire.answer(200, "text/plain", "reached"));
    let long = format!("GET /version HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(70_000));
    for (request, status) in [
        (long.as_str(), 431),
        ("POST /version HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST /version HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        ("GET /version HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n", 400),
        ("GET /version HTTP/1.1\r\n\r\n", 400),
        ("GET /version HTTP/1.1\r\nHost : h\r\n\r\n", 400),
        ("GET /version HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n", 400),
        ("\u{1} / HTTP/1.1\r\n\r\n", 400),
    ] {
        let mut client = scene.proxy.client(Some(NODE));
        // It may be refused before it is all sent.
        let _ = client.try_send(request);
        let shown = &request[..request.len().min(60)];
        assert_eq!(client.head().map(|h| h.status).expect(shown), status, "{shown}");
    }
    assert_eq!(scene.upstream.received().len(), 0);
}

#[test]
fn past_the_bound_clients_are_told_and_not_left_hanging() {
    let gate = Arc::new(AtomicBool::new(false));
    let opened = Arc::clone(&gate);
    let scene = Scene::scripted(&["--max-connections=2"], move |_, wire| {
        eventually("the gate is open", || opened.load(Ordering::SeqCst));
        wire.answer(200, "text/plain", "ok")
    });
    let mut first = scene.proxy.client(Some(NODE));
    let mut second = scene.proxy.client(Some(NODE));
    first.request("GET", "/version", &[]);
    second.request("GET", "/version", &[]);
    eventually("both are worked on", || scene.upstream.received().len() == 2);
    let mut third = scene.proxy.client(Some(NODE));
    let refused = third.get("/version");
    assert_eq!((refused.status(), refused.header("retry-after")), (429, Some("1")), "{}", refused.text());
    assert_eq!(refused.json()["kind"], "Status");
    assert!(third.is_ended());
    gate.store(true, Ordering::SeqCst);
    assert_eq!((first.reply().expect("1").status(), second.reply().expect("2").status()), (200, 200));
    drop(second);
    eventually("there is room again", || scene.proxy.get("/version").status() == 200);
}

#[test]
fn a_body_of_100_mb_does_not_sit_in_memory() {
    const LENGTH: usize = 100 << 20;
    let scene = Scene::scripted(&[], |request, wire| {
        if request.method == "PUT" {
            return wire.json(200, format!("{{\"got\":{}}}", request.body_length));
        }
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {LENGTH}\r\n\r\n"))?;
        let piece = vec![b'x'; 1 << 20];
        (0..LENGTH >> 20).try_for_each(|_| wire.send(&piece))
    });
    let mut client = scene.proxy.client(Some(NODE));
    let piece = vec![b' '; 1 << 20];
    for framing in [format!("Content-Length: {LENGTH}"), "Transfer-Encoding: chunked".to_owned()] {
        let head = format!("PUT {MAPS}/big HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n{framing}\r\n\r\n");
        client.send(head);
        for _ in 0..LENGTH >> 20 {
            if framing.contains("chunked") {
                client.send([b"100000\r\n", piece.as_slice(), b"\r\n"].concat());
            } else {
                client.send(&piece);
            }
        }
        if framing.contains("chunked") {
            client.send("0\r\n\r\n");
        }
        assert_eq!(client.reply().expect("an answer").text(), format!("{{\"got\":{LENGTH}}}"), "{framing}");
    }
    assert_eq!(client.get("/logs/big").body.len(), LENGTH);
    let peak = scene.proxy.peak_memory();
    assert!(peak < 32 << 20, "the proxy took {} KiB", peak >> 10);
}

#[test]
fn what_comes_gzipped_is_sent_and_recorded_plain() {
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write as _;
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&accepted);
    let mut scene = Scene::scripted(&[], move |request, wire| {
        seen.lock().expect("seen").push(request.header("accept-encoding").map(str::to_owned));
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(list(100, &["one", "two"]).as_bytes())?;
        let body = gzip.finish()?;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: ";
        wire.send([format!("{head}{}\r\n\r\n", body.len()).as_bytes(), &body].concat())
    });
    let reply = scene.proxy.get(MAPS);
    assert_eq!((reply.text(), reply.header("content-encoding")), (list(100, &["one", "two"]), None));
    assert_eq!(accepted.lock().expect("seen").as_slice(), [Some("gzip".to_owned())]);
    scene.cut();
    assert_eq!(scene.proxy.get(MAPS).text(), list(100, &["one", "two"]));
}
