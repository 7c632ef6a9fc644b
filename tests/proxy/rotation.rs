//! Certificates come and go on disk while the proxy runs: each is taken in without a restart and without a broken
//! connection, and what is faulty changes nothing.

use crate::support::TempDir;
use crate::support::client::{self, Client};
use crate::support::eventually;
use crate::support::pki::{Pair, Pki};
use crate::support::proxy::{ADMIN, NODE, Proxy};
use crate::support::upstream::Upstream;
use crate::{MAPS, PROGRAM, Scene};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Answers with who asks, and holds watches open.
fn scene(flags: &[&str]) -> Scene {
    Scene::scripted(flags, |request, wire| {
        if request.target.contains("watch=") {
            wire.begin_chunked()?;
            let mut version = 100;
            while !wire.peer_hangs_up_within(Duration::from_millis(100)) {
                version += 1;
                wire.chunk(crate::event("ADDED", version, "one"))?;
            }
            return wire.cut();
        }
        wire.answer(200, "text/plain", request.common_name.clone().unwrap_or_else(|| "nobody".to_owned()))
    })
}

fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM").to_vec()
}

fn write_both(pair: &Pair, (cert, key): &(String, String)) {
    fs::write(&pair.cert, cert).expect("write");
    fs::write(&pair.key, key).expect("write");
}

fn reloads(proxy: &Proxy) -> u64 {
    proxy.metric("lite_apiserver_certificate_reloads_total")
}

fn failing(proxy: &Proxy) -> u64 {
    proxy.metric("lite_apiserver_certificate_files_failing")
}

/// Changes something, and waits until it was taken in upon SIGHUP (or, by chance, at the ten seconds' look just before).
fn reload(proxy: &Proxy, change: impl FnOnce()) {
    let before = reloads(proxy);
    change();
    proxy.hang_up();
    eventually("it is taken in", || reloads(proxy) > before);
}

/// SIGHUP where nothing new is to be had; returns when it was looked.
fn reload_in_vain(proxy: &Proxy) {
    let looks = |proxy: &Proxy| proxy.log().matches("SIGHUP").count();
    let (before, taken) = (looks(proxy), reloads(proxy));
    proxy.hang_up();
    eventually("SIGHUP is seen", || looks(proxy) > before);
    // The look follows the line at once, and holds what the metrics wait for.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(reloads(proxy), taken, "{}", proxy.log());
}

fn said(proxy: &Proxy, words: &str) -> usize {
    proxy.log().lines().filter(|l| l.contains(words)).count()
}

fn ask_as(proxy: &Proxy, pair: &Pair) -> String {
    Client::try_connect(proxy.port, &client::tls(&proxy.pki.ca(), Some(pair)))
        .expect("connected")
        .get("/healthz")
        .text()
}

#[test]
fn every_file_is_taken_in_while_connections_and_a_watch_go_on() {
    let scene = scene(&[]);
    let proxy = &scene.proxy;
    let mut watch = proxy.client(Some(NODE));
    watch.request("GET", &format!("{MAPS}?watch=1&resourceVersion=100"), &[]);
    assert_eq!(watch.head().expect("a head").status, 200);
    let mut kept = proxy.client(Some(NODE));
    assert_eq!(kept.get("/healthz").text(), NODE);

    // The serving pair.
    let serving = proxy.pki.pair("lite-apiserver");
    let (shown, renewed) = (proxy.client(None).shown(), proxy.pki.renewed("lite-apiserver"));
    reload(proxy, || write_both(&serving, &renewed));
    let new = proxy.client(None).shown();
    assert!(new != shown && new == der(&renewed.0));
    assert_eq!(kept.get("/healthz").text(), NODE, "a connection of the old certificate");

    // A pair for the upstream: the next request goes up with it, on a connection of its own.
    let renewed = proxy.pki.renewed(NODE);
    reload(proxy, || write_both(&proxy.pki.pair(NODE), &renewed));
    assert_eq!(kept.get("/healthz").text(), NODE);
    let last = scene.upstream.received().pop().expect("a request");
    assert_eq!(last.certificate, Some(der(&renewed.0)));

    // The list: a pair goes, another comes; who has none here is nobody.
    let list = proxy.folder.path().join("pairs.json");
    let more = proxy.pki.pair("more");
    let admin = proxy.pki.pair(ADMIN);
    assert_eq!((ask_as(proxy, &admin), ask_as(proxy, &more)), (ADMIN.to_owned(), "nobody".to_owned()));
    let node = proxy.pki.pair(NODE);
    let entry = |pair: &Pair| serde_json::json!({"cert": pair.cert, "key": pair.key});
    let text = serde_json::json!([entry(&node), entry(&more)]).to_string();
    reload(proxy, || fs::write(&list, &text).expect("write"));
    assert_eq!((ask_as(proxy, &admin), ask_as(proxy, &more)), ("nobody".to_owned(), "more".to_owned()));
    assert_eq!(kept.get("/healthz").text(), NODE);

    // The CAs, of clients and of the upstream (here one and the same file): first both, then the new one only.
    let folder = TempDir::new();
    let other = Pki::new(folder.path());
    let both = fs::read_to_string(proxy.pki.ca()).expect("a CA") + &fs::read_to_string(other.ca()).expect("a CA");
    let old = fs::read_to_string(proxy.pki.ca()).expect("a CA");
    reload(proxy, || fs::write(proxy.pki.ca(), &both).expect("write"));
    let stranger = client::tls_of(&old, Some(&other.renewed(NODE)));
    let ask = |tls| Client::try_connect(proxy.port, tls).and_then(|mut c| c.try_get("/healthz")).map(|r| r.text());
    assert_eq!(ask(&stranger).expect("its CA is known now"), NODE);
    scene.upstream.belong_to(&other);
    reload(proxy, || {
        write_both(&node, &other.renewed(NODE));
        fs::copy(other.ca(), proxy.pki.ca()).expect("copied");
    });
    assert_eq!(ask(&stranger).expect("known"), NODE, "upstream by the new CA");
    assert!(ask(&client::tls_of(&old, Some(&more.texts()))).is_err(), "a client of the CA that has gone");
    assert_eq!(kept.get("/healthz").text(), NODE, "but who was let in stays");

    // The watch has seen nothing of all this.
    let mut buffer = Vec::new();
    for version in 101..110 {
        let event = watch.event(&mut buffer).expect("an event").expect("one");
        assert_eq!(event["object"]["metadata"]["resourceVersion"], version.to_string());
    }
    assert_eq!(failing(proxy), 0, "{}", proxy.log());
}

#[test]
fn what_is_faulty_changes_nothing_and_is_said_once() {
    let scene = scene(&[]);
    let proxy = &scene.proxy;
    let serving = proxy.pki.pair("lite-apiserver");
    let node = proxy.pki.pair(NODE);
    let list = proxy.folder.path().join("pairs.json");
    let text = fs::read(&list).expect("read");
    let shown = proxy.client(None).shown();
    let renewed = proxy.pki.renewed("lite-apiserver");
    let works = || {
        assert_eq!(proxy.client(None).shown(), shown);
        assert_eq!((ask_as(proxy, &node), ask_as(proxy, &proxy.pki.pair(ADMIN))), (NODE.to_owned(), ADMIN.to_owned()));
    };
    let half = |text: &[u8]| text[..text.len() / 2].to_vec();
    let faults: [(&str, &Path, Option<Vec<u8>>); 7] = [
        ("a half-written certificate", &serving.cert, Some(half(renewed.0.as_bytes()))),
        ("a certificate whose key is not here yet", &serving.cert, Some(renewed.0.clone().into_bytes())),
        ("a missing key", &serving.key, None),
        ("an empty key", &serving.key, Some(Vec::new())),
        ("half a list", &list, Some(half(&text))),
        ("a missing list", &list, None),
        ("a CA that is none", &proxy.pki.ca(), Some(b"nothing".to_vec())),
    ];
    for (number, (what, path, content)) in faults.iter().enumerate() {
        let good = fs::read(path).expect("read");
        match content {
            Some(content) => fs::write(path, content).expect("write"),
            None => fs::remove_file(path).expect("removed"),
        }
        reload_in_vain(proxy);
        reload_in_vain(proxy);
        assert_eq!(failing(proxy), 1, "{what}: {}", proxy.log());
        assert_eq!(said(proxy, "stays in use"), number + 1, "{what}: {}", proxy.log());
        fs::write(path, good).expect("write");
        reload_in_vain(proxy);
        works();
        assert_eq!((failing(proxy), said(proxy, "is good again")), (0, number + 1), "{what}: {}", proxy.log());
    }
    works();
    // One that is new to the list and faulty is not there, and harms no other.
    let entry = |pair: &Pair| serde_json::json!({"cert": pair.cert, "key": pair.key});
    let wrong = Pair { cert: proxy.pki.pair("more").cert, key: serving.key.clone() };
    let pairs = [entry(&node), entry(&proxy.pki.pair(ADMIN)), entry(&wrong)];
    fs::write(&list, serde_json::Value::from(pairs.to_vec()).to_string()).expect("write");
    reload_in_vain(proxy);
    works();
    assert_eq!((failing(proxy), ask_as(proxy, &proxy.pki.pair("more"))), (1, "nobody".to_owned()));
    // Put right, everything is as it ought to be.
    reload(proxy, || write_both(&serving, &renewed));
    assert_eq!(proxy.client(None).shown(), der(&renewed.0));
}

#[test]
fn a_link_that_is_turned_is_found_within_ten_seconds_without_a_word() {
    let scene = scene(&[]);
    let proxy = &scene.proxy;
    let at = proxy.folder.path();
    let write = |folder: &str, cn: &str| {
        let (cert, key) = proxy.pki.renewed(cn);
        fs::create_dir_all(at.join(folder)).expect("a folder");
        fs::write(at.join(folder).join("tls.pem"), cert.clone() + &key).expect("write");
        der(&cert)
    };
    let turn = |link: &str, to: &str| {
        std::os::unix::fs::symlink(at.join(to), at.join("beside")).expect("a link");
        fs::rename(at.join("beside"), at.join(link)).expect("renamed");
    };
    let sent = |cn| {
        assert_eq!(proxy.client(Some(cn)).get("/healthz").text(), cn);
        scene.upstream.received().pop().and_then(|r| r.certificate).expect("a certificate")
    };
    // As the kubelet keeps its own, a link to the current file; and as a secret is mounted, a link to the current folder.
    let [old, new, old_secret, new_secret] =
        [("1", NODE), ("2", NODE), ("..a", ADMIN), ("..b", ADMIN)].map(|(folder, cn)| write(folder, cn));
    turn("kubelet-client-current.pem", "1/tls.pem");
    turn("..data", "..a");
    let entry = |path: &str| serde_json::json!({"cert": at.join(path), "key": at.join(path)});
    let list = serde_json::json!([entry("kubelet-client-current.pem"), entry("..data/tls.pem")]).to_string();
    reload(proxy, || fs::write(at.join("pairs.json"), list).expect("write"));
    assert_eq!((sent(NODE), sent(ADMIN)), (old, old_secret));
    // Until nothing is fresh any more, and was seen so: only that it is another file tells.
    std::thread::sleep(Duration::from_secs(4));
    reload_in_vain(proxy);
    let turned = Instant::now();
    turn("..data", "..b");
    turn("kubelet-client-current.pem", "2/tls.pem");
    eventually("the new ones go up", || (sent(NODE), sent(ADMIN)) == (new.clone(), new_secret.clone()));
    println!("found after {:?}", turned.elapsed());
}

#[test]
fn the_end_of_each_certificate_is_on_the_metrics() {
    let scene = scene(&[]);
    let page = scene.proxy.page("/metrics");
    // rcgen's end in the year 4096.
    for labels in [
        "use=\"serving\",name=\"lite-apiserver\"".to_owned(),
        "use=\"client-ca\",name=\"test CA\"".to_owned(),
        "use=\"upstream-ca\",name=\"test CA\"".to_owned(),
        format!("use=\"pair\",name=\"{NODE}\""),
        format!("use=\"pair\",name=\"{ADMIN}\""),
    ] {
        let line = format!("lite_apiserver_certificate_expiry_seconds{{{labels}}} 67090118400");
        assert!(page.lines().any(|l| l == line), "{line} in {page}");
    }
    assert_eq!((reloads(&scene.proxy), failing(&scene.proxy)), (0, 0));
}

#[test]
fn a_kubeconfig_that_is_written_anew_is_followed() {
    let folder = TempDir::new();
    let at = folder.path();
    let pki = Pki::new(&at.join("pki"));
    let upstream = Upstream::start(&pki, |request, wire| {
        wire.answer(200, "text/plain", request.common_name.clone().unwrap_or_else(|| "nobody".to_owned()))
    });
    let base64 = |text: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    };
    let ca = base64(&fs::read_to_string(pki.ca()).expect("a CA"));
    let path = at.join("config");
    let write = |(cert, key): &(String, String)| {
        let (cert, key) = (base64(cert), base64(key));
        let text = format!(
            "{{clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{}', certificate-authority-data: '{ca}'}}}}], users: [{{name: u, user: {{client-certificate-data: '{cert}', client-key-data: '{key}'}}}}], contexts: [{{name: x, context: {{cluster: c, user: u}}}}], current-context: x}}",
            upstream.port()
        );
        fs::write(&path, text).expect("write");
    };
    write(&pki.renewed(ADMIN));
    let proxy = Proxy::start_with_kubeconfig(&[PROGRAM.to_owned()], pki, &path, &[]);
    let data = proxy.data();
    let user = Pair { cert: data.join("user.crt"), key: data.join("user.key") };
    let tls = |pair| client::tls(&data.join("pki/ca.crt"), Some(pair));
    let ask = |pair| Client::try_connect(proxy.port, &tls(pair)).expect("connected").get("/healthz").text();
    assert_eq!(ask(&user), ADMIN);
    let next = proxy.pki.renewed(ADMIN);
    reload(&proxy, || write(&next));
    assert_eq!(ask(&user), ADMIN);
    assert_eq!(upstream.received().pop().and_then(|r| r.certificate), Some(der(&next.0)));
    // Clients that were pointed here have the new ones, too.
    assert_eq!(fs::read_to_string(&user.cert).expect("read"), next.0);
    // Half a file is none.
    let whole = fs::read(&path).expect("read");
    fs::write(&path, &whole[..whole.len() / 2]).expect("write");
    reload_in_vain(&proxy);
    assert_eq!((failing(&proxy), ask(&user)), (1, ADMIN.to_owned()));
}

/// 200 requests a second through old and new certificates while each file is replaced in turn. As many replacements as
/// `ROTATIONS` says, else 60; 1,000 take two minutes.
#[test]
fn no_request_fails_while_files_are_replaced_under_load() {
    let wanted: usize = std::env::var("ROTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let scene = scene(&[]);
    let proxy = &scene.proxy;
    let folder = TempDir::new();
    let other = Pki::new(folder.path());
    let old_ca = fs::read_to_string(proxy.pki.ca()).expect("a CA");
    let both = old_ca.clone() + &fs::read_to_string(other.ca()).expect("a CA");
    let (list, node, admin) = (proxy.folder.path().join("pairs.json"), proxy.pki.pair(NODE), proxy.pki.pair(ADMIN));
    let more = proxy.pki.pair("more");
    // Half of the clients keep their first certificate, the others come with another one each time.
    let own = |who: &str| client::tls_of(&old_ca, Some(&proxy.pki.renewed(who)));
    let identities = [(own(NODE), NODE), (own(ADMIN), ADMIN)];

    let (done, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let failures: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let slowest = Mutex::new(Duration::ZERO);
    std::thread::scope(|threads| {
        for thread in 0..4 {
            let (done, asked, failures, slowest, own) = (&done, &asked, &failures, &slowest, &own);
            let (tls, who) = identities[thread % 2].clone();
            threads.spawn(move || {
                let begun = Instant::now();
                let mut kept: Option<Client> = None;
                for turn in 0.. {
                    if done.load(Ordering::SeqCst) {
                        return;
                    }
                    // 50 a second for each of four; every tenth on a connection of its own.
                    std::thread::sleep(
                        (begun + Duration::from_millis(20) * turn).saturating_duration_since(Instant::now()),
                    );
                    let start = Instant::now();
                    let reply = match kept.take().filter(|_| turn % 10 != 0) {
                        Some(client) => Ok(client),
                        None if thread < 2 => Client::try_connect(proxy.port, &tls),
                        None => Client::try_connect(proxy.port, &own(who)),
                    }
                    .and_then(|mut client| {
                        // A write that finds its connection broken is not sent again by anybody.
                        let method = if turn % 3 == 0 { "POST" } else { "GET" };
                        client.try_send(format!("{method} /healthz HTTP/1.1\r\nHost: h\r\n\r\n"))?;
                        let reply = client.reply()?;
                        kept = Some(client);
                        Ok(reply)
                    });
                    let fault = match reply {
                        Ok(reply) if reply.status() == 200 && reply.text() == who => None,
                        Ok(reply) => Some(format!("{} {}", reply.status(), reply.text())),
                        Err(e) => Some(e.to_string()),
                    };
                    asked.fetch_add(1, Ordering::SeqCst);
                    if let Some(fault) = fault {
                        *failures.lock().expect("failures").entry(fault).or_default() += 1;
                    }
                    let mut slowest = slowest.lock().expect("slowest");
                    *slowest = start.elapsed().max(*slowest);
                }
            });
        }
        let entry = |pair: &Pair| serde_json::json!({"cert": pair.cert, "key": pair.key});
        let serving = proxy.pki.pair("lite-apiserver");
        let begun = Instant::now();
        for number in 0..wanted {
            let change = || match number % 5 {
                0 => write_both(&serving, &proxy.pki.renewed("lite-apiserver")),
                1 => write_both(&node, &proxy.pki.renewed(NODE)),
                2 => write_both(&admin, &proxy.pki.renewed(ADMIN)),
                3 => fs::write(proxy.pki.ca(), if number % 2 == 1 { &both } else { &old_ca }).expect("write"),
                _ => {
                    let mut pairs = vec![entry(&node), entry(&admin)];
                    pairs.extend((number % 2 == 0).then(|| entry(&more)));
                    fs::write(&list, serde_json::Value::from(pairs).to_string()).expect("write");
                }
            };
            reload(proxy, change);
            // Not faster than the load: each state is asked for dozens of times.
            std::thread::sleep(Duration::from_millis(100));
        }
        done.store(true, Ordering::SeqCst);
        println!("{wanted} replacements in {:?}", begun.elapsed());
    });
    let failures = failures.into_inner().expect("failures");
    println!(
        "{} requests, {} failed, the slowest took {:?}",
        asked.load(Ordering::SeqCst),
        failures.values().sum::<usize>(),
        slowest.into_inner().expect("slowest")
    );
    assert!(failures.is_empty(), "{failures:?}\n{}", proxy.log());
    assert!(asked.load(Ordering::SeqCst) > wanted, "there was load");
    assert_eq!(reloads(proxy), wanted as u64, "each replacement was taken in");
}
