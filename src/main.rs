//! The binary: arguments, logger, run, exit code.

use lite_apiserver::config::{self, Wanted};
use rustix::fs::Mode;
use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Whatever is made is its owner's only, whoever forgets to say so.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    if std::env::args_os().nth(1).is_some_and(|first| first == "cache") {
        let environment = |name: &str| std::env::var(name).ok();
        let asked =
            lite_apiserver::cache::run(std::env::args_os().skip(2), &environment, &mut std::io::stdout().lock());
        return asked.map_or_else(|e| end(e.exit, &e.message), ExitCode::from);
    }
    if std::env::args_os().nth(1).is_some_and(|first| first == "cert") {
        let done = lite_apiserver::cert::run(std::env::args_os().skip(2), &mut std::io::stdout().lock());
        return done.map_or_else(|e| end(e.exit, &e.message), |()| ExitCode::SUCCESS);
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

/// Says why on one line, and ends.
fn end(code: u8, message: &str) -> ExitCode {
    // Who reads it may be gone; the exit code says the same.
    let _ = writeln!(std::io::stderr(), "lite-apiserver: {message}");
    ExitCode::from(code)
}
