//! The record keeps to its size: what nobody has asked for goes first, and what is watched stays.

use crate::support::eventually;
use crate::support::proxy::NODE;
use crate::{MAPS, Scene};
use serde_json::json;
use std::path::Path;

/// What a folder takes on disk, in bytes.
fn taken(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let own = std::fs::symlink_metadata(folder).map_or(0, |m| m.blocks() * 512);
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    own + entries.map(|e| taken(&e.path())).sum::<u64>()
}

#[test]
fn the_oldest_unread_goes_the_watched_stays_and_the_folder_keeps_to_its_size() {
    const MAX: u64 = 512 << 10;
    let (mut scene, cluster) = Scene::with_cluster(&["--cache-max-size=512Ki"]);
    let padding = "x".repeat(10_000);
    let target = |i: usize| format!("/api/v1/namespaces/bulk/configmaps/big-{i}");
    for i in 0..100 {
        cluster.put("configmaps", "bulk", &format!("big-{i}"), &json!({"n": i, "padding": padding}));
    }
    let version = scene.proxy.get(MAPS).json()["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    let mut watch = scene.proxy.client(Some(NODE));
    watch.request("GET", &format!("{MAPS}?watch=1&resourceVersion={version}"), &[]);
    assert_eq!(watch.head().expect("a head").status, 200);
    // Read once, before anything else, and again and again.
    scene.proxy.get(&target(0));
    for i in 1..100 {
        assert_eq!(scene.proxy.get(&target(i)).json()["data"]["n"], json!(i), "online answers are the upstream's");
        scene.proxy.get(&target(1));
        if i % 10 == 0 {
            eventually("it keeps to its size", || scene.proxy.metric("lite_apiserver_record_bytes") <= MAX);
        }
    }
    let mut buffer = Vec::new();
    for n in 0..3 {
        cluster.put("configmaps", "shop", "three", &json!({"n": n}));
        let event = watch.event(&mut buffer).expect("an event").expect("one");
        assert_eq!(event["object"]["data"]["n"], json!(n));
    }
    let cache = scene.proxy.cache();
    // Notes are no views and not counted.
    eventually("the folder keeps to its size", || taken(&cache) <= MAX + (64 << 10));
    let dropped = scene.proxy.metric("lite_apiserver_record_dropped_total");
    assert!(dropped >= 60, "{dropped} dropped");
    let page = scene.proxy.page("/metrics");
    assert!(page.contains("lite_apiserver_record_dropped_total{reason=\"size\"} "), "{page}");
    assert!(page.contains("lite_apiserver_record_dropped_total{reason=\"age\"} 0"), "{page}");

    scene.cut();
    assert_eq!(scene.proxy.get(&target(0)).status(), 503, "nobody had asked for it for longest");
    assert_eq!(scene.proxy.get(&target(1)).status(), 200);
    assert_eq!(scene.proxy.get(&target(99)).status(), 200);
    let maps = scene.proxy.get(MAPS);
    assert_eq!((maps.status(), maps.json()["items"].as_array().map(Vec::len)), (200, Some(3)));
}

#[test]
fn a_list_larger_than_the_bound_passes_and_is_not_recorded() {
    let (mut scene, cluster) = Scene::with_cluster(&["--cache-max-size=64Ki"]);
    scene.proxy.get(MAPS);
    let padding = "x".repeat(10_000);
    for i in 0..20 {
        cluster.put("widgets", "bulk", &format!("w-{i}"), &json!({"padding": padding}));
    }
    let all = "/apis/example.com/v1/widgets";
    for _ in 0..3 {
        let reply = scene.proxy.get(all);
        assert_eq!(reply.json()["items"].as_array().map(Vec::len), Some(20), "it passes whole");
    }
    eventually("it is counted", || scene.proxy.metric("lite_apiserver_record_oversized_total") == 1);
    assert_eq!(scene.proxy.log().matches("larger than all that may be kept").count(), 1, "said once");
    scene.cut();
    assert_eq!(scene.proxy.get(all).status(), 503);
    assert_eq!(scene.proxy.get(MAPS).status(), 200, "others need not make room for it");
}
