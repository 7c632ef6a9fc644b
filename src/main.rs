//! The binary: arguments, logger, run, exit code.

fn main() {}
