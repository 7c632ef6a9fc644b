//! Three real kube-apiservers on one etcd: one after the other is killed and revived while clients read and watch, and none
//! of them notices.
//!
//! A revived server's watch cache begins where it listed: kube-apiserver itself answers a watch from before with 410
//! (`watchCache.getAllEventsSinceLocked`). So the next one is killed only once the watch has seen events of after that.

use crate::bed::Program;
use crate::control_plane::{ADMIN, Another, ControlPlane};
use crate::reflector::{Note, Reflector};
use crate::scene;
use crate::support::client::{self, Client};
use crate::support::pki::Pki;
use crate::support::proxy::Proxy;
use crate::support::{TempDir, eventually};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long each is dead.
const DEAD: Duration = Duration::from_secs(10);
/// kube-apiserver's own start, on a busy machine.
const START: Duration = Duration::from_secs(90);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Small: the server writes it whole or not at all. An answer that is cut while it streams is torn, as it is without us.
const SMALL: &str = "/api/v1/namespaces/default";

/// Waits until the proxy takes as many of the three for up.
fn await_up(proxy: &Proxy, wanted: u64) {
    let begun = Instant::now();
    while proxy.metric("lite_apiserver_upstream_up") != wanted {
        assert!(begun.elapsed() < START, "not {wanted} of the servers are up: {}", proxy.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until this server answers from a watch cache of its own.
fn read_from_cache(port: u16, tls: &Arc<rustls::ClientConfig>) {
    let mut client = Client::try_connect(port, tls).expect("a server that is up");
    let mut listed = || client.get(&format!("{MAPS}?resourceVersion=0")).status() == 200;
    eventually("the watch cache is filled", &mut listed);
}

#[test]
fn no_read_fails_while_one_of_three_kube_apiservers_after_the_other_dies() {
    let _alone = scene::alone();
    let (kube, folder) = (Program::Kube.built(), TempDir::new());
    let pki = Pki::new(&folder.path().join("pki"));
    let control_plane = ControlPlane::start(&kube, &pki);
    let mut servers: Vec<Another> = (0..3).map(|_| control_plane.another()).collect();
    let urls: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    let flags = [format!("--kube-apiserver-url={}", urls.join(",")), "--lb-mode=rr".to_owned()];
    let program = [env!("CARGO_BIN_EXE_lite-apiserver").to_owned()];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut proxy = Proxy::start_with_kubeconfig(&program, pki, &control_plane.admin(), &flags);
    await_up(&proxy, 3);

    let pair = proxy.pki.member(ADMIN, Some("system:masters"));
    let tls = client::tls(&proxy.data().join("pki/ca.crt"), Some(&pair));
    let watch = Reflector::start(proxy.port, tls.clone(), MAPS);
    eventually("the watch is open", || watch.count(|n| matches!(n, Note::Watching(_))) == 1);
    // Writes go straight to the fourth, which lives.
    let direct = client::tls(&proxy.pki.ca(), Some(&pair));
    let mut clerk = Client::try_connect(control_plane.port(), &direct).expect("direct");
    let seen =
        || watch.count(|n| matches!(n, Note::Event(kind, name) if kind == "ADDED" && name.starts_with("number-")));
    let ended = AtomicBool::new(false);
    let (reads, written) = std::thread::scope(|threads| {
        let reader = || {
            let mut client = Client::try_connect(proxy.port, &tls).expect("the proxy");
            let mut count = 0_usize;
            while !ended.load(Ordering::SeqCst) {
                let reply = client.get(SMALL);
                assert_eq!(reply.status(), 200, "{}", reply.text());
                assert_eq!(reply.header("age"), None, "answered from the record, though two servers live");
                count += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            count
        };
        let readers: Vec<_> = (0..4).map(|_| threads.spawn(reader)).collect();
        let mut written = 0;
        let mut write_for = |while_it_lasts: Duration| {
            let begun = Instant::now();
            while begun.elapsed() < while_it_lasts {
                let name = format!("number-{written}");
                let map = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
                assert_eq!(clerk.write("POST", MAPS, &[], &map.to_string()).status(), 201);
                written += 1;
                std::thread::sleep(Duration::from_millis(200));
            }
            written
        };
        for server in &mut servers {
            server.kill();
            write_for(DEAD);
            server.revive();
            await_up(&proxy, 3);
            read_from_cache(server.port, &direct);
            let written = write_for(Duration::from_secs(1));
            eventually("the events of after the revival have come", || seen() >= written);
        }
        ended.store(true, Ordering::SeqCst);
        (readers.into_iter().map(|reader| reader.join().expect("no read failed")).sum::<usize>(), written)
    });
    eventually("every event has come", || seen() >= written);
    assert_eq!(seen(), written, "each once");
    assert_eq!(watch.count(|n| matches!(n, Note::Broke(_))), 0, "{:?}", watch.noted());
    let (ends, lists) = (watch.count(|n| *n == Note::EndedCleanly), watch.count(|n| matches!(n, Note::Listed(_))));
    println!(
        "{reads} reads, none failed, none from the record; {written} events, each once; the watch moved {ends} times and listed {lists} times"
    );
    assert_eq!(lists, 1);
    proxy.kill();
    watch.join();
}
