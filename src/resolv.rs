// SPDX-License-Identifier: MIT OR Apache-2.0
//! resolv.conf: what the host's says, and what the sandbox's shall say.
//!
//! # Sources
//! `resolv.conf(5)`: comments start in the first column with `#` or `;`; of several `search` and `domain` lines the
//! last one counts.

pub mod follow;
pub mod mount;
pub mod watch;

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use wharf_stack::local::dns;

/// Where resolvers look.
pub const PATH: &str = "/etc/resolv.conf";

/// The parts of a resolv.conf that matter to a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Servers in order of preference.
    pub nameservers: Vec<SocketAddr>,
    /// The search list.
    pub search: Vec<String>,
    /// Options such as `ndots:2`, as written.
    pub options: Vec<String>,
}

/// Reads a file that may not keep its reader waiting, as a FIFO would.
fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Bytes of a resolv.conf that are read; the C library takes no more than a few lines.
const LARGEST_FILE: u64 = 1 << 20;

impl ResolvConf {
    /// Reads and parses a file; a missing one is an empty one.
    ///
    /// # Errors
    /// The file exists but cannot be read.
    pub fn read(path: &Path) -> io::Result<Self> {
        match read_regular(path) {
            Ok(bytes) => Ok(Self::parse(&String::from_utf8_lossy(&bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Parses the text of a resolv.conf; what is not understood is passed over, as resolvers do.
    ///
    /// Link-local servers with a scope (`fe80::1%eth0`) are left out: the scope means an interface of the host that
    /// a plain socket address cannot name for long.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            if line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let Some(word) = words.next() else { continue };
                    match word.parse::<IpAddr>() {
                        Ok(address) => conf.nameservers.push(SocketAddr::new(address, dns::PORT)),
                        Err(_) => tracing::debug!(server = word, "nameserver passed over"),
                    }
                }
                Some("search") => conf.search = words.map(str::to_owned).collect(),
                Some("domain") => conf.search = words.take(1).map(str::to_owned).collect(),
                Some("options") => conf.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        conf
    }
}

/// The directories where the host's resolv.conf is and may be.
#[must_use]
pub fn directories() -> Vec<PathBuf> {
    let mut directories = watch::directories(Path::new(PATH));
    // A link to everywhere would be no fence.
    directories.retain(|directory| directory.parent().is_some());
    directories.extend(
        ["/etc", "/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager"].map(PathBuf::from),
    );
    directories
}

/// The text of the sandbox's resolv.conf.
#[must_use]
pub fn render(nameserver: Option<IpAddr>, search: &[String], options: &[String]) -> String {
    let mut text = String::from("# Made by wharf: the gateway asks the host's nameservers.\n");
    if let Some(address) = nameserver {
        let _ = writeln!(text, "nameserver {address}");
    }
    for (keyword, words) in [("search", search), ("options", options)] {
        if !words.is_empty() {
            let _ = writeln!(text, "{keyword} {}", words.join(" "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_search_and_options_are_read_in_order() {
        let conf = ResolvConf::parse(
            "# comment\n;nameserver 192.0.2.9\nnameserver 192.0.2.1\nnameserver\t2001:db8::1 trailing\n\
             search a.example b.example\noptions ndots:2\noptions edns0 rotate\n",
        );
        let servers: Vec<String> = conf.nameservers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53"]);
        assert_eq!(conf.search, ["a.example", "b.example"]);
        assert_eq!(conf.options, ["ndots:2", "edns0", "rotate"]);
    }

    #[test]
    fn the_last_of_search_and_domain_counts() {
        assert_eq!(ResolvConf::parse("search a b\ndomain c ignored\n").search, ["c"]);
        assert_eq!(ResolvConf::parse("domain c\nsearch a b\n").search, ["a", "b"]);
    }

    #[test]
    fn scoped_and_broken_servers_are_left_out_and_loopback_is_kept() {
        let conf = ResolvConf::parse(
            "nameserver fe80::1%eth0\nnameserver nonsense\nnameserver 127.0.0.53\n nameserver 192.0.2.7",
        );
        let servers: Vec<String> = conf.nameservers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["127.0.0.53:53", "192.0.2.7:53"]);
    }

    #[test]
    fn a_missing_file_is_empty_and_a_directory_is_an_error() {
        assert_eq!(ResolvConf::read(Path::new("/nonexistent/resolv.conf")).unwrap(), ResolvConf::default());
        assert!(ResolvConf::read(Path::new("/")).is_err());
    }

    #[test]
    fn rendered_text_is_read_back_the_same() {
        let search = ["a.example".to_owned()];
        let options = ["ndots:2".to_owned()];
        let conf = ResolvConf::parse(&render(Some([192, 0, 2, 3].into()), &search, &options));
        assert_eq!(conf.nameservers, [SocketAddr::from(([192, 0, 2, 3], 53))]);
        assert_eq!((conf.search.as_slice(), conf.options.as_slice()), (&search[..], &options[..]));
    }
}
