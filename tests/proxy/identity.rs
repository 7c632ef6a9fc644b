//! Who asks: the right credentials go up, no one sees what another recorded, tokens are known by what the upstream said.

use crate::support::TempDir;
use crate::support::client::{self, Client};
use crate::support::pki::Pki;
use crate::support::proxy::{ADMIN, NODE};
use crate::support::upstream::{Received, Wire};
use crate::{MAPS, Scene, list, map};
use std::io;
use std::sync::Mutex;

/// Answers every list with who asked for it, as the upstream sees them.
fn mirror(request: &Received, wire: &mut Wire) -> io::Result<()> {
    let who = request.common_name.clone().or_else(|| request.header("authorization").map(str::to_owned));
    let who = format!(
        "{}{}",
        who.unwrap_or_else(|| "anonymous".to_owned()),
        request.header("impersonate-user").unwrap_or_default()
    );
    wire.json(200, list(100, &["x"]).replace("uid-x", &who))
}

fn ask(scene: &Scene, cn: Option<&str>, headers: &[&str]) -> (u16, String) {
    let reply = scene.proxy.client(cn).get_with(MAPS, headers);
    (reply.status(), reply.text())
}

#[test]
fn each_identity_goes_up_as_itself_and_reads_its_own_record_only() {
    let mut scene = Scene::scripted(&[], mirror);
    let token = "Authorization: Bearer tok-a";
    let asked: [(Option<&str>, &[&str], &str); 8] = [
        (Some(NODE), &[], NODE),
        (Some(ADMIN), &[], ADMIN),
        // A certificate with a key pair here goes up without the token.
        (Some(ADMIN), &[token], ADMIN),
        (None, &[token], "Bearer tok-a"),
        (None, &["Authorization: Bearer tok-b"], "Bearer tok-b"),
        // A certificate without a key pair here opens nothing.
        (Some("stranger"), &[], "anonymous"),
        (None, &[], "anonymous"),
        (Some(ADMIN), &["Impersonate-User: eve"], "admineve"),
    ];
    for (cn, headers, who) in asked {
        let (status, text) = ask(&scene, cn, headers);
        assert!(status == 200 && text.contains(&format!("\"uid\":\"{who}\"")), "{cn:?} {headers:?}: {text}");
    }
    scene.cut();
    for (cn, headers, who) in asked {
        let (status, text) = ask(&scene, cn, headers);
        assert!(status == 200 && text.contains(&format!("\"uid\":\"{who}\"")), "{cn:?} {headers:?}: {text}");
    }
    // Whoever has read nothing is served nothing, whatever they call themselves.
    let strangers: [(Option<&str>, &[&str]); 4] = [
        (None, &["Authorization: Bearer tok-c"]),
        (Some(ADMIN), &["Impersonate-User: mallory"]),
        (None, &[token, "Impersonate-User: eve"]),
        (Some(NODE), &["Impersonate-User: eve", "User-Agent: kubelet"]),
    ];
    for (cn, headers) in strangers {
        let (status, text) = ask(&scene, cn, headers);
        assert_eq!(status, 503, "{cn:?} {headers:?}: {text}");
        assert!(!text.contains("uid"), "{text}");
    }
}

#[test]
fn what_would_vouch_for_a_user_stops_here() {
    let scene = Scene::scripted(&[], mirror);
    let headers = [
        "X-Remote-User: root",
        "X-Remote-Group: system:masters",
        "X-Other: kept",
        "Proxy-Authorization: x",
        "Connection: X-Drop",
        "X-Drop: x",
    ];
    ask(&scene, Some("stranger"), &headers);
    let received = scene.upstream.received();
    let last = received.last().expect("a request");
    for name in ["x-remote-user", "x-remote-group", "proxy-authorization", "x-drop", "authorization"] {
        assert_eq!(last.header(name), None, "{name}");
    }
    assert_eq!((last.header("x-other"), last.common_name.as_deref()), (Some("kept"), None));
}

#[test]
fn a_certificate_of_another_ca_does_not_come_in() {
    let scene = Scene::scripted(&[], mirror);
    let folder = TempDir::new();
    let other = Pki::new(folder.path());
    let tls = client::tls(&scene.proxy.pki.ca(), Some(&other.pair(ADMIN)));
    // In TLS 1.3 a client learns of it with the first bytes that it reads.
    let refused = Client::try_connect(scene.proxy.port, &tls).and_then(|mut c| {
        c.try_send(format!("GET {MAPS} HTTP/1.1\r\nHost: h\r\n\r\n"))?;
        c.head()
    });
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(scene.upstream.received().len(), 0);
}

#[test]
fn a_token_that_the_upstream_refuses_is_forgotten() {
    let refused = std::sync::Arc::new(Mutex::new(false));
    let now = std::sync::Arc::clone(&refused);
    let mut scene =
        Scene::scripted(
            &[],
            move |request, wire| {
                if *now.lock().expect("now") { wire.json(401, "{}") } else { mirror(request, wire) }
            },
        );
    let token: &[&str] = &["Authorization: Bearer tok-a"];
    assert_eq!(ask(&scene, None, token).0, 200);
    scene.cut();
    assert_eq!(ask(&scene, None, token).0, 200);
    scene.heal();
    *refused.lock().expect("refused") = true;
    assert_eq!(ask(&scene, None, token).0, 401, "the upstream's own word");
    scene.cut();
    assert_eq!(ask(&scene, None, token).0, 503);
}

#[test]
fn accepted_tokens_are_known_after_a_reboot() {
    let mut scene = Scene::scripted(&[], mirror);
    let token: &[&str] = &["Authorization: Bearer tok-a"];
    assert_eq!(ask(&scene, None, token).0, 200);
    std::thread::sleep(std::time::Duration::from_secs(3));
    scene.cut();
    scene.proxy.kill();
    scene.proxy.boot();
    scene.proxy.await_link(false);
    assert_eq!(ask(&scene, None, token).0, 200);
    assert_eq!(ask(&scene, None, &["Authorization: Bearer tok-b"]).0, 503);
}

#[test]
fn a_403_drops_what_was_recorded() {
    let forbidden = std::sync::Arc::new(Mutex::new(false));
    let now = std::sync::Arc::clone(&forbidden);
    let mut scene =
        Scene::scripted(
            &[],
            move |request, wire| {
                if *now.lock().expect("now") { wire.json(403, "{}") } else { mirror(request, wire) }
            },
        );
    assert_eq!(ask(&scene, Some(NODE), &[]).0, 200);
    *forbidden.lock().expect("forbidden") = true;
    assert_eq!(ask(&scene, Some(NODE), &[]).0, 403);
    scene.cut();
    assert_eq!(ask(&scene, Some(NODE), &[]).0, 503);
}

#[test]
fn neither_tokens_nor_bodies_are_in_the_log_nor_tokens_on_the_disk() {
    let mut scene = Scene::scripted(&["--log-level=trace"], |request, wire| {
        if request.method == "POST" {
            wire.json(201, &request.body)
        } else {
            wire.json(200, map(7, "one").replace("uid-one", "SECRET-BODY"))
        }
    });
    let target = format!("{MAPS}/one");
    let token: &[&str] = &["Authorization: Bearer SECRET-TOKEN"];
    scene.proxy.client(None).get_with(&target, token);
    scene.proxy.client(None).write("POST", MAPS, token, "{\"data\":\"SECRET-SENT\"}");
    std::thread::sleep(std::time::Duration::from_secs(2));
    scene.cut();
    assert!(scene.proxy.client(None).get_with(&target, token).text().contains("SECRET-BODY"));
    scene.proxy.client(None).write("POST", MAPS, token, "{\"data\":\"SECRET-SENT\"}");
    let log = scene.proxy.log();
    assert!(log.contains("configmaps"), "the log says something: {log}");
    for secret in ["SECRET-TOKEN", "SECRET-BODY", "SECRET-SENT", "PRIVATE KEY"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
    let mut folders = vec![scene.proxy.folder.path().join("cache")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &std::path::Path| std::fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            let bytes = std::fs::read(&path).expect("a file");
            assert!(!bytes.windows(12).any(|w| w == b"SECRET-TOKEN"), "{}", path.display());
        }
    }
    assert!(files > 1);
}
