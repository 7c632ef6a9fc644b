//! `lite-apiserver cache`: looks into a record from outside, also while the daemon writes it. Owns the subcommands' words,
//! in text and in JSON; knows the store and how objects are put together again, and nothing of serving.
//!
//! Looking into a file record takes no lock and changes nothing (`FileStore::look`). Removing takes the daemon's lock, and
//! is refused while it runs: a second writer would tear what the first one wrote. A database is its daemon's alone, also for
//! looking (`cache/open.rs`). Bodies that may be secrets (secrets, tokens, reviews of
//! tokens) are shown only where that is asked for by name.

mod command;
mod open;
mod print;

use crate::failed::{Failed, failed};
use crate::store::{Condition, Kind, Store, StoreError, ViewInfo, ViewKey};
use command::{Command, Engine, What};
use ring::digest::{Context, SHA256};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

impl From<StoreError> for Failed {
    fn from(e: StoreError) -> Failed {
        let exit = match &e {
            StoreError::Locked { path } => {
                let who = crate::store::holder(path).map_or_else(String::new, |who| format!(" ({who})"));
                let lock = path.display();
                return failed(69, format!("{lock} is held; that is the daemon{who}: stop it, and try again"));
            }
            StoreError::Damaged { .. } => 65,
            StoreError::Io { error, .. } => of_io(error),
            _ => 74,
        };
        failed(exit, e.to_string())
    }
}

fn of_io(error: &io::Error) -> u8 {
    match error.kind() {
        io::ErrorKind::PermissionDenied => 77,
        io::ErrorKind::NotFound => 66,
        io::ErrorKind::InvalidData => 65,
        _ => 74,
    }
}

/// What is asked for of one record.
struct Look<'a> {
    engine: Engine,
    root: &'a Path,
    json: bool,
    show_secrets: bool,
    out: &'a mut dyn Write,
}

/// Does what the arguments after `cache` say, and returns the exit code: 0, or 65 where `verify` found damage.
///
/// # Errors
/// What is wrong, and the cure. Exit codes: 64 wrong command line, 65 what is recorded is not fit for this, 66 it is not
/// there, 69 the daemon is running, 73 a file cannot be made, 74 it cannot be read or written, 77 not permitted, 78 this
/// program was built without the engine.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &dyn Fn(&str) -> Option<String>,
    out: &mut dyn Write,
) -> Result<u8, Failed> {
    let command = match command::parse(arguments, environment)? {
        What::Help(text) => {
            let _ = out.write_all(text.as_bytes());
            return Ok(0);
        }
        What::Do(command) => command,
    };
    let (engine, root) = (command.engine, command.root.as_path());
    if let Err(error) = open::is_there(engine, root) {
        let flag = engine.places().0;
        let message = format!("{}: there is no record to be read: {error}; name it with --{flag}", root.display());
        return Err(failed(of_io(&error), message));
    }
    let mut look = Look { engine, root, json: command.json, show_secrets: command.show_secrets, out };
    match look.act(&command) {
        Err(Stop::Unread) => Ok(0),
        Err(Stop::Failed(e)) => Err(e),
        Ok(code) => Ok(code),
    }
}

/// Why a look ends early.
enum Stop {
    Failed(Failed),
    /// Whoever read the output, such as `head`, has read enough.
    Unread,
}

impl From<Failed> for Stop {
    fn from(e: Failed) -> Stop {
        Stop::Failed(e)
    }
}

impl From<StoreError> for Stop {
    fn from(e: StoreError) -> Stop {
        Stop::Failed(e.into())
    }
}

impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Stop {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Stop::Unread,
            _ => Stop::Failed(failed(of_io(&e), e.to_string())),
        }
    }
}

/// By what a view is named on the command line: 12 hex digits of SHA-256 of its key.
fn id(key: &ViewKey) -> String {
    let mut context = Context::new(&SHA256);
    for part in [&key.scope, &key.path, &key.query, &key.representation] {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether its bodies may be secrets: a secret's, a token's, a token under review's.
fn is_secret(key: &ViewKey) -> bool {
    let mut parts = key.path.split('/');
    key.path.ends_with("/token") || parts.any(|part| matches!(part, "secrets" | "tokenreviews"))
}

/// Whether a view is what was named: an id or its beginning, or the whole path.
fn is_named(info: &ViewInfo, name: &str) -> bool {
    info.key.path == name || name.len() >= 4 && id(&info.key).starts_with(name)
}

fn age(info: &ViewInfo) -> Duration {
    SystemTime::now().duration_since(info.recorded_at).unwrap_or_default()
}

fn seconds(t: SystemTime) -> u64 {
    t.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// What is known of a view, for programs.
fn described(info: &ViewInfo) -> Value {
    json!({
        "id": id(&info.key),
        "scope": info.key.scope,
        "path": info.key.path,
        "query": info.key.query,
        "representation": info.key.representation,
        "kind": match info.kind { Kind::Document => "document", Kind::Collection => "collection" },
        "status": info.status,
        "objects": info.objects,
        "bytes": info.bytes,
        "resourceVersion": info.version.map(|v| v.to_string()),
        "recordedAt": seconds(info.recorded_at),
        "ageSeconds": age(info).as_secs(),
        "complete": info.complete,
    })
}

impl Look<'_> {
    fn act(&mut self, command: &Command) -> Result<u8, Stop> {
        match command.verb {
            "ls" => self.ls(command.names.first().map_or("", String::as_str))?,
            "show" => {
                let store = open::look(self.engine, self.root)?;
                let info = one(&*store, &command.names)?;
                self.show(&*store, &info)?;
            }
            "export" => {
                let store = open::look(self.engine, self.root)?;
                let info = one(&*store, &command.names)?;
                self.export(&*store, &info, command.output.as_deref())?;
            }
            "rm" => self.rm(&command.names, command.all)?,
            _ => return self.verify(),
        }
        self.out.flush()?;
        Ok(0)
    }

    fn ls(&mut self, prefix: &str) -> Result<(), Stop> {
        let mut views = open::look(self.engine, self.root)?.all();
        views.retain(|info| info.key.path.starts_with(prefix));
        if self.json {
            let all: Vec<Value> = views.iter().map(described).collect();
            writeln!(self.out, "{:#}", Value::from(all))?;
        } else {
            print::table(&views, self.out)?;
        }
        Ok(())
    }

    fn rm(&mut self, names: &[String], all: bool) -> Result<(), Stop> {
        let store = open::to_change(self.engine, self.root)?;
        let views = store.all();
        let mut gone: Vec<&ViewInfo> = Vec::new();
        for name in names {
            let named: Vec<&ViewInfo> = views.iter().filter(|info| is_named(info, name)).collect();
            if named.is_empty() {
                return Err(not_there(name).into());
            }
            // What marks a refusal of the cluster: without it, a list would show what it hides.
            if let Some(info) = named.iter().find(|info| info.key.representation == "forbidden") {
                let message =
                    format!("{} says that the cluster refuses {}; only --all removes it", id(&info.key), name);
                return Err(failed(77, message).into());
            }
            gone.extend(named);
        }
        if all {
            gone = views.iter().collect();
        }
        for info in &gone {
            store.remove(&info.key)?;
        }
        store.flush()?;
        if self.json {
            let ids: Vec<String> = gone.iter().map(|info| id(&info.key)).collect();
            writeln!(self.out, "{:#}", json!({"removed": ids}))?;
        } else {
            writeln!(self.out, "{} removed", print::count(gone.len(), "view"))?;
        }
        Ok(())
    }

    fn verify(&mut self) -> Result<u8, Stop> {
        let checked = open::verify(self.engine, self.root)?;
        let is_damaged = |condition: &Condition| matches!(condition, Condition::Damaged(_));
        let damaged = checked.iter().filter(|file| is_damaged(&file.condition)).count();
        if self.json {
            let files: Vec<Value> = checked
                .iter()
                .map(|file| {
                    let (condition, why) = print::condition(&file.condition);
                    let path = file.path.strip_prefix(self.root).unwrap_or(&file.path).display().to_string();
                    let view = file.key.as_ref();
                    json!({
                        "file": path, "bytes": file.bytes, "condition": condition, "why": why,
                        "id": view.map(id), "scope": view.map(|k| &k.scope), "path": view.map(|k| &k.path),
                        "query": view.map(|k| &k.query), "representation": view.map(|k| &k.representation),
                    })
                })
                .collect();
            writeln!(self.out, "{:#}", json!({"damaged": damaged, "files": files}))?;
        } else {
            let what = if self.engine == Engine::File { "file" } else { "view" };
            print::checked(&checked, what, self.root, self.out)?;
        }
        self.out.flush()?;
        Ok(if damaged > 0 { 65 } else { 0 })
    }
}

fn not_there(name: &str) -> Failed {
    failed(66, format!("{name}: nothing of this id or path is recorded; `cache ls` lists what is"))
}

/// The one view that is named.
fn one(store: &dyn Store, names: &[String]) -> Result<ViewInfo, Failed> {
    let name = names.first().map(String::as_str).unwrap_or_default();
    let mut named: Vec<ViewInfo> = store.all().into_iter().filter(|info| is_named(info, name)).collect();
    match named.len() {
        0 => Err(not_there(name)),
        1 => Ok(named.remove(0)),
        _ => {
            let ids: Vec<String> = named.iter().map(|info| id(&info.key)).collect();
            Err(failed(64, format!("{name} names several views; give one's id: {}", ids.join(", "))))
        }
    }
}
