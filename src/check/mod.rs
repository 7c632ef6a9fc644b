//! `lite-apiserver check`: looks, with the daemon's own flags, at what the daemon stands on (certificates, clock, upstream,
//! disk, ports), and says of each whether it will do, and what to do where it will not. Changes nothing, and never asks the
//! upstream for anything but reads.

mod certificates;
mod cloud;
mod disk;
mod ports;

use crate::config::{Exit, inspect};
use crate::failed::{Failed, failed};
use serde_json::json;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

/// Where packages put the daemon's flags.
const DEFAULT_FLAGS: &str = "/etc/lite-apiserver/flags";

const HELP: &str = "\
lite-apiserver check: looks at what the daemon stands on, and says what is wrong and what to do

usage: lite-apiserver check [--json] [the daemon's flags]

  --json       for programs: {\"findings\": [{\"level\", \"subject\", \"says\", \"cure\"}], \"wrong\": N, \"warnings\": N}
  -h, --help   this text

All other flags are the daemon's, so `lite-apiserver check --config /etc/lite-apiserver/flags` looks at what a daemon with that
file would find; that file is also what is looked at where no flag is given. Run it as the daemon's user, while the daemon
runs or not. A line a finding: ok; warning, which keeps nothing from working now; or wrong, each with its cure.

Exit codes: 0 nothing is wrong; 1 something is; 64 wrong command line.
";

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Ok,
    Warning,
    Wrong,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Wrong => "wrong",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug)]
struct Finding {
    level: Level,
    subject: &'static str,
    says: String,
    /// Empty where nothing is to be done.
    cure: String,
}

/// What was found so far.
#[derive(Debug, Default)]
struct Report(Vec<Finding>);

impl Report {
    fn ok(&mut self, subject: &'static str, says: impl Into<String>) {
        self.add(Level::Ok, subject, says, "");
    }

    fn warning(&mut self, subject: &'static str, says: impl Into<String>, cure: impl Into<String>) {
        self.add(Level::Warning, subject, says, cure);
    }

    fn wrong(&mut self, subject: &'static str, says: impl Into<String>, cure: impl Into<String>) {
        self.add(Level::Wrong, subject, says, cure);
    }

    fn add(&mut self, level: Level, subject: &'static str, says: impl Into<String>, cure: impl Into<String>) {
        // What others said must not look like a line of ours.
        let line = |text: String| text.replace(['\n', '\r'], " ");
        self.0.push(Finding { level, subject, says: line(says.into()), cure: line(cure.into()) });
    }

    fn count(&self, level: Level) -> usize {
        self.0.iter().filter(|finding| finding.level == level).count()
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for Finding { level, subject, says, cure } in &self.0 {
            let cure = if cure.is_empty() { String::new() } else { format!("; {cure}") };
            text.push_str(&format!("{:<8} {subject:<12} {says}{cure}\n", level.name()));
        }
        let [ok, warnings, wrong] = [Level::Ok, Level::Warning, Level::Wrong].map(|level| self.count(level));
        format!("{text}{ok} ok, {warnings} warnings, {wrong} wrong\n")
    }

    fn json(&self) -> String {
        let finding =
            |f: &Finding| json!({"level": f.level.name(), "subject": f.subject, "says": f.says, "cure": f.cure});
        let findings: Vec<_> = self.0.iter().map(finding).collect();
        let (wrong, warnings) = (self.count(Level::Wrong), self.count(Level::Warning));
        format!("{:#}\n", json!({"findings": findings, "wrong": wrong, "warnings": warnings}))
    }
}

/// Looks at what the arguments after `check` name, and prints what was found. The exit code: 0 nothing is wrong, 1 something is.
///
/// # Errors
/// The command line is wrong: 64.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &dyn Fn(&str) -> Option<String>,
    out: &mut dyn Write,
) -> Result<u8, Failed> {
    let mut flags: Vec<OsString> = arguments.into_iter().collect();
    if flags.iter().any(|flag| flag == "-h" || flag == "--help") {
        // A reader that has gone has read enough.
        let _ = out.write_all(HELP.as_bytes());
        return Ok(0);
    }
    let given = flags.len();
    flags.retain(|flag| flag != "--json");
    let is_json = flags.len() < given;
    if flags.is_empty() && Path::new(DEFAULT_FLAGS).exists() {
        flags.push(format!("--config={DEFAULT_FLAGS}").into());
    }
    // What the file lacks is something to be found.
    let by_file = flags.iter().any(|flag| flag.to_string_lossy().starts_with("--config"));
    let mut report = Report::default();
    match inspect(flags, environment) {
        Err(e) if e.exit == Exit::Usage && !by_file => {
            let message = format!("check: {}; `lite-apiserver check --help` says more", e.message);
            return Err(failed(e.exit.code(), message));
        }
        Err(e) => report.wrong("flags", e.message, ""),
        Ok(inspection) => {
            let now = SystemTime::now();
            certificates::look(&inspection, now, &mut report);
            cloud::look(&inspection, now, &mut report);
            let holder = disk::look(&inspection, &mut report);
            ports::look(&inspection, holder.as_deref(), &mut report);
        }
    }
    let text = if is_json { report.json() } else { report.text() };
    let _ = out.write_all(text.as_bytes());
    Ok(u8::from(report.count(Level::Wrong) > 0))
}
