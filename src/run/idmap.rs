// SPDX-License-Identifier: MIT OR Apache-2.0
//! User and group ids inside the sandbox: who of the host is who in there.
//!
//! # How it works
//! Without privileges a process may map exactly one id, its own, and must give up `setgroups` for it. More ids come
//! from the ranges the administrator set aside in `/etc/subuid` and `/etc/subgid`, which the setuid programs
//! `newuidmap` and `newgidmap` (shadow-utils) write for their owner. Root maps everything it has onto itself.
//!
//! # Sources
//! `user_namespaces(7)`, `subuid(5)`, `newuidmap(1)`.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Pid;

use crate::doctor::advice::Advice;
use crate::sys::process::user_name;

/// Which map the user asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// [`Mode::Auto`] where it works, else [`Mode::Root`].
    #[default]
    Best,
    /// The caller is root inside, and nobody else exists.
    Root,
    /// The caller is itself inside, and nobody else exists.
    Keep,
    /// The caller is root inside, and its subordinate ids are 1 and up.
    Auto,
}

/// A run of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Why the maps could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `--map-auto` without subordinate ids.
    #[error("{file} has no subordinate ids for {user}")]
    NoRange {
        /// The user's login name or number.
        user: String,
        /// The file without an entry.
        file: &'static str,
    },
    /// `--map-auto` without its tools.
    #[error("{program} did not start: {source}")]
    NoTool {
        /// The program.
        program: &'static str,
        /// What exec said.
        source: io::Error,
    },
    /// The tool said no.
    #[error("{program} refused: {said}")]
    ToolRefused {
        /// The program.
        program: &'static str,
        /// Its standard error.
        said: String,
    },
    /// The kernel said no.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    /// What is wrong and what mends it.
    #[must_use]
    pub fn advice(&self) -> Advice {
        let remedy = match self {
            Self::NoRange { .. } | Self::NoTool { .. } => {
                "install newuidmap and newgidmap (package uidmap on Debian and Ubuntu, shadow-utils on Fedora) and run \
                 sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER"
            }
            Self::ToolRefused { .. } => {
                "newuidmap and newgidmap must be setuid root (sudo chmod u+s), and the ranges in /etc/subuid and \
                 /etc/subgid must not contain ids of your own"
            }
            Self::Write { .. } => {
                "run wharf outside of the sandbox that forbids it, or let that one allow it"
            }
        };
        Advice { problem: self.to_string(), remedy: remedy.to_owned() }
    }
}

/// Who runs wharf.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

impl Caller {
    /// The calling process.
    #[must_use]
    pub fn current() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }
}

/// What [`write()`] wrote.
#[derive(Debug)]
pub struct Written {
    /// First and last group id inside, for `net.ipv4.ping_group_range`.
    pub ping_groups: (u32, u32),
    /// Why fewer ids are mapped than [`Mode::Best`] hoped for.
    pub fell_back: Option<Error>,
}

/// Writes the maps of the user namespace of `pid`, whose parent we are.
///
/// # Errors
/// See [`Error`]; [`Mode::Best`] fails only where even a single id cannot be mapped.
pub fn write(pid: Pid, mode: Mode, caller: Caller) -> Result<Written, Error> {
    let mut fell_back = None;
    if matches!(mode, Mode::Best | Mode::Auto) {
        let wide = if caller.uid == 0 { write_own_ranges(pid) } else { write_subordinate(pid, caller) };
        match (wide, mode) {
            (Ok(ping_groups), _) => return Ok(Written { ping_groups, fell_back: None }),
            (Err(error), Mode::Auto) => return Err(error),
            (Err(error), _) => fell_back = Some(error),
        }
    }
    let inside = |id| if mode == Mode::Keep { id } else { 0 };
    let uid = Extent { inside: inside(caller.uid), outside: caller.uid, count: 1 };
    let gid = Extent { inside: inside(caller.gid), outside: caller.gid, count: 1 };
    // A failed newgidmap may have left the user map of its successful sibling.
    if !has_map(pid, "uid_map") {
        put(pid, "uid_map", &render(&[uid]))?;
    }
    // user_namespaces(7): without CAP_SETGID outside, setgroups must be given up before gid_map can be written. Root has
    // it, unless it is the root of a container that was stripped of it.
    if caller.uid != 0 || put(pid, "gid_map", &render(&[gid])).is_err() {
        put(pid, "setgroups", "deny")?;
        put(pid, "gid_map", &render(&[gid]))?;
    }
    Ok(Written { ping_groups: (gid.inside, gid.inside), fell_back })
}

fn has_map(pid: Pid, file: &str) -> bool {
    fs::read_to_string(proc_file(pid, file)).is_ok_and(|text| !text.trim().is_empty())
}

fn proc_file(pid: Pid, file: &str) -> String {
    format!("/proc/{}/{file}", pid.as_raw_pid())
}

fn put(pid: Pid, file: &str, text: &str) -> Result<(), Error> {
    let path = proc_file(pid, file);
    fs::write(&path, text).map_err(|source| Error::Write { path, source })
}

fn render(extents: &[Extent]) -> String {
    extents.iter().map(|e| format!("{} {} {}\n", e.inside, e.outside, e.count)).collect()
}

/// Root: every id this process's own namespace knows, as it is.
fn write_own_ranges(pid: Pid) -> Result<(u32, u32), Error> {
    let own = |file: &str| {
        let path = format!("/proc/self/{file}");
        let text = fs::read_to_string(&path).map_err(|source| Error::Write { path, source })?;
        Ok(parse_map(&text).into_iter().map(|e| Extent { outside: e.inside, ..e }).collect::<Vec<_>>())
    };
    let (uids, gids) = (own("uid_map")?, own("gid_map")?);
    put(pid, "uid_map", &render(&uids))?;
    put(pid, "gid_map", &render(&gids))?;
    Ok(ping_groups(&gids))
}

/// Everybody else: itself as root, and its subordinate ids from 1 on.
fn write_subordinate(pid: Pid, caller: Caller) -> Result<(u32, u32), Error> {
    let number = caller.uid.to_string();
    let name = user_name(caller.uid).unwrap_or_else(|| number.clone());
    let wide = |file: &'static str, id: u32| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let ranges = subordinate(&text, &[&name, &number]);
        if ranges.is_empty() {
            return Err(Error::NoRange { user: name.clone(), file });
        }
        Ok(stack(id, &ranges))
    };
    let uids = wide("/etc/subuid", caller.uid)?;
    let gids = wide("/etc/subgid", caller.gid)?;
    // Side by side: each is a process start.
    let newuidmap = start_tool("newuidmap", pid, &uids)?;
    let newgidmap = start_tool("newgidmap", pid, &gids);
    finish_tool("newuidmap", newuidmap)?;
    finish_tool("newgidmap", newgidmap?)?;
    Ok(ping_groups(&gids))
}

fn start_tool(program: &'static str, pid: Pid, extents: &[Extent]) -> Result<Child, Error> {
    let mut command = Command::new(find_tool(program));
    command.arg(pid.as_raw_pid().to_string());
    for extent in extents {
        command.args([extent.inside, extent.outside, extent.count].map(|n| n.to_string()));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().map_err(|source| Error::NoTool { program, source })
}

/// Setuid tools are taken from where the system keeps them, so that PATH decides nothing.
fn find_tool(program: &'static str) -> String {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/run/wrappers/bin", "/usr/local/bin"]
        .into_iter()
        .map(|directory| format!("{directory}/{program}"))
        .find(|path| Path::new(path).exists())
        .unwrap_or_else(|| program.to_owned())
}

fn finish_tool(program: &'static str, child: Child) -> Result<(), Error> {
    let output = child.wait_with_output().map_err(|source| Error::NoTool { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(Error::ToolRefused { program, said })
}

/// The ranges that a subuid file gives to any of `names`.
fn subordinate(text: &str, names: &[&str]) -> Vec<(u32, u32)> {
    let mut ranges = Vec::new();
    for line in text.lines() {
        let mut fields = line.trim().split(':');
        let (Some(name), Some(start), Some(count)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (Ok(start), Ok(count)) = (start.parse::<u32>(), count.parse::<u32>()) else { continue };
        if names.contains(&name) && count > 0 && start.checked_add(count).is_some() {
            ranges.push((start, count));
        }
    }
    ranges
}

/// Id 0 is the caller; the ranges follow, one upon the other.
fn stack(id: u32, ranges: &[(u32, u32)]) -> Vec<Extent> {
    let mut extents = vec![Extent { inside: 0, outside: id, count: 1 }];
    let mut inside: u32 = 1;
    for &(outside, count) in ranges {
        // A range with the caller's own id in it cannot be mapped twice; it is not a subordinate id then.
        if (outside..outside.saturating_add(count)).contains(&id) {
            continue;
        }
        let Some(next) = inside.checked_add(count) else { break };
        extents.push(Extent { inside, outside, count });
        inside = next;
    }
    extents
}

fn parse_map(text: &str) -> Vec<Extent> {
    let mut extents = Vec::new();
    for line in text.lines() {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        if let (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        {
            extents.push(Extent { inside, outside, count });
        }
    }
    extents
}

/// The kernel compares the ids *outside* with the range, so the ends of the range are the ids inside that stand for
/// the smallest and the largest id outside. Where that is not ascending inside, group 0 alone.
fn ping_groups(extents: &[Extent]) -> (u32, u32) {
    let low = extents.iter().min_by_key(|e| e.outside).map(|e| e.inside);
    let high = extents
        .iter()
        .max_by_key(|e| e.outside)
        // The kernel takes no id above 2^31 - 1 here.
        .map(|e| e.inside.saturating_add(e.count - 1).min(i32::MAX.cast_unsigned()));
    match (low, high) {
        (Some(low), Some(high)) if low <= high => (low, high),
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_the_name_and_of_the_number_count_and_others_do_not() {
        let text =
            "alice:100000:65536\nbob:1:2\n1000:300000:10\nalice:x:1\nalice:7:0\nalice:4294967295:9\n# c\n";
        assert_eq!(subordinate(text, &["alice", "1000"]), [(100_000, 65536), (300_000, 10)]);
    }

    #[test]
    fn subordinate_ids_follow_the_caller_without_a_gap() {
        let extents = stack(1000, &[(100_000, 65536), (300_000, 10)]);
        assert_eq!(render(&extents), "0 1000 1\n1 100000 65536\n65537 300000 10\n");
        assert_eq!(ping_groups(&extents), (0, 65546));
    }

    #[test]
    fn a_range_with_the_caller_in_it_is_left_out() {
        assert_eq!(render(&stack(5, &[(1, 10), (100, 3)])), "0 5 1\n1 100 3\n");
    }

    #[test]
    fn ping_groups_are_ordered_as_outside_or_group_zero() {
        assert_eq!(ping_groups(&stack(1000, &[(500, 100)])), (0, 0));
        assert_eq!(ping_groups(&parse_map("0 0 4294967295\n")), (0, 0x7fff_ffff));
        assert_eq!(ping_groups(&[]), (0, 0));
    }
}
