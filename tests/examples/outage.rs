//! An outage in miniature: a small stand-in of an apiserver, the real proxy in front of it as a process of its own, and
//! a client that prints what it sees while the link is up, cut, the proxy rebooted in the dark, and the link mended.
//!
//! Nothing here is trusted to go well: what is shown is checked, and the example fails where it does not hold.

#![allow(clippy::print_stdout, reason = "it is made to be read")]

#[path = "../support/mod.rs"]
mod support;

use lite_apiserver::config::{self, Wanted};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use support::TempDir;
use support::apiserver::Cluster;
use support::client::{Client, Reply};
use support::pki::Pki;
use support::proxy::{NODE, Proxy};

/// With this as its first argument, the example is the proxy.
const BE_THE_PROXY: &str = "be-the-proxy";

const MAPS: &str = "/api/v1/namespaces/shop/configmaps";
const WIDGETS: &str = "/apis/example.com/v1/widgets";
const AS_TABLE: &str = "Accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == BE_THE_PROXY) {
        return be_the_proxy(arguments);
    }
    let begun = Instant::now();
    match play() {
        Ok(()) => {
            println!("\nAll of it held. It took {:.1} s.", begun.elapsed().as_secs_f32());
            println!("\nThe same with your own cluster:");
            println!("    cargo run --release -- --kubeconfig ~/.kube/config");
            println!("It prints the path of a kubeconfig for clients; in another terminal:");
            println!("    kubectl --kubeconfig THAT_PATH get pods -A");
            println!("Then pull the cable, and ask again.");
            ExitCode::SUCCESS
        }
        Err(what) => {
            println!("\nThis did not hold: {what}");
            ExitCode::FAILURE
        }
    }
}

/// What `lite-apiserver` itself does.
fn be_the_proxy(arguments: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let ended = match config::load(arguments, &|name| std::env::var(name).ok()) {
        Ok(Wanted::Run(config)) => lite_apiserver::run(&config).map_err(|e| (e.exit, e.message)),
        Ok(Wanted::Print(text)) => Err((0, text)),
        Err(e) => Err((e.exit.code(), e.message)),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, message)) => {
            eprintln!("{message}");
            ExitCode::from(code)
        }
    }
}

fn play() -> Result<(), String> {
    let folder = TempDir::new();
    let pki = Pki::new(&folder.path().join("pki"));
    let (cluster, mut upstream) = Cluster::start(&pki);
    cluster.put("configmaps", "shop", "prices", &json!({"apples": "3"}));
    cluster.put("configmaps", "shop", "hours", &json!({"opens": "8:00"}));
    cluster.put("widgets", "shop", "till", &json!({"drawer": "closed"}));
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let program = [own.to_string_lossy().into_owned(), BE_THE_PROXY.to_owned()];
    let mut proxy = Proxy::start_program(&program, pki, upstream.port(), &[]);
    println!("a stand-in of an apiserver   https://127.0.0.1:{}", upstream.port());
    println!("the real proxy before it     https://127.0.0.1:{}   (process {})", proxy.port, proxy.pid());

    println!("\n1. The link is up: each answer is the apiserver's own, and is recorded on its way.");
    let (first, took) = get(&proxy, MAPS, &[]);
    show("GET", MAPS, &first, Some(took));
    let (mut watch, mut seen) = (watch(&proxy, cluster.version()), Vec::new());
    let put = proxy.client(Some(NODE)).write(
        "PUT",
        &format!("{MAPS}/prices"),
        &[],
        r#"{"metadata":{"name":"prices"},"data":{"apples":"4"}}"#,
    );
    show("PUT", &format!("{MAPS}/prices"), &put, None);
    hold(put.status() == 200, "a write goes through while the link is up")?;
    next_event(&mut watch, &mut seen, "MODIFIED", "prices")?;
    let before = reads(&proxy, false)?;

    println!("\n2. The cable is cut.");
    upstream.cut();
    hold(ends_cleanly(&mut watch, &mut seen), "the watch that was open ends cleanly")?;
    println!("   the watch has ended cleanly: its client watches on from where it was");
    let held = outage(&proxy, &before, cluster.version())?;

    println!("\n3. The power fails too: the proxy is killed (SIGKILL), and boots while the cable is cut.");
    // The record is on the disk within --flush-interval (1 s).
    std::thread::sleep(Duration::from_millis(1500));
    drop(held);
    proxy.kill();
    proxy.boot();
    println!("   the proxy is up again        (process {})", proxy.pid());
    let mut held = outage(&proxy, &before, cluster.version())?;

    println!("\n4. The cable is mended.");
    upstream.heal();
    let mended = Instant::now();
    hold(ends_cleanly(&mut held, &mut Vec::new()), "the watch held from the record ends cleanly")?;
    println!("   the held watch has ended cleanly {:.1} s later", mended.elapsed().as_secs_f32());
    let (mut again, mut seen) = (self::watch(&proxy, cluster.version()), Vec::new());
    cluster.put("configmaps", "shop", "offers", &json!({"today": "pears"}));
    next_event(&mut again, &mut seen, "ADDED", "offers")?;
    let (reply, took) = get(&proxy, MAPS, &[]);
    show("GET", MAPS, &reply, Some(took));
    hold(reply.header("age").is_none() && reply.text().contains("pears"), "answers are the apiserver's own again")
}

/// What the reads gave.
#[derive(PartialEq)]
struct Seen {
    maps: String,
    one: String,
    widgets: String,
    table: String,
    version: String,
}

/// Reads what a node and a person read.
fn reads(proxy: &Proxy, recalled: bool) -> Result<Seen, String> {
    let mut texts = Vec::new();
    let one = format!("{MAPS}/prices");
    let asked: [(&str, &[&str]); 5] =
        [(MAPS, &[]), (&one, &[]), (WIDGETS, &[]), (MAPS, &[AS_TABLE]), ("/version", &[])];
    for (target, headers) in asked {
        let (reply, took) = get(proxy, target, headers);
        show("GET", target, &reply, Some(took));
        hold(reply.status() == 200, "every read is answered")?;
        hold(reply.header("age").is_some() == recalled, "an answer of the record says so, and no other")?;
        texts.push(reply.text());
    }
    let mut texts = texts.into_iter();
    let mut next = || texts.next().unwrap_or_default();
    Ok(Seen { maps: next(), one: next(), widgets: next(), table: next(), version: next() })
}

/// What the outage looks like; the watch that is held from the record.
fn outage(proxy: &Proxy, before: &Seen, version: u64) -> Result<Client, String> {
    let now = reads(proxy, true)?;
    hold(
        now.maps == before.maps && now.widgets == before.widgets && now.version == before.version,
        "every answer is the one from before the cut, byte for byte",
    )?;
    hold(now.one.contains("\"apples\":\"4\""), "what a watch brought last is known")?;
    println!("   the same as before the cut, byte for byte");
    let mut client = proxy.client(Some(NODE));
    let refused = client.write("PUT", &format!("{MAPS}/prices"), &[], "{}");
    show("PUT", &format!("{MAPS}/prices"), &refused, None);
    println!("        {}", refused.json()["message"].as_str().unwrap_or_default());
    hold(refused.status() == 503, "a write is refused")?;
    let unknown = client.get("/api/v1/namespaces/shop/pods");
    show("GET", "/api/v1/namespaces/shop/pods", &unknown, None);
    hold(unknown.status() == 503, "what was never read is not made up")?;
    let stranger = proxy.client(None).get(MAPS);
    println!("   the same list, asked for by someone without credentials: {}", stranger.status());
    hold(stranger.status() == 503, "nobody is served what somebody else recorded")?;
    let held = watch(proxy, version);
    println!("   a watch is held open, from the record");
    Ok(held)
}

fn get(proxy: &Proxy, target: &str, headers: &[&str]) -> (Reply, Duration) {
    let mut client = proxy.client(Some(NODE));
    let start = Instant::now();
    let reply = client.get_with(target, headers);
    (reply, start.elapsed())
}

fn watch(proxy: &Proxy, version: u64) -> Client {
    let mut client = proxy.client(Some(NODE));
    client.request("GET", &format!("{MAPS}?watch=1&allowWatchBookmarks=true&resourceVersion={version}"), &[]);
    // An answer that is no watch shows itself at the first event.
    let _ = client.head();
    client
}

fn next_event(watch: &mut Client, seen: &mut Vec<u8>, kind: &str, name: &str) -> Result<(), String> {
    let start = Instant::now();
    let event = watch.event(seen).map_err(|e| format!("an event: {e}"))?.ok_or("the watch ended before its event")?;
    let (what, whom) = (&event["type"], &event["object"]["metadata"]["name"]);
    let took = start.elapsed().as_secs_f32() * 1000.0;
    println!(
        "   a watch is told: {} {}, {took:.1} ms later",
        what.as_str().unwrap_or("?"),
        whom.as_str().unwrap_or("?")
    );
    hold(what == kind && whom == name, "the event that is due")
}

fn ends_cleanly(watch: &mut Client, seen: &mut Vec<u8>) -> bool {
    loop {
        match watch.event(seen) {
            Ok(None) => return true,
            Ok(Some(_)) => {}
            Err(_) => return false,
        }
    }
}

fn show(method: &str, target: &str, reply: &Reply, took: Option<Duration>) {
    let from = match (reply.status(), reply.header("age")) {
        (200..=299, Some(age)) => format!("the record, {age} s old"),
        (200..=299, None) => "the apiserver".to_owned(),
        _ => "refused".to_owned(),
    };
    let took = took.map(|t| format!("{:.1} ms", t.as_secs_f32() * 1000.0)).unwrap_or_default();
    println!("   {method:3} {target:45} {}  {:28} {from:23} {took:>8}", reply.status(), summary(reply));
}

fn summary(reply: &Reply) -> String {
    let Ok(body) = serde_json::from_slice::<Value>(&reply.body) else { return format!("{} bytes", reply.body.len()) };
    let names = |list: &Value, name: fn(&Value) -> &Value| {
        let all = list.as_array().map(|l| l.iter().filter_map(|o| name(o).as_str()).collect::<Vec<_>>().join(", "));
        all.unwrap_or_default()
    };
    match body["kind"].as_str() {
        Some("Table") => format!("a table: {}", names(&body["rows"], |row| &row["cells"][0])),
        Some(kind) if kind.ends_with("List") => names(&body["items"], |object| &object["metadata"]["name"]),
        Some("Status") => body["reason"].as_str().unwrap_or_default().to_owned(),
        Some(_) => format!("{} = {}", body["metadata"]["name"], body["data"]).replace('"', ""),
        None => body["gitVersion"].as_str().unwrap_or_default().to_owned(),
    }
}

fn hold(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}
