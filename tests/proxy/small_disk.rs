//! A disk that is full, and one that can only be read: the proxy keeps proxying, says so once, and mends itself. A file
//! system of its own is mounted for it, which takes root.

use crate::MAPS;
use crate::Scene;
use crate::support::proxy::Proxy;
use crate::support::{TempDir, eventually};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system in memory; root only.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: &Path, size: &str) -> SmallDisk {
        assert!(rustix::process::geteuid().is_root(), "start this test as root");
        std::fs::create_dir_all(at).expect("a folder");
        let disk = SmallDisk(at.to_owned());
        disk.mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]);
        disk
    }

    fn mount(&self, arguments: &[&str]) {
        let done = Command::new("mount").args(arguments).arg(&self.0).output().expect("mount runs");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "no file system can be mounted here ({said}): leave this test out by its name");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

fn warnings(proxy: &Proxy) -> usize {
    proxy.log().lines().filter(|l| !l.starts_with("INFO")).count()
}

#[test]
fn a_full_disk_and_a_read_only_one_stop_the_recording_and_nothing_else() {
    let folder = TempDir::new();
    let disk = SmallDisk::new(&folder.path().join("disk"), "256k");
    let cache = disk.0.join("cache");
    let (mut scene, cluster) = Scene::with_cluster(&[&format!("--file-cache-path={}", cache.display())]);
    let widgets = "/apis/example.com/v1/widgets";
    scene.proxy.get(MAPS);
    eventually("the list is recorded", || scene.proxy.metric("lite_apiserver_record_views") == 1);
    // Foreign files, in the record's own folder, and as many as fit.
    let filler = cache.join("filler");
    let _ = std::fs::write(&filler, vec![0; 1 << 20]);
    let padding = "x".repeat(20_000);
    cluster.put("widgets", "shop", "a", &json!({"padding": padding}));
    for _ in 0..10 {
        assert_eq!(scene.proxy.get(widgets).json()["items"][0]["data"]["padding"], json!(padding));
    }
    eventually("it is counted", || scene.proxy.metric("lite_apiserver_record_errors_total") > 0);
    assert_eq!(scene.proxy.metric("lite_apiserver_record_failing"), 1);
    let said = warnings(&scene.proxy);
    assert!((1..=5).contains(&said), "{said} warnings");
    for _ in 0..20 {
        assert_eq!(scene.proxy.get(widgets).status(), 200);
    }
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(warnings(&scene.proxy), said, "once, not for each request: {}", scene.proxy.log());
    // Room again: nothing has to be restarted.
    std::fs::remove_file(&filler).expect("removed");
    eventually("it is recorded again", || {
        scene.proxy.get(widgets);
        scene.proxy.metric("lite_apiserver_record_views") == 2
    });
    eventually("it says so", || scene.proxy.log().contains("can be written again"));
    assert_eq!(scene.proxy.metric("lite_apiserver_record_failing"), 0);

    // The disk turns read-only, as one does that has failed: what is on it is served, what comes passes.
    scene.proxy.terminate();
    disk.mount(&["-o", "remount,ro"]);
    scene.proxy.boot();
    let version = cluster.put("configmaps", "shop", "three", &json!({}));
    assert_eq!(scene.proxy.get(MAPS).json()["metadata"]["resourceVersion"], json!(version.to_string()));
    eventually("it is counted", || scene.proxy.metric("lite_apiserver_record_errors_total") > 0);
    scene.cut();
    let held = scene.proxy.get(MAPS);
    assert_eq!((held.status(), held.json()["items"].as_array().map(Vec::len)), (200, Some(2)));
    scene.heal();
    disk.mount(&["-o", "remount,rw"]);
    scene.proxy.get(MAPS);
    eventually("what changed is recorded", || {
        scene.proxy.get(MAPS);
        std::thread::sleep(std::time::Duration::from_millis(300));
        scene.proxy.log().matches("can be written again").count() == 2
    });
    assert_eq!(scene.proxy.metric("lite_apiserver_record_failing"), 0);
    scene.cut();
    assert_eq!(scene.proxy.get(MAPS).json()["items"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_disk_that_cannot_be_used_at_the_start_does_not_keep_the_node_from_its_cluster() {
    let folder = TempDir::new();
    let disk = SmallDisk::new(&folder.path().join("disk"), "1m");
    disk.mount(&["-o", "remount,ro"]);
    let cache = disk.0.join("cache");
    let (mut scene, _cluster) = Scene::with_cluster(&[&format!("--file-cache-path={}", cache.display())]);
    let first = scene.proxy.get(MAPS).json();
    assert_eq!(scene.proxy.metric("lite_apiserver_record_failing"), 1);
    assert!(scene.proxy.log().contains("nothing that is recorded lasts"), "{}", scene.proxy.log());
    // It stands in for an outage, too.
    scene.cut();
    assert_eq!(scene.proxy.get(MAPS).json(), first);
    scene.heal();
    // The disk is mended, and nothing has to be restarted.
    disk.mount(&["-o", "remount,rw"]);
    eventually("the record is there", || scene.proxy.try_metric("lite_apiserver_record_failing") == Some(0));
    scene.proxy.get(MAPS);
    eventually("the list is recorded", || scene.proxy.metric("lite_apiserver_record_views") == 1);
    scene.proxy.terminate();
    scene.upstream.cut();
    scene.proxy.boot();
    assert_eq!(scene.proxy.get(MAPS).json(), first);
}
