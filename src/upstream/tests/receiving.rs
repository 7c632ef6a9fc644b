//! What comes down, whole and torn.

use super::*;

#[test]
fn a_torn_body_is_never_taken_for_whole() {
    let heads = [
        ("Transfer-Encoding: chunked\r\n", "5\r\nabcde\r\n"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nab"),
        ("Transfer-Encoding: chunked\r\n", "5"),
        ("Content-Length: 9\r\n", "abc"),
        ("", "abc"),
    ];
    for (head, body) in heads {
        for polite in [false, true] {
            if polite && head.is_empty() {
                // That one is whole: see below.
                continue;
            }
            let scene = scene(move |exchange| {
                exchange.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n{body}"));
                if polite { Then::Close } else { Then::Cut }
            });
            let error = scene.get().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{head} {body} {polite}: {error}");
        }
    }
}

#[test]
fn a_body_that_is_delimited_by_close_is_whole_after_close_notify() {
    let scene = scene(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\n\r\nabc");
        Then::Close
    });
    assert_eq!(scene.get().unwrap(), b"abc");
}

#[test]
fn a_body_in_a_bad_frame_is_invalid() {
    let scene = scene(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n");
        Then::Next
    });
    assert_eq!(scene.get().unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn informational_answers_do_not_leak_and_a_switch_of_protocols_is_refused() {
    let scene = scene(|exchange| {
        exchange.send("HTTP/1.1 100 Continue\r\n\r\n");
        exchange.send("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n");
        if exchange.head.starts_with("GET") {
            return number(exchange);
        }
        exchange.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n");
        Then::Next
    });
    assert_eq!(scene.get().unwrap(), b"1");
    assert!(matches!(scene.send("POST").map(|a| a.status), Err(FetchError::Broken(_))));
}

#[test]
fn a_head_may_be_as_large_as_64_kib() {
    let scene = scene(|exchange| {
        let field = "x".repeat(if exchange.head.starts_with("GET") { 60_000 } else { 70_000 });
        exchange.send(format!("HTTP/1.1 200 OK\r\nX-Large: {field}\r\nContent-Length: 3\r\n\r\nabc"));
        Then::Next
    });
    let answer = scene.send("GET").unwrap();
    assert_eq!(answer.headers[0].0, "x-large");
    assert_eq!(answer.headers[0].1.len(), 60_000);
    drop(answer);
    match scene.send("PUT") {
        Err(FetchError::Broken(why)) => {
            assert_eq!(why, "the answer's head is larger than 65536 bytes");
        }
        other => panic!("{:?}", other.map(|a| a.status)),
    }
}

#[test]
fn a_large_body_comes_down_whole() {
    const SIZE: usize = 5_000_000;
    let scene = scene(|exchange| {
        exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
        for piece in 0..SIZE / 1000 {
            exchange.send([piece as u8; 1000]);
        }
        Then::Next
    });
    let whole = scene.get().unwrap();
    assert_eq!(whole.len(), SIZE);
    assert!(whole.chunks(1000).enumerate().all(|(i, piece)| piece.iter().all(|b| *b == i as u8)));
}
