//! The command line of `lite-apiserver cache`.

use crate::failed::{Failed, failed};
use std::ffi::OsString;
use std::path::PathBuf;

/// What is to be done.
#[derive(Debug)]
pub(super) enum What {
    /// To print this.
    Help(String),
    Do(Command),
}

/// An engine that lasts. What this program was built without is refused where it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Engine {
    #[default]
    File,
    Redb,
    Fjall,
}

impl Engine {
    /// By the words of the daemon's `--cache-type`.
    fn named(name: &str) -> Option<Engine> {
        match name {
            "file" => Some(Engine::File),
            "redb" | "bolt" => Some(Engine::Redb),
            "fjall" | "badger" => Some(Engine::Fjall),
            _ => None,
        }
    }

    /// The daemon's flag that says where the record is, its place below `--data-dir`, and its place without either.
    pub(super) fn places(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Engine::File => ("file-cache-path", "cache", "/data/lite-apiserver/cache"),
            Engine::Redb => ("bolt-cache-file", "cache.redb", "/data/lite-apiserver/bolt/superedge.db"),
            Engine::Fjall => ("badger-cache-path", "cache.fjall", "/data/lite-apiserver/badger"),
        }
    }
}

/// One subcommand with its flags.
#[derive(Debug, Default)]
pub(super) struct Command {
    pub(super) verb: &'static str,
    /// What keeps the record.
    pub(super) engine: Engine,
    /// Where it is: a folder, or redb's file.
    pub(super) root: PathBuf,
    /// What is named: ids, paths, or (for `ls`) the beginning of paths.
    pub(super) names: Vec<String>,
    pub(super) json: bool,
    pub(super) show_secrets: bool,
    /// `rm --all`
    pub(super) all: bool,
    /// `export --output`
    pub(super) output: Option<PathBuf>,
}

/// Each subcommand: its name, what it takes, how many names at least and at most, what it does.
const VERBS: [(&str, &str, usize, usize, &str); 5] = [
    (
        "ls",
        "[PATH_PREFIX]",
        0,
        1,
        "Lists what is recorded: one line a view, with its id, scope, path, selectors, representation, objects, bytes,\n\
         resourceVersion, age, and whether it is complete.",
    ),
    (
        "show",
        "ID|PATH [--show-secrets]",
        1,
        1,
        "Shows one view with its objects: JSON as it reads best, of protobuf the text in it. Bodies that may be secrets\n\
         (secrets, tokens) are shown with --show-secrets only.",
    ),
    (
        "verify",
        "",
        0,
        0,
        "Reads every byte that is recorded and says what is damaged. Exit code 65 if anything is. Nothing is changed: the\n\
         daemon sets damaged files aside itself when it meets them.",
    ),
    (
        "rm",
        "ID|PATH...|--all",
        0,
        usize::MAX,
        "Removes views, for good. Refused while the daemon runs, which holds the record: stop it first.",
    ),
    (
        "export",
        "ID|PATH [--output FILE] [--show-secrets]",
        1,
        1,
        "Writes one view as a Kubernetes List in JSON, to standard output or to a new file (0600). What is recorded in\n\
         protobuf cannot be exported: the proxy does not know its schema.",
    ),
];

const FLAGS: &str = "\
  --cache-type TYPE      file (the default), redb (or bolt), fjall (or badger), as the daemon was told
  --file-cache-path DIR  where the record is, as the daemon was told; of redb --bolt-cache-file FILE, of fjall
                         --badger-cache-path DIR, which say the type, too
  --data-dir DIR         the daemon's --data-dir; the record is in DIR/cache (DIR/cache.redb, DIR/cache.fjall). With
                         neither: below /data/lite-apiserver if there is one, else in $STATE_DIRECTORY, for root in
                         /var/lib/lite-apiserver, in $XDG_STATE_HOME/lite-apiserver, ~/.local/state/lite-apiserver
  --json                 for programs
  -h, --help             this text

A file record is looked into while the daemon runs. A database is the daemon's alone for as long as it runs, and looking
is refused then (69): stop it first. Look as the daemon's user: opening fjall's database brings its files into order.
";

const EXITS: &str = "\
Exit codes (sysexits.h): 0 done; 64 wrong command line; 65 verify found damage, or the view cannot be put this way; 66 there
is no such record or view; 69 the daemon is running; 73 a file cannot be made; 74 reading or writing failed; 77 not permitted;
78 built without this engine.
";

fn help() -> String {
    let mut text = String::from("lite-apiserver cache: looks into a record, also while the daemon is running\n\n");
    for (i, (verb, takes, ..)) in VERBS.iter().enumerate() {
        let start = if i == 0 { "usage:" } else { "      " };
        text.push_str(format!("{start} lite-apiserver cache {verb} {takes}").trim_end());
        text.push('\n');
    }
    format!("{text}\nEach has its own --help.\n\n{FLAGS}\n{EXITS}")
}

fn help_of(verb: &str) -> String {
    VERBS.iter().find(|known| known.0 == verb).map_or_else(help, |(verb, takes, _, _, what)| {
        let usage = format!("usage: lite-apiserver cache {verb} {takes}");
        format!("{}\n\n{what}\n\n{FLAGS}\n{EXITS}", usage.trim_end())
    })
}

fn usage(message: impl Into<String>) -> Failed {
    failed(64, format!("cache: {}; `lite-apiserver cache --help` says more", message.into()))
}

/// Reads the arguments after `cache`.
pub(super) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<What, Failed> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut command = Command::default();
    let (mut engine, mut root, mut data) = (None, None, None);
    while let Some(argument) = parser.next().map_err(|e| usage(e.to_string()))? {
        let path = |parser: &mut lexopt::Parser| match parser.value() {
            Ok(value) if !value.is_empty() => Ok(PathBuf::from(value)),
            _ => Err(usage("a flag lacks its value")),
        };
        match argument {
            lexopt::Arg::Short('h') | lexopt::Arg::Long("help") => return Ok(What::Help(help_of(command.verb))),
            lexopt::Arg::Long("json") => command.json = true,
            lexopt::Arg::Long("show-secrets") if matches!(command.verb, "show" | "export") => {
                command.show_secrets = true;
            }
            lexopt::Arg::Long("all") if command.verb == "rm" => command.all = true,
            lexopt::Arg::Long("cache-type") => {
                let name = path(&mut parser)?;
                let known = Engine::named(&name.to_string_lossy());
                let unknown = || usage(format!("--cache-type {}: file, redb or fjall lasts", name.display()));
                engine = Some(known.ok_or_else(unknown)?);
            }
            lexopt::Arg::Long("file-cache-path") => root = Some((Engine::File, path(&mut parser)?)),
            lexopt::Arg::Long("bolt-cache-file") => root = Some((Engine::Redb, path(&mut parser)?)),
            lexopt::Arg::Long("badger-cache-path") => root = Some((Engine::Fjall, path(&mut parser)?)),
            lexopt::Arg::Long("data-dir") => data = Some(path(&mut parser)?),
            lexopt::Arg::Long("output") | lexopt::Arg::Short('o') if command.verb == "export" => {
                command.output = Some(path(&mut parser)?);
            }
            lexopt::Arg::Value(value) if command.verb.is_empty() => {
                let known = VERBS.iter().find(|known| value == known.0);
                command.verb = known.map(|known| known.0).ok_or_else(|| {
                    let verbs: Vec<&str> = VERBS.iter().map(|known| known.0).collect();
                    usage(format!("\"{}\" is none of {}", value.to_string_lossy(), verbs.join(", ")))
                })?;
            }
            lexopt::Arg::Value(value) => command.names.push(value.to_string_lossy().into_owned()),
            other => return Err(usage(other.unexpected().to_string())),
        }
    }
    let Some((verb, takes, least, most, _)) = VERBS.iter().find(|known| known.0 == command.verb) else {
        return Ok(What::Help(help()));
    };
    if *verb == "rm" && command.all != command.names.is_empty() {
        return Err(usage("rm takes the ids of views, or --all"));
    }
    if !(*least..=*most).contains(&command.names.len()) {
        return Err(usage(format!("{verb} takes {}", if takes.is_empty() { "no names" } else { takes })));
    }
    (command.engine, command.root) = match (engine, root) {
        (Some(engine), Some((of, _))) if engine != of => {
            return Err(usage(format!("--{} is not where this --cache-type is", of.places().0)));
        }
        (_, Some(named)) => named,
        (engine, None) => {
            let engine = engine.unwrap_or_default();
            let below = engine.places().1;
            (engine, data.map_or_else(|| default_root(engine, environment), |data| data.join(below)))
        }
    };
    Ok(What::Do(command))
}

/// Where the daemon would keep it, if it is not told.
fn default_root(engine: Engine, environment: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let (_, below, by_flags) = engine.places();
    let by_flags = PathBuf::from(by_flags);
    if by_flags.exists() {
        return by_flags;
    }
    let state = || {
        let state = environment("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let state = state.or_else(|| environment("HOME").map(|home| PathBuf::from(home).join(".local/state")));
        state.map(|state| state.join("lite-apiserver"))
    };
    let system = || rustix::process::geteuid().is_root().then(|| PathBuf::from("/var/lib/lite-apiserver"));
    let data = environment("STATE_DIRECTORY").map(PathBuf::from).or_else(system).or_else(state);
    data.map_or(by_flags, |data| data.join(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<What, Failed> {
        parse(line.split_whitespace().map(OsString::from), &|_| None)
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, message) in [
            ("lst", "\"lst\" is none of ls, show, verify, rm, export"),
            ("ls a b", "ls takes [PATH_PREFIX]"),
            ("show", "show takes ID|PATH [--show-secrets]"),
            ("verify x", "verify takes no names"),
            ("rm", "rm takes the ids of views, or --all"),
            ("rm x --all", "rm takes the ids of views, or --all"),
            ("ls --show-secrets", "invalid option '--show-secrets'"),
            ("ls --file-cache-path", "a flag lacks its value"),
            ("ls --cache-type memory", "file, redb or fjall lasts"),
            ("ls --cache-type fjall --bolt-cache-file f", "--bolt-cache-file is not where this --cache-type is"),
        ] {
            let error = read(line).map(drop).expect_err(line);
            assert_eq!((error.exit, error.message.contains(message)), (64, true), "{line}: {}", error.message);
        }
    }

    #[test]
    fn each_has_its_help_within_the_width() {
        for line in ["", "--help", "ls --help", "show -h", "verify --help", "rm --help", "export --help"] {
            let Ok(What::Help(text)) = read(line) else { panic!("{line}") };
            assert!(text.contains("usage: lite-apiserver cache") && text.contains("Exit codes"), "{text}");
            assert!(text.lines().all(|l| l.len() <= 130), "{text}");
        }
        let Ok(What::Do(command)) = read("export --data-dir /d --output f abcd --show-secrets") else { panic!() };
        assert_eq!((command.verb, command.root, command.output), ("export", "/d/cache".into(), Some("f".into())));
        for (line, engine, root) in [
            ("ls --cache-type badger --data-dir /d", Engine::Fjall, "/d/cache.fjall"),
            ("ls --bolt-cache-file f", Engine::Redb, "f"),
            ("ls --cache-type bolt --bolt-cache-file f", Engine::Redb, "f"),
        ] {
            let Ok(What::Do(command)) = read(line) else { panic!("{line}") };
            assert_eq!((command.engine, command.root), (engine, root.into()), "{line}");
        }
    }
}
