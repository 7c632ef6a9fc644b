//! Why a configuration cannot be used: one line that names the thing and the cure, and an exit code of sysexits.h.

use std::fmt;
use std::io;
use std::path::Path;

/// Exit codes of bad input, as sysexits.h has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 64: the command line, or a line of `--config`, is wrong.
    Usage,
    /// 65: a file's contents are wrong.
    Data,
    /// 66: a file is not there.
    NoInput,
    /// 67: a user or group is not known.
    NoUser,
    /// 73: a file cannot be made.
    CannotCreate,
    /// 77: a file may not be read.
    NoPermission,
    /// 78: the parts do not fit together.
    Config,
}

impl Exit {
    /// The process exit code.
    pub fn code(self) -> u8 {
        match self {
            Exit::Usage => 64,
            Exit::Data => 65,
            Exit::NoInput => 66,
            Exit::NoUser => 67,
            Exit::CannotCreate => 73,
            Exit::NoPermission => 77,
            Exit::Config => 78,
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The exit code.
    pub exit: Exit,
    /// One line: which flag or file, what is wrong with it, what would be right.
    pub message: String,
}

impl ConfigError {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> ConfigError {
        ConfigError { exit, message: message.into() }
    }

    pub(super) fn usage(message: impl Into<String>) -> ConfigError {
        ConfigError::new(Exit::Usage, message)
    }

    /// A file that was named by `what` cannot be read.
    pub(super) fn unreadable(what: &str, path: &Path, e: &io::Error) -> ConfigError {
        let exit = if e.kind() == io::ErrorKind::PermissionDenied { Exit::NoPermission } else { Exit::NoInput };
        ConfigError::new(exit, format!("{what} {}: cannot be read: {e}", path.display()))
    }

    /// A file or folder cannot be made.
    pub(super) fn unmakable(what: &str, path: &Path, e: &io::Error) -> ConfigError {
        let exit = if e.kind() == io::ErrorKind::PermissionDenied { Exit::NoPermission } else { Exit::CannotCreate };
        ConfigError::new(exit, format!("{what} {}: cannot be written: {e}", path.display()))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}
