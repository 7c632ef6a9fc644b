//! Panics and the end.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::support::*;
use crate::front::BodyLength;

#[test]
fn a_panic_ends_its_connection_and_nothing_else() {
    let server = serve(|exchange| match exchange.head.target.as_str() {
        "/before" => panic!("on purpose"),
        "/within" => {
            let mut body = exchange.respond(200, &[], BodyLength::Chunked)?;
            body.write_all(b"half")?;
            body.flush()?;
            panic!("on purpose")
        }
        _ => say(exchange, "fine"),
    });
    let mut bystander = Client::connect(&server);
    assert_eq!(bystander.get("/").text(), "fine");
    for target in ["/before", "/within"] {
        let mut client = Client::connect(&server);
        client.send(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(client.reply().unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{target}");
    }
    assert_eq!(bystander.get("/").text(), "fine");
    assert_eq!(Client::connect(&server).get("/").text(), "fine");
    let counters = server.counters();
    eventually("both are counted", || (counters.panics.load(Relaxed), counters.torn.load(Relaxed)) == (2, 2));
    assert_eq!(server.stop(LONG), 0);
    assert_eq!((counters.open.load(Relaxed), counters.threads.load(Relaxed)), (0, 0));
}

#[test]
fn stopping_closes_the_idle_and_waits_for_the_busy() {
    let (begun, gate) = (Gate::default(), Gate::default());
    let (inner_begun, inner_gate) = (begun.clone(), gate.clone());
    let server = serve(move |exchange| {
        if exchange.head.target == "/busy" {
            inner_begun.open();
            inner_gate.pass();
        }
        say(exchange, "whole")
    });
    let address = server.local_addrs()[0];
    let mut idle = Client::connect(&server);
    assert_eq!(idle.get("/").text(), "whole");
    let mut busy = Client::connect(&server);
    busy.send("GET /busy HTTP/1.1\r\nHost: h\r\n\r\n");
    begun.pass();
    let counters = server.counters();
    let stopping = std::thread::spawn(move || server.stop(LONG));
    idle.goodbye().unwrap();
    eventually("nobody listens", || std::net::TcpStream::connect(address).is_err());
    eventually("only the busy one is there", || counters.open.load(Relaxed) == 1);
    gate.open();
    let reply = busy.reply().unwrap();
    assert_eq!((reply.text(), reply.header("connection")), ("whole", Some("close")));
    busy.goodbye().unwrap();
    assert_eq!(stopping.join().unwrap(), 0);
    assert_eq!((counters.open.load(Relaxed), counters.threads.load(Relaxed)), (0, 0));
}

#[test]
fn a_watch_sees_the_stop_and_ends_cleanly() {
    let server = serve(|exchange| {
        let ends = exchange.ends();
        let mut body = exchange.respond(200, &[], BodyLength::Chunked)?;
        body.write_all(b"event")?;
        body.flush()?;
        poll(&mut [PollFd::from_borrowed_fd(ends.stop(), PollFlags::IN)], None)?;
        body.finish()
    });
    let mut client = Client::connect(&server);
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.bodiless_reply().unwrap().status, 200);
    assert_eq!(client.exactly(10).unwrap(), b"5\r\nevent\r\n");
    assert_eq!(server.stop(LONG), 0);
    assert_eq!(client.exactly(5).unwrap(), b"0\r\n\r\n");
    client.goodbye().unwrap();
}

#[test]
fn after_the_grace_what_is_left_is_cut() {
    let begun = Gate::default();
    let inner_begun = begun.clone();
    let hung_up = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&hung_up);
    let server = serve(move |exchange| {
        let ends = exchange.ends();
        let _body = exchange.respond(200, &[], BodyLength::Chunked)?;
        inner_begun.open();
        // As a handler does that waits for its upstream.
        let mut watched = [PollFd::from_borrowed_fd(ends.client(), PollFlags::RDHUP)];
        poll(&mut watched, None)?;
        seen.store(watched[0].revents().contains(PollFlags::RDHUP), Relaxed);
        Err(io::ErrorKind::BrokenPipe.into())
    });
    let mut client = Client::connect(&server);
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    begun.pass();
    let start = Instant::now();
    assert_eq!(server.stop(Duration::from_millis(100)), 0);
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert!(hung_up.load(Relaxed));
    assert!(client.reply().is_err());
}

#[test]
fn a_client_that_hangs_up_is_seen_by_whoever_polls_its_socket() {
    let hung_up = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&hung_up);
    let server = serve(move |exchange| {
        let ends = exchange.ends();
        let mut watched = [PollFd::from_borrowed_fd(ends.client(), PollFlags::RDHUP)];
        poll(&mut watched, None)?;
        seen.store(watched[0].revents().contains(PollFlags::RDHUP), Relaxed);
        Ok(())
    });
    let mut client = Client::connect(&server);
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    drop(client);
    eventually("the handler sees it", || hung_up.load(Relaxed));
    eventually("its thread is gone", || server.counters().threads.load(Relaxed) == 1);
}

#[test]
fn dropping_a_server_frees_its_address() {
    let server = serve(|exchange| say(exchange, "fine"));
    let address = server.local_addrs()[0];
    let mut client = Client::connect(&server);
    assert_eq!(client.get("/").text(), "fine");
    drop(server);
    client.goodbye().unwrap();
    assert!(std::net::TcpStream::connect(address).is_err());
}
