//! What the subcommands print: tables, objects, lists.

use super::{Look, Stop, age, described, id, is_secret};
use crate::failed::{Failed, failed};
use crate::record::{Encoding, Envelope};
use crate::store::{Checked, Condition, Kind, ObjectRef, Store, ViewInfo};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::Path;
use std::time::Duration;

/// Of protobuf, so much of its text is shown.
const LONGEST_SUMMARY: usize = 2000;

/// A number of things.
pub(super) fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A span, in its largest unit.
fn span(d: Duration) -> String {
    match d.as_secs() {
        s @ 0..120 => format!("{s}s"),
        s @ 120..7200 => format!("{}m", s / 60),
        s @ 7200..172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86400),
    }
}

/// `path?query`, as it would be asked for. A reply's query is the hash of its question.
fn target(info: &ViewInfo) -> String {
    let key = &info.key;
    if key.query.is_empty() { key.path.clone() } else { format!("{}?{}", key.path, key.query) }
}

fn version(version: Option<u64>) -> String {
    version.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

/// One line a view.
pub(super) fn table(views: &[ViewInfo], out: &mut dyn Write) -> io::Result<()> {
    let title = ["ID", "KIND", "OBJECTS", "BYTES", "VERSION", "AGE", "COMPLETE", "SCOPE", "REPRESENTATION", "PATH"];
    let mut rows = vec![title.map(str::to_owned)];
    for info in views {
        let kind = match info.kind {
            Kind::Collection => "list".to_owned(),
            Kind::Document if info.status == 200 => "doc".to_owned(),
            Kind::Document => info.status.to_string(),
        };
        let complete = if info.complete { "yes" } else { "no" };
        rows.push([
            id(&info.key),
            kind,
            info.objects.to_string(),
            info.bytes.to_string(),
            version(info.version),
            span(age(info)),
            complete.to_owned(),
            info.key.scope.clone(),
            info.key.representation.clone(),
            target(info),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..title.len()).map(width).collect();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    let bytes: u64 = views.iter().map(|info| info.bytes).sum();
    writeln!(out, "{}, {bytes} bytes", count(views.len(), "view"))
}

/// A condition in a word, and why.
pub(super) fn condition(condition: &Condition) -> (&'static str, Option<&'static str>) {
    match condition {
        Condition::Whole => ("whole", None),
        Condition::Replaced => ("replaced", None),
        Condition::Empty => ("empty", None),
        Condition::SetAside => ("set aside", None),
        Condition::Damaged(why) => ("damaged", Some(why)),
    }
}

/// What is damaged, and how many are not; `what` they are: files, or the views of a database.
pub(super) fn checked(files: &[Checked], what: &str, root: &Path, out: &mut dyn Write) -> io::Result<()> {
    for file in files {
        if let Condition::Damaged(why) = file.condition {
            let below = file.path.strip_prefix(root).ok().filter(|path| !path.as_os_str().is_empty());
            let path = below.unwrap_or(&file.path).display();
            let whose = file.key.as_ref().map_or_else(String::new, |key| {
                format!(" (scope {}, path {}, {})", key.scope.trim_start_matches('\0'), key.path, key.representation)
            });
            writeln!(out, "damaged: {path}: {why}{whose}")?;
        }
    }
    let of = |word: &str| files.iter().filter(|file| condition(&file.condition).0 == word).count();
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    writeln!(
        out,
        "{} read, {bytes} bytes: {} whole, {} replaced, {} empty, {} set aside before, {} damaged",
        count(files.len(), what),
        of("whole"),
        of("replaced"),
        of("empty"),
        of("set aside"),
        of("damaged")
    )
}

/// The text that there is in bytes: runs of it, a line each.
fn summary(bytes: &[u8]) -> String {
    let mut text = String::new();
    for run in bytes.split(|byte| !(b' '..=b'~').contains(byte)).filter(|run| run.len() >= 4) {
        if text.len() > LONGEST_SUMMARY {
            text.push_str("  ...\n");
            break;
        }
        text.push_str(&format!("  {}\n", String::from_utf8_lossy(run)));
    }
    text
}

/// A body for people: JSON as it reads best, of anything else the text in it.
fn readable(bytes: &[u8]) -> String {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(value) => format!("{value:#}\n"),
        Err(_) => summary(bytes),
    }
}

/// A body for programs.
fn embedded(bytes: &[u8]) -> (&'static str, Value) {
    match serde_json::from_slice(bytes) {
        Ok(value) => ("object", value),
        Err(_) => ("base64", STANDARD.encode(bytes).into()),
    }
}

impl Look<'_> {
    /// One view with its objects.
    pub(super) fn show(&mut self, store: &dyn Store, info: &ViewInfo) -> Result<(), Stop> {
        let hidden = is_secret(&info.key) && !self.show_secrets;
        let mut objects: Vec<Value> = Vec::new();
        if !self.json {
            for (name, value) in [
                ("id", id(&info.key)),
                ("scope", info.key.scope.clone()),
                ("path", info.key.path.clone()),
                ("selects", if info.key.query.is_empty() { "everything".to_owned() } else { info.key.query.clone() }),
                ("representation", info.key.representation.clone()),
                ("resourceVersion", version(info.version)),
                ("objects", info.objects.to_string()),
                ("bytes", info.bytes.to_string()),
                ("recorded", format!("{} ago", span(age(info)))),
                ("complete", if info.complete { "yes" } else { "no" }.to_owned()),
            ] {
                writeln!(self.out, "{name:<16} {value}")?;
            }
            if hidden {
                writeln!(self.out, "bodies that may be secret are left out: --show-secrets shows them")?;
            }
        }
        let (json, out) = (self.json, &mut *self.out);
        let mut each = |object: &ObjectRef, bytes: &[u8]| -> io::Result<()> {
            if json {
                let mut value = json!({
                    "key": object.key, "uid": object.uid, "bytes": bytes.len(),
                    "resourceVersion": object.version.map(|v| v.to_string()),
                });
                if !hidden {
                    let (name, body) = embedded(bytes);
                    value[name] = body;
                }
                objects.push(value);
                return Ok(());
            }
            let (key, uid, version) = (&object.key, &object.uid, version(object.version));
            writeln!(out, "\n--- {key}  resourceVersion {version}  uid {uid}  {} bytes", bytes.len())?;
            if hidden { Ok(()) } else { out.write_all(readable(bytes).as_bytes()) }
        };
        match info.kind {
            Kind::Collection => {
                let collection = store.collection(&info.key)?.ok_or_else(|| gone(info))?;
                collection.each(&mut each)?;
            }
            Kind::Document => {
                let mut document = store.document(&info.key)?.ok_or_else(|| gone(info))?;
                let mut body = Vec::new();
                document.body.read_to_end(&mut body)?;
                let key = info.key.path.rsplit('/').next().unwrap_or_default().to_owned();
                each(&ObjectRef { key, uid: document.uid, version: document.version, flags: 0 }, &body)?;
            }
        }
        if self.json {
            let mut view = described(info);
            view["bodiesHidden"] = hidden.into();
            view["contents"] = objects.into();
            writeln!(self.out, "{view:#}")?;
        }
        Ok(())
    }

    /// One view as a list.
    pub(super) fn export(&mut self, store: &dyn Store, info: &ViewInfo, to: Option<&Path>) -> Result<(), Stop> {
        if is_secret(&info.key) && !self.show_secrets {
            return Err(failed(64, format!("{} may hold secrets; export it with --show-secrets", info.key.path)).into());
        }
        let representation = &info.key.representation;
        if Encoding::of(representation) != Some(Encoding::Json) {
            let message =
                format!("{} is recorded as {representation}, which only a Kubernetes client can read", id(&info.key));
            return Err(failed(65, message).into());
        }
        let Some(path) = to else { return write_list(store, info, self.out) };
        let made = File::options().write(true).create_new(true).open(path);
        let mut file = made.map_err(|e| failed(73, format!("{} cannot be made: {e}", path.display())))?;
        let written = write_list(store, info, &mut file).and_then(|()| Ok(file.sync_all()?));
        if written.is_err() {
            // Half a list would look like one.
            let _ = std::fs::remove_file(path);
        }
        written
    }
}

fn gone(info: &ViewInfo) -> Failed {
    failed(66, format!("{} has gone, or cannot be read; `cache verify` says what is damaged", id(&info.key)))
}

fn write_list(store: &dyn Store, info: &ViewInfo, out: &mut dyn Write) -> Result<(), Stop> {
    if info.kind == Kind::Document {
        let mut document = store.document(&info.key)?.ok_or_else(|| gone(info))?;
        let mut body = Vec::new();
        document.body.read_to_end(&mut body)?;
        let is_object = serde_json::from_slice::<Value>(&body)
            .is_ok_and(|object| object["kind"].is_string() && object["metadata"].is_object());
        if !is_object || info.status != 200 {
            let message =
                format!("{} is no object, so no list can be made of it; `cache show` shows it", id(&info.key));
            return Err(failed(65, message).into());
        }
        out.write_all(br#"{"kind":"List","apiVersion":"v1","metadata":{},"items":["#)?;
        out.write_all(body.trim_ascii())?;
        out.write_all(b"]}\n")?;
        return Ok(());
    }
    let collection = store.collection(&info.key)?.ok_or_else(|| gone(info))?;
    let envelope = Envelope::decode(&collection.envelope()).ok_or_else(|| gone(info))?;
    let mut sizes = envelope.sizes();
    collection.lengths(&mut |flags, length| sizes.add(length, flags));
    let mut list = envelope.list(&collection.version().map(|v| v.to_string()).unwrap_or_default(), sizes);
    let mut piece = Vec::new();
    list.head(&mut piece);
    collection.each(&mut |object, bytes| {
        list.object(bytes, object.flags, &mut piece);
        out.write_all(&piece)?;
        piece.clear();
        Ok(())
    })?;
    list.tail(&mut piece);
    piece.push(b'\n');
    out.write_all(&piece)?;
    Ok(())
}
