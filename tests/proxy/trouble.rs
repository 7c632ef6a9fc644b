//! The record is removed under the proxy, or is another cluster's record: the proxy keeps proxying, says so
//! once, and mends itself.

use crate::support::apiserver::Cluster;
use crate::support::pki::Pki;
use crate::support::proxy::{NODE, Proxy};
use crate::support::{TempDir, eventually};
use crate::{MAPS, PROGRAM, Scene};
use serde_json::json;
use std::path::Path;
use std::process::Command;

/// Whether some file below has these bytes in it.
fn folder_holds(folder: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(folder).expect("a folder").flatten().any(|entry| {
        if entry.path().is_dir() {
            return folder_holds(&entry.path(), bytes);
        }
        std::fs::read(entry.path()).expect("a file").windows(bytes.len()).any(|window| window == bytes)
    })
}

#[test]
fn a_record_that_is_removed_begins_anew() {
    let (mut scene, cluster) = Scene::with_cluster(&[]);
    scene.proxy.get(MAPS);
    eventually("the list is recorded", || scene.proxy.metric("lite_apiserver_record_views") == 1);
    std::fs::remove_dir_all(scene.proxy.cache()).expect("removed");
    cluster.put("configmaps", "shop", "three", &json!({}));
    eventually("it is noticed", || {
        assert_eq!(scene.proxy.get(MAPS).status(), 200);
        scene.proxy.get("/version");
        scene.proxy.log().contains("it begins anew")
    });
    scene.proxy.get(MAPS);
    std::thread::sleep(std::time::Duration::from_secs(3));
    scene.proxy.kill();
    scene.upstream.cut();
    scene.proxy.boot();
    assert_eq!(scene.proxy.get(MAPS).json()["items"].as_array().map(Vec::len), Some(3), "{}", scene.proxy.log());
    assert!(folder_holds(&scene.proxy.cache(), b"ca "), "whose record it is has been kept again");
    // The lock is the new folder's: nobody else gets in.
    let look = Command::new(PROGRAM)
        .args(["cache", "rm", "--all", "--file-cache-path"])
        .arg(scene.proxy.cache())
        .output()
        .expect("it runs");
    assert_eq!(look.status.code(), Some(69));
}

#[test]
fn another_clusters_record_is_never_served_and_a_wrong_ca_file_costs_nothing() {
    let folder = TempDir::new();
    let start = |name: &str| {
        let pki = Pki::new(&folder.path().join(name));
        let (cluster, upstream) = Cluster::start(&pki);
        cluster.put("configmaps", "shop", name, &json!({}));
        (pki, upstream)
    };
    let (first_pki, mut first) = start("first");
    let (second_pki, mut second) = start("second");
    let cache = format!("--file-cache-path={}", folder.path().join("cache").display());
    let program = [PROGRAM.to_owned()];
    let name = |proxy: &Proxy| {
        let reply = proxy.get(MAPS);
        (reply.status() == 200).then(|| reply.json()["items"][0]["metadata"]["name"].as_str().map(str::to_owned))
    };
    let is = |name: &str| Some(Some(name.to_owned()));
    let mut with_first = Proxy::start_program(&program, first_pki, first.port(), &[&cache]);
    assert_eq!(name(&with_first), is("first"));
    with_first.terminate();
    // Another CA, and nobody there: whose record this is cannot be told.
    second.cut();
    let mut with_second = Proxy::start_program(&program, second_pki, second.port(), &[&cache]);
    assert_eq!(name(&with_second), None);
    assert!(with_second.log().contains("nothing of it is served"), "{}", with_second.log());
    with_second.terminate();
    // It was the wrong file: nothing is lost.
    first.cut();
    with_first.boot();
    assert_eq!(name(&with_first), is("first"));
    with_first.terminate();
    // It was not: the first answer ends it.
    second.heal();
    with_second.boot();
    assert_eq!(name(&with_second), is("second"));
    assert!(with_second.page("/metrics").contains("lite_apiserver_record_dropped_total{reason=\"cluster\"} 1"));
    eventually("the list is recorded", || with_second.metric("lite_apiserver_record_views") == 1);
    second.cut();
    assert_eq!(name(&with_second), is("second"));
}

#[test]
fn kube_systems_uid_tells_one_cluster_from_another_behind_the_same_ca() {
    let uid = std::sync::Arc::new(std::sync::Mutex::new("u-1"));
    let now = std::sync::Arc::clone(&uid);
    let system = "/api/v1/namespaces/kube-system";
    let mut scene = Scene::scripted(&[], move |request, wire| match request.path() {
        MAPS => wire.json(200, crate::list(100, &["one"])),
        "/api/v1/namespaces/kube-system" => {
            let uid = *now.lock().expect("uid");
            let metadata = json!({"name": "kube-system", "uid": uid, "resourceVersion": "5"});
            wire.json(200, json!({"kind": "Namespace", "apiVersion": "v1", "metadata": metadata}).to_string())
        }
        _ => wire.json(200, "{}"),
    });
    for _ in 0..2 {
        scene.proxy.get(MAPS);
        scene.proxy.get(system);
    }
    scene.cut();
    assert_eq!(scene.proxy.get(MAPS).status(), 200);
    scene.heal();
    *uid.lock().expect("uid") = "u-2";
    assert_eq!(scene.proxy.get(system).json()["metadata"]["uid"], json!("u-2"));
    eventually("it is noticed", || scene.proxy.log().contains("this is another cluster (kube-system has another uid)"));
    scene.cut();
    assert_eq!(scene.proxy.get(MAPS).status(), 503);
    scene.heal();
    scene.proxy.client(Some(NODE)).get(MAPS);
    eventually("the list is recorded", || scene.proxy.metric("lite_apiserver_record_views") >= 1);
    scene.cut();
    assert_eq!(scene.proxy.get(MAPS).status(), 200);
}
