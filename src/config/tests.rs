//! What this room's tests share.

use super::flags::{self, Asked, Given};

/// A command line that is right.
pub(super) fn given(line: &str) -> Given {
    match flags::parse(line.split_whitespace().map(Into::into)).expect("a command line") {
        Asked::Run(given) => given,
        other => panic!("{other:?}"),
    }
}
