// SPDX-License-Identifier: MIT OR Apache-2.0
//! Puts a system call filter in force.
//!
//! # Sources
//! `seccomp(2)`; `Documentation/admin-guide/hw-vuln/spectre.rst` of the kernel.
#![allow(unsafe_code, reason = "seccomp has no safe wrapper that takes flags")]

use std::io;

use seccompiler::BpfProgram;

/// Filters the system calls of the calling thread and of those it starts, for good.
///
/// # Errors
/// `EACCES` without "no new privileges", `EINVAL` for a program that the kernel does not take, `ENOSYS` without seccomp.
pub fn install(program: &BpfProgram) -> io::Result<()> {
    let len = libc::c_ushort::try_from(program.len()).map_err(io::Error::other)?;
    // The kernel only reads; the structure has no pointer to const.
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    // Kernels before 5.16 otherwise also turn speculation off, against code in this process that would spy on this
    // process. All of its code is ours, and it would be slower by a third.
    let tries = [libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW, 0];
    let mut result = Ok(());
    for flags in tries {
        // SAFETY: the program is live and as long as stated, and seccompiler's instruction has the kernel's layout.
        let rc = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
        };
        if rc == 0 {
            return Ok(());
        }
        result = Err(io::Error::last_os_error());
    }
    result
}
