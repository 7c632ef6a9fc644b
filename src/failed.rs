//! Why a command of the program ended, in one line and an exit code.

/// Why it could not be done.
#[derive(Debug)]
pub struct Failed {
    /// The process's exit code, one of sysexits.h; who returns it says which they can be.
    pub exit: u8,
    /// One line that names the thing and the cure.
    pub message: String,
}

pub(crate) fn failed(exit: u8, message: impl Into<String>) -> Failed {
    Failed { exit, message: message.into() }
}
