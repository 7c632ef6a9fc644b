//! What idle watches cost: a kubelet's, a list and then a watch for each thing that is mounted, before an upstream that
//! keeps them open and says nothing more.

use crate::PROGRAM;
use crate::nginx::{Buffering, Nginx};
use crate::processes;
use crate::support::TempDir;
use crate::support::client::{Client, tls};
use crate::support::pki::Pki;
use crate::support::proxy::{NODE, Proxy};
use crate::support::upstream::{Received, Upstream, Wire};
use std::io;
use std::path::Path;
use std::time::Duration;

const WATCHES: usize = 100;
/// Longer than the whole run.
const HELD: Duration = Duration::from_secs(600);

/// PSS of lite-apiserver and of nginx, with their watches open and silent.
pub fn with_idle_watches(program: &Path, rest: Duration) -> io::Result<[u64; 2]> {
    let folder = TempDir::new();
    let pki = Pki::new(&folder.path().join("pki"));
    let upstream = Upstream::start(&pki, answer);
    let node = pki.pair(NODE);
    let client = tls(&pki.ca(), Some(&node));
    let rival = Nginx::rival(program, &pki, upstream.port(), &node, Buffering::Off);
    let proxy = Proxy::start_program(&[PROGRAM.to_owned()], pki, upstream.port(), &[]);
    let mut used = [0; 2];
    let sides = [(proxy.port, vec![proxy.pid()]), (rival.port, rival.family())];
    for (used, (port, family)) in used.iter_mut().zip(sides) {
        let watches: Vec<Client> =
            (0..WATCHES).map(|number| watch(Client::try_connect(port, &client)?, number)).collect::<io::Result<_>>()?;
        std::thread::sleep(rest);
        *used = processes::pss(&family);
        drop(watches);
    }
    Ok(used)
}

/// Lists, watches, and reads the first event.
fn watch(mut client: Client, number: usize) -> io::Result<Client> {
    let target = format!("/api/v1/namespaces/shop/configmaps?fieldSelector=metadata.name%3Dmap-{number}");
    client.request("GET", &target, &["Accept: application/json"]);
    let listed = client.reply()?;
    client.request("GET", &format!("{target}&watch=true&resourceVersion=100"), &["Accept: application/json"]);
    let watching = client.head()?;
    let event = client.event(&mut Vec::new())?;
    match (listed.status(), watching.status, event) {
        (200, 200, Some(_)) => Ok(client),
        other => Err(io::Error::other(format!("a watch was not answered as it should be: {other:?}"))),
    }
}

/// An object for whoever lists; a newer one for whoever watches, and then silence.
fn answer(request: &Received, wire: &mut Wire) -> io::Result<()> {
    let name = request.target.split("%3D").nth(1).and_then(|n| n.split('&').next()).unwrap_or_default();
    let metadata = |version| {
        format!(r#""metadata":{{"name":"{name}","namespace":"shop","uid":"{name}","resourceVersion":"{version}"}}"#)
    };
    if !request.target.contains("watch=true") {
        let object = metadata(99);
        return wire.json(
            200,
            format!(
                r#"{{"kind":"ConfigMapList","apiVersion":"v1","metadata":{{"resourceVersion":"100"}},"items":[{{{object}}}]}}"#
            ),
        );
    }
    wire.begin_chunked()?;
    let object = metadata(101);
    wire.chunk(format!(
        "{{\"type\":\"MODIFIED\",\"object\":{{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",{object}}}}}\n"
    ))?;
    wire.peer_hangs_up_within(HELD);
    Err(io::ErrorKind::BrokenPipe.into())
}
