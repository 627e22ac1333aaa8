// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel knows of a user stack's process.

use std::fs;

/// Seconds of processor time that a process and its threads have used.
pub(super) fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = [11, 12].iter().filter_map(|&at| fields.get(at)?.parse::<f64>().ok()).sum();
    ticks / 100.0
}

/// MiB that it has of memory.
pub(super) fn resident(pid: u32) -> Option<f64> {
    field(&format!("/proc/{pid}/status"), "VmRSS:").map(|kibibytes| kibibytes / 1024.0)
}

/// MiB that it has had at most since it started or [`forget_peak`].
pub(super) fn peak(pid: u32) -> Option<f64> {
    field(&format!("/proc/{pid}/status"), "VmHWM:").map(|kibibytes| kibibytes / 1024.0)
}

/// Lets the peak begin anew.
pub(super) fn forget_peak(pid: u32) -> Result<(), String> {
    // proc(5): 5 resets the peak.
    fs::write(format!("/proc/{pid}/clear_refs"), "5").map_err(|error| error.to_string())
}

/// How often its threads have gone to sleep.
pub(super) fn sleeps(pid: u32) -> Option<f64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let sleeps = |thread: fs::DirEntry| {
        field(&thread.path().join("status").display().to_string(), "voluntary_ctxt_switches:")
    };
    Some(threads.flatten().filter_map(sleeps).sum())
}

/// The number of a line of a status file.
fn field(path: &str, name: &str) -> Option<f64> {
    let status = fs::read_to_string(path).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
