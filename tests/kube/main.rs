//! The ring of real components: a real etcd and kube-apiserver, a real kubectl, the real proxy between them, and a cable
//! to cut. Five stories, one after the other: an outage as kubectl sees it (here), twenty cuts as informers see them
//! ([`informers`]), who can read what of whom ([`leaks`]), exec and its kin ([`tunnels`]), and
//! pods that are led to the proxy ([`pods`]). Beside them Go's server, as the judge of malformed requests
//! ([`judge`]).
//!
//! Besides Rust it needs Go, once, to build the components ([`bed`]). Nothing but loopback is spoken to.

#![allow(clippy::print_stdout, reason = "what was measured is shown")]
#![allow(unreachable_pub, reason = "a test binary's modules have no other users")]

#[path = "../support/mod.rs"]
mod support;

mod bed;
mod cable;
mod clerk;
mod control_plane;
mod informers;
mod judge;
mod kubectl;
#[cfg(feature = "link-lab")]
mod lab;
mod leaks;
mod pods;
mod reads;
mod record;
mod reflector;
mod refusals;
mod scene;
mod servers;
mod serving;
mod tunnels;

use cable::Cable;
use clerk::Clerk;
use control_plane::ADMIN;
use kubectl::{Kubectl, Running, errors};
use reads::Figures;
use reflector::{Note, Reflector};
use scene::Scene;
use std::time::{Duration, Instant};
use support::{client, eventually};

/// The proxy's default `--timeout`.
const TIMEOUT: Duration = Duration::from_secs(3);

/// What is allowed on top of it, for kubectl's own start, its other requests, and a busy machine.
const MARGIN: Duration = Duration::from_secs(2);

/// What the client that watches all the time watches.
const MAPS: &str = "/api/v1/namespaces/shop/configmaps";

#[test]
fn an_outage_as_kubectl_sees_it() {
    let mut scene = Scene::start();
    fill(&scene);
    let mut figures = Figures::default();
    let before = reads::online(&scene.direct, &scene.node, &mut figures);
    refusals::logs_online(&scene.direct, &scene.node);
    let clerk = Clerk::begins(&scene);

    let held = hold(&scene);
    let watching = watches_online(&scene);
    let upstream = everything(&scene.direct);

    println!("\nthe cable is a black hole");
    scene.relay.set(Cable::BlackHole);
    first_read_after_the_cut(&scene, watching);
    let on_the_node = watch_begins(&scene.node);
    cut(&scene, "TLS handshake timed out");
    reads::offline(&scene.node, "black hole", &before, &mut figures);
    clerk.goes_on();

    println!("\nthe cable is cut so that connections are refused");
    scene.relay.set(Cable::Refused);
    cut(&scene, "connection refused");
    reads::offline(&scene.node, "refused", &before, &mut figures);
    assert!(is_held(on_the_node), "kubectl get --watch ended while the link was down");
    assert_eq!(held.count(|n| matches!(n, Note::Broke(_))), 0, "no watch breaks off when the link does");

    println!("\nthe proxy is killed, and starts while the cable is a black hole");
    scene.proxy.kill();
    scene.relay.set(Cable::BlackHole);
    scene.proxy.boot();
    // Nobody has told the new process: the first to ask finds out.
    scene.node.must("get configmaps -n shop");
    let on_the_node = watch_begins(&scene.node);
    cut(&scene, "TLS handshake timed out");
    reads::offline(&scene.node, "killed", &before, &mut figures);
    clerk.goes_on();

    println!("\nthe cable is mended");
    scene.relay.set(Cable::Whole);
    let mended = Instant::now();
    scene.proxy.await_link(true);
    println!("the proxy has found out after {:.1} s", mended.elapsed().as_secs_f32());
    assert_eq!(everything(&scene.direct), upstream, "what was refused was done all the same");
    news_comes(&scene, &held, mended);
    ends_cleanly(on_the_node);

    figures.print();
    record::looked_into(&scene);
    scene.proxy.kill();
    record::removed(&scene);
    held.join();
}

/// Fills the cluster from the node: writes go through the proxy while the link is up.
fn fill(scene: &Scene) {
    let node = &scene.node;
    scene.namespace("shop");
    scene.widgets();
    assert_eq!(node.must("apply -f widget.yaml"), "widget.example.com/drawer created\n");
    let said = node.must("apply -f cluster.yaml");
    assert_eq!(said.lines().filter(|l| l.ends_with(" created")).count(), 8, "{said}");
    let mut last = String::new();
    eventually("the controllers are done", || {
        let now = everything(&scene.direct);
        let settled = now == last && now.contains("unavailableReplicas");
        last = now;
        std::thread::sleep(Duration::from_millis(300));
        settled
    });
}

/// All that a refused write could have changed.
fn everything(direct: &Kubectl) -> String {
    direct.must("get configmaps,secrets,pods,deployments,replicasets,nodes,widgets -A -o yaml")
}

/// The client that watches all the time.
fn hold(scene: &Scene) -> Reflector {
    let config = scene.node.config();
    let ca = config["clusters"][0]["cluster"]["certificate-authority"].as_str().expect("a path");
    let pair = scene.proxy.pki.member(ADMIN, Some("system:masters"));
    let held = Reflector::start(scene.proxy.port, client::tls(ca.as_ref(), Some(&pair)), MAPS);
    eventually("the watch is open", || held.count(|n| matches!(n, Note::Watching(_))) == 1);
    held
}

/// `kubectl get --watch` while the link is up: what is there, then what comes.
fn watches_online(scene: &Scene) -> Running {
    let watching = watch_begins(&scene.node);
    scene.direct.must("create configmap news -n shop --from-literal=a=b");
    eventually("the news", || watching.out().contains("news"));
    scene.direct.must("delete configmap news -n shop");
    watching
}

/// `kubectl get --watch` prints what is there, and goes on.
fn watch_begins(node: &Kubectl) -> Running {
    let watching = node.start("get configmaps -n shop --watch");
    eventually("what is there", || ["prices", "hours"].iter().all(|name| watching.out().contains(name)));
    watching
}

fn is_held(mut watching: Running) -> bool {
    watching.end_within(Duration::ZERO).is_none()
}

/// The first read finds out that the link is down, and is answered all the same.
fn first_read_after_the_cut(scene: &Scene, watching: Running) {
    let first = scene.node.run("get configmaps -n shop");
    println!("the first read after the cut took {:.2} s:\n{}{}", first.took.as_secs_f32(), first.err, first.out);
    assert!(first.code == 0 && first.out.contains("prices"), "{first:?}");
    assert!(first.took < TIMEOUT + MARGIN, "the first read after the cut took {:?}", first.took);
    scene.proxy.await_link(false);
    // kubectl does not watch again: its watch ends as one whose time is over.
    ends_cleanly(watching);
}

/// The link is down for this reason, and people are told so; what needs the cluster is refused.
fn cut(scene: &Scene, why: &str) {
    scene.proxy.await_link(false);
    eventually("the reason is told", || scene.node.run("get namespaces").err.contains(why));
    refusals::all(&scene.node);
}

fn ends_cleanly(mut watching: Running) {
    let said = watching.end_within(Duration::from_secs(20)).expect("kubectl get --watch ends when its stream does");
    assert_eq!((said.code, errors(&said.err).as_str()), (0, ""), "{said:?}");
}

/// A new object reaches the client that watched all the time: once, and without a list.
fn news_comes(scene: &Scene, held: &Reflector, mended: Instant) {
    scene.direct.must("create configmap after -n shop --from-literal=a=b");
    let is_news = |note: &Note| *note == Note::Event("ADDED".to_owned(), "after".to_owned());
    eventually("the new object", || held.count(is_news) > 0);
    println!("a new object came through the watch {:.1} s after the mending", mended.elapsed().as_secs_f32());
    // A second one would come now.
    std::thread::sleep(Duration::from_secs(2));
    println!("\nwhat the client saw that watched all the time:");
    for (when, note) in held.noted() {
        println!("{:7.1} s  {note:?}", when.as_secs_f32());
    }
    assert_eq!(held.count(is_news), 1);
    assert_eq!(held.count(|n| matches!(n, Note::Listed(_))), 1, "it never had to list again");
    assert_eq!(held.count(|n| matches!(n, Note::Event(kind, _) if kind == "ERROR")), 0);
    let known = held.count(|n| matches!(n, Note::Event(kind, name) if kind == "ADDED" && name == "prices"));
    assert_eq!(known, 0, "what it knew was not sent again");
}
