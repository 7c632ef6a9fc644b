//! Requests in: keep-alive, pipelining, bodies, expectations, refusals.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use super::support::*;
use crate::front::{BodyLength, Exchange};

fn echo(mut exchange: Exchange<'_>) -> std::io::Result<()> {
    let mut body = Vec::new();
    exchange.body().read_to_end(&mut body)?;
    let text = format!("{} {} {}", exchange.head.method, exchange.head.target, String::from_utf8_lossy(&body));
    say(exchange, &text)
}

/// Reads all and answers with how much it was, and its sum.
fn weigh(mut exchange: Exchange<'_>) -> std::io::Result<()> {
    let mut buffer = [0; 3000];
    let (mut length, mut sum) = (0_u64, 0_u64);
    loop {
        let count = exchange.body().read(&mut buffer)?;
        if count == 0 {
            return say(exchange, &format!("{length} {sum}"));
        }
        length += count as u64;
        sum = buffer[..count].iter().fold(sum, |sum, &byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    }
}

#[test]
fn a_thousand_requests_on_one_connection() {
    let server = serve(echo);
    let mut client = Client::connect(&server);
    for number in 0..1000 {
        let reply = client.get(&format!("/{number}"));
        assert_eq!((reply.status, reply.text()), (200, format!("GET /{number} ").as_str()));
        assert_eq!(reply.header("connection"), None);
        assert_eq!(reply.header("content-type"), Some("text/plain"));
    }
    let counters = server.counters();
    assert_eq!(counters.requests.load(Relaxed), 1000);
    assert_eq!(counters.accepted.load(Relaxed), 1);
    assert_eq!(counters.open.load(Relaxed), 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = serve(echo);
    let mut client = Client::connect(&server);
    let requests = (0..50).map(|number| {
        let (method, rest) = match number % 3 {
            0 => ("GET", "\r\n"),
            1 => ("PUT", "Content-Length: 5\r\n\r\nhello"),
            _ => ("POST", "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        };
        format!("{method} /{number} HTTP/1.1\r\nHost: h\r\n{rest}")
    });
    client.send(&requests.collect::<Vec<_>>().concat());
    for number in 0..50 {
        let expected = match number % 3 {
            0 => format!("GET /{number} "),
            1 => format!("PUT /{number} hello"),
            _ => format!("POST /{number} hello"),
        };
        assert_eq!(client.reply().unwrap().text(), expected);
    }
}

#[test]
fn a_request_in_single_bytes() {
    let server = serve(echo);
    let mut client = Client::connect(&server);
    for _ in 0..2 {
        for byte in "PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n".chars() {
            client.send(&byte.to_string());
        }
        assert_eq!(client.reply().unwrap().text(), "PUT /a hi");
    }
}

#[test]
fn large_bodies_stream_in() {
    let server = serve(weigh);
    let mut client = Client::connect(&server);
    let data: Vec<u8> = (0..8_000_000_u32).map(|number| (number % 251) as u8).collect();
    let sum = data.iter().fold(0_u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let expected = format!("{} {sum}", data.len());
    client.send(&format!("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", data.len()));
    client.stream.write_all(&data).unwrap();
    assert_eq!(client.reply().unwrap().text(), expected);
    client.send("PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    for chunk in data.chunks(70_001) {
        client.send(&format!("{:x}\r\n", chunk.len()));
        client.stream.write_all(chunk).unwrap();
        client.send("\r\n");
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.reply().unwrap().text(), expected);
}

#[test]
fn continue_is_sent_when_the_body_is_first_read() {
    let gate = Gate::default();
    let before = gate.clone();
    let server = serve(move |exchange| {
        before.pass();
        echo(exchange)
    });
    let mut client = Client::connect(&server);
    client.send("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    client.stream.sock.socket.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
    assert_eq!(client.head().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "nothing is read yet");
    client.stream.sock.socket.set_read_timeout(Some(LONG)).unwrap();
    gate.open();
    assert_eq!(client.head().unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hello");
    let reply = client.reply().unwrap();
    assert_eq!((reply.text(), reply.header("connection")), ("PUT /a hello", None));
    assert_eq!(client.get("/b").text(), "GET /b ");
}

#[test]
fn a_body_that_nobody_asked_for_is_not_waited_for() {
    let server = serve(|exchange| say(exchange, "no"));
    let mut client = Client::connect(&server);
    client.send("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let reply = client.reply().unwrap();
    assert_eq!((reply.status, reply.text(), reply.header("connection")), (200, "no", Some("close")));
    client.goodbye().unwrap();
}

#[test]
fn unread_bodies_are_skipped_up_to_a_bound() {
    let server = serve(|exchange| say(exchange, "unread"));
    let mut client = Client::connect(&server);
    let body = "x".repeat(200_000);
    client.send(&format!("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n{body}"));
    assert_eq!(client.reply().unwrap().header("connection"), None);
    client
        .send(&format!("PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n30d40\r\n{body}\r\n0\r\n\r\n"));
    assert_eq!(client.reply().unwrap().header("connection"), None);
    client.send(&format!("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 300000\r\n\r\n{body}"));
    let reply = client.reply().unwrap();
    assert_eq!((reply.text(), reply.header("connection")), ("unread", Some("close")));
    client.goodbye().unwrap();
}

#[test]
fn http_1_0() {
    let server = serve(echo);
    let mut client = Client::connect(&server);
    client.send("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let reply = client.reply().unwrap();
    assert_eq!((reply.text(), reply.header("connection")), ("GET /a ", Some("keep-alive")));
    client.send("GET /b HTTP/1.0\r\n\r\n");
    let reply = client.reply().unwrap();
    assert_eq!((reply.text(), reply.header("connection")), ("GET /b ", Some("close")));
    client.goodbye().unwrap();
}

#[test]
fn what_is_no_request_is_answered_and_ends_the_connection() {
    let server = serve(echo);
    let get = |fields: &str| format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let table = [
        (get("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), 400, "BadRequest"),
        (get("Content-Length: 3\r\nContent-Length: 3\r\n"), 400, "BadRequest"),
        ("GET / HTTP/1.1\nHost: h\n\n".to_owned(), 400, "BadRequest"),
        (get("Expect: magic\r\n"), 417, "BadRequest"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505, "BadRequest"),
        ("CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 405, "MethodNotAllowed"),
        (get(&"X: y\r\n".repeat(256)), 431, "RequestEntityTooLarge"),
        (get(&format!("X: {}\r\n", "y".repeat(64 * 1024))), 431, "RequestEntityTooLarge"),
        (format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "y".repeat(64 * 1024)), 414, "RequestEntityTooLarge"),
        // Without an end in sight.
        (format!("GET /{}", "y".repeat(300 * 1024)), 414, "RequestEntityTooLarge"),
        (format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(300 * 1024)), 431, "RequestEntityTooLarge"),
    ];
    for (request, status, reason) in &table {
        let mut client = Client::connect(&server);
        // A request after the refused one must never be answered.
        client.send(&format!("{request}GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"));
        let reply = client.reply().unwrap();
        let start: String = request.chars().take(80).collect();
        assert_eq!((reply.status, reply.reason().as_str()), (*status, *reason), "{start}");
        assert_eq!(reply.header("connection"), Some("close"));
        client.goodbye().unwrap();
    }
    assert_eq!(server.counters().bad_requests.load(Relaxed), table.len());
    assert_eq!(server.counters().requests.load(Relaxed), 0);
}

#[test]
fn a_head_of_64_kib_passes() {
    let server = serve(|exchange| {
        let head = exchange.head;
        say(exchange, &head.headers[1].1.len().to_string())
    });
    let mut client = Client::connect(&server);
    let frame = "GET / HTTP/1.1\r\nHost: h\r\nX: \r\n\r\n".len();
    let value = "y".repeat(64 * 1024 - frame);
    client.send(&format!("GET / HTTP/1.1\r\nHost: h\r\nX: {value}\r\n\r\n"));
    assert_eq!(client.reply().unwrap().text(), value.len().to_string());
    client.send(&format!("GET / HTTP/1.1\r\nHost: h\r\nX: {value}z\r\n\r\n"));
    assert_eq!(client.reply().unwrap().status, 431);
}

#[test]
fn a_malformed_body_is_answered_for_a_handler_that_could_not() {
    let server = serve(echo);
    for body in ["5\r\nhelloX", "zz\r\n", "5\r\nhello\r\n-1\r\n"] {
        let mut client = Client::connect(&server);
        client.send(&format!("PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
        let reply = client.reply().unwrap();
        assert_eq!((reply.status, reply.reason().as_str()), (400, "BadRequest"), "{body:?}");
        client.goodbye().unwrap();
    }
    eventually("all are counted", || server.counters().bad_requests.load(Relaxed) == 3);
}

#[test]
fn a_body_that_the_client_gives_up_is_torn_for_the_handler() {
    let torn = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&torn);
    let server = serve(move |mut exchange| {
        let error = exchange.body().read_to_end(&mut Vec::new()).unwrap_err();
        seen.store(error.kind() == std::io::ErrorKind::UnexpectedEof, Relaxed);
        Err(error)
    });
    let mut client = Client::connect(&server);
    client.send("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhello");
    drop(client);
    eventually("the handler sees the end", || torn.load(Relaxed));
    eventually("the connection ends", || server.counters().open.load(Relaxed) == 0);
}

/// Between requests a connection gives its buffers back; what it keeps must not show in the next.
#[test]
fn requests_after_a_pause() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let server = serve(move |exchange| {
        counted.fetch_add(1, Relaxed);
        let length = BodyLength::Exact(exchange.head.target.len() as u64);
        let target = exchange.head.target.clone();
        let mut body = exchange.respond(200, &[], length)?;
        body.write_all(target.as_bytes())?;
        body.finish()
    });
    let mut client = Client::connect(&server);
    assert_eq!(client.get("/first").text(), "/first");
    std::thread::sleep(std::time::Duration::from_millis(1200));
    assert_eq!(client.get("/2").text(), "/2");
    assert_eq!(count.load(Relaxed), 2);
}
