//! Waits, and what ends them.

use super::*;
use std::sync::atomic::AtomicBool;

#[test]
fn a_stalled_first_byte_times_out_and_the_link_is_looked_at() {
    let scene = scene(|exchange| {
        exchange.wait_for_close();
        Then::Cut
    });
    let start = Instant::now();
    let out = Outgoing { first_byte: Duration::from_millis(300), ..request("GET", "/x") };
    let outcome = scene.upstream.fetch(&scene.upstream.known(), &Credentials::None, out);
    assert!(matches!(outcome.map(|a| a.status), Err(FetchError::TimedOut)));
    assert!(start.elapsed() >= Duration::from_millis(300));
    // The probe finds the upstream well.
    scene.wait_for(|state| state == LinkState::Up);
    assert_eq!(scene.upstream.link().describe().reason, "no answer in time");
}

#[test]
fn a_first_byte_timeout_with_a_dead_probe_takes_the_link_down() {
    let scene = scene(|exchange| {
        exchange.wait_for_close();
        Then::Cut
    });
    scene.server.ready.store(0, Ordering::SeqCst);
    let out = Outgoing { first_byte: Duration::from_millis(100), ..request("GET", "/x") };
    assert!(matches!(
        scene.upstream.fetch(&scene.upstream.known(), &Credentials::None, out).map(|a| a.status),
        Err(FetchError::TimedOut)
    ));
    scene.wait_for(is_down);
    // From now on nothing is sent, and nobody waits.
    let start = Instant::now();
    match scene.send("GET") {
        Err(FetchError::Unreachable(why)) => assert_eq!(why, "no answer to a probe within 2 s"),
        other => panic!("{:?}", other.map(|a| a.status)),
    }
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_client_that_hangs_up_frees_the_request_and_its_connection() {
    for send_head in [false, true] {
        let (closed, seen) = mpsc::channel();
        let (begun, begins) = mpsc::channel();
        let scene = scene(move |exchange| {
            if send_head {
                exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            }
            begun.send(()).unwrap();
            exchange.wait_for_close();
            closed.send(()).unwrap();
            Then::Cut
        });
        let (client, other_end) = UnixStream::pair().unwrap();
        let hang_up = std::thread::spawn(move || {
            begins.recv_timeout(LONG).unwrap();
            std::thread::sleep(Duration::from_millis(100));
            drop(other_end);
        });
        let out = Outgoing { client: Some(client.as_fd()), ..request("GET", "/x?watch=1") };
        match scene.upstream.fetch(&scene.upstream.known(), &Credentials::None, out) {
            Ok(mut answer) => {
                assert!(send_head);
                assert_eq!(answer.body.read(&mut [0; 9]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
            }
            Err(error) => assert!(!send_head && matches!(error, FetchError::ClientGone), "{error}"),
        }
        seen.recv_timeout(LONG).unwrap();
        hang_up.join().unwrap();
        assert_eq!(scene.upstream.link().state(), LinkState::Up);
    }
}

#[test]
fn a_link_that_is_found_down_wakes_whoever_waits() {
    let (begun, begins) = mpsc::channel();
    let scene = scene(move |exchange| {
        if exchange.head.starts_with("GET") {
            exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        }
        begun.send(()).unwrap();
        exchange.wait_for_close();
        Then::Cut
    });
    let scene = &scene;
    std::thread::scope(|threads| {
        let watch = threads.spawn(|| {
            let mut whole = Vec::new();
            let mut answer = scene.send("GET").unwrap();
            (answer.body.read_to_end(&mut whole).unwrap_err().kind(), whole)
        });
        let write = threads.spawn(|| scene.send("POST").err());
        begins.recv_timeout(LONG).unwrap();
        begins.recv_timeout(LONG).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        scene.upstream.link().monitors()[0].report(Event::ConnectFailed, "the cable was cut");
        assert_eq!(watch.join().unwrap(), (io::ErrorKind::NetworkDown, b"abc".to_vec()));
        match write.join().unwrap() {
            Some(FetchError::Unreachable(why)) => assert_eq!(why, "the cable was cut"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn an_answer_that_keeps_coming_outlives_the_finding_that_no_new_connection_can_be_made() {
    let ceased = Arc::new(AtomicBool::new(false));
    let (begun, begins) = mpsc::channel();
    let cease = Arc::clone(&ceased);
    let scene = scene(move |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while !cease.load(Ordering::SeqCst) {
            exchange.send("1\r\nx\r\n");
            begun.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
        exchange.wait_for_close();
        Then::Cut
    });
    let mut answer = scene.send("GET").unwrap();
    answer.body.read_exact(&mut [0]).unwrap();
    begins.recv_timeout(LONG).unwrap();
    scene.upstream.link().monitors()[0].report(Event::ConnectFailed, "nobody listens any more");
    for _ in 0..20 {
        answer.body.read_exact(&mut [0]).unwrap();
    }
    ceased.store(true, Ordering::SeqCst);
    let mut rest = Vec::new();
    assert_eq!(answer.body.read_to_end(&mut rest).unwrap_err().kind(), io::ErrorKind::NetworkDown);
}
