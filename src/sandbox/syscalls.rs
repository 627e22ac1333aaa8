// SPDX-License-Identifier: MIT OR Apache-2.0
//! The system calls of a confined gateway: one table, each group with the module that needs it.
//!
//! # How it works
//! A call that is not in [`GROUPS`], or whose arguments fit none of its forms, ends the process at once (SIGSYS), and
//! with it the sandbox. The one exception is `clone3`, whose arguments a filter cannot see: it fails with `ENOSYS`, and
//! the C library uses `clone`, whose arguments it can.
//!
//! Not in the table, and so impossible: executing a program, making a process, opening a file for writing, sockets that
//! are not of IPv4 or IPv6 (but for [`HOST_SOCKETS`]), memory that is executable, signals to strangers, namespaces, mounts, tracing.
//!
//! # Sources
//! What `strace -f` shows of the end-to-end tests, and the manual of the C library where it has more than one way.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::c_long;

use rustix::process::Pid;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Calls that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The module or library that makes them.
    pub by: &'static str,
    /// The calls.
    pub calls: &'static [Call],
}

/// A call that is allowed.
#[derive(Debug)]
pub struct Call {
    number: c_long,
    /// The forms it may have; none stands for every form.
    forms: &'static [Form],
}

/// What all of these arguments must be.
type Form = &'static [Argument];

/// The bits of `mask` in argument `index` must be those of `value`.
#[derive(Debug)]
struct Argument {
    index: u8,
    mask: u32,
    value: Value,
}

#[derive(Clone, Copy, Debug)]
enum Value {
    Number(u32),
    /// This process's id.
    Own,
    /// The id of the sandbox's init.
    Init,
}

/// In every form.
const fn any(number: c_long) -> Call {
    Call { number, forms: &[] }
}

/// In one of these forms.
const fn only(number: c_long, forms: &'static [Form]) -> Call {
    Call { number, forms }
}

const fn is(index: u8, value: libc::c_int) -> Argument {
    bits(index, -1, value)
}

const fn bits(index: u8, mask: libc::c_int, value: libc::c_int) -> Argument {
    Argument { index, mask: mask.cast_unsigned(), value: Value::Number(value.cast_unsigned()) }
}

const fn pid(index: u8, value: Value) -> Argument {
    Argument { index, mask: u32::MAX, value }
}

/// The kind of a socket without SOCK_NONBLOCK and SOCK_CLOEXEC.
const SOCKET_KIND: libc::c_int = 0xf;
/// All that makes an open file more than readable.
const BEYOND_READING: libc::c_int =
    libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY);
/// `SOL_UDP`, for segmentation of datagrams.
const SOL_UDP: libc::c_int = 17;
/// The request as the kernel sees it: 32 bits.
const fn request(number: libc::Ioctl) -> libc::c_int {
    #[expect(clippy::cast_possible_truncation, reason = "requests have 32 bits")]
    let number = number as libc::c_int;
    number
}

/// Everything that is allowed.
pub const GROUPS: &[Group] = &[
    Group {
        by: "the allocator",
        calls: &[
            any(libc::SYS_brk),
            only(libc::SYS_mmap, &[&[bits(2, libc::PROT_EXEC, 0)]]),
            only(libc::SYS_mprotect, &[&[bits(2, libc::PROT_EXEC, 0)]]),
            any(libc::SYS_mremap),
            any(libc::SYS_munmap),
            any(libc::SYS_madvise),
        ],
    },
    Group {
        by: "threads",
        calls: &[
            only(
                libc::SYS_clone,
                &[&[bits(0, libc::CLONE_THREAD | libc::CLONE_VM, libc::CLONE_THREAD | libc::CLONE_VM)]],
            ),
            // See `filters`.
            any(libc::SYS_clone3),
            any(libc::SYS_exit),
            any(libc::SYS_futex),
            any(libc::SYS_gettid),
            only(libc::SYS_prctl, &[&[is(0, libc::PR_SET_NAME)], &[is(0, libc::PR_SET_VMA)]]),
            any(libc::SYS_rseq),
            any(libc::SYS_rt_sigprocmask),
            any(libc::SYS_sched_getaffinity),
            any(libc::SYS_sched_yield),
            any(libc::SYS_set_robust_list),
            any(libc::SYS_sigaltstack),
        ],
    },
    Group {
        by: "the clock, where the kernel's page for it does not do",
        calls: &[any(libc::SYS_clock_gettime), any(libc::SYS_clock_nanosleep), any(libc::SYS_nanosleep)],
    },
    Group {
        by: "panics and the end of the process",
        calls: &[
            any(libc::SYS_exit_group),
            // Debug builds look whether what they close is open.
            only(libc::SYS_fcntl, &[&[is(1, libc::F_GETFD)]]),
            any(libc::SYS_getcwd),
            any(libc::SYS_getpid),
            any(libc::SYS_restart_syscall),
            any(libc::SYS_rt_sigaction),
            any(libc::SYS_rt_sigreturn),
            only(libc::SYS_tgkill, &[&[pid(0, Value::Own)]]),
        ],
    },
    Group { by: "hash maps", calls: &[any(libc::SYS_getrandom)] },
    Group {
        by: "dataplane, port: events and frames; log lines",
        calls: &[
            any(libc::SYS_close),
            any(libc::SYS_epoll_create1),
            any(libc::SYS_epoll_ctl),
            any(libc::SYS_epoll_pwait),
            any(libc::SYS_epoll_pwait2),
            any(libc::SYS_eventfd2),
            any(libc::SYS_read),
            any(libc::SYS_write),
            any(libc::SYS_writev),
        ],
    },
    Group {
        by: "host: the outside",
        calls: &[
            any(libc::SYS_bind),
            any(libc::SYS_accept4),
            any(libc::SYS_connect),
            any(libc::SYS_getpeername),
            any(libc::SYS_getsockname),
            any(libc::SYS_getsockopt),
            any(libc::SYS_recvfrom),
            any(libc::SYS_recvmsg),
            any(libc::SYS_sendmsg),
            any(libc::SYS_sendto),
            only(
                libc::SYS_setsockopt,
                &[
                    &[is(1, libc::SOL_SOCKET)],
                    &[is(1, libc::IPPROTO_IP)],
                    &[is(1, libc::IPPROTO_IPV6)],
                    &[is(1, libc::IPPROTO_TCP)],
                    &[is(1, SOL_UDP)],
                ],
            ),
            any(libc::SYS_shutdown),
            only(
                libc::SYS_socket,
                &[
                    &[is(0, libc::AF_INET), bits(1, SOCKET_KIND, libc::SOCK_STREAM)],
                    &[is(0, libc::AF_INET), bits(1, SOCKET_KIND, libc::SOCK_DGRAM)],
                    &[is(0, libc::AF_INET6), bits(1, SOCKET_KIND, libc::SOCK_STREAM)],
                    &[is(0, libc::AF_INET6), bits(1, SOCKET_KIND, libc::SOCK_DGRAM)],
                ],
            ),
        ],
    },
    Group {
        by: "resolv: the host's resolv.conf",
        calls: &[
            any(libc::SYS_fstat),
            any(libc::SYS_inotify_add_watch),
            any(libc::SYS_inotify_rm_watch),
            any(libc::SYS_lseek),
            any(libc::SYS_newfstatat),
            only(libc::SYS_openat, &[&[bits(2, BEYOND_READING, libc::O_RDONLY)]]),
            any(libc::SYS_readlinkat),
            any(libc::SYS_statx),
        ],
    },
    Group {
        by: "the sandbox's init, the terminal, the TAP",
        calls: &[
            only(
                libc::SYS_ioctl,
                &[
                    &[is(1, request(libc::TIOCGPGRP))],
                    &[is(1, request(libc::TIOCSPGRP))],
                    // A TAP that outlives us is left as it was found.
                    &[is(1, request(libc::TUNSETOFFLOAD)), is(2, 0)],
                ],
            ),
            only(
                libc::SYS_kill,
                &[
                    // Does the group exist?
                    &[is(1, 0)],
                    &[pid(0, Value::Own), is(1, libc::SIGSTOP)],
                    &[pid(0, Value::Init), is(1, libc::SIGKILL)],
                ],
            ),
            any(libc::SYS_ppoll),
            any(libc::SYS_wait4),
        ],
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        by: "C libraries that still use calls which newer processors' kernels do not have",
        calls: &[
            any(libc::SYS_epoll_wait),
            any(libc::SYS_lstat),
            only(libc::SYS_open, &[&[bits(1, BEYOND_READING, libc::O_RDONLY)]]),
            any(libc::SYS_poll),
            any(libc::SYS_readlink),
            any(libc::SYS_stat),
        ],
    },
];

impl Call {
    fn rules(&self, own: Pid, init: Pid) -> Result<Vec<SeccompRule>, Error> {
        let condition = |argument: &Argument| {
            let value = match argument.value {
                Value::Number(number) => number,
                Value::Own => own.as_raw_pid().cast_unsigned(),
                Value::Init => init.as_raw_pid().cast_unsigned(),
            };
            let operator = SeccompCmpOp::MaskedEq(argument.mask.into());
            SeccompCondition::new(argument.index, SeccompCmpArgLen::Dword, operator, value.into())
        };
        let rule = |form: &Form| {
            let conditions = form.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
            SeccompRule::new(conditions)
        };
        self.forms.iter().map(|form| rule(form).map_err(Error::from)).collect()
    }
}

/// What a gateway needs beyond the table that others talk to through a unix socket.
pub const CONTROL_SOCKET: &[Group] = &[Group {
    by: "compat: clients of the control socket, its removal, and the ports that they publish",
    calls: &[any(libc::SYS_listen), any(libc::SYS_unlinkat)],
}];

/// What a gateway needs beyond the table that serves the API.
const API: Group = Group {
    by: "control: clients of the sockets, the ports that they publish, the sockets' end",
    calls: &[
        any(libc::SYS_fcntl),
        any(libc::SYS_geteuid),
        any(libc::SYS_getsockname),
        any(libc::SYS_listen),
        any(libc::SYS_unlinkat),
    ],
};

/// What a gateway needs beyond the table whose ports lead to unix sockets of the host.
pub const HOST_SOCKETS: &[Group] = &[Group {
    by: "host: the host's own sockets",
    calls: &[only(libc::SYS_socket, &[&[is(0, libc::AF_UNIX), bits(1, SOCKET_KIND, libc::SOCK_STREAM)]])],
}];

/// What a `wharf run` needs beyond the table.
pub const RUN: &[Group] = &[API];

/// What a daemon needs beyond the table. What stands here too may be made in every form: Landlock says of which files.
pub const DAEMON: &[Group] = &[
    API,
    Group {
        by: "control: the state directory",
        calls: &[
            any(libc::SYS_getdents64),
            any(libc::SYS_openat),
            any(libc::SYS_renameat),
            any(libc::SYS_renameat2),
        ],
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        by: "the same by calls which newer processors' kernels do not have",
        calls: &[any(libc::SYS_rename), any(libc::SYS_unlink)],
    },
];

/// The programs that enforce the table and the groups `beyond` it, which may widen what the table allows, for this
/// processor.
///
/// # Errors
/// There is no filter for this processor.
pub fn filters(own: Pid, init: Pid, beyond: &[Group]) -> Result<[BpfProgram; 2], Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let mut rules = BTreeMap::new();
    for call in GROUPS.iter().chain(beyond).flat_map(|group| group.calls) {
        let forms = call.rules(own, init)?;
        match rules.entry(call.number) {
            Entry::Vacant(entry) => _ = entry.insert(forms),
            // Without forms every form is allowed.
            Entry::Occupied(mut entry) if forms.is_empty() => _ = entry.insert(forms),
            Entry::Occupied(mut entry) if !entry.get().is_empty() => entry.get_mut().extend(forms),
            Entry::Occupied(_) => {}
        }
    }
    let allowed = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)?;
    let no_system = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let without_clone3 = SeccompFilter::new(clone3, SeccompAction::Allow, no_system, arch)?;
    Ok([BpfProgram::try_from(without_clone3)?, BpfProgram::try_from(allowed)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_call_stands_in_the_table_twice() {
        let mut seen = BTreeSet::new();
        for call in GROUPS.iter().chain(CONTROL_SOCKET).flat_map(|group| group.calls) {
            assert!(seen.insert(call.number), "{call:?}");
        }
    }

    #[test]
    fn the_program_fits_the_kernels_limit() {
        for beyond in [CONTROL_SOCKET, RUN, &[DAEMON, HOST_SOCKETS].concat()] {
            let [clone3, allowed] = filters(Pid::INIT, Pid::INIT, beyond).unwrap();
            // BPF_MAXINSNS
            assert!(clone3.len() + allowed.len() < 4096, "{}", allowed.len());
        }
    }
}
