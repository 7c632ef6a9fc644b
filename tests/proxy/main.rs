//! Black box: the real binary on real sockets, in front of an upstream that does on demand what a real one does not.

#![allow(clippy::print_stdout, reason = "what a test has measured is shown with its failure")]

#[path = "../support/mod.rs"]
mod support;

mod abuse;
mod bounds;
mod cache;
mod check;
mod collections;
mod identity;
mod kills;
mod loris;
#[cfg(feature = "as-root")]
mod names;
mod offline;
mod pods;
#[cfg(feature = "as-root")]
mod privileges;
mod process;
mod protobuf;
mod purge;
mod rotation;
mod servers;
mod setup;
#[cfg(feature = "as-root")]
mod small_disk;
mod streams;
mod trouble;
mod tunnel;
mod whereabouts;
mod wire;

use std::io;
use support::TempDir;
use support::apiserver::Cluster;
use support::pki::Pki;
use support::proxy::Proxy;
use support::upstream::{Received, Upstream, Wire};

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_lite-apiserver");

/// The same as most tests start it; `LITE_APISERVER` in the environment names another, and what runs it:
/// `qemu-arm-static /path/lite-apiserver` (packaging/selftest.sh).
fn program() -> Vec<String> {
    let named = std::env::var("LITE_APISERVER").unwrap_or_else(|_| PROGRAM.to_owned());
    named.split_whitespace().map(str::to_owned).collect()
}

/// The configmaps of one namespace, as the stand-in has them.
const MAPS: &str = "/api/v1/namespaces/shop/configmaps";

/// The proxy, and what stands behind it.
struct Scene {
    upstream: Upstream,
    proxy: Proxy,
    _folder: TempDir,
}

impl Scene {
    /// In front of an upstream that answers by `script`.
    fn scripted(
        flags: &[&str],
        script: impl Fn(&Received, &mut Wire) -> io::Result<()> + Send + Sync + 'static,
    ) -> Scene {
        let folder = TempDir::new();
        let pki = Pki::new(&folder.path().join("pki"));
        let upstream = Upstream::start(&pki, script);
        let proxy = Proxy::start_program(&program(), pki, upstream.port(), flags);
        Scene { upstream, proxy, _folder: folder }
    }

    /// In front of the stand-in of an apiserver, with two configmaps.
    fn with_cluster(flags: &[&str]) -> (Scene, Cluster) {
        let folder = TempDir::new();
        let pki = Pki::new(&folder.path().join("pki"));
        let (cluster, upstream) = Cluster::start(&pki);
        for name in ["one", "two"] {
            cluster.put("configmaps", "shop", name, &serde_json::json!({"colour": name}));
        }
        let proxy = Proxy::start_program(&program(), pki, upstream.port(), flags);
        (Scene { upstream, proxy, _folder: folder }, cluster)
    }

    /// Cuts the link, and waits until the proxy has seen it.
    fn cut(&mut self) {
        self.upstream.cut();
        // An idle proxy asks nobody: the first request finds out.
        self.proxy.client(None).get("/livez");
        self.proxy.await_link(false);
    }

    /// Mends the link, and waits until the proxy has seen it.
    fn heal(&mut self) {
        self.upstream.heal();
        self.proxy.await_link(true);
    }
}

/// A list of configmaps as kube-apiserver has it.
fn list(version: u64, names: &[&str]) -> String {
    let items: Vec<String> = names.iter().enumerate().map(|(i, name)| bare(version - i as u64, name)).collect();
    let items = items.join(",");
    format!(
        "{{\"kind\":\"ConfigMapList\",\"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"{version}\"}},\"items\":[{items}]}}"
    )
}

/// A configmap as it stands in a list.
fn bare(version: u64, name: &str) -> String {
    format!("{{\"metadata\":{}}}", metadata(version, name))
}

/// A configmap on its own.
fn map(version: u64, name: &str) -> String {
    format!("{{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{}}}", metadata(version, name))
}

fn metadata(version: u64, name: &str) -> String {
    format!("{{\"name\":\"{name}\",\"namespace\":\"shop\",\"uid\":\"uid-{name}\",\"resourceVersion\":\"{version}\"}}")
}

/// An event of a watch, as a line.
fn event(kind: &str, version: u64, name: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{}}}\n", map(version, name))
}
