//! The demonstration: a real control plane, a real node, and lite-apiserver as the node's only way to it. A person installs,
//! deploys, asks; the cable is cut; the power goes and comes back; the cable is mended. What answered when is printed, and
//! the exit code says whether all came back. Times are figures, not judged.
//!
//! `cargo test --release --features real-node --test node -- [RUNS] [OPTION...]`, as root. Options: `--pods N` (2) of the
//! demonstration's own; `--watch-list`: lists come by watch, for kubelet and kube-proxy; `--as-pod`: lite-apiserver is a
//! static pod; `--dark SECONDS`: the outage lasts so long, and the power goes once more at its end; `--worst N`: instead of
//! the story, the power goes N times in bad moments. `LITE_APISERVER` in the environment names another binary than the one
//! built with this. What is fetched and built is kept outside the checkout (`$LITE_BED`, as for the ring of real
//! components). Needs a kernel with veth, bridges and iptables.

#![allow(clippy::print_stdout, reason = "what was seen is shown")]
#![allow(unreachable_pub, reason = "a test binary's modules have no other users")]

#[path = "../kube/bed.rs"]
#[allow(dead_code, reason = "shared with the ring of real components")]
mod bed;
#[path = "../kube/control_plane.rs"]
#[allow(dead_code, reason = "shared with the ring of real components")]
mod control_plane;
#[path = "../kube/kubectl.rs"]
#[allow(dead_code, reason = "shared with the ring of real components")]
mod kubectl;
#[path = "../kube/serving.rs"]
mod serving;
#[path = "../support/mod.rs"]
mod support;

mod client;
mod edge;
mod machine;
mod moments;
mod parts;
mod scene;
mod settings;
mod story;

use edge::As;
use std::path::PathBuf;
use std::time::Duration;

/// What was asked for on the command line.
#[derive(Debug, Clone)]
pub struct Wish {
    runs: usize,
    worst: usize,
    pods: usize,
    /// How long the outage lasts at least.
    dark: Duration,
    watch_list: bool,
    lite_as: As,
    lite: PathBuf,
}

fn wish() -> Result<Wish, lexopt::Error> {
    use lexopt::prelude::*;
    let lite = std::env::var_os("LITE_APISERVER").unwrap_or_else(|| env!("CARGO_BIN_EXE_lite-apiserver").into());
    let (dark, lite_as, lite) = (Duration::ZERO, As::Unit, lite.into());
    let mut wish = Wish { runs: 1, worst: 0, pods: 2, dark, watch_list: false, lite_as, lite };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("pods") => wish.pods = arguments.value()?.parse()?,
            Long("dark") => wish.dark = Duration::from_secs(arguments.value()?.parse()?),
            Long("worst") => wish.worst = arguments.value()?.parse()?,
            Long("watch-list") => wish.watch_list = true,
            Long("as-pod") => wish.lite_as = As::Pod,
            Value(runs) => wish.runs = runs.parse()?,
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(wish)
}

fn main() {
    let wish = wish().unwrap_or_else(|e| {
        eprintln!("{e}\nusage: node [RUNS] [--pods N] [--watch-list] [--as-pod] [--dark SECONDS] [--worst N]");
        std::process::exit(64);
    });
    let story = || match wish.worst {
        0 => story::tell(&wish),
        moments => moments::tell(&wish, moments),
    };
    std::process::exit(machine::sandboxed(parts::gather, || i32::from(!story())));
}
