//! Bounds: how many, and how long.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustix::net::sockopt;

use super::support::*;
use crate::front::{BodyLength, ServerOptions};

const SHORT: Duration = Duration::from_millis(200);

#[test]
fn past_the_limit_clients_are_told_so() {
    let options = ServerOptions { max_connections: 2, ..options() };
    let gate = Arc::new(AtomicBool::new(false));
    let opened = Arc::clone(&gate);
    let server = serve_with(&options, move |exchange| {
        eventually("the gate is open", || opened.load(Relaxed));
        say(exchange, "served")
    });
    let mut first = Client::connect(&server);
    let mut second = Client::connect(&server);
    first.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    second.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    eventually("both are worked on", || server.counters().requests.load(Relaxed) == 2);
    for _ in 0..3 {
        let mut third = Client::connect(&server);
        let reply = third.get("/");
        assert_eq!((reply.status, reply.reason().as_str()), (429, "TooManyRequests"));
        assert_eq!(reply.header("retry-after"), Some("1"));
        assert_eq!(reply.header("connection"), Some("close"));
        third.goodbye().unwrap();
    }
    gate.store(true, Relaxed);
    assert_eq!(second.reply().unwrap().text(), "served");
    assert_eq!(first.reply().unwrap().text(), "served", "who is in stays in");
    drop(second);
    let counters = server.counters();
    eventually("the place is free again", || counters.open.load(Relaxed) == 1);
    assert_eq!(Client::connect(&server).get("/").text(), "served");
    assert_eq!(counters.refused.load(Relaxed), 3);
    assert_eq!(counters.requests.load(Relaxed), 3);
    assert_eq!(counters.shed.load(Relaxed), 0);
}

#[test]
fn a_newcomer_takes_the_place_of_whoever_has_been_idle_longest() {
    let options = ServerOptions { max_connections: 2, ..options() };
    let server = serve_with(&options, |exchange| say(exchange, "served"));
    let mut first = Client::connect(&server);
    let mut second = Client::connect(&server);
    for client in [&mut first, &mut second] {
        assert_eq!(client.get("/").text(), "served");
        // The answer is here before its thread has noted that it is idle.
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(Client::connect(&server).get("/").text(), "served");
    let counters = server.counters();
    assert_eq!((counters.shed.load(Relaxed), counters.refused.load(Relaxed)), (1, 0));
    assert!(matches!(first.stream.read(&mut [0]), Ok(0) | Err(_)), "it was idle for longer");
    assert_eq!(second.get("/").text(), "served");
}

#[test]
fn a_client_that_takes_nothing_is_worked_on_for_a_while() {
    let options = ServerOptions { max_connections: 1, ..options() };
    let server = serve_with(&options, |exchange| {
        let mut body = exchange.respond(200, &[], BodyLength::Chunked)?;
        loop {
            body.write_all(&vec![0; 100_000])?;
        }
    });
    let mut client = Client::connect(&server);
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    eventually("its request is here", || server.counters().requests.load(Relaxed) == 1);
    assert_eq!(Client::connect(&server).get("/").status, 429);
}

#[test]
fn some_places_are_kept_from_what_may_take_for_ever() {
    let options = ServerOptions { max_connections: 8, ..options() };
    let server = serve_with(&options, |exchange| {
        let lasting = exchange.lasts();
        let mut body = exchange.respond(if lasting.is_some() { 200 } else { 429 }, &[], BodyLength::Chunked)?;
        body.flush()?;
        // As long as the client stays.
        while lasting.is_some() && body.write_all(b".").and_then(|()| body.flush()).is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
        body.finish()
    });
    let head = |client: &mut Client| {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        let mut start = [0; 12];
        client.stream.read_exact(&mut start).unwrap();
        String::from_utf8(start.to_vec()).unwrap()
    };
    let mut clients: Vec<_> = (0..7).map(|_| Client::connect(&server)).collect();
    clients.iter_mut().for_each(|client| assert_eq!(head(client), "HTTP/1.1 200"));
    let counters = server.counters();
    assert_eq!(head(&mut Client::connect(&server)), "HTTP/1.1 429", "seven of eight are taken");
    assert_eq!((counters.lasting.load(Relaxed), counters.lasting_refused.load(Relaxed)), (7, 1));
    clients.pop();
    eventually("the place is given back", || counters.lasting.load(Relaxed) == 6);
    assert_eq!(head(&mut Client::connect(&server)), "HTTP/1.1 200");
}

#[test]
fn past_even_the_refusing_threads_connections_are_closed() {
    let options = ServerOptions { max_connections: 0, ..options() };
    let server = serve_with(&options, |exchange| say(exchange, "served"));
    // Each holds a refusing thread in its handshake.
    let connect = || TcpStream::connect(server.local_addrs()[0]).unwrap();
    let _silent: Vec<_> = (0..16).map(|_| connect()).collect();
    let counters = server.counters();
    eventually("all are in", || counters.refused.load(Relaxed) == 16);
    let mut one_more = connect();
    one_more.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(one_more.read(&mut [0]).unwrap(), 0);
    assert_eq!(counters.refused.load(Relaxed), 17);
    assert_eq!(counters.threads.load(Relaxed), 17);
}

#[test]
fn a_handshake_that_does_not_end_is_ended() {
    let options = ServerOptions { handshake_timeout: SHORT, ..options() };
    let server = serve_with(&options, |exchange| say(exchange, "served"));
    for beginning in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut socket = TcpStream::connect(server.local_addrs()[0]).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket.write_all(beginning).unwrap();
        // A reset, where bytes were left unread, is as good an end.
        assert!(matches!(socket.read(&mut [0]), Ok(0) | Err(_)));
    }
    eventually("both are counted", || server.counters().tls_failures.load(Relaxed) == 2);
}

#[test]
fn a_slow_head_is_told_so() {
    let options = ServerOptions { head_timeout: SHORT, ..options() };
    let server = serve_with(&options, |exchange| say(exchange, "served"));
    let mut client = Client::connect(&server);
    client.send("GET / HTTP/1.1\r\nHost: h\r\n");
    let reply = client.reply().unwrap();
    assert_eq!((reply.status, reply.reason().as_str()), (408, "Timeout"));
    client.goodbye().unwrap();
}

/// The head's time is its own: waiting for its first byte does not count.
#[test]
fn idle_connections_are_closed_cleanly_in_their_own_time() {
    let options = ServerOptions { head_timeout: Duration::from_millis(500), idle_timeout: 8 * SHORT, ..options() };
    let server = serve_with(&options, |exchange| say(exchange, "served"));
    let mut client = Client::connect(&server);
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(client.get("/").text(), "served");
    client.goodbye().unwrap();
    eventually("its thread is gone", || server.counters().threads.load(Relaxed) == 1);
}

#[test]
fn a_stalled_request_body_is_told_so() {
    let options = ServerOptions { stall_timeout: SHORT, ..options() };
    let server = serve_with(&options, |mut exchange| {
        let error = exchange.body().read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        Err(error)
    });
    let mut client = Client::connect(&server);
    client.send("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhello");
    let reply = client.reply().unwrap();
    assert_eq!((reply.status, reply.reason().as_str()), (408, "Timeout"));
    client.goodbye().unwrap();
}

#[test]
fn a_client_that_takes_nothing_is_cut() {
    let options = ServerOptions { stall_timeout: SHORT, ..options() };
    let timed_out = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&timed_out);
    let server = serve_with(&options, move |exchange| {
        let mut body = exchange.respond(200, &[], BodyLength::Chunked)?;
        loop {
            if let Err(error) = body.write_all(&vec![0; 100_000]) {
                seen.store(error.kind() == io::ErrorKind::TimedOut, Relaxed);
                return Err(error);
            }
        }
    });
    let mut client = Client::connect(&server);
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    eventually("the handler is told", || timed_out.load(Relaxed));
    eventually("the connection is closed", || server.counters().open.load(Relaxed) == 0);
    eventually("it is counted", || server.counters().torn.load(Relaxed) == 1);
}

/// They are set on the listener alone, and must come through.
#[test]
fn sockets_have_their_options() {
    let server = serve(|exchange| {
        let ends = exchange.ends();
        let socket = ends.client();
        let text = format!(
            "{} {} {:?}",
            sockopt::tcp_nodelay(socket)?,
            sockopt::socket_keepalive(socket)?,
            sockopt::tcp_keepidle(socket)?
        );
        say(exchange, &text)
    });
    assert_eq!(Client::connect(&server).get("/").text(), "true true 60s");
}

#[test]
fn several_addresses_and_what_cannot_be_bound() {
    let two = vec!["127.0.0.1:0".parse().unwrap(), "127.0.0.2:0".parse().unwrap()];
    let server = serve_with(&ServerOptions { addresses: two, ..options() }, |exchange| say(exchange, "served"));
    for address in server.local_addrs() {
        let mut client = Client::connect_with(*address, client_config(None)).unwrap();
        assert_eq!(client.get("/").text(), "served");
    }
    let taken = ServerOptions { addresses: vec![server.local_addrs()[0]], ..options() };
    let error = crate::front::Server::bind(taken).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&server.local_addrs()[0].to_string()), "{error}");
}
