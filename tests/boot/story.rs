//! One box's life.

use crate::Wish;
use crate::machine::{Machine, Network, Running};
use crate::parts::{Kind, Parts};
use crate::support::TempDir;
use crate::support::apiserver::Cluster;
use crate::support::client::Client;
use crate::support::pki::Pki;
use crate::support::proxy::NODE;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long it records before its power is cut.
const RECORDING: Duration = Duration::from_secs(8);

/// A change of the one configmap of a namespace.
struct Change {
    version: u64,
    namespace: usize,
    number: usize,
    at: Instant,
}

/// The life of a box of this kind; panics where something is not as it must be.
pub fn tell(kind: Kind, wish: &Wish) {
    let parts = Parts::gather(kind, wish);
    let size = std::fs::metadata(&parts.program).expect("the program").len();
    println!("{}, 64 MB: {} of {} KB", kind.name(), parts.program.display(), size / 1000);
    let held = kind.watches();
    let folder = TempDir::new();
    let pki = Pki::new(&folder.path().join("pki"));
    let (cluster, mut upstream) = Cluster::start(&pki);
    let mut changes: Vec<Change> = (0..held).map(|namespace| change(&cluster, namespace, 0)).collect();
    let machine = Machine::new(kind, &parts, &pki, NODE, folder.path());
    let line = format!("upstream={}", upstream.port());

    let mut running = machine.power_on(Network::Up, &line);
    say("power on to the first HTTPS answer", &seconds(running.serves(&pki, NODE)));
    say("memory, idle", &memory(&running));
    let begun = Instant::now();
    let mut watches: Vec<Client> = Vec::new();
    for namespace in 0..held {
        if namespace > 0 && namespace % 25 == 0 {
            say(&format!("memory, with {namespace} watches"), &memory(&running));
        }
        watches.push(watch(&mut running, &pki, namespace));
    }
    say(&format!("{held} lists and watches opened in"), &seconds(begun.elapsed()));
    changes.extend((0..held).map(|namespace| change(&cluster, namespace, 1)));
    let watches: Vec<Client> = watches.into_iter().map(hears_of_one).collect();
    say(&format!("memory, with {held} watches held and heard"), &memory(&running));

    let stop = AtomicBool::new(false);
    let cut = std::thread::scope(|scope| {
        let churn = scope.spawn(|| churn(&cluster, held, &stop));
        std::thread::sleep(RECORDING);
        let cut = Instant::now();
        running.power_cut();
        stop.store(true, Ordering::SeqCst);
        changes.extend(churn.join().expect("the changes"));
        cut
    });
    drop(watches);
    upstream.cut();
    let made = changes.iter().filter(|c| c.number > 1 && c.at <= cut).count();
    say("power cut while it records; changes made meanwhile", &made.to_string());

    let mut running = machine.power_on(Network::Cut, &line);
    say("power on, cable cut, to the first HTTPS answer", &seconds(running.serves(&pki, NODE)));
    let begun = Instant::now();
    let versions: Vec<u64> = (0..held).map(|namespace| recalled(&mut running, &pki, namespace, &changes)).collect();
    say(&format!("{held} recorded lists, each whole, answered in"), &seconds(begun.elapsed()));
    let lost = changes.iter().filter(|c| c.at <= cut && versions[c.namespace] < c.version);
    let oldest = lost.clone().map(|c| cut.duration_since(c.at)).max().unwrap_or_default();
    say("changes lost with the power", &format!("{}, none made more than {} before", lost.count(), seconds(oldest)));
    refuses_and_holds(&mut running, &pki, versions[0]);
    say("memory, after that", &memory(&running));
    running.power_cut();

    let mut running = machine.power_on(Network::None, &format!("{line} ask=/healthz"));
    let answer = running.hears("box: answer ");
    say(
        "power on, no network card, to its own word on its health",
        &format!("{}: {answer}", seconds(running.since.elapsed())),
    );
}

/// One line of what is told.
fn say(what: &str, figure: &str) {
    println!("  {what:<58} {figure}");
}

fn seconds(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f32())
}

fn memory(running: &Running) -> String {
    let [rss, peak, threads, left] = ["VmRSS", "VmHWM", "Threads", "MemAvailable"].map(|name| running.status(name));
    format!("RSS {rss} KiB (at most {peak}), {threads} threads; {} MB of the box left", left / 1024)
}

fn path(namespace: usize) -> String {
    format!("/api/v1/namespaces/ns-{namespace}/configmaps")
}

fn change(cluster: &Cluster, namespace: usize, number: usize) -> Change {
    let data = serde_json::json!({"number": number.to_string(), "padding": "x".repeat(500)});
    // Before it is made, so that it is never taken to be older than it is.
    let at = Instant::now();
    let version = cluster.put("configmaps", &format!("ns-{namespace}"), "map", &data);
    Change { version, namespace, number, at }
}

/// Changes one namespace after the other, some forty a second.
fn churn(cluster: &Cluster, namespaces: usize, stop: &AtomicBool) -> Vec<Change> {
    let made = (2 * namespaces..).take_while(|_| !stop.load(Ordering::SeqCst)).map(|count| {
        std::thread::sleep(Duration::from_millis(25));
        change(cluster, count % namespaces, count / namespaces)
    });
    made.collect()
}

/// Lists, and watches from there.
fn watch(running: &mut Running, pki: &Pki, namespace: usize) -> Client {
    let mut client = running.client(pki, Some(NODE));
    let list = client.get(&path(namespace));
    assert_eq!(list.status(), 200, "{}", list.text());
    let version = list.json()["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    client.request("GET", &format!("{}?watch=true&resourceVersion={version}", path(namespace)), &[]);
    let head = client.head().expect("a watch");
    assert_eq!(head.status, 200);
    client
}

fn hears_of_one(mut client: Client) -> Client {
    let event = client.event(&mut Vec::new()).expect("a watch").expect("an event");
    assert_eq!(event["type"], "MODIFIED", "{event}");
    client
}

/// The recorded list of a namespace must be one that was; its resourceVersion.
fn recalled(running: &mut Running, pki: &Pki, namespace: usize, changes: &[Change]) -> u64 {
    let list = running.client(pki, Some(NODE)).get(&path(namespace));
    assert_eq!(list.status(), 200, "namespace {namespace}: {}", list.text());
    let list = list.json();
    let version = list["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()).expect("a version");
    let newest = changes.iter().rfind(|c| c.namespace == namespace && c.version <= version).expect("a change");
    let items = list["items"].as_array().expect("items");
    assert_eq!(items.len(), 1, "{list}");
    assert_eq!(items[0]["metadata"]["resourceVersion"], newest.version.to_string(), "{list}");
    assert_eq!(items[0]["data"]["number"], newest.number.to_string(), "{list}");
    version
}

/// What cannot be had in the dark is refused at once; a watch is held.
fn refuses_and_holds(running: &mut Running, pki: &Pki, version: u64) {
    let write = running.client(pki, Some(NODE)).write("POST", &path(0), &[], "{\"metadata\":{\"name\":\"new\"}}");
    assert_eq!(write.status(), 503, "{}", write.text());
    let mut client = running.client(pki, Some(NODE));
    client.request("GET", &format!("{}?watch=true&resourceVersion={version}&timeoutSeconds=3", path(0)), &[]);
    assert_eq!(client.head().expect("a watch").status, 200);
    let event = client.event(&mut Vec::new()).expect("a watch that ends cleanly");
    assert!(event.is_none(), "{event:?}");
    say("a write is refused, a watch held for its 3 seconds", "yes");
}
