// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that is needed at the start only: the code of command lines, of the kernel's messages about links, of files.
//!
//! # How it works
//! Code is a private mapping of a file that nobody writes to. The kernel takes its pages away and reads those that run again
//! from its cache, without a copy. What stays is the code that carries packets.
#![allow(unsafe_code, reason = "madvise has no safe wrapper")]

use std::fs;
use std::ops::Range;

/// Where the code of this process is.
#[derive(Debug)]
pub struct Code(Vec<Range<usize>>);

impl Code {
    /// Looks for it. To be done before the process is confined.
    #[must_use]
    pub fn find() -> Self {
        // Without /proc its pages stay, which harms nobody.
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        Self(maps.lines().filter_map(code).collect())
    }

    /// Gives back its pages. To be done when the start is over.
    pub fn release(self) {
        for Range { start, end } in self.0 {
            // SAFETY: the range is a mapping of a file that can be read and executed but not written to (see `code`), and
            // code is never unmapped. Every page of it is the file's, and will be so again when it is looked at.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
        }
    }
}

/// The addresses of a line of `/proc/self/maps` (`proc_pid_maps(5)`), if it is code of a file.
fn code(line: &str) -> Option<Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let is_code = fields.next()? == "r-xp";
    let path = fields.nth(3)?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    (is_code && path.starts_with('/')).then_some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_files_is_given_back_and_nothing_else() {
        let line = "55d0c0a5e000-55d0c10b1000 r-xp 00172000 fe:00 1180411                    /usr/bin/wharf";
        assert_eq!(code(line), Some(0x55d0_c0a5_e000..0x55d0_c10b_1000));
        for other in [
            "55d0c10b1000-55d0c10c6000 r--p 007c4000 fe:00 1180411                    /usr/bin/wharf",
            "55d0c10c6000-55d0c10c8000 rw-p 007d9000 fe:00 1180411                    /usr/bin/wharf",
            "7ffd0a9e6000-7ffd0a9e8000 r-xp 00000000 00:00 0                          [vdso]",
            "7f5c00000000-7f5c00021000 r-xp 00000000 00:00 0 ",
            "",
        ] {
            assert_eq!(code(other), None, "{other}");
        }
        // Whoever runs finds its code again.
        Code::find().release();
        assert!(code(line).is_some());
    }
}
