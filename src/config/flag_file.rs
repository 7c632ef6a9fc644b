//! `--config FILE`: flags one a line, for whoever starts the daemon without a shell. Knows the form of a line; what the flags
//! mean is not looked at here.
//!
//! ```text
//! # a comment: a line of its own
//! --kube-apiserver-url=cloud.example.com
//! --insecure
//! ```
//!
//! One form, which is one of the command line's: `--flag=value`, or `--flag` for one that is on or off. A value goes to the
//! end of its line, without the blanks around it. There are no quotes, no escapes, no variables.

use super::error::{ConfigError, Exit};
use super::files;
use super::flags::{self, Flag};
use std::path::Path;

const WHAT: &str = "--config";

/// What the text of a file of flags says, for whoever writes to it: names and values.
pub(crate) fn values(path: &Path, text: &str) -> Result<Vec<(&'static str, String)>, ConfigError> {
    Ok(parse(path, text)?.into_iter().map(|(_, flag, value)| (flag.name, value)).collect())
}

/// What a file of flags says: of each flag its line, counted from 1, and its value.
pub(super) fn read(path: &Path) -> Result<Vec<(usize, &'static Flag, String)>, ConfigError> {
    let no_text = |_| ConfigError::new(Exit::Data, format!("{WHAT} {}: it is no UTF-8", path.display()));
    parse(path, &String::from_utf8(files::read(WHAT, path)?).map_err(no_text)?)
}

fn parse(path: &Path, text: &str) -> Result<Vec<(usize, &'static Flag, String)>, ConfigError> {
    let wrong = |line: usize, why: String| ConfigError::usage(format!("{WHAT} {}:{line}: {why}", path.display()));
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| {
            let (flag, value) = flag(line).map_err(|why| wrong(number, why))?;
            Ok((number, flag, value))
        })
        .collect()
}

/// Reads one line; the error goes on after its place.
fn flag(line: &str) -> Result<(&'static Flag, String), String> {
    let bare = line.trim_start_matches('-');
    let (name, value) = match bare.split_once('=') {
        Some((name, value)) => (name.trim_end(), Some(value.trim_start())),
        None => (bare, None),
    };
    // `--flag value`, `flag=value` and `flag: value` are what people try.
    let word = name.split([' ', '\t', ':']).next().unwrap_or_default();
    let flag = flags::named(word).map_err(|e| e.message)?;
    if flag.name == "config" {
        return Err("--config is for the command line only".to_owned());
    }
    let form = if flag.value.is_empty() { String::new() } else { format!("={}", flag.value) };
    if word != name || !line.starts_with("--") || line.starts_with("---") {
        return Err(format!("{line:?} is not how a flag is written here; write --{word}{form}"));
    }
    let value = match value {
        Some(value) => value,
        None if flag.value.is_empty() => "true",
        None => return Err(format!("--{word} needs a value: --{word}{form}")),
    };
    if value.len() > 1 && ["\"", "'"].iter().any(|quote| value.starts_with(quote) && value.ends_with(quote)) {
        return Err(format!("--{word}: {value} has quotes, which would be part of it; leave them out"));
    }
    Ok((flag, value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::flags::Given;
    use crate::config::tests::given;

    fn with_file(line: &str, text: &str) -> Result<Given, ConfigError> {
        let path = std::env::temp_dir().join(format!("flags-{}-{}", std::process::id(), text.len()));
        std::fs::write(&path, text).expect("written");
        let found = read(&path);
        std::fs::remove_file(&path).expect("removed");
        let mut given = given(line);
        given.add("flags".into(), found?).map(|()| given)
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let text = "# --port=1\n\n  --port=2\r\n--address=::1\n--address = 127.0.0.1 \n--insecure\n--admin-address=\n--user=a # b\n";
        let read = with_file("", text).expect("read");
        assert_eq!((read.get("port"), read.get("user")), (Some("2"), Some("a # b")));
        assert_eq!(read.given("address").map(|a| a.join(",")), Some("::1,127.0.0.1".to_owned()));
        assert_eq!((read.get("insecure"), read.get("admin-address")), (Some("true"), Some("")));
        let read = with_file("--port 3 --address 10.0.0.1", text).expect("read");
        assert_eq!((read.get("port"), read.given("address").map(<[String]>::len)), (Some("3"), Some(1)));
    }

    #[test]
    fn a_wrong_line_is_named_with_its_cure() {
        for (line, message) in [
            ("--prot=1", "--prot is no flag; did you mean --port?"),
            ("--port 1", "\"--port 1\" is not how a flag is written here; write --port=N"),
            ("port=1", "\"port=1\" is not how a flag is written here; write --port=N"),
            ("-port=1", "write --port=N"),
            ("insecure", "\"insecure\" is not how a flag is written here; write --insecure"),
            ("--port", "--port needs a value: --port=N"),
            ("--user=\"a\"", "--user: \"a\" has quotes, which would be part of it; leave them out"),
            ("--config=/f", "--config is for the command line only"),
            ("-v", "--v is no flag"),
            ("--timeout=1\n--timeout=2", "flags:4: --timeout is given twice; give it once"),
        ] {
            let error = with_file("", &format!("#\n\n{line}\n")).map(drop).expect_err(line);
            assert_eq!(error.exit, Exit::Usage);
            assert!(error.message.contains(message) && error.message.contains(':'), "{line}: {}", error.message);
        }
        assert_eq!(read(Path::new("/nowhere/flags")).expect_err("nothing").exit, Exit::NoInput);
    }

    #[test]
    fn what_a_value_means_is_said_with_its_line() {
        let given = with_file("--timeout x", "--port=0\n--address=::1\n--address=here\n").expect("read");
        for (message, placed) in [
            ("--port: \"0\" is no port", "flags:1: --port: \"0\" is no port"),
            ("--address: \"here\" is no IP address", "flags:3: --address: \"here\" is no IP address"),
            ("--timeout: \"x\" is no span", "--timeout: \"x\" is no span"),
            ("--ca-file is missing", "--ca-file is missing"),
        ] {
            assert_eq!(given.placed(ConfigError::usage(message)).message, placed);
        }
    }
}
