//! Several kube-apiservers that stand for one cluster, some of them gone; and an HTTP proxy on the way.

use crate::support::apiserver::Cluster;
use crate::support::pki::Pki;
use crate::support::proxy::{NODE, Proxy};
use crate::support::upstream::Upstream;
use crate::support::{TempDir, eventually};
use crate::{MAPS, PROGRAM};
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long one of the servers is dead before the next is; `SERVER_SECONDS` in the environment.
fn turn() -> Duration {
    let seconds = std::env::var("SERVER_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs_f32(seconds.unwrap_or(2.5))
}

/// Three servers of one cluster, and the proxy in front of all.
fn three(flags: &[&str]) -> (Cluster, Vec<Upstream>, Proxy, TempDir) {
    let folder = TempDir::new();
    let pki = Pki::new(&folder.path().join("pki"));
    let (cluster, first) = Cluster::start(&pki);
    cluster.put("configmaps", "shop", "one", &json!({}));
    let servers = vec![first, cluster.another_server(&pki), cluster.another_server(&pki)];
    let ports: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
    let url = format!("--kube-apiserver-url={}", ports.join(","));
    let flags: Vec<&str> = flags.iter().copied().chain([url.as_str()]).collect();
    let proxy = Proxy::start_program(&[PROGRAM.to_owned()], pki, servers[0].port(), &flags);
    (cluster, servers, proxy, folder)
}

/// Which servers the proxy takes for up.
fn up(proxy: &Proxy) -> Vec<bool> {
    let page = proxy.page("/metrics");
    page.lines().filter(|l| l.starts_with("lite_apiserver_upstream_up{")).map(|l| l.ends_with(" 1")).collect()
}

/// One after the other dies and comes back while clients read; none of them notices, and nothing but the present is read.
fn one_after_the_other(mode: &str) {
    let (cluster, mut servers, proxy, _folder) = three(&[mode]);
    eventually("all are found up", || up(&proxy) == [true; 3]);
    let mut watch = proxy.client(Some(NODE));
    watch.request("GET", &format!("{MAPS}?watch=true&resourceVersion={}", cluster.version()), &[]);
    assert_eq!(watch.head().expect("a watch").status, 200);
    let ended = AtomicBool::new(false);
    let reads: Vec<usize> = std::thread::scope(|threads| {
        let reader = || {
            let mut client = proxy.client(Some(NODE));
            let mut count = 0;
            while !ended.load(Ordering::SeqCst) {
                let before = cluster.version();
                let reply = client.get(MAPS);
                assert_eq!(reply.status(), 200, "{}", reply.text());
                assert_eq!(reply.header("age"), None, "answered from the record, though two servers live");
                let version = reply.json()["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse::<u64>().ok());
                assert!(version.expect("a version") >= before);
                count += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            count
        };
        let readers: Vec<_> = (0..4).map(|_| threads.spawn(reader)).collect();
        for place in [0, 1, 2, 0] {
            servers[place].cut();
            let until = Instant::now() + turn();
            while Instant::now() < until {
                cluster.put("configmaps", "shop", "one", &json!({}));
                std::thread::sleep(Duration::from_millis(50));
            }
            servers[place].heal();
            // With fewer than two the next to die could be the last one known.
            let patience = Instant::now();
            while up(&proxy) != [true; 3] {
                assert!(patience.elapsed() < Duration::from_secs(30), "{:?}", up(&proxy));
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        ended.store(true, Ordering::SeqCst);
        readers.into_iter().map(|reader| reader.join().expect("no read failed")).collect()
    });
    println!("{mode}: {} reads, none failed, none from the record", reads.iter().sum::<usize>());
    assert!(!proxy.log().contains("the link to the upstream is down"), "two of three are always there");
}

#[test]
fn no_read_fails_while_one_server_after_the_other_dies() {
    one_after_the_other("--lb-mode=priority");
}

#[test]
fn no_read_fails_while_each_has_its_turn_and_one_after_the_other_dies() {
    one_after_the_other("--lb-mode=rr");
}

#[test]
fn a_watch_stays_with_its_server_and_goes_on_at_another_when_that_dies() {
    let (cluster, mut servers, proxy, _folder) = three(&[]);
    let mut client = proxy.client(Some(NODE));
    let watch = |version: u64| format!("{MAPS}?watch=true&resourceVersion={version}");
    client.request("GET", &watch(cluster.version()), &[]);
    assert_eq!(client.head().expect("a watch").status, 200);
    let mut buffer = Vec::new();
    let first = cluster.put("configmaps", "shop", "two", &json!({}));
    let version =
        |event: &serde_json::Value| event["object"]["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    let event = client.event(&mut buffer).expect("an event").expect("an event");
    assert_eq!(version(&event), Some(first.to_string()));
    assert_eq!(servers.iter().map(|s| s.received().len()).collect::<Vec<_>>(), [1, 0, 0], "all on the first");

    servers[0].cut();
    assert!(client.event(&mut buffer).expect("a clean end").is_none());
    let second = cluster.put("configmaps", "shop", "two", &json!({}));
    client.request("GET", &watch(first), &[]);
    assert_eq!(client.head().expect("a watch").status, 200);
    let event = client.event(&mut buffer).expect("an event").expect("an event");
    assert_eq!(version(&event), Some(second.to_string()));

    // The first one's return moves nothing.
    servers[0].heal();
    eventually("it is found up", || up(&proxy) == [true; 3]);
    let third = cluster.put("configmaps", "shop", "two", &json!({}));
    let event = client.event(&mut buffer).expect("an event").expect("an event");
    assert_eq!(version(&event), Some(third.to_string()));
    assert_eq!(servers[1].received().len(), 1);
}

#[test]
fn all_dead_is_offline_and_one_back_is_online() {
    let (_cluster, mut servers, proxy, _folder) = three(&[]);
    let before = proxy.get(MAPS).text();
    servers.iter_mut().for_each(Upstream::cut);
    let reply = proxy.get(MAPS);
    assert_eq!((reply.status(), reply.text()), (200, before));
    assert!(reply.header("age").is_some());
    proxy.await_link(false);
    let refused = proxy.client(Some(NODE)).write("PUT", &format!("{MAPS}/one"), &[], "{}");
    let message = refused.json()["message"].as_str().unwrap_or_default().to_owned();
    assert!(
        servers.iter().all(|s| message.contains(&format!("127.0.0.1:{}: connection refused", s.port()))),
        "{message}"
    );
    servers[2].heal();
    proxy.await_link(true);
    assert_eq!(up(&proxy), [false, false, true]);
    assert_eq!(proxy.get(MAPS).header("age"), None);
}

#[test]
fn an_http_proxy_of_the_environment_is_used_and_no_proxy_goes_around_it() {
    let folder = TempDir::new();
    let pki = Pki::new(&folder.path().join("pki"));
    let (cluster, upstream) = Cluster::start(&pki);
    cluster.put("configmaps", "shop", "one", &json!({}));
    // Loopback is never reached by a proxy, as with Go: the upstream has a name that only the proxy knows.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (http_proxy, port) = (listener.local_addr().expect("an address"), upstream.port());
    let heads = std::sync::Arc::<std::sync::Mutex<Vec<String>>>::default();
    let seen = std::sync::Arc::clone(&heads);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let lines = BufReader::new(client.try_clone().expect("a descriptor")).lines().map_while(Result::ok);
            seen.lock().expect("heads").push(lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n"));
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
            let _ = (&client).write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            let (mut up, mut down) =
                (client.try_clone().expect("a descriptor"), server.try_clone().expect("a descriptor"));
            std::thread::spawn(move || std::io::copy(&mut up, &mut &server));
            std::thread::spawn(move || std::io::copy(&mut down, &mut &client));
        }
    });
    let start = |no_proxy: &str| {
        let pki = Pki::new(&folder.path().join(format!("pki of {no_proxy}")));
        upstream.belong_to(&pki);
        let environment =
            [format!("HTTPS_PROXY=http://me:secret@{http_proxy}"), format!("NO_PROXY={no_proxy}"), PROGRAM.to_owned()];
        let program: Vec<String> = std::iter::once("/usr/bin/env".to_owned()).chain(environment).collect();
        Proxy::start_program(&program, pki, 6443, &["--kube-apiserver-url=apiserver.invalid"])
    };
    let proxy = start("");
    assert_eq!(proxy.get(MAPS).status(), 200);
    let head = heads.lock().expect("heads").first().cloned().unwrap_or_default();
    assert!(head.starts_with("CONNECT apiserver.invalid:6443 ") && head.contains("Basic bWU6c2VjcmV0"), "{head}");
    assert!(!proxy.log().contains("secret"), "a password in the log");
    drop(proxy);
    let asked = heads.lock().expect("heads").len();
    let proxy = start(".invalid");
    assert_eq!(proxy.get(MAPS).status(), 503);
    assert_eq!(heads.lock().expect("heads").len(), asked, "the proxy was gone around");
    assert!(proxy.log().contains("apiserver.invalid not found"), "{}", proxy.log());
}
