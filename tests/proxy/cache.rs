//! `lite-apiserver cache`: what is recorded is looked into while the daemon runs, and after.

use crate::support::proxy::{NODE, Proxy};
use crate::support::{TempDir, eventually};
use crate::{MAPS, PROGRAM, Scene};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

fn cache(proxy: &Proxy, line: &str) -> Output {
    let mut command = Command::new(PROGRAM);
    command.arg("cache").args(line.split_whitespace()).arg("--file-cache-path").arg(proxy.cache());
    command.output().expect("it runs")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn said(output: &Output) -> (i32, String) {
    (output.status.code().expect("an exit code"), String::from_utf8(output.stderr.clone()).expect("text"))
}

fn read(proxy: &Proxy, line: &str) -> Value {
    let output = cache(proxy, line);
    assert!(output.status.success(), "{line}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{line}: {e}: {}", text(&output)))
}

#[test]
fn a_record_is_looked_into_while_the_daemon_writes_it_and_changed_only_when_it_does_not() {
    let (mut scene, cluster) = Scene::with_cluster(&[]);
    let version = scene.proxy.get(MAPS).json()["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    let one = format!("{MAPS}/one");
    let other = "/api/v1/namespaces/other/configmaps/gone";
    assert_eq!(scene.proxy.get(other).status(), 404);
    let mut watch = scene.proxy.client(Some(NODE));
    watch.request("GET", &format!("{MAPS}?watch=1&resourceVersion={version}"), &[]);
    assert_eq!(watch.head().expect("a head").status, 200);
    eventually("both are recorded", || scene.proxy.metric("lite_apiserver_record_views") == 2);
    let mut buffer = Vec::new();
    for n in 0..30 {
        let put = cluster.put("configmaps", "shop", "three", &json!({"n": n}));
        watch.event(&mut buffer).expect("an event").expect("one");
        // Never a mix, and never behind what was told for long.
        let known = || read(&scene.proxy, "ls --json /api/v1/namespaces/shop")[0]["resourceVersion"].clone();
        eventually("it is seen", || known() == json!(put.to_string()));
    }
    let all = read(&scene.proxy, "ls --json");
    assert_eq!(all.as_array().map(Vec::len), Some(2), "{all}");
    let list = &read(&scene.proxy, "ls --json /api/v1/namespaces/shop")[0];
    assert_eq!(
        (&list["scope"], &list["path"], &list["query"], &list["kind"], &list["objects"], &list["complete"]),
        (&json!(format!("cert:{NODE}")), &json!(MAPS), &json!(""), &json!("collection"), &json!(3), &json!(true))
    );
    assert!(list["bytes"].as_u64() > Some(100) && list["ageSeconds"].as_u64() < Some(60), "{list}");
    let id = list["id"].as_str().expect("an id");
    let table = text(&cache(&scene.proxy, "ls"));
    assert!(table.lines().next().is_some_and(|l| l.starts_with("ID ") && l.ends_with(" PATH")), "{table}");
    assert!(table.lines().any(|l| l.starts_with(id) && l.ends_with(MAPS)), "{table}");

    let shown = text(&cache(&scene.proxy, &format!("show {id}")));
    assert!(shown.contains("--- shop/three") && shown.contains("\"n\": 29"), "{shown}");
    let shown = read(&scene.proxy, &format!("show --json {}", &id[..6]));
    assert_eq!(shown["contents"][1]["object"]["data"], json!({"n": 29}));
    let exported = read(&scene.proxy, &format!("export {MAPS}"));
    assert_eq!(exported, scene.proxy.get(MAPS).json(), "as the cluster would list it");
    let absent = cache(&scene.proxy, &format!("export {other}"));
    assert_eq!(said(&absent).0, 65, "a 404 is no object");

    // Whoever holds it keeps it.
    let refused = cache(&scene.proxy, &format!("rm {id}"));
    assert_eq!(said(&refused).0, 69);
    let holder = format!("that is the daemon (process {}, lite-apiserver): stop it", scene.proxy.pid());
    assert!(said(&refused).1.contains(&holder), "{}", said(&refused).1);
    assert_eq!(cache(&scene.proxy, "verify").status.code(), Some(0));
    assert_eq!(scene.proxy.metric("lite_apiserver_record_damaged_total"), 0);
    assert_eq!(scene.proxy.metric("lite_apiserver_record_errors_total"), 0, "the daemon was not disturbed");

    scene.proxy.terminate();
    let verified = cache(&scene.proxy, "verify");
    assert!(text(&verified).contains(" 0 damaged"), "{}", text(&verified));
    let removed = cache(&scene.proxy, &format!("rm {other}"));
    assert_eq!((removed.status.code(), text(&removed).as_str()), (Some(0), "1 view removed\n"));
    assert_eq!(read(&scene.proxy, "ls --json").as_array().map(Vec::len), Some(1));
    scene.upstream.cut();
    scene.proxy.boot();
    assert_eq!(scene.proxy.get(other).status(), 503, "nothing is known of it any more");
    assert_eq!(scene.proxy.get(&one).status(), 200);
}

#[test]
fn secrets_are_shown_only_where_that_is_asked_for() {
    let path = "/api/v1/namespaces/shop/secrets";
    let body = "{\"kind\":\"SecretList\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":\"9\"},\"items\":[{\"metadata\":{\"name\":\"s\",\"namespace\":\"shop\",\"uid\":\"u\",\"resourceVersion\":\"7\"},\"data\":{\"k\":\"aHVzaA==\"}}]}";
    let minted = "{\"kind\":\"TokenRequest\",\"apiVersion\":\"authentication.k8s.io/v1\",\"metadata\":{\"name\":\"s\"},\"status\":{\"token\":\"aHVzaA==\"}}";
    let scene = Scene::scripted(&[], move |request, wire| match request.method.as_str() {
        "POST" => wire.json(201, minted),
        _ => wire.json(200, body),
    });
    scene.proxy.get(path);
    let token = "/api/v1/namespaces/shop/serviceaccounts/s/token";
    assert_eq!(scene.proxy.client(Some(NODE)).write("POST", token, &[], "{\"spec\":{}}").status(), 201);
    eventually("both are recorded", || scene.proxy.metric("lite_apiserver_record_views") == 2);
    for path in [path, token] {
        for line in ["show", "show --json"] {
            let hidden = cache(&scene.proxy, &format!("{line} {path}"));
            assert!(hidden.status.success() && !text(&hidden).contains("aHVzaA=="), "{}", text(&hidden));
            let shown = cache(&scene.proxy, &format!("{line} {path} --show-secrets"));
            assert!(text(&shown).contains("aHVzaA=="), "{}", text(&shown));
        }
        assert_eq!(said(&cache(&scene.proxy, &format!("export {path}"))).0, 64);
    }
    let folder = TempDir::new();
    let file = folder.path().join("list.json");
    let line = format!("export {path} --show-secrets --output {}", file.display());
    assert!(cache(&scene.proxy, &line).status.success());
    assert_eq!(std::fs::read_to_string(&file).expect("a file").trim_end(), body);
    assert_eq!(std::fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    assert_eq!(said(&cache(&scene.proxy, &line)).0, 73, "a file that is there is not written over");
}

#[test]
fn damage_is_found_and_named_and_nothing_is_changed_by_looking() {
    let (mut scene, _cluster) = Scene::with_cluster(&[]);
    scene.proxy.get(MAPS);
    scene.proxy.get("/version");
    eventually("both are recorded", || scene.proxy.metric("lite_apiserver_record_views") == 2);
    scene.proxy.terminate();
    let verified = read(&scene.proxy, "verify --json");
    let file = verified["files"].as_array().expect("files").iter().find(|f| f["path"] == MAPS).expect("the list's");
    let file = scene.proxy.cache().join(file["file"].as_str().expect("a file"));
    let mut bytes = std::fs::read(&file).expect("a file");
    bytes[60] ^= 1;
    std::fs::write(&file, &bytes).expect("written");
    std::fs::write(scene.proxy.cache().join("stray"), "x").expect("written");
    let verified = cache(&scene.proxy, "verify");
    assert_eq!(verified.status.code(), Some(65));
    assert!(text(&verified).contains("its header is damaged"), "{}", text(&verified));
    assert!(text(&verified).contains("damaged: stray: not a file of ours"), "{}", text(&verified));
    assert!(text(&verified).contains(" 2 damaged"), "{}", text(&verified));
    assert_eq!(read(&scene.proxy, "ls --json").as_array().map(Vec::len), Some(1));
    assert_eq!(std::fs::read(&file).expect("still there"), bytes);
    assert_eq!(said(&cache(&scene.proxy, &format!("show {MAPS}"))).0, 66);
    let nowhere =
        Command::new(PROGRAM).args(["cache", "ls", "--file-cache-path", "/nowhere"]).output().expect("it runs");
    assert_eq!(said(&nowhere).0, 66);
    assert!(said(&nowhere).1.contains("/nowhere: there is no record to be read"), "{}", said(&nowhere).1);
}

#[cfg(feature = "redb")]
#[test]
fn a_redb_record_is_looked_into_when_the_daemon_is_down() {
    let folder = TempDir::new();
    let file = folder.path().join("record.db");
    let mut scene = a_database_is_its_daemons_alone("redb", "bolt-cache-file", &file);
    // As a power cut leaves it, and it stays so.
    scene.proxy.get(MAPS);
    scene.proxy.get("/version");
    eventually("both are recorded", || scene.proxy.metric("lite_apiserver_record_views") == 2);
    std::thread::sleep(std::time::Duration::from_secs(2));
    scene.proxy.kill();
    let flags = ["--cache-type", "redb", "--bolt-cache-file", file.to_str().expect("text")];
    let before = std::fs::read(&file).expect("the record");
    assert!(text(&cache_of(&flags, "ls")).contains(MAPS));
    assert!(text(&cache_of(&flags, "verify")).contains(" 2 whole"));
    assert_eq!(cache_of(&flags, &format!("export {MAPS}")).status.code(), Some(0));
    assert!(std::fs::read(&file).expect("the record") == before, "nothing is changed by looking");
    let mut bytes = before;
    let places: Vec<usize> = (0..bytes.len() - 6).filter(|at| bytes[*at..].starts_with(b"colour")).collect();
    places.iter().for_each(|at| bytes[*at] ^= 1);
    std::fs::write(&file, &bytes).expect("written");
    let verified = cache_of(&flags, "verify");
    assert_eq!(said(&verified).0, 65);
    assert!(said(&verified).1.contains("the daemon will set it aside"), "{}", said(&verified).1);
    assert!(std::fs::read(&file).expect("the record") == bytes, "nor is what is damaged");
}

#[cfg(feature = "fjall")]
#[test]
fn a_fjall_record_is_looked_into_when_the_daemon_is_down() {
    let folder = TempDir::new();
    a_database_is_its_daemons_alone("fjall", "badger-cache-path", &folder.path().join("record"));
}

#[cfg(any(feature = "redb", feature = "fjall"))]
fn cache_of(flags: &[&str], line: &str) -> Output {
    Command::new(PROGRAM).arg("cache").args(line.split_whitespace()).args(flags).output().expect("it runs")
}

/// What there is to be told of both; the link is up again at the end.
#[cfg(any(feature = "redb", feature = "fjall"))]
fn a_database_is_its_daemons_alone(engine: &str, flag: &str, at: &std::path::Path) -> Scene {
    let (kind, place) = (format!("--cache-type={engine}"), format!("--{flag}={}", at.display()));
    let flags = [kind.as_str(), place.as_str()];
    let (mut scene, _cluster) = Scene::with_cluster(&flags);
    let there = cache_of(&[&kind, &format!("{place}x")], "ls");
    assert_eq!(said(&there).0, 66, "{}", said(&there).1);
    scene.proxy.get(MAPS);
    scene.proxy.get("/version");
    eventually("both are recorded", || scene.proxy.metric("lite_apiserver_record_views") == 2);
    for line in ["ls", "show /version", "verify", "rm --all"] {
        let refused = cache_of(&flags, line);
        let holder = format!("that is the daemon (process {}, lite-apiserver): stop it", scene.proxy.pid());
        assert!(said(&refused).0 == 69 && said(&refused).1.contains(&holder), "{line}: {refused:?}");
    }
    let listed = scene.proxy.get(MAPS).json();
    scene.proxy.terminate();
    let table = text(&cache_of(&flags, "ls"));
    assert!(table.lines().any(|l| l.ends_with(MAPS)) && table.contains("2 views"), "{table}");
    let shown = text(&cache_of(&flags, &format!("show {MAPS}")));
    assert!(shown.contains("--- shop/two") && shown.contains("\"colour\": \"two\""), "{shown}");
    let exported = cache_of(&flags, &format!("export {MAPS}"));
    assert_eq!(serde_json::from_slice::<Value>(&exported.stdout).expect("a list"), listed);
    let verified = cache_of(&flags, "verify");
    assert!(verified.status.success() && text(&verified).contains(" 2 whole"), "{verified:?}");
    assert_eq!(text(&cache_of(&flags, "rm /version")), "1 view removed\n");
    scene.upstream.cut();
    scene.proxy.boot();
    assert_eq!(scene.proxy.get("/version").status(), 503, "nothing is known of it any more");
    assert_eq!(scene.proxy.get(MAPS).json(), listed);
    scene.heal();
    scene
}
