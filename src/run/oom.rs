//! `--oom-score-adj`: what the kernel is to prefer, or to spare, when memory runs out, as the kubelet's flag of that name.

use crate::failed::{Failed, failed};
use std::fs;
use std::io::ErrorKind;

/// proc(5): from -1000, never killed, to 1000, the first.
const FILE: &str = "/proc/self/oom_score_adj";

/// Tells the kernel. To be spared more than the parent takes `CAP_SYS_RESOURCE`: without it this is said, and no more.
pub(super) fn tell(score: Option<i16>) -> Result<(), Failed> {
    let Some(score) = score else { return Ok(()) };
    match fs::write(FILE, score.to_string()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            log::warn!("--oom-score-adj {score}: not permitted, so the kernel may choose this process as any other");
            Ok(())
        }
        Err(e) => Err(failed(71, format!("--oom-score-adj {score}: {FILE}: {e}"))),
    }
}
