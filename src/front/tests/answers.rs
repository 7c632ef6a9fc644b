//! Answers out: framing, records, torn bodies, what cannot be sent.

use std::io::{self, Write};
use std::sync::atomic::Ordering::Relaxed;

use super::support::*;
use crate::front::BodyLength;

#[test]
fn bodies_of_all_lengths_and_framings() {
    // Around the borders of a TLS record, with and without a chunk's frame, and beyond what is encrypted at once.
    let lengths = [0, 1, 100, 16_000, 16_100, 16_383, 16_384, 16_385, 32_768, 65_535, 65_536, 65_537, 1_000_000];
    let server = serve(move |exchange| {
        let (framing, length) = exchange.head.target[1..].split_once('/').unwrap();
        let length: usize = length.parse().unwrap();
        let body: Vec<u8> = (0..length).map(|number| (number % 253) as u8).collect();
        let (told, piece) = match framing {
            "exact" => (BodyLength::Exact(length as u64), usize::MAX),
            "exact-pieces" => (BodyLength::Exact(length as u64), 1000),
            "exact-flushed" => (BodyLength::Exact(length as u64), 30_000),
            "chunked" => (BodyLength::Chunked, usize::MAX),
            "chunked-pieces" => (BodyLength::Chunked, 1000),
            _ => (BodyLength::Chunked, 30_000),
        };
        let mut out = exchange.respond(200, &[], told)?;
        for bytes in body.chunks(piece) {
            out.write_all(bytes)?;
            if piece == 30_000 {
                out.flush()?;
            }
        }
        out.finish()
    });
    let mut client = Client::connect(&server);
    for framing in ["exact", "exact-pieces", "exact-flushed", "chunked", "chunked-pieces", "chunked-flushed"] {
        for length in lengths {
            let reply = client.get(&format!("/{framing}/{length}"));
            assert_eq!(reply.body.len(), length, "{framing}");
            assert!(reply.body.iter().enumerate().all(|(at, &byte)| byte == (at % 253) as u8), "{framing} {length}");
        }
    }
    for length in lengths {
        let mut client = Client::connect(&server);
        client.send(&format!("GET /chunked/{length} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
        let reply = client.reply().unwrap();
        assert_eq!((reply.body.len(), reply.header("transfer-encoding")), (length, None));
        assert_eq!(reply.header("connection"), Some("close"));
    }
}

#[test]
fn a_small_answer_is_one_record_and_a_large_one_fills_them() {
    let server = serve(|exchange| {
        let (told, length) = match exchange.head.target.as_str() {
            "/small" => (BodyLength::Exact(100), 100),
            "/chunked" => (BodyLength::Chunked, 100),
            _ => (BodyLength::Exact(100_000), 100_000),
        };
        let mut body = exchange.respond(200, &[("X", b"y")], told)?;
        // As a copy loop does it.
        let mut left = length;
        while left > 0 {
            let count = left.min(16 * 1024);
            body.write_all(&vec![b'x'; count])?;
            left -= count;
        }
        body.finish()
    });
    let mut client = Client::connect(&server);
    client.get("/small");
    let mut records_of = |target: &str| {
        client.stream.sock.seen.clear();
        client.get(target);
        records(&client.stream.sock.seen)
    };
    assert_eq!(records_of("/small").len(), 1);
    assert_eq!(records_of("/chunked").len(), 1);
    let large = records_of("/large");
    let full = 16 * 1024 + 17;
    assert_eq!(large.len(), 7, "{large:?}");
    assert!(large[..6].iter().all(|&length| length == full), "{large:?}");
}

#[test]
fn flush_is_seen_at_once() {
    let gate = Gate::default();
    let before = gate.clone();
    let server = serve(move |exchange| {
        let mut body = exchange.respond(200, &[], BodyLength::Chunked)?;
        body.flush()?;
        body.write_all(b"event\n")?;
        body.flush()?;
        before.pass();
        body.finish()
    });
    let mut client = Client::connect(&server);
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.head().unwrap(), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(client.exactly(11).unwrap(), b"6\r\nevent\n\r\n");
    gate.open();
    assert_eq!(client.exactly(5).unwrap(), b"0\r\n\r\n");
}

#[test]
fn head_requests_and_bodiless_statuses() {
    let server = serve(|exchange| {
        let (status, length) = match exchange.head.target.as_str() {
            "/exact" => (200, BodyLength::Exact(5)),
            "/chunked" => (200, BodyLength::Chunked),
            "/none" => (200, BodyLength::None),
            "/204" => (204, BodyLength::None),
            _ => (304, BodyLength::Exact(5)),
        };
        let mut body = exchange.respond(status, &[], length)?;
        body.write_all(b"hello")?;
        body.finish()
    });
    let mut client = Client::connect(&server);
    for (method, target, length, coding) in [
        ("HEAD", "/exact", Some("5"), None),
        ("HEAD", "/chunked", None, Some("chunked")),
        ("HEAD", "/none", None, None),
        ("GET", "/204", None, None),
        ("GET", "/304", Some("5"), None),
    ] {
        client.send(&format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let reply = client.bodiless_reply().unwrap();
        assert_eq!(reply.header("content-length"), length, "{method} {target}");
        assert_eq!(reply.header("transfer-encoding"), coding, "{method} {target}");
    }
    assert_eq!(client.get("/exact").text(), "hello", "nothing was left on the wire");
}

/// An answer that a handler leaves in the middle must never look whole to its client.
#[test]
fn torn_answers() {
    let server = serve(|exchange| {
        let target = exchange.head.target.clone();
        if target == "/unanswered" {
            return Ok(());
        }
        let length = if target.starts_with("/exact") { BodyLength::Exact(10) } else { BodyLength::Chunked };
        let mut body = exchange.respond(200, &[], length)?;
        body.write_all(b"hello")?;
        body.flush()?;
        match target.as_str() {
            "/exact/finished" => body.finish(),
            "/exact/too-long" => {
                let error = body.write_all(b"world!").unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
                assert!(body.finish().is_err());
                Ok(())
            }
            "/chunked/error" | "/1.0" => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    });
    for (target, sent) in [
        ("/exact/dropped", "hello"),
        ("/exact/finished", "hello"),
        ("/exact/too-long", "hello"),
        ("/chunked/dropped", "5\r\nhello\r\n"),
        ("/chunked/error", "5\r\nhello\r\n"),
    ] {
        let mut client = Client::connect(&server);
        client.send(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(client.bodiless_reply().unwrap().status, 200);
        assert_eq!(client.exactly(sent.len()).unwrap(), sent.as_bytes(), "what was flushed arrives: {target}");
        // rustls says UnexpectedEof for a TCP end without TLS' goodbye.
        assert_eq!(client.goodbye().unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{target}");
    }
    let mut client = Client::connect(&server);
    client.send("GET /1.0 HTTP/1.0\r\n\r\n");
    let error = client.reply().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "an end would pass for the body's");
    let mut client = Client::connect(&server);
    client.send("GET /unanswered HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.head().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    eventually("all are counted", || server.counters().torn.load(Relaxed) == 7);
}

#[test]
fn answers_that_cannot_be_sent_become_a_500() {
    let server = serve(|exchange| {
        let (status, name, value): (u16, &str, &[u8]) = match exchange.head.target.as_str() {
            "/crlf" => (200, "X", b"a\r\nSet-Cookie: b"),
            "/name" => (200, "X Y", b"a"),
            "/framing" => (200, "Content-Length", b"5"),
            _ => (101, "X", b"a"),
        };
        let error = exchange.respond(status, &[("A", b"b"), (name, value)], BodyLength::None).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        Err(error)
    });
    for target in ["/crlf", "/name", "/framing", "/status"] {
        let mut client = Client::connect(&server);
        let reply = client.get(target);
        assert_eq!((reply.status, reply.reason().as_str()), (500, "InternalError"), "{target}");
        assert_eq!((reply.header("set-cookie"), reply.header("a")), (None, None), "{target}");
        client.goodbye().unwrap();
    }
}
