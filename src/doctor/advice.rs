// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is wrong and what mends it: the words that `wharf doctor` and the errors of `wharf run` share.

use std::fmt;
use std::fs;
use std::io;

use crate::netns::DeviceChoice;

/// A problem of the machine's set-up, and the command or change that mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What is wrong.
    pub problem: String,
    /// What mends it.
    pub remedy: String,
}

impl Advice {
    fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { problem: problem.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; to mend it: {}", self.problem, self.remedy)
    }
}

/// A kernel setting, if this kernel has it.
fn sysctl(name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?;
    Some(text.trim().replace('\t', " "))
}

/// The settings that decide over user namespaces.
#[derive(Clone, Debug, Default)]
struct Policy {
    /// `user.max_user_namespaces`
    max: Option<String>,
    /// `kernel.unprivileged_userns_clone` (Debian's kernels)
    unprivileged: Option<String>,
    /// `kernel.apparmor_restrict_unprivileged_userns` (Ubuntu's kernels)
    apparmor: Option<String>,
}

impl Policy {
    fn current() -> Self {
        Self {
            max: sysctl("user.max_user_namespaces"),
            unprivileged: sysctl("kernel.unprivileged_userns_clone"),
            apparmor: sysctl("kernel.apparmor_restrict_unprivileged_userns"),
        }
    }

    fn advice(&self) -> Option<Advice> {
        if self.max.as_deref() == Some("0") {
            return Some(Advice::new(
                "user namespaces are turned off (user.max_user_namespaces is 0)",
                "sudo sysctl -w user.max_user_namespaces=15000",
            ));
        }
        if self.unprivileged.as_deref() == Some("0") {
            return Some(Advice::new(
                "user namespaces are for root only (kernel.unprivileged_userns_clone is 0)",
                "sudo sysctl -w kernel.unprivileged_userns_clone=1",
            ));
        }
        if self.apparmor.as_deref().is_some_and(|value| value != "0") {
            return Some(Advice::new(
                "AppArmor takes all rights from user namespaces of programs without a profile \
                 (kernel.apparmor_restrict_unprivileged_userns is 1)",
                "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or a profile for wharf with `userns,`",
            ));
        }
        None
    }
}

/// `clone` refused the sandbox's namespaces.
#[must_use]
pub fn namespaces(error: &io::Error) -> Advice {
    namespaces_under(&Policy::current(), error)
}

fn namespaces_under(policy: &Policy, error: &io::Error) -> Advice {
    if let Some(advice) = policy.advice() {
        return advice;
    }
    match error.raw_os_error() {
        Some(libc::EPERM) => Advice::new(
            "creating a user namespace is not permitted: a seccomp filter or a chroot forbids it",
            "in Docker or Podman give the outer container --security-opt seccomp=unconfined (or a profile that \
             allows clone and unshare with CLONE_NEWUSER); do not run wharf in a chroot",
        ),
        Some(libc::ENOSPC | libc::EUSERS) => Advice::new(
            "too many namespaces exist already, or they are nested too deeply",
            "end other sandboxes, or raise the user.max_*_namespaces settings",
        ),
        Some(libc::EINVAL) => Advice::new(
            "this kernel lacks user, network or PID namespaces",
            "use a kernel with CONFIG_USER_NS, CONFIG_NET_NS and CONFIG_PID_NS",
        ),
        _ => Advice::new(
            format!("cannot create namespaces: {error}"),
            "strace -f wharf run true shows the call that failed",
        ),
    }
}

/// The device could not be made. Where both kinds were tried the error is the TAP's.
#[must_use]
pub fn device(error: &io::Error, choice: DeviceChoice) -> Advice {
    match (error.raw_os_error(), Policy::current().advice()) {
        (Some(libc::EPERM), Some(advice)) => advice,
        _ if choice == DeviceChoice::Tap => {
            let tap = tap(error);
            Advice::new(tap.problem, format!("{}; or leave out --device tap", tap.remedy))
        }
        _ if choice == DeviceChoice::Veth => Advice::new(
            format!("the kernel makes no veth pair: {error}"),
            "sudo modprobe veth; or leave out --device veth",
        ),
        _ => {
            let tap = tap(error);
            let problem = format!("{}, and the kernel makes no veth pair either", tap.problem);
            Advice::new(problem, format!("{}; or sudo modprobe veth", tap.remedy))
        }
    }
}

/// No TAP.
#[must_use]
pub fn tap(error: &io::Error) -> Advice {
    match error.raw_os_error() {
        Some(libc::ENOENT) => Advice::new(
            "there is no /dev/net/tun",
            "sudo modprobe tun; in Docker or Podman give the outer container --device /dev/net/tun",
        ),
        Some(libc::EACCES) => {
            Advice::new("/dev/net/tun may not be opened by this user", "sudo chmod 0666 /dev/net/tun")
        }
        Some(libc::ENODEV | libc::ENXIO) => {
            Advice::new("/dev/net/tun has no driver behind it", "sudo modprobe tun")
        }
        Some(libc::EPERM) => Advice::new(
            "opening /dev/net/tun or making a TAP with it is not permitted",
            "in Docker or Podman give the outer container --device /dev/net/tun",
        ),
        _ => Advice::new(format!("no TAP device can be made: {error}"), "sudo modprobe tun"),
    }
}

/// No unprivileged echo sockets.
#[must_use]
pub fn echo(error: &io::Error) -> Advice {
    Advice::new(
        format!(
            "echo requests to the outside stay unanswered: this user may not open ping sockets ({error}; \
             net.ipv4.ping_group_range is {})",
            sysctl("net.ipv4.ping_group_range").unwrap_or_else(|| "unknown".to_owned())
        ),
        "sudo sysctl -w net.ipv4.ping_group_range='0 2147483647'",
    )
}

/// Few descriptors.
#[must_use]
pub fn open_files(limit: u64) -> Advice {
    Advice::new(
        format!("at most {limit} files may be open, so about as many flows"),
        "raise the hard limit: LimitNOFILE= of the systemd unit, or `* hard nofile 524288` in /etc/security/limits.conf",
    )
}

/// The host gave no socket for a flow.
#[must_use]
pub fn sockets(limit: u64) -> Advice {
    Advice::new(
        format!(
            "a flow was refused: the host gave no socket (wharf may open {limit} files, and the host has a limited \
             number of ports)"
        ),
        "raise the hard limit of open files: LimitNOFILE= of the systemd unit, or `* hard nofile 524288` in \
         /etc/security/limits.conf",
    )
}

/// The relay holds all it may.
#[must_use]
pub fn memory(bytes: usize) -> Advice {
    Advice::new(
        format!("streams are slowed down: what is on its way has used up the {bytes} bytes of --memory"),
        "give wharf run a larger --memory",
    )
}

/// The sandbox shows the host's processes.
#[must_use]
pub fn proc_mount(error: &io::Error) -> Advice {
    Advice::new(
        format!("the sandbox gets no /proc of its own ({error}): its ps shows the host's processes"),
        "in Docker give the outer container --security-opt systempaths=unconfined, in Podman --security-opt unmask=ALL",
    )
}

/// Old kernel.
#[must_use]
pub fn kernel(release: &str, wanted: &str) -> Advice {
    Advice::new(format!("Linux {release} is older than {wanted}"), format!("use Linux {wanted} or newer"))
}

/// The device splits and sums what the gateway could.
#[must_use]
pub fn offloads() -> Advice {
    Advice::new(
        "the TAP driver takes no segmentation offload: throughput is a fraction of what it could be",
        "use a kernel whose TUN driver supports TUN_F_TSO4 and TUN_F_TSO6",
    )
}

/// Nobody to ask for names.
#[must_use]
pub fn nameservers() -> Advice {
    Advice::new(
        "/etc/resolv.conf names no server: names do not resolve in the sandbox",
        "name one there, or give wharf run --dns ADDR",
    )
}

/// No IPv6.
#[must_use]
pub fn ipv6() -> Advice {
    Advice::new("this kernel has no IPv6: neither have sandboxes", "boot without ipv6.disable=1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno(errno: i32) -> io::Error {
        io::Error::from_raw_os_error(errno)
    }

    #[test]
    fn a_setting_that_forbids_namespaces_is_named_with_the_command_that_changes_it() {
        let off = |text: &str| Some(text.to_owned());
        let cases = [
            (Policy { max: off("0"), ..Policy::default() }, "user.max_user_namespaces=15000"),
            (Policy { unprivileged: off("0"), ..Policy::default() }, "kernel.unprivileged_userns_clone=1"),
            (Policy { apparmor: off("1"), ..Policy::default() }, "apparmor_restrict_unprivileged_userns=0"),
        ];
        for (policy, remedy) in cases {
            let advice = namespaces_under(&policy, &errno(libc::EPERM));
            assert!(advice.remedy.contains(remedy), "{advice}");
        }
    }

    #[test]
    fn settings_that_permit_namespaces_leave_the_blame_to_the_error() {
        let on = |text: &str| Some(text.to_owned());
        let policy = Policy { max: on("100"), unprivileged: on("1"), apparmor: on("0") };
        assert!(namespaces_under(&policy, &errno(libc::EPERM)).problem.contains("seccomp"));
        assert!(namespaces_under(&policy, &errno(libc::ENOSPC)).problem.contains("too many"));
    }

    #[test]
    fn each_way_to_lack_a_tap_has_its_own_remedy() {
        assert!(tap(&errno(libc::ENOENT)).remedy.contains("modprobe tun"));
        assert!(tap(&errno(libc::EACCES)).remedy.contains("chmod 0666 /dev/net/tun"));
        assert!(device(&errno(libc::EACCES), DeviceChoice::Best).problem.contains("veth"));
        assert!(!device(&errno(libc::EACCES), DeviceChoice::Tap).problem.contains("veth"));
    }
}
