//! The binary: arguments, logger, run, exit code.

use lite_apiserver::config::{self, Wanted};
use rustix::fs::Mode;
use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Whatever is made is its owner's only, whoever forgets to say so.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    if let Some(code) = subcommand() {
        return code;
    }
    let config = match config::load(std::env::args_os().skip(1), &|name| std::env::var(name).ok()) {
        Ok(Wanted::Run(config)) => config,
        Ok(Wanted::Print(text)) => {
            // A reader that has gone, such as `head`, has read enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(e) => return end(e.exit.code(), &e.message),
    };
    if let Err(e) = lite_apiserver::logger::start(config.log_level) {
        return end(70, &format!("the log cannot be set up: {e}"));
    }
    match lite_apiserver::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => end(e.exit, &e.message),
    }
}

/// Does what is not running the daemon; `None`: nothing else is asked for.
fn subcommand() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let environment = |name: &str| std::env::var(name).ok();
    let mut out = std::io::stdout().lock();
    let done = match arguments.next()?.to_str()? {
        "cache" => lite_apiserver::cache::run(arguments, &environment, &mut out),
        "cert" => lite_apiserver::cert::run(arguments, &mut out).map(|()| 0),
        "check" => lite_apiserver::check::run(arguments, &environment, &mut out),
        "setup" => lite_apiserver::setup::run(arguments, &mut out).map(|()| 0),
        _ => return None,
    };
    Some(done.map_or_else(|e| end(e.exit, &e.message), ExitCode::from))
}

/// Says why on one line, and ends.
fn end(code: u8, message: &str) -> ExitCode {
    // Who reads it may be gone; the exit code says the same.
    let _ = writeln!(std::io::stderr(), "lite-apiserver: {message}");
    ExitCode::from(code)
}
