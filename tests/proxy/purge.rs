//! The upstream says no: what it refuses to show while the link is up is not shown when it is down.

use crate::support::client::Reply;
use crate::support::eventually;
use crate::support::proxy::{ADMIN, NODE};
use crate::support::upstream::{Received, Wire};
use crate::{MAPS, Scene, list, map};
use std::io;
use std::sync::{Arc, Mutex};

/// What the upstream answers to whom: while `refused` says so, a status instead of the answer.
#[derive(Clone, Default)]
struct Word(Arc<Mutex<Vec<(String, u16)>>>);

impl Word {
    /// From now on requests whose target is this are answered so.
    fn refuse(&self, target: &str, status: u16) {
        self.0.lock().expect("word").push((target.to_owned(), status));
    }

    fn allow_all(&self) {
        self.0.lock().expect("word").clear();
    }

    fn answer(&self, request: &Received, wire: &mut Wire) -> io::Result<()> {
        let refused = self.0.lock().expect("word").iter().find(|(t, _)| *t == request.target).map(|(_, s)| *s);
        if let Some(status) = refused {
            return wire.json(status, format!("{{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"code\":{status}}}"));
        }
        match request.path().rsplit('/').next() {
            Some("configmaps") if request.target.contains("watch=") => {
                wire.begin_chunked()?;
                wire.peer_hangs_up_within(std::time::Duration::from_secs(20));
                wire.cut()
            }
            Some("configmaps") => wire.json(200, list(100, &["one", "two"])),
            Some("one") => wire.json(200, map(100, "one")),
            _ => wire.json(200, "{\"kind\":\"APIResourceList\",\"groupVersion\":\"v1\",\"resources\":[]}"),
        }
    }
}

fn scene() -> (Scene, Word) {
    let word = Word::default();
    let own = word.clone();
    (Scene::scripted(&[], move |request, wire| own.answer(request, wire)), word)
}

const ALL: &str = "/api/v1/configmaps";
const ONE: &str = "/api/v1/namespaces/shop/configmaps/one";
const CHOSEN: &str = "/api/v1/namespaces/shop/configmaps?fieldSelector=metadata.name%3Done";
const WATCH: &str = "/api/v1/namespaces/shop/configmaps?watch=1&resourceVersion=100";

fn read_all(scene: &Scene, targets: &[&str]) -> Vec<u16> {
    targets.iter().map(|target| scene.proxy.get(target).status()).collect()
}

fn views(scene: &Scene) -> u64 {
    scene.proxy.metric("lite_apiserver_record_views")
}

/// What it is about, what is read first, what is then refused, and how what is answered when the link is down.
type Case<'a> = (&'a str, &'a [&'a str], &'a str, &'a [(&'a str, u16)]);

#[test]
fn what_is_refused_is_not_shown_offline_and_the_rest_is() {
    let table: [Case<'_>; 6] = [
        ("a list, and what could be cut from it", &[MAPS], MAPS, &[(MAPS, 503), (ONE, 503), (CHOSEN, 503)]),
        ("a watch of it", &[MAPS], WATCH, &[(MAPS, 503), (ONE, 503), (WATCH, 503)]),
        (
            "a part of a list: who may not list a part may not list the whole",
            &[ALL, MAPS],
            MAPS,
            &[(ALL, 503), (MAPS, 503), (ONE, 503)],
        ),
        (
            "a whole: its parts may be permitted by themselves",
            &[ALL, MAPS, ONE],
            ALL,
            &[(ALL, 503), (MAPS, 200), (ONE, 200)],
        ),
        (
            "an object that a list holds: to get is another permission than to list",
            &[MAPS, ONE],
            ONE,
            &[(ONE, 403), (MAPS, 200), ("/api/v1/namespaces/shop/configmaps/two", 200)],
        ),
        ("what a watch of another selector does not hold", &[CHOSEN], MAPS, &[(MAPS, 503), (CHOSEN, 200)]),
    ];
    for (what, reads, refused, answers) in table {
        let (mut scene, word) = scene();
        assert!(read_all(&scene, reads).iter().all(|status| *status == 200), "{what}");
        eventually("it is recorded", || views(&scene) == reads.len() as u64);
        word.refuse(refused, 403);
        assert_eq!(scene.proxy.get(refused).status(), 403, "{what}: the upstream's own word");
        scene.cut();
        for (target, status) in answers {
            let reply = scene.proxy.get(target);
            assert_eq!(reply.status(), *status, "{what}: {target}: {}", reply.text());
            assert!(*status == 200 || !reply.text().contains("uid-"), "{what}: {target}: {}", reply.text());
        }
    }
}

#[test]
fn a_refusal_outlasts_a_reboot_and_ends_with_the_upstreams_next_word() {
    let (mut scene, word) = scene();
    read_all(&scene, &[MAPS, ONE]);
    word.refuse(ONE, 403);
    assert_eq!(scene.proxy.get(ONE).status(), 403);
    std::thread::sleep(std::time::Duration::from_secs(2));
    scene.cut();
    scene.proxy.kill();
    scene.proxy.boot();
    scene.proxy.await_link(false);
    let refused: Reply = scene.proxy.get(ONE);
    assert_eq!((refused.status(), &refused.json()["reason"]), (403, &serde_json::json!("Forbidden")));
    assert!(refused.header("age").is_some());
    assert_eq!(scene.proxy.get(MAPS).status(), 200);
    scene.heal();
    // A write says nothing of reading.
    scene.proxy.client(Some(NODE)).write("PUT", ONE, &[], &map(101, "one"));
    scene.cut();
    assert_eq!(scene.proxy.get(ONE).status(), 403);
    scene.heal();
    word.allow_all();
    assert_eq!(scene.proxy.get(ONE).status(), 200);
    eventually("it is recorded", || views(&scene) >= 2);
    scene.cut();
    assert_eq!(scene.proxy.get(ONE).status(), 200);
}

#[test]
fn a_discovery_document_that_one_may_not_read_stays_with_the_others() {
    let (mut scene, word) = scene();
    let apps = "/apis/apps/v1";
    let ask = |scene: &Scene, cn| scene.proxy.client(Some(cn)).get(apps).status();
    assert_eq!((ask(&scene, NODE), ask(&scene, ADMIN)), (200, 200));
    word.refuse(apps, 403);
    assert_eq!(ask(&scene, ADMIN), 403);
    scene.cut();
    assert_eq!((ask(&scene, NODE), ask(&scene, ADMIN)), (200, 403));
    scene.heal();
    word.allow_all();
    assert_eq!(ask(&scene, ADMIN), 200);
    scene.cut();
    assert_eq!((ask(&scene, NODE), ask(&scene, ADMIN)), (200, 200));
}

#[test]
fn a_new_token_that_is_refused_closes_what_an_older_one_of_its_subject_opened() {
    let (mut scene, word) = scene();
    // {"iss":"i","sub":"s"}, signed twice.
    let tokens = ["a.eyJpc3MiOiJpIiwic3ViIjoicyJ9.b", "a.eyJpc3MiOiJpIiwic3ViIjoicyJ9.c"];
    let ask = |scene: &Scene, token: &str| {
        scene.proxy.client(None).get_with(MAPS, &[&format!("Authorization: Bearer {token}")]).status()
    };
    assert_eq!(ask(&scene, tokens[0]), 200);
    eventually("it is recorded", || views(&scene) == 1);
    word.refuse(MAPS, 403);
    // By this very answer the token is accepted, and its subject may not read the list any more.
    assert_eq!(ask(&scene, tokens[1]), 403);
    scene.cut();
    assert_eq!(tokens.map(|token| ask(&scene, token)), [503, 503]);
}

#[test]
fn a_401_forgets_the_token_whatever_was_asked() {
    for refused in [MAPS, WATCH, ONE, "/api/v1", "/healthz"] {
        let (mut scene, word) = scene();
        let ask = |scene: &Scene, target: &str| {
            scene.proxy.client(None).get_with(target, &["Authorization: Bearer tok"]).status()
        };
        assert_eq!(ask(&scene, ONE), 200);
        eventually("it is recorded", || views(&scene) == 1);
        word.refuse(refused, 401);
        assert_eq!(ask(&scene, refused), 401);
        scene.cut();
        assert_eq!(ask(&scene, ONE), 503, "{refused}: the token opens nothing any more");
    }
}
