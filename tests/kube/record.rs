//! `lite-apiserver cache`, as a person on the node runs it: what it says of the record is what kube-apiserver says of the
//! cluster, while the proxy runs and watches come in.

use crate::MAPS;
use crate::control_plane::ADMIN;
use crate::scene::Scene;
use serde_json::{Value, json};
use std::process::{Command, Output};

const SECRETS: &str = "/api/v1/namespaces/shop/secrets";
/// The till's pin, as a Secret has it.
const PIN: &str = "MTIzNA==";

/// What is said while the proxy runs.
pub fn looked_into(scene: &Scene) {
    println!("\n$ lite-apiserver cache ls\n{}", must(scene, "ls"));
    let maps = row(scene, MAPS, "application/json", "");
    println!("$ lite-apiserver cache ls --json {MAPS}   # one of its rows\n{maps:#}\n");
    let listed =
        || -> Value { serde_json::from_str(&scene.direct.must(&format!("get --raw {MAPS}"))).expect("a list") };
    let version = |list: &Value| list["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse::<u64>().ok());

    // What was just read is at the cluster's own version, or later if the watch that is open has told since.
    let before = version(&listed());
    scene.node.must(&format!("get --raw {MAPS}"));
    let maps = row(scene, MAPS, "application/json", "");
    let direct = listed();
    let recorded = maps["resourceVersion"].as_str().and_then(|v| v.parse::<u64>().ok());
    assert!(before <= recorded && recorded <= version(&direct), "{before:?} {maps} {:?}", version(&direct));
    let items = direct["items"].as_array().expect("items");
    assert_eq!(maps["objects"], json!(items.len()), "{maps}");
    assert_eq!((&maps["kind"], &maps["complete"]), (&json!("collection"), &json!(true)), "{maps}");

    // Each way in which it was read is a row of its own, and so is what others have read.
    let rows = rows(scene, MAPS);
    let has = |key: &str, part: &str| rows.iter().any(|row| row[key].as_str().is_some_and(|text| text.contains(part)));
    assert!(has("representation", "as=Table"), "as a person reads it: {rows:#?}");
    assert!(has("query", "labelSelector=kind"), "with a selector: {rows:#?}");
    assert!(has("scope", "system:serviceaccount:shop:clerk"), "by a pod: {rows:#?}");

    let shown: Value = serde_json::from_str(&must(scene, &format!("show --json {}", id(&maps)))).expect("JSON");
    let data = |object: &Value| (object["metadata"]["name"].clone(), object["data"].clone());
    let objects = shown["contents"].as_array().expect("contents").iter().map(|one| data(&one["object"]));
    assert_eq!(objects.collect::<Vec<_>>(), items.iter().map(data).collect::<Vec<_>>());
    let text = must(scene, &format!("show {}", id(&maps)));
    println!("$ lite-apiserver cache show {}   # its beginning\n{}", id(&maps), head(&text, 32));
    let exported: Value = serde_json::from_str(&must(scene, &format!("export {}", id(&maps)))).expect("JSON");
    assert_eq!((&exported["kind"], &exported["items"]), (&direct["kind"], &direct["items"]));

    let secrets = id(&row(scene, SECRETS, "application/json", ""));
    let hidden = must(scene, &format!("show {secrets}"));
    println!("$ lite-apiserver cache show {secrets}\n{hidden}");
    let line = format!("show --json {secrets}");
    assert!(hidden.contains("shop/till") && !hidden.contains(PIN) && !must(scene, &line).contains(PIN), "{hidden}");
    assert!(must(scene, &format!("show {secrets} --show-secrets")).contains(PIN));
    assert_eq!(cache(scene, &format!("export {secrets}")).status.code(), Some(64));

    println!("$ lite-apiserver cache verify\n{}", must(scene, "verify"));
    let refused = cache(scene, &format!("rm {secrets}"));
    println!("$ lite-apiserver cache rm {secrets}\n{}", String::from_utf8_lossy(&refused.stderr));
    assert_eq!(refused.status.code(), Some(69), "{refused:?}");
}

/// What is said once the proxy is down.
pub fn removed(scene: &Scene) {
    let secrets = id(&row(scene, SECRETS, "application/json", ""));
    let before = rows(scene, "").len();
    println!("$ lite-apiserver cache rm {secrets}   # the proxy being down\n{}", must(scene, &format!("rm {secrets}")));
    let left = rows(scene, "");
    assert_eq!(left.len(), before - 1);
    assert!(left.iter().all(|row| id(row) != secrets));
    assert_eq!(cache(scene, "verify").status.code(), Some(0));
}

fn cache(scene: &Scene, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lite-apiserver"));
    command.arg("cache").args(line.split(' ')).arg("--data-dir").arg(scene.proxy.data());
    command.output().expect("it runs")
}

fn must(scene: &Scene, line: &str) -> String {
    let output = cache(scene, line);
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The rows of paths that begin so.
fn rows(scene: &Scene, prefix: &str) -> Vec<Value> {
    let line = if prefix.is_empty() { "ls --json".to_owned() } else { format!("ls --json {prefix}") };
    serde_json::from_str(&must(scene, &line)).expect("JSON")
}

/// The administrator's one row of this path, representation and query.
fn row(scene: &Scene, path: &str, representation: &str, query: &str) -> Value {
    let mut found = rows(scene, path);
    let scope = format!("cert:{ADMIN}");
    let wanted = [("path", path), ("representation", representation), ("query", query), ("scope", &scope)];
    found.retain(|row| wanted.iter().all(|(key, value)| row[key] == *value));
    assert_eq!(found.len(), 1, "{path} as {representation}: {found:#?}");
    found.remove(0)
}

fn id(row: &Value) -> String {
    row["id"].as_str().expect("an id").to_owned()
}

fn head(text: &str, lines: usize) -> String {
    text.lines().take(lines).map(|line| format!("{line}\n")).collect()
}
