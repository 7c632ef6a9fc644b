//! Keeps the house: which room may know which, what pure rooms must not touch, and that what is written once is not
//! written differently elsewhere. Each rule is a function from text to complaints, and is shown to complain.

use std::fs;
use std::path::{Path, PathBuf};

/// A source file: its path below `src`, and its text.
struct Source {
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// All files below a folder of the crate.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut folders = vec![root().join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).expect("a folder").flatten().map(|e| e.path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found
}

fn sources() -> Vec<Source> {
    let rust = files("src").into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs"));
    let found: Vec<Source> = rust.map(|path| source(&path)).collect();
    assert!(found.len() > 50, "only {} files were found", found.len());
    found
}

fn source(path: &PathBuf) -> Source {
    let below = path.strip_prefix(root().join("src")).expect("below src");
    Source { path: below.to_string_lossy().into_owned(), text: fs::read_to_string(path).expect("text") }
}

/// Files that are compiled for tests only.
fn is_test(path: &str) -> bool {
    let test_files = ["store/contract.rs", "store/file/trouble.rs", "front/tls/tests.rs"];
    path.contains("tests/") || path.ends_with("tests.rs") || test_files.contains(&path)
}

/// The code of a file without its tests and comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let before_tests = text.lines().enumerate().take_while(|(_, l)| *l != "mod tests {" && *l != "mod tests;");
    before_tests.map(|(i, l)| (i + 1, l)).filter(|(_, l)| !l.trim_start().starts_with("//"))
}

/// Which rooms each room may name. `run` and `main` are above them all.
const ARROWS: [(&str, &[&str]); 18] = [
    ("admin", &[]),
    ("cache", &["failed", "record", "store"]),
    ("cert", &["failed"]),
    ("check", &["admin", "config", "failed", "moment", "store", "upstream"]),
    // The CN of a key pair is read as a client's is.
    ("config", &["identity"]),
    ("decide", &["request"]),
    // What a command of the program ends with.
    ("failed", &[]),
    ("front", &["config"]),
    ("identity", &[]),
    ("logger", &[]),
    ("moment", &[]),
    ("record", &[]),
    ("request", &[]),
    ("serve", &["admin", "decide", "front", "identity", "moment", "record", "request", "store", "tunnel", "upstream"]),
    // The kubeconfigs and flags that the daemon reads; it makes them.
    ("setup", &["admin", "config", "failed"]),
    ("store", &[]),
    ("tunnel", &[]),
    ("upstream", &["config"]),
];

fn room(path: &str) -> &str {
    path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

fn wrong_arrows(source: &Source) -> Vec<String> {
    let own = room(&source.path);
    if matches!(own, "lib" | "main" | "run") {
        return Vec::new();
    }
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == own) else {
        return vec![format!("{}: a room that ARROWS does not know", source.path)];
    };
    let mut complaints = Vec::new();
    for (line, code) in code(&source.text) {
        for after in code.split("crate::").skip(1) {
            let named: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if named != own && !allowed.contains(&named.as_str()) {
                complaints.push(format!("{}:{line}: {own} must not know {named}", source.path));
            }
        }
    }
    complaints
}

/// Rooms without sockets, files, threads or a clock.
const PURE: [&str; 10] = [
    "decide.rs",
    "identity/",
    "moment.rs",
    "record/",
    "request/",
    "serve/fields.rs",
    "store/file/format.rs",
    "store/index.rs",
    "store/rows/format.rs",
    "upstream/link.rs",
];

/// What pure rooms must not touch.
const IMPURE: [&str; 11] = [
    "std::fs",
    "std::net",
    "std::os",
    "std::thread",
    "std::process",
    "std::env",
    "Mutex",
    "rustix::",
    "log::",
    "SystemTime::now",
    "Instant::now",
];

fn impurities(source: &Source) -> Vec<String> {
    if !PURE.iter().any(|p| source.path.starts_with(p)) {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for (line, code) in code(&source.text) {
        for name in IMPURE.iter().filter(|name| code.contains(**name)) {
            complaints.push(format!("{}:{line}: a pure room must not touch {name}", source.path));
        }
    }
    complaints
}

/// Panics on what others send are not to be: no `unwrap`, no `expect`, no slicing by hope is looked for here but the
/// first two.
fn hopes(source: &Source) -> Vec<String> {
    let hope = |code: &str| code.contains(".unwrap()") || code.contains(".expect(") || code.contains("panic!(");
    let lines = code(&source.text).filter(|(_, code)| hope(code));
    lines.map(|(line, code)| format!("{}:{line}: {}", source.path, code.trim())).collect()
}

fn bad_names(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    let parts = source.path.trim_end_matches(".rs").split('/');
    for part in parts.filter(|p| ["util", "utils", "common", "helpers", "misc", "manager"].contains(p)) {
        complaints.push(format!("{}: there is no room called {part}", source.path));
    }
    for (line, code) in code(&source.text) {
        let declares = ["struct ", "enum ", "trait "].iter().find_map(|kind| code.split_once(kind));
        let name = declares.map(|(_, rest)| rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default());
        if name.is_some_and(|n| n.ends_with("Manager") || n.ends_with("Helper") || n.ends_with("Util")) {
            complaints.push(format!("{}:{line}: no name says less", source.path));
        }
    }
    complaints
}

/// Each module says what it owns; `unsafe` is nowhere.
fn lacking(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    if !source.text.starts_with("//!") {
        complaints.push(format!("{}: its opening comment does not say what it owns", source.path));
    }
    for (line, code) in code(&source.text).filter(|(_, c)| c.contains("unsafe ") || c.contains("allow(unsafe_code")) {
        complaints.push(format!("{}:{line}: {code}", source.path));
    }
    complaints
}

/// Each dependency has its reason, on the line above.
fn unreasoned(manifest: &str) -> Vec<String> {
    let lines: Vec<&str> = manifest.lines().collect();
    let mut within = false;
    let mut complaints = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        if line.starts_with('[') {
            within = line.ends_with("dependencies]");
        } else if within && line.contains('=') && !line.starts_with('#') {
            let reason = i.checked_sub(1).map(|before| lines[before]).filter(|l| l.starts_with("# "));
            if reason.is_none_or(|r| r.len() < 20) {
                complaints.push(format!("Cargo.toml:{}: {line}: why?", i + 1));
            }
        }
    }
    complaints
}

/// No machine's paths, no registry's names: what is committed runs anywhere.
fn strays(name: &str, text: &str) -> Vec<String> {
    // Spelled in two parts, so that this file is no stray itself.
    let stray = [concat!("/root", "/."), concat!("/ho", "me/"), concat!("artifact", "ory"), concat!("/work", "/")];
    let lines = text.lines().enumerate().filter(|(_, l)| stray.iter().any(|s| l.contains(s)));
    lines.map(|(i, l)| format!("{name}:{}: {l}", i + 1)).collect()
}

fn all(rule: impl Fn(&Source) -> Vec<String>) -> Vec<String> {
    sources().iter().filter(|s| !is_test(&s.path)).flat_map(rule).collect()
}

fn check(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

fn example(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned() }
}

#[test]
fn arrows_go_one_way() {
    check(&all(wrong_arrows));
    assert_eq!(wrong_arrows(&example("store/x.rs", "use crate::upstream::Link;")).len(), 1);
    assert_eq!(wrong_arrows(&example("front/x.rs", "fn f() { crate::serve::g() }")).len(), 1);
    assert_eq!(wrong_arrows(&example("cellar/x.rs", "")).len(), 1);
    assert!(wrong_arrows(&example("store/x.rs", "// crate::upstream\nuse crate::store::Key;")).is_empty());
}

#[test]
fn pure_rooms_stay_pure() {
    for pure in PURE {
        assert!(root().join("src").join(pure).exists(), "{pure} is no room any more");
    }
    check(&all(impurities));
    assert_eq!(impurities(&example("decide.rs", "let now = Instant::now();")).len(), 1);
    assert_eq!(impurities(&example("record/x.rs", "use std::fs;")).len(), 1);
    assert!(impurities(&example("store/mod.rs", "use std::fs;")).is_empty());
}

#[test]
fn nothing_is_hoped_for() {
    check(&all(hopes));
    assert_eq!(hopes(&example("x.rs", "let y = z.unwrap();\nmod tests {\nz.unwrap()")).len(), 1);
}

#[test]
fn names_say_something() {
    check(&all(bad_names));
    assert_eq!(bad_names(&example("store/util.rs", "pub struct CacheManager {")).len(), 2);
}

#[test]
fn every_module_says_what_it_owns_and_none_is_unsafe() {
    check(&all(lacking));
    assert_eq!(lacking(&example("x.rs", "unsafe { f() }")).len(), 2);
}

#[test]
fn every_dependency_has_its_reason() {
    check(&unreasoned(&read("Cargo.toml")));
    assert_eq!(
        unreasoned("[dependencies]\n# Because it is needed for X.\na = 1\nb = 2\n[features]\nc = []\n"),
        ["Cargo.toml:4: b = 2: why?"]
    );
}

#[test]
fn the_readme_has_the_programs_own_table_of_flags() {
    let table = lite_apiserver::config::reference();
    assert!(table.lines().count() > 20);
    assert!(read("README.md").contains(&table), "put the output of `lite-apiserver --help-markdown` into README.md");
}

#[test]
fn what_is_committed_runs_anywhere() {
    let mut complaints = Vec::new();
    for source in sources() {
        complaints.extend(strays(&source.path, &source.text));
    }
    for name in ["README.md", "Cargo.toml", "Cargo.lock", ".ci/run"] {
        complaints.extend(strays(name, &read(name)));
    }
    for path in files("tests").iter().filter(|path| !path.ends_with("tests/tidy.rs")) {
        // Samples of protobuf are no text, and may name strays all the same.
        complaints.extend(strays(&path.to_string_lossy(), &String::from_utf8_lossy(&fs::read(path).expect("a file"))));
    }
    check(&complaints);
    assert_eq!(strays("x", concat!("cd /work", "/main\nfine\n")).len(), 1);
}
