// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a sandbox costs while nothing happens in it.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use super::caller::{Running, eventually, tree, wharf_run};

/// How often the threads of some processes went to sleep so far.
fn naps(pids: &[i32]) -> u64 {
    let mut naps = 0;
    for pid in pids {
        for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            let field = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:\t"));
            naps += field.unwrap().parse::<u64>().unwrap();
        }
    }
    naps
}

/// The kernel's own IPv6 start (router solicitations, listener reports) wakes the gateway some times in the first
/// seconds; afterwards only advertisements do, every ten minutes.
#[test]
fn an_idle_sandbox_sleeps() {
    for device in ["tap", "veth"] {
        let mut command =
            wharf_run(&["--device", device, "--workers", "2", "--", "sh", "-c", "echo up; exec sleep 1000"]);
        let mut running = Running::start(&mut command);
        assert_eq!(running.line(), "up");
        let family = tree(running.pid());
        // wharf and init; the command is not ours.
        let ours = &family[..2];
        let mut before = naps(ours);
        eventually("nothing happens for three seconds", || {
            sleep(Duration::from_secs(3));
            let now = naps(ours);
            let woken = now - before;
            before = now;
            woken <= 2
        });
    }
}
