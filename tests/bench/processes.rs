//! What a process and its children cost, from `/proc`.

use std::fs;

/// One tick of `/proc/PID/stat` in microseconds: Linux tells everybody 100 a second (`USER_HZ`).
const TICK: u64 = 10_000;

/// A process and all its children's.
pub fn family(pid: u32) -> Vec<u32> {
    let everybody = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = everybody.filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|p| *p == pid || field(*p, PARENT) == Some(u64::from(pid))).collect()
}

/// Microseconds of CPU so far, in user and kernel mode.
pub fn cpu(family: &[u32]) -> u64 {
    let ticks = family.iter().flat_map(|pid| [field(*pid, USER), field(*pid, SYSTEM)]).flatten();
    ticks.sum::<u64>() * TICK
}

/// Bytes in memory, what is shared with others counted in part.
pub fn pss(family: &[u32]) -> u64 {
    let one = |pid: &u32| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = rollup.lines().find_map(|l| l.strip_prefix("Pss:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    family.iter().filter_map(one).sum::<u64>() << 10
}

/// Bytes resident now, what is shared with others counted in full.
pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("/proc");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Makes the most that was ever resident what is resident now.
pub fn forget_peak(pid: u32) -> std::io::Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5")
}

/// Places in `/proc/PID/stat`, counted from after the program's name, which may hold blanks.
const PARENT: usize = 1;
const USER: usize = 11;
const SYSTEM: usize = 12;

fn field(pid: u32, place: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(place)?.parse().ok()
}
