//! A small box, from its power on: qemu with 64 MB, a real Debian kernel, busybox, and the static binary that
//! `packaging/build.sh` makes for it. It boots before a reachable upstream, holds watches, loses its power while it
//! records, boots with its cable cut, answers what it had recorded, and boots with no card at all. What took how long and
//! how much is printed; the exit code says whether all was answered. Times are figures, not judged.
//!
//! `cargo test --features boot-test --test boot -- [arm64] [armv7] [--program FILE]`; both boxes by default. `--program` is
//! another binary than that of the build script. Needs qemu-system-arm, mkfs.ext4 and Debian's `apt-get`; what is fetched is
//! kept outside the checkout (`$LITE_BED`, as for the ring of real components).

#![allow(clippy::print_stdout, reason = "what was seen is shown")]
#![allow(unreachable_pub, reason = "a test binary's modules have no other users")]

#[path = "../kube/bed.rs"]
#[allow(dead_code, reason = "shared with the ring of real components")]
mod bed;
#[path = "../support/mod.rs"]
mod support;

mod archive;
mod machine;
mod parts;
mod story;

use parts::Kind;
use std::path::PathBuf;

/// What was asked for on the command line.
#[derive(Debug, Default)]
pub struct Wish {
    kinds: Vec<Kind>,
    program: Option<PathBuf>,
}

fn wish() -> Result<Wish, lexopt::Error> {
    use lexopt::prelude::*;
    let mut wish = Wish::default();
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("program") => wish.program = Some(arguments.value()?.into()),
            Value(name) => {
                let name = name.string()?;
                wish.kinds.push(Kind::named(&name).ok_or_else(|| format!("no such box: {name}"))?);
            }
            _ => return Err(argument.unexpected()),
        }
    }
    if wish.kinds.is_empty() {
        wish.kinds = vec![Kind::Arm64, Kind::Armv7];
    }
    Ok(wish)
}

fn main() {
    let wish = wish().unwrap_or_else(|e| {
        eprintln!("{e}\nusage: boot [arm64] [armv7] [--program FILE]");
        std::process::exit(64);
    });
    for kind in &wish.kinds {
        story::tell(*kind, &wish);
    }
}
