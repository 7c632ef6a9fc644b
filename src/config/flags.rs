//! The command line: every flag declared once, in [`FLAGS`]; parsing, `--help` and the README's table come from it. What a
//! file of flags says ([`super::flag_file`]) is added to what the command line did not say.

use super::error::ConfigError;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// One flag.
#[derive(Debug)]
pub(super) struct Flag {
    /// Without the dashes.
    pub(super) name: &'static str,
    /// What its value is called; empty for a flag that is on or off.
    pub(super) value: &'static str,
    /// Its default, as it would be typed; empty: none.
    pub(super) default: &'static str,
    /// Under which heading it is shown.
    pub(super) group: Group,
    /// Whether it may be given several times.
    pub(super) many: bool,
    /// What it does, for people.
    pub(super) help: &'static str,
}

/// The headings of `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    Start,
    Serving,
    Upstream,
    Record,
    Limits,
    Running,
}

impl Group {
    const ALL: [Group; 6] =
        [Group::Start, Group::Serving, Group::Upstream, Group::Record, Group::Limits, Group::Running];

    fn title(self) -> &'static str {
        match self {
            Group::Start => "Two ways to start",
            Group::Serving => "Serving clients",
            Group::Upstream => "The upstream",
            Group::Record => "The record",
            Group::Limits => "Limits",
            Group::Running => "Running",
        }
    }
}

const fn flag(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    group: Group,
    help: &'static str,
) -> Flag {
    Flag { name, value, default, group, many: false, help }
}

/// Every flag there is.
pub(super) const FLAGS: &[Flag] = &[
    flag(
        "kubeconfig",
        "FILE",
        "",
        Group::Start,
        "take the upstream's address, CA and credentials from this file; serve with a certificate made once; write a kubeconfig for clients to DATA_DIR/client.kubeconfig",
    ),
    flag("context", "NAME", "", Group::Start, "the context of --kubeconfig to use (default: its current-context)"),
    flag(
        "data-dir",
        "DIR",
        "",
        Group::Start,
        "where --kubeconfig keeps what it makes (default: $STATE_DIRECTORY, /var/lib/lite-apiserver for root, else $XDG_STATE_HOME/lite-apiserver)",
    ),
    flag(
        "config",
        "FILE",
        "",
        Group::Start,
        "take flags from this file, too: one a line, --flag=value, without quotes; lines that begin with # are comments; a flag that the command line has is not looked for there; read at start only",
    ),
    Flag { many: true, ..flag("address", "IP", "127.0.0.1", Group::Serving, "address to listen on") },
    flag("port", "N", "51003", Group::Serving, "port to listen on"),
    Flag {
        many: true,
        ..flag(
            "dummy-interface",
            "NAME=IP",
            "",
            Group::Serving,
            "listen on this address, too, which pods can reach, and make an interface for it before unless it is there (NAME=IP/BITS gives it more than the one address); it is kept when the process ends; needs CAP_NET_ADMIN to be made",
        )
    },
    flag(
        "rewrite-kubernetes-service",
        "",
        "false",
        Group::Serving,
        "lead pods here: kube-proxy is told that the endpoint of the Service kubernetes is the first address that is listened on and that pods can reach, or the one that is named as =IP:PORT; needs a certificate that pods trust: `lite-apiserver cert`",
    ),
    flag(
        "heal-endpoints",
        "",
        "false",
        Group::Serving,
        "while the link is down, serve EndpointSlices with the addresses that this node's kubelet tells of its pods: after a reboot they have others than are recorded",
    ),
    flag("tls-cert-file", "FILE", "", Group::Serving, "certificate to serve with, PEM"),
    flag("tls-private-key-file", "FILE", "", Group::Serving, "its key, PEM"),
    flag("ca-file", "FILE", "", Group::Serving, "CAs that client certificates must chain to, PEM"),
    flag(
        "tls-config-file",
        "FILE",
        "",
        Group::Serving,
        "key pairs to use upstream, chosen by the client certificate's CN; JSON: [{\"cert\": path, \"key\": path}]",
    ),
    Flag {
        many: true,
        ..flag(
            "kube-apiserver-url",
            "HOST",
            "",
            Group::Upstream,
            "kube-apiserver's host, or https://host:port/path; several, by commas or by giving it again, stand for one cluster",
        )
    },
    flag("kube-apiserver-port", "N", "443", Group::Upstream, "its port, where the URL has none"),
    flag("apiserver-ca-file", "FILE", "", Group::Upstream, "CAs of its certificate, PEM (default: --ca-file)"),
    flag(
        "lb-mode",
        "MODE",
        "priority",
        Group::Upstream,
        "which of several kube-apiservers that can be reached is asked: priority, the first that was named; rr, each in turn",
    ),
    flag("insecure", "", "false", Group::Upstream, "do not verify its certificate"),
    flag(
        "timeout",
        "SPAN",
        "3",
        Group::Upstream,
        "how long to wait for an answer's first byte before the record answers instead",
    ),
    flag("slow-timeout", "SPAN", "60s", Group::Upstream, "the same where nothing is recorded, and for writes"),
    Flag {
        many: true,
        ..flag(
            "network-interface",
            "NAMES",
            "",
            Group::Upstream,
            "interfaces to leave through, the preferred first; the first that reaches the upstream carries the connection",
        )
    },
    flag("source-address", "IP", "", Group::Upstream, "address to leave from"),
    flag(
        "modify-request-accept",
        "",
        "true",
        Group::Upstream,
        "taken for the Go original's sake and without effect: answers are recorded in every representation, so requests need no change",
    ),
    flag(
        "cache-type",
        "TYPE",
        "file",
        Group::Record,
        "file; redb (or bolt); fjall (or badger), where it was built in; or memory, which does not outlast the process",
    ),
    flag(
        "file-cache-path",
        "DIR",
        "/data/lite-apiserver/cache",
        Group::Record,
        "where the file cache is (with --kubeconfig: DATA_DIR/cache)",
    ),
    flag(
        "badger-cache-path",
        "DIR",
        "/data/lite-apiserver/badger",
        Group::Record,
        "where the fjall cache is (with --kubeconfig: DATA_DIR/cache.fjall)",
    ),
    flag(
        "bolt-cache-file",
        "FILE",
        "/data/lite-apiserver/bolt/superedge.db",
        Group::Record,
        "where the redb cache is (with --kubeconfig: DATA_DIR/cache.redb)",
    ),
    Flag { many: true, ..flag("url-mux-cache", "URLS", "", Group::Record, "paths whose watches are shared: not yet") },
    flag(
        "cache-max-size",
        "SIZE",
        "256Mi",
        Group::Record,
        "how large the record may be; what was used least recently makes room, but never what is being served or watched; 0: any size",
    ),
    flag(
        "cache-max-age",
        "SPAN",
        "720h",
        Group::Record,
        "what no client has used for so long goes, counted while the cluster can be reached: an outage ages nothing; 0: never",
    ),
    flag("flush-interval", "SPAN", "1s", Group::Record, "how much of the record a power cut may cost"),
    flag("offline-grace", "SPAN", "720h", Group::Record, "how long recorded data is served after the link was last up"),
    flag(
        "review-ttl",
        "SPAN",
        "5m",
        Group::Record,
        "how long the answer to a token or access review may be replayed offline",
    ),
    flag("max-object-size", "SIZE", "8Mi", Group::Limits, "a larger object is passed on and not recorded"),
    flag(
        "max-connections",
        "N",
        "512",
        Group::Limits,
        "client connections at a time; past it slow and idle ones are closed, or the next is told 429",
    ),
    flag("handshake-timeout", "SPAN", "10s", Group::Limits, "for a client's TLS handshake"),
    flag("head-timeout", "SPAN", "10s", Group::Limits, "for a request's head, from its first byte"),
    flag(
        "idle-timeout",
        "SPAN",
        "120s",
        Group::Limits,
        "for the next request of a connection; Go's clients keep idle ones 90 s",
    ),
    flag(
        "admin-address",
        "IP:PORT",
        "127.0.0.1:51004",
        Group::Running,
        "where /healthz, /readyz and /metrics are, in plain HTTP; empty: nowhere",
    ),
    flag(
        "user",
        "NAME",
        "",
        Group::Running,
        "go on as this user (name or number) once the addresses are bound, with its group only; what is read again later, such as certificates and keys, must be readable to it",
    ),
    flag("group", "NAME", "", Group::Running, "go on as this group (default: that of --user)"),
    flag(
        "oom-score-adj",
        "N",
        "",
        Group::Running,
        "what the kernel is to spare when memory runs out: -1000, never this process, to 1000, this one first; less than it began with needs root (default: as it was started)",
    ),
    flag("profiling", "", "false", Group::Running, "profiles on /debug/pprof: not yet"),
    flag("shutdown-grace", "SPAN", "5s", Group::Running, "how long SIGTERM lets what is in flight go on"),
    flag(
        "log-level",
        "LEVEL",
        "info",
        Group::Running,
        "error, warn, info, debug or trace; -v is debug, -vv trace; $RUST_LOG is the default where it is one of these",
    ),
];

/// What the command line asks for.
#[derive(Debug)]
pub(super) enum Asked {
    /// `--help`
    Help,
    /// `--version`
    Version,
    /// `--help-markdown`: the README's table.
    Reference,
    /// To run.
    Run(Given),
}

/// The flags as they were given.
#[derive(Debug, Default)]
pub(super) struct Given {
    values: BTreeMap<&'static str, Vec<String>>,
    /// `--config`, and for each flag that was taken from it the line of each of its values.
    file: PathBuf,
    lines: BTreeMap<&'static str, Vec<usize>>,
    /// How many `-v`.
    pub(super) verbose: usize,
}

impl Given {
    /// The values of a flag that was given.
    pub(super) fn given(&self, name: &str) -> Option<&[String]> {
        self.values.get(name).map(Vec::as_slice)
    }

    /// The last value given, or the default; `None`: neither.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let default = FLAGS.iter().find(|f| f.name == name).map(|f| f.default).filter(|d| !d.is_empty());
        self.given(name).and_then(|v| v.last()).map(String::as_str).or(default)
    }

    /// Adds what a file of flags says; a flag that the command line has goes before it, with all its values.
    pub(super) fn add(&mut self, file: PathBuf, found: Vec<(usize, &'static Flag, String)>) -> Result<(), ConfigError> {
        let by_command_line: Vec<&str> = self.values.keys().copied().collect();
        for (line, flag, value) in found.into_iter().filter(|(_, flag, _)| !by_command_line.contains(&flag.name)) {
            let values = self.values.entry(flag.name).or_default();
            if !flag.many && !values.is_empty() {
                let why = format!("--config {}:{line}: {}", file.display(), twice(flag));
                return Err(ConfigError::usage(why));
            }
            values.push(value);
            self.lines.entry(flag.name).or_default().push(line);
        }
        self.file = file;
        Ok(())
    }

    /// An error, with the file and line before it where it is about a flag that came from there: each begins with its flag.
    pub(super) fn placed(&self, error: ConfigError) -> ConfigError {
        let end = |c: char| !c.is_ascii_alphanumeric() && c != '-';
        let name = error.message.strip_prefix("--").and_then(|rest| rest.split(end).next());
        let Some((name, lines)) = name.and_then(|name| self.lines.get_key_value(name)) else { return error };
        let values = self.given(name).unwrap_or_default();
        // Of several it is the one whose value is named.
        let named = values.iter().position(|value| error.message.contains(&format!("{value:?}"))).unwrap_or(0);
        let line = lines.get(named).copied().unwrap_or_default();
        ConfigError { exit: error.exit, message: format!("{}:{line}: {}", self.file.display(), error.message) }
    }

    /// A value read by `read`, with the flag named where it cannot be.
    pub(super) fn read<T>(&self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        read(self.get(name).unwrap_or_default()).map_err(|why| ConfigError::usage(format!("--{name}: {why}")))
    }

    /// A flag that is on or off.
    pub(super) fn switch(&self, name: &str) -> Result<bool, ConfigError> {
        // Go's strconv.ParseBool.
        self.read(name, |text| match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => Err(format!("{text:?} is neither true nor false")),
        })
    }
}

/// Reads a command line, without the program's name.
pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Asked, ConfigError> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut given = Given::default();
    while let Some(argument) = parser.next().map_err(|e| ConfigError::usage(e.to_string()))? {
        match argument {
            lexopt::Arg::Short('h') | lexopt::Arg::Long("help") => return Ok(Asked::Help),
            lexopt::Arg::Short('V') | lexopt::Arg::Long("version") => return Ok(Asked::Version),
            lexopt::Arg::Long("help-markdown") => return Ok(Asked::Reference),
            lexopt::Arg::Short('v') => given.verbose += 1,
            lexopt::Arg::Long(name) => {
                let flag = named(name)?;
                let value = if flag.value.is_empty() {
                    parser.optional_value().unwrap_or_else(|| "true".into())
                } else {
                    parser.value().map_err(|_| {
                        ConfigError::usage(format!("--{} needs a value: --{0} {}", flag.name, flag.value))
                    })?
                };
                let value = value
                    .into_string()
                    .map_err(|_| ConfigError::usage(format!("--{}: its value is no UTF-8", flag.name)))?;
                let values = given.values.entry(flag.name).or_default();
                if !flag.many && !values.is_empty() {
                    return Err(ConfigError::usage(twice(flag)));
                }
                values.push(value);
            }
            lexopt::Arg::Short(letter) => {
                return Err(ConfigError::usage(format!(
                    "-{letter} is no flag; long flags have two dashes, and --help lists them"
                )));
            }
            lexopt::Arg::Value(value) => {
                return Err(ConfigError::usage(format!(
                    "\"{}\" is not expected: lite-apiserver takes flags only, and --help lists them",
                    value.to_string_lossy()
                )));
            }
        }
    }
    Ok(Asked::Run(given))
}

/// The flag of this name.
pub(super) fn named(name: &str) -> Result<&'static Flag, ConfigError> {
    FLAGS.iter().find(|f| f.name == name).ok_or_else(|| unknown(name))
}

fn twice(flag: &Flag) -> String {
    format!("--{} is given twice; give it once", flag.name)
}

/// The error for a flag that there is not, with the nearest that there is.
fn unknown(name: &str) -> ConfigError {
    let nearest = FLAGS.iter().map(|f| (distance(name, f.name), f.name)).min();
    let hint = match nearest {
        Some((d, near)) if d <= 3 && d < name.len() => format!("did you mean --{near}?"),
        _ => "--help lists all".to_owned(),
    };
    ConfigError::usage(format!("--{name} is no flag; {hint}"))
}

/// How many letters must be added, dropped or changed to make one word of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// The text of `--help`.
pub(super) fn help() -> String {
    let mut text = String::from(
        "lite-apiserver: a caching reverse proxy between a Kubernetes edge node and its kube-apiserver\n\n\
         usage: lite-apiserver --kubeconfig FILE [flags]\n       \
         lite-apiserver --config FILE [flags]\n       \
         lite-apiserver --ca-file FILE --tls-cert-file FILE --tls-private-key-file FILE --kube-apiserver-url HOST [flags]\n       \
         lite-apiserver cache --help: look into the record\n       \
         lite-apiserver cert --help: ask for a serving certificate that pods trust\n       \
         lite-apiserver setup --help: put it between a node and its cluster\n       \
         lite-apiserver check --help: look at what it stands on\n",
    );
    for group in Group::ALL {
        text.push_str(&format!("\n{}:\n", group.title()));
        for flag in FLAGS.iter().filter(|f| f.group == group) {
            let left = format!("  --{} {}", flag.name, flag.value);
            let default = if flag.default.is_empty() { String::new() } else { format!(" (default: {})", flag.default) };
            let many = if flag.many { "; may be given several times" } else { "" };
            text.push_str(&wrap(left.trim_end(), &format!("{}{default}{many}", flag.help)));
        }
    }
    text.push_str(
        "\n  -v, -vv            log more\n  -h, --help         this text\n  -V, --version      the version\n\n\
         Exit codes (sysexits.h): 0 ended by SIGTERM or SIGINT; 64 wrong flags; 65 a file's contents are wrong;\n\
         66 a file is not there; 67 no such user or group; 69 an address or the record's folder is in use; 70 internal\n\
         error; 71 the system refuses; 73 something cannot be made; 74 the record could not be made durable; 77 not\n\
         permitted; 78 the parts do not fit together.\n",
    );
    text
}

/// A flag and its words, in two columns.
fn wrap(left: &str, right: &str) -> String {
    const COLUMN: usize = 34;
    const WIDTH: usize = 110;
    let mut lines = vec![format!("{left:<COLUMN$}")];
    if left.len() >= COLUMN {
        lines.push(" ".repeat(COLUMN));
    }
    for word in right.split(' ') {
        let Some(line) = lines.last_mut() else { break };
        if line.len() + word.len() > WIDTH {
            lines.push(format!("{}{word} ", " ".repeat(COLUMN)));
        } else {
            line.push_str(word);
            line.push(' ');
        }
    }
    lines.iter().map(|l| format!("{}\n", l.trim_end())).collect()
}

/// The README's table of flags.
pub(super) fn reference() -> String {
    let mut text = String::from("| flag | default | meaning |\n| --- | --- | --- |\n");
    for flag in FLAGS {
        let name = format!("--{} {}", flag.name, flag.value);
        let default = if flag.default.is_empty() { String::new() } else { format!("`{}`", flag.default) };
        let many = if flag.many { "; may be given several times" } else { "" };
        text.push_str(&format!("| `{}` | {default} | {}{many} |\n", name.trim_end(), flag.help));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Given, ConfigError> {
        match parse(line.split_whitespace().map(OsString::from))? {
            Asked::Run(given) => Ok(given),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn values_are_taken_in_both_forms() {
        let given = run("--port 1 --timeout=5s --insecure --address 127.0.0.1 --address=::1 -vv").expect("parsed");
        assert_eq!(given.get("port"), Some("1"));
        assert_eq!(given.get("timeout"), Some("5s"));
        assert_eq!(given.given("address").map(<[String]>::len), Some(2));
        assert!(given.switch("insecure").expect("a switch"));
        assert!(!run("--insecure=false").expect("parsed").switch("insecure").expect("a switch"));
        assert_eq!((given.verbose, given.get("kube-apiserver-port")), (2, Some("443")));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, message) in [
            ("--prot 1", "--prot is no flag; did you mean --port?"),
            ("--frobnicate", "--frobnicate is no flag; --help lists all"),
            ("--port", "--port needs a value: --port N"),
            ("--port 1 --port 2", "--port is given twice; give it once"),
            ("-x", "-x is no flag; long flags have two dashes, and --help lists them"),
            ("serve", "\"serve\" is not expected: lite-apiserver takes flags only, and --help lists them"),
        ] {
            assert_eq!(run(line).expect_err(line).message, message);
        }
    }

    #[test]
    fn the_help_names_every_flag_within_the_width() {
        let text = help();
        assert!(FLAGS.iter().all(|f| text.contains(&format!("--{}", f.name))));
        for line in text.lines() {
            assert!(line.len() <= 120, "{line}");
        }
    }
}
