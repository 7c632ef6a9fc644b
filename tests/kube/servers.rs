//! Three real kube-apiservers on one etcd: one after the other is killed and revived while clients read and watch, and none
//! of them notices.

use crate::bed::Program;
use crate::control_plane::{ADMIN, Another, ControlPlane};
use crate::reflector::{Note, Reflector};
use crate::scene;
use crate::support::client::{self, Client};
use crate::support::pki::Pki;
use crate::support::proxy::Proxy;
use crate::support::{TempDir, eventually};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long each is dead.
const DEAD: Duration = Duration::from_secs(10);
/// kube-apiserver's own start, on a busy machine.
const START: Duration = Duration::from_secs(90);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Waits until the proxy takes as many of the three for up.
fn await_up(proxy: &Proxy, wanted: u64) {
    let begun = Instant::now();
    while proxy.metric("lite_apiserver_upstream_up") != wanted {
        assert!(begun.elapsed() < START, "not {wanted} of the servers are up: {}", proxy.log());
        std::thread::sleep(Duration::from_millis(50));
    }
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
    let mut clerk =
        Client::try_connect(control_plane.port(), &client::tls(&proxy.pki.ca(), Some(&pair))).expect("direct");
    let ended = AtomicBool::new(false);
    let (reads, written) = std::thread::scope(|threads| {
        let reader = || {
            let mut client = Client::try_connect(proxy.port, &tls).expect("the proxy");
            let mut count = 0_usize;
            while !ended.load(Ordering::SeqCst) {
                let reply = client.get(MAPS);
                assert_eq!(reply.status(), 200, "{}", reply.text());
                assert_eq!(reply.header("age"), None, "answered from the record, though two servers live");
                count += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            count
        };
        let readers: Vec<_> = (0..4).map(|_| threads.spawn(reader)).collect();
        let mut written = 0;
        for server in &mut servers {
            server.kill();
            let dead = Instant::now();
            while dead.elapsed() < DEAD {
                let name = format!("number-{written}");
                let map = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
                assert_eq!(clerk.write("POST", MAPS, &[], &map.to_string()).status(), 201);
                written += 1;
                std::thread::sleep(Duration::from_millis(200));
            }
            server.revive();
            await_up(&proxy, 3);
        }
        ended.store(true, Ordering::SeqCst);
        (readers.into_iter().map(|reader| reader.join().expect("no read failed")).sum::<usize>(), written)
    });
    let seen =
        || watch.count(|n| matches!(n, Note::Event(kind, name) if kind == "ADDED" && name.starts_with("number-")));
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
