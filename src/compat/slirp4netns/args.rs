// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line of slirp4netns 1.3: what it asks for.
//!
//! # How it works
//! Values are checked in the order of the arguments, as callers see only the first error. Descriptors are taken over by
//! number here, before this process opens anything of its own.

use std::ffi::{OsStr, OsString};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::PathBuf;
use std::str::FromStr;

use smoltcp::wire::Ipv4Cidr;

use crate::compat::getopt::{Argument, Arguments, Spec};
use crate::compat::slirp4netns::plan;
use crate::sys::process::inherited;
use crate::sys::tun::MAX_MTU;

/// What `--help` says. Callers look whether an option is named here before they use it.
pub(super) const USAGE: &str = "\
Usage: slirp4netns [OPTION]... PID|PATH|FD [TAPNAME]
User-mode networking for network namespaces, by wharf.

-c, --configure          bring the interface up and give it addresses
-e, --exit-fd=FD         end when the other end of this descriptor is closed
-r, --ready-fd=FD        write 1 to this descriptor when the network works
-m, --mtu=BYTES          largest IP packet (default 1500, at most 65521)
-6, --enable-ipv6        IPv6 too
-a, --api-socket=PATH    listen for requests to publish ports
    --cidr=A.B.C.D/N     network of the interface (default 10.0.2.0/24)
    --disable-host-loopback
                         do not let the gateway's address lead to the host's 127.0.0.1
    --netns-type=TYPE    what names the namespace: pid (default), path, or tapfd for an open TAP
    --userns-path=PATH   user namespace that the network namespace belongs to
    --enable-sandbox     give up all files but /etc and /run, and all privileges
    --enable-seccomp     give up all system calls that are not needed
    --outbound-addr=ADDR|INTERFACE
                         address that IPv4 traffic leaves from
    --outbound-addr6=ADDR|INTERFACE
                         address that IPv6 traffic leaves from
    --disable-dns        no DNS forwarder
    --macaddress=MAC     MAC address of the interface (only with -c)
    --target-type=TYPE   what the network is for: a namespace (netns, default), or a program that connects to the
                         socket PATH and sends frames as messages (bess)
-h, --help               show this text
-v, --version            show the version
";

/// What to do.
#[derive(Debug)]
pub(super) enum Request {
    Help,
    Version,
    Serve(Box<Options>),
}

/// What the network is for.
#[derive(Debug)]
pub(super) enum Target {
    /// The network namespace of a process.
    Pid(i32),
    /// A network namespace that is bound to a path.
    Path(PathBuf),
    /// A TAP that is open.
    Tap(OwnedFd),
    /// A program that connects to a socket.
    Bess(PathBuf),
}

/// Where traffic leaves from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outbound<A> {
    Address(A),
    /// The first address of this interface.
    Interface(String),
}

impl<A: FromStr> Outbound<A> {
    fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Interface(text.to_owned()), Self::Address)
    }
}

/// A descriptor that a caller named.
#[derive(Debug)]
pub(super) enum Inherited {
    Open(OwnedFd),
    /// Nothing is open under that number.
    Closed,
}

impl Inherited {
    /// Whether it is standard output.
    pub(super) fn is_stdout(&self) -> bool {
        matches!(self, Self::Open(fd) if fd.as_raw_fd() == 1)
    }

    fn adopt(number: RawFd) -> Self {
        inherited(number).map_or(Self::Closed, Self::Open)
    }
}

/// A network and how to talk about it.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) target: Target,
    pub(super) tap_name: String,
    pub(super) userns: Option<PathBuf>,
    pub(super) configure: bool,
    pub(super) mac: Option<[u8; 6]>,
    pub(super) mtu_bytes: usize,
    pub(super) cidr: Ipv4Cidr,
    pub(super) ipv6: bool,
    pub(super) dns: bool,
    pub(super) host_loopback: bool,
    pub(super) outbound4: Option<Outbound<Ipv4Addr>>,
    pub(super) outbound6: Option<Outbound<Ipv6Addr>>,
    pub(super) api_socket: Option<PathBuf>,
    pub(super) exit: Option<Inherited>,
    pub(super) ready: Option<Inherited>,
    pub(super) sandbox: bool,
    pub(super) seccomp: bool,
    /// What to tell beside.
    pub(super) warnings: Vec<&'static str>,
}

/// Why the arguments cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// To be followed by the usage.
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Value(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Configure,
    ExitFd,
    ReadyFd,
    Mtu,
    Ipv6,
    ApiSocket,
    Cidr,
    NoHostLoopback,
    NetnsType,
    UsernsPath,
    Sandbox,
    Seccomp,
    Outbound4,
    Outbound6,
    NoDns,
    Mac,
    TargetType,
    Help,
    Version,
    OldNoHostLoopback,
    OldSandbox,
}

const fn flag(long: &'static str, short: Option<u8>, meaning: Meaning) -> Spec<Meaning> {
    Spec { long, short, has_value: false, meaning }
}

const fn value(long: &'static str, short: Option<u8>, meaning: Meaning) -> Spec<Meaning> {
    Spec { long, short, has_value: true, meaning }
}

const SPECS: &[Spec<Meaning>] = &[
    flag("configure", Some(b'c'), Meaning::Configure),
    value("exit-fd", Some(b'e'), Meaning::ExitFd),
    value("ready-fd", Some(b'r'), Meaning::ReadyFd),
    value("mtu", Some(b'm'), Meaning::Mtu),
    flag("enable-ipv6", Some(b'6'), Meaning::Ipv6),
    value("api-socket", Some(b'a'), Meaning::ApiSocket),
    value("cidr", None, Meaning::Cidr),
    flag("disable-host-loopback", None, Meaning::NoHostLoopback),
    value("netns-type", None, Meaning::NetnsType),
    value("userns-path", None, Meaning::UsernsPath),
    flag("enable-sandbox", None, Meaning::Sandbox),
    flag("enable-seccomp", None, Meaning::Seccomp),
    value("outbound-addr", None, Meaning::Outbound4),
    value("outbound-addr6", None, Meaning::Outbound6),
    flag("disable-dns", None, Meaning::NoDns),
    value("macaddress", None, Meaning::Mac),
    value("target-type", None, Meaning::TargetType),
    flag("help", Some(b'h'), Meaning::Help),
    flag("version", Some(b'v'), Meaning::Version),
    flag("no-host-loopback", None, Meaning::OldNoHostLoopback),
    flag("create-sandbox", None, Meaning::OldSandbox),
];

/// Bytes of an interface's name; longer ones are cut.
const MAX_NAME: usize = 15;
/// Bytes of a unix socket's path, its end included.
const MAX_SOCKET_PATH: usize = 108;

/// What is collected while the arguments are read; the target is known only in the end.
struct Draft {
    options: Options,
    netns_type: Option<String>,
    target_type: Option<String>,
    exit: Option<RawFd>,
    ready: Option<RawFd>,
    operands: Vec<OsString>,
}

/// Reads the arguments, without the program's own name.
pub(super) fn parse(args: impl Iterator<Item = OsString>) -> Result<Request, Error> {
    let mut draft = Draft::new();
    for argument in Arguments::new(SPECS, args) {
        match argument.map_err(|error| Error::Usage(format!("slirp4netns: {error}")))? {
            Argument::Operand(word) => draft.operands.push(word),
            Argument::Option(Meaning::Help, _) => return Ok(Request::Help),
            Argument::Option(Meaning::Version, _) => return Ok(Request::Version),
            Argument::Option(meaning, value) => draft.take(meaning, &value.unwrap_or_default())?,
        }
    }
    draft.finish().map(|options| Request::Serve(Box::new(options)))
}

impl Draft {
    fn new() -> Self {
        let options = Options {
            target: Target::Pid(0),
            tap_name: String::new(),
            userns: None,
            configure: false,
            mac: None,
            mtu_bytes: 1500,
            cidr: plan::DEFAULT_CIDR,
            ipv6: false,
            dns: true,
            host_loopback: true,
            outbound4: None,
            outbound6: None,
            api_socket: None,
            exit: None,
            ready: None,
            sandbox: false,
            seccomp: false,
            warnings: Vec::new(),
        };
        Self { options, netns_type: None, target_type: None, exit: None, ready: None, operands: Vec::new() }
    }

    fn take(&mut self, meaning: Meaning, value: &OsStr) -> Result<(), Error> {
        let options = &mut self.options;
        match meaning {
            Meaning::Configure => options.configure = true,
            Meaning::ExitFd => self.exit = Some(descriptor("exit-fd", value)?),
            Meaning::ReadyFd => self.ready = Some(descriptor("ready-fd", value)?),
            Meaning::Mtu => options.mtu_bytes = mtu(value)?,
            Meaning::Ipv6 => {
                options.ipv6 = true;
                options.warnings.push("Support for IPv6 is experimental");
            }
            Meaning::ApiSocket => options.api_socket = Some(socket_path(value)?),
            Meaning::Cidr => options.cidr = plan::cidr(&value.to_string_lossy()).map_err(Error::Value)?,
            Meaning::NoHostLoopback => options.host_loopback = false,
            Meaning::NetnsType => self.netns_type = Some(value.to_string_lossy().into_owned()),
            Meaning::UsernsPath => options.userns = Some(userns_path(value)?),
            Meaning::Sandbox => options.sandbox = true,
            Meaning::Seccomp => options.seccomp = true,
            Meaning::Outbound4 => options.outbound4 = Some(Outbound::parse(&value.to_string_lossy())),
            Meaning::Outbound6 => options.outbound6 = Some(Outbound::parse(&value.to_string_lossy())),
            Meaning::NoDns => options.dns = false,
            Meaning::Mac => options.mac = Some(mac(&value.to_string_lossy())?),
            Meaning::TargetType => self.target_type = Some(value.to_string_lossy().into_owned()),
            Meaning::OldNoHostLoopback => {
                options.host_loopback = false;
                options.warnings.push("--no-host-loopback is deprecated, use --disable-host-loopback");
            }
            Meaning::OldSandbox => {
                options.sandbox = true;
                options.warnings.push("--create-sandbox is deprecated, use --enable-sandbox");
            }
            // `parse` returns at these.
            Meaning::Help | Meaning::Version => {}
        }
        Ok(())
    }

    /// Understands the operands, which is possible only when all options are known.
    fn finish(mut self) -> Result<Options, Error> {
        let is_bess = self.is_bess()?;
        if self.options.mac.is_some() && !self.options.configure {
            return Err(Error::Usage("--macaddress can only be used with --configure".to_owned()));
        }
        let mut operands = std::mem::take(&mut self.operands).into_iter();
        let missing = |what: &str| Error::Usage(format!("{what} is missing"));
        let target = operands.next().ok_or_else(|| missing("the target's PID, PATH or FD"))?;
        // The ready descriptor is closed when it is written to: nothing is open then where both are the same.
        let exit = if self.exit == self.ready {
            self.exit.map(|_| Inherited::Closed)
        } else {
            self.exit.map(Inherited::adopt)
        };
        (self.options.exit, self.options.ready) = (exit, self.ready.map(Inherited::adopt));
        self.options.target = if is_bess { Target::Bess(socket_path(&target)?) } else { self.netns(target)? };
        if matches!(self.options.target, Target::Pid(_) | Target::Path(_)) {
            let name = operands.next().ok_or_else(|| missing("TAPNAME"))?.to_string_lossy().into_owned();
            self.options.tap_name = name.chars().take(MAX_NAME).collect();
        }
        if operands.next().is_some() {
            if is_bess {
                return Err(Error::Usage("too many arguments".to_owned()));
            }
            self.options.warnings.push("too many arguments");
        }
        Ok(self.options)
    }

    /// Whether the network is for a program that connects, and not for a namespace.
    fn is_bess(&mut self) -> Result<bool, Error> {
        match self.target_type.as_deref() {
            None | Some("netns") => return Ok(false),
            Some("bess") => {}
            Some(other) => {
                return Err(Error::Usage(format!("--target-type must be netns or bess, not {other}")));
            }
        }
        let of_namespaces = [
            (self.options.configure, "--configure"),
            (self.netns_type.is_some(), "--netns-type"),
            (self.options.userns.is_some(), "--userns-path"),
        ];
        if let Some((_, option)) = of_namespaces.into_iter().find(|(is_given, _)| *is_given) {
            return Err(Error::Usage(format!("{option} conflicts with --target-type=bess")));
        }
        self.options.warnings.push("BESS mode is experimental");
        Ok(true)
    }

    /// The namespace that the operand names.
    fn netns(&self, operand: OsString) -> Result<Target, Error> {
        let number = operand.to_string_lossy().parse::<i32>().ok().filter(|&number| number >= 0);
        let is_taken = number.is_some_and(|number| [self.exit, self.ready].contains(&Some(number)));
        Ok(match self.netns_type.as_deref() {
            None | Some("pid") => {
                let pid = number.filter(|&pid| pid > 0);
                Target::Pid(pid.ok_or_else(|| Error::Usage("PID must be a positive integer".to_owned()))?)
            }
            Some("tapfd") => {
                let tap = number.filter(|_| !is_taken).and_then(inherited);
                Target::Tap(tap.ok_or_else(|| Error::Value("FD must be an open file descriptor".to_owned()))?)
            }
            Some(_) => Target::Path(operand.into()),
        })
    }
}

fn descriptor(option: &str, value: &OsStr) -> Result<RawFd, Error> {
    let number = value.to_str().and_then(|text| text.parse().ok()).filter(|&number: &RawFd| number >= 0);
    number.ok_or_else(|| Error::Usage(format!("{option} must be a non-negative integer")))
}

fn mtu(value: &OsStr) -> Result<usize, Error> {
    let number = value.to_str().and_then(|text| text.parse().ok());
    number
        .filter(|bytes| (1..=MAX_MTU).contains(bytes))
        .ok_or_else(|| Error::Usage(format!("MTU must be a positive integer (< {})", MAX_MTU + 1)))
}

fn socket_path(value: &OsStr) -> Result<PathBuf, Error> {
    if value.len() >= MAX_SOCKET_PATH {
        return Err(Error::Value(format!("the socket's path must have less than {MAX_SOCKET_PATH} bytes")));
    }
    Ok(value.into())
}

fn userns_path(value: &OsStr) -> Result<PathBuf, Error> {
    let path = PathBuf::from(value);
    if !path.exists() {
        return Err(Error::Value(format!("userns path doesn't exist: {}", path.display())));
    }
    Ok(path)
}

fn mac(text: &str) -> Result<[u8; 6], Error> {
    let mut mac = [0; 6];
    let mut groups = text.split(':');
    for byte in &mut mac {
        let group = groups.next().filter(|group| (1..=2).contains(&group.len()));
        *byte = group
            .and_then(|group| u8::from_str_radix(group, 16).ok())
            .ok_or_else(|| Error::Usage(format!("{text} is no MAC address")))?;
    }
    if groups.next().is_some() {
        return Err(Error::Usage(format!("{text} is no MAC address")));
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str) -> Result<Request, Error> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[track_caller]
    fn options(line: &str) -> Options {
        match request(line) {
            Ok(Request::Serve(options)) => *options,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[track_caller]
    fn error(line: &str) -> String {
        request(line).expect_err(line).to_string()
    }

    #[test]
    fn the_arguments_of_the_usual_callers_are_understood() {
        let podman = options(
            "--disable-host-loopback --mtu=65520 --enable-sandbox --enable-seccomp --enable-ipv6 -c -e 1003 -r 1004 --netns-type=path /run/netns/x tap0",
        );
        assert!(!podman.host_loopback && podman.sandbox && podman.seccomp && podman.ipv6 && podman.configure);
        assert_eq!((podman.mtu_bytes, podman.tap_name.as_str()), (65_520, "tap0"));
        assert!(matches!(podman.target, Target::Path(path) if path == std::path::Path::new("/run/netns/x")));
        assert!(matches!((podman.exit, podman.ready), (Some(Inherited::Closed), Some(Inherited::Closed))));
        let rootlesskit = options(
            "--mtu 65520 -r 1003 --disable-host-loopback --cidr 10.7.7.0/24 --api-socket /run/s 42 tap0",
        );
        assert_eq!((rootlesskit.cidr.to_string().as_str(), rootlesskit.configure), ("10.7.7.0/24", false));
        assert!(matches!(rootlesskit.target, Target::Pid(42)));
        let buildah = options("--mtu 65520 -r 1003 -c 42 tap0");
        assert!(buildah.host_loopback && buildah.dns && !buildah.ipv6 && buildah.warnings.is_empty());
        let tests = options("-c 42 --api-socket /run/x tap11 10/dev/fd/63");
        assert_eq!((tests.tap_name.as_str(), &tests.warnings[..]), ("tap11", &["too many arguments"][..]));
    }

    #[test]
    fn what_is_not_asked_for_is_as_documented() {
        let plain = options("42 tap0");
        assert_eq!((plain.mtu_bytes, plain.cidr.to_string().as_str()), (1500, "10.0.2.0/24"));
        assert!(!plain.configure && !plain.ipv6 && !plain.sandbox && !plain.seccomp && plain.dns);
        assert!(plain.exit.is_none() && plain.ready.is_none() && plain.api_socket.is_none());
        assert!(plain.outbound4.is_none() && plain.outbound6.is_none() && plain.mac.is_none());
    }

    #[test]
    fn values_are_taken_as_they_are_meant() {
        let some = options(
            "-c --macaddress 52:54:0:ab:CD:ef --outbound-addr 192.0.2.1 --outbound-addr6 eth1 --disable-dns 1 averyveryverylongname",
        );
        assert_eq!(some.mac, Some([0x52, 0x54, 0, 0xab, 0xcd, 0xef]));
        assert_eq!(some.outbound4, Some(Outbound::Address(Ipv4Addr::new(192, 0, 2, 1))));
        assert_eq!(some.outbound6, Some(Outbound::Interface("eth1".to_owned())));
        assert_eq!((some.dns, some.tap_name.as_str()), (false, "averyveryverylo"));
        let old = options("--no-host-loopback --create-sandbox --netns-type=anything /x tap0");
        assert!(!old.host_loopback && old.sandbox && old.warnings.len() == 2);
        assert!(matches!(old.target, Target::Path(_)));
    }

    #[test]
    fn errors_are_in_the_words_that_callers_look_for() {
        let long = format!("-a /{} 1 tap0", "x".repeat(107));
        for (line, expected) in [
            ("", "the target's PID, PATH or FD is missing"),
            ("42", "TAPNAME is missing"),
            ("x tap0", "PID must be a positive integer"),
            ("0 tap0", "PID must be a positive integer"),
            ("-m 0 1 tap0", "MTU must be a positive integer (< 65522)"),
            ("--mtu=65522 1 tap0", "MTU must be a positive integer (< 65522)"),
            ("-m x 1 tap0", "MTU must be a positive integer (< 65522)"),
            ("-e x 1 tap0", "exit-fd must be a non-negative integer"),
            ("--ready-fd=-1 1 tap0", "ready-fd must be a non-negative integer"),
            ("--macaddress 2:0:0:0:0:1 1 tap0", "--macaddress can only be used with --configure"),
            ("-c --macaddress 2:0:0 1 tap0", "2:0:0 is no MAC address"),
            ("--userns-path /nonexistent 1 tap0", "userns path doesn't exist: /nonexistent"),
            ("--target-type=vm 1 tap0", "--target-type must be netns or bess, not vm"),
            ("--target-type=bess", "the target's PID, PATH or FD is missing"),
            ("--target-type=bess /x tap0", "too many arguments"),
            ("--target-type=bess -c /x", "--configure conflicts with --target-type=bess"),
            ("--target-type=bess --netns-type=pid /x", "--netns-type conflicts with --target-type=bess"),
            ("--target-type=bess --userns-path=/ /x", "--userns-path conflicts with --target-type=bess"),
            ("--cidr 10.0.2.100/26 1 tap0", "prefix length needs to be 1-25"),
            ("--netns-type=tapfd 1003", "FD must be an open file descriptor"),
            ("--bogus", "slirp4netns: unrecognized option '--bogus'"),
            (&long, "the socket's path must have less than 108 bytes"),
        ] {
            assert_eq!(error(line), expected, "{line}");
        }
    }

    #[test]
    fn help_and_version_win_over_what_follows_them() {
        assert!(matches!(request("-c --help --bogus"), Ok(Request::Help)));
        assert!(matches!(request("-cv"), Ok(Request::Version)));
        assert!(request("--bogus --help").is_err());
    }

    #[test]
    fn every_option_is_in_the_usage() {
        for spec in SPECS
            .iter()
            .filter(|spec| !matches!(spec.meaning, Meaning::OldNoHostLoopback | Meaning::OldSandbox))
        {
            assert!(USAGE.contains(&format!("--{}", spec.long)), "{}", spec.long);
        }
    }
}
