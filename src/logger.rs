//! Where the log goes: to standard error, a line each.
//!
//! Refuses to be a reason to end: whoever reads the log may go (a syslog daemon that is restarted, a full disk behind a
//! pipe), and the node still needs its proxy.

use log::{LevelFilter, Log, Metadata, Record, SetLoggerError};
use simple_logger::SimpleLogger;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Logs what is of this level or worse from now on.
///
/// # Errors
/// Somebody else logs already.
pub fn start(level: LevelFilter) -> Result<(), SetLoggerError> {
    // ureq and its protocol crate trace header fields and bodies: tokens and secrets.
    let logger = SimpleLogger::new()
        .with_level(level)
        .with_module_level("ureq", level.min(LevelFilter::Info))
        .with_module_level("ureq_proto", level.min(LevelFilter::Info))
        .with_module_level("rustls", level.min(LevelFilter::Warn))
        .with_module_level("fjall", level.min(LevelFilter::Warn))
        .with_module_level("lsm_tree", level.min(LevelFilter::Warn));
    log::set_max_level(logger.max_level());
    log::set_boxed_logger(Box::new(Unbroken(logger)))
}

/// `SimpleLogger` prints with `eprintln!`, which panics where standard error is a pipe that nobody reads.
struct Unbroken(SimpleLogger);

impl Log for Unbroken {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        // There is nobody left to be told.
        let _ = catch_unwind(AssertUnwindSafe(|| self.0.log(record)));
    }

    fn flush(&self) {
        self.0.flush();
    }
}
