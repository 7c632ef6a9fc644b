//! The upstream has a name: its address changes, and the name service goes away. The program has a mount namespace with an
//! `/etc/hosts` and an `/etc/resolv.conf` of its own, which takes root.

use crate::support::apiserver::Cluster;
use crate::support::pki::Pki;
use crate::support::proxy::Proxy;
use crate::support::{TempDir, eventually};
use crate::{MAPS, PROGRAM};
use serde_json::json;
use std::path::PathBuf;

/// The name in every test certificate that stands for the cluster.
const NAME: &str = "apiserver.invalid";

/// What the program believes of names.
struct Names {
    hosts: PathBuf,
    resolver: PathBuf,
}

impl Names {
    fn new(folder: &TempDir) -> Names {
        let names = Names { hosts: folder.path().join("hosts"), resolver: folder.path().join("resolv.conf") };
        // Nobody is there: a question waits as long as it may.
        std::fs::write(&names.resolver, "nameserver 127.0.0.77\noptions timeout:1 attempts:1\n").expect("written");
        names.point_to("127.0.0.1");
        names
    }

    /// In place: what is mounted is the file, not its name.
    fn point_to(&self, address: &str) {
        std::fs::write(&self.hosts, format!("{address} {NAME}\n")).expect("written");
    }

    fn lose(&self) {
        std::fs::write(&self.hosts, "").expect("written");
    }

    /// The program, and what goes before it.
    fn program(&self) -> Vec<String> {
        let script = format!(
            "mount --bind '{}' /etc/hosts && mount --bind '{}' /etc/resolv.conf && exec \"$0\" \"$@\"",
            self.hosts.display(),
            self.resolver.display()
        );
        ["unshare", "--mount", "sh", "-c", &script, PROGRAM].map(str::to_owned).into()
    }
}

#[test]
fn a_name_is_followed_to_a_new_address_and_what_was_known_outlives_the_name_service() {
    let folder = TempDir::new();
    let names = Names::new(&folder);
    let pki = Pki::new(&folder.path().join("pki"));
    let (cluster, mut here) = Cluster::start(&pki);
    let mut there = cluster.another_server_at("127.0.0.2", here.port(), &pki);
    cluster.put("configmaps", "shop", "one", &json!({}));
    let flag = format!("--kube-apiserver-url={NAME}");
    let mut proxy = Proxy::start_program(&names.program(), pki, here.port(), &[&flag]);
    let asked = |proxy: &Proxy| {
        let reply = proxy.get(MAPS);
        (reply.status(), reply.header("age").is_some())
    };
    assert_eq!(asked(&proxy), (200, false));
    assert!(!here.received().is_empty() && there.received().is_empty());

    // The address changes: the old one is dead, the name stands for another.
    names.point_to("127.0.0.2");
    here.cut();
    eventually("the new address is found", || asked(&proxy) == (200, false));
    assert!(!there.received().is_empty());

    // The name service is gone: what was known goes on.
    names.lose();
    assert_eq!(asked(&proxy), (200, false));
    there.cut();
    eventually("the link is found down", || asked(&proxy) == (200, true));
    there.heal();
    proxy.await_link(true);
    assert_eq!(asked(&proxy), (200, false), "the address that was known is tried without the name service");

    // A start without a name service answers from the record; when it is back, so is the link.
    proxy.kill();
    proxy.boot();
    assert_eq!(asked(&proxy), (200, true), "{}", proxy.log());
    eventually("people are told why", || proxy.get("/api/v1/nodes").text().contains(&format!("name {NAME} not found")));
    names.point_to("127.0.0.2");
    proxy.await_link(true);
    assert_eq!(asked(&proxy), (200, false));
}
