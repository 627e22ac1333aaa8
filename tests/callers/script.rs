// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shell scripts that look at a network from inside, and those that serve there.

/// What there is of a network: lines as [`network`] says them.
pub(crate) const SURVEY: &str = "
    ip -o -4 addr show tap0 | grep -o 'inet [0-9./]*'
    ip -o link show tap0 | grep -o 'mtu [0-9]*'
    ip route
    grep -m1 nameserver /etc/resolv.conf";

/// What [`SURVEY`] finds where the network is `PREFIX.0/24`.
pub(crate) fn network(prefix: &str, mtu: u32) -> String {
    format!(
        "inet {prefix}.100/24
mtu {mtu}
default via {prefix}.2 dev tap0 
{prefix}.0/24 dev tap0 proto kernel scope link src {prefix}.100 
nameserver {prefix}.3
"
    )
}

/// What is reached: the server, who says what address it sees, and its DNS through the first nameserver.
pub(crate) const EXCURSION: &str = "
    curl -sS -m 20 http://203.0.113.2/ip; echo
    timeout 20 bash -c 'exec 3<>/dev/udp/203.0.113.2/11; echo >&3; head -n1 <&3'
    nameserver=$(grep -m1 nameserver /etc/resolv.conf | cut -d' ' -f2)
    dig +short +time=20 web.example @$nameserver
    curl -sS -m 20 http://203.0.113.2/5000000 | sha256sum | cut -c-16";

/// What [`EXCURSION`] finds.
pub(crate) const OUTSIDE: &str = "::ffff:203.0.113.1
203.0.113.1
198.51.100.1
4f6ebcd26daba658
";

/// What the gateway's address leads to at port 9000.
pub(crate) const LOOPBACK: &str = "
    socat -u TCP:10.0.2.2:9000 - 2>&1 | grep -o 'loopback\\|Network is unreachable'";

/// The test server.
pub(crate) const SERVE: &str = "exec python3 /mnt/server.py 0.0.0.0";

/// As which address a web server sees the client.
pub(crate) fn ask(address: &str) -> String {
    format!("curl -gsS -m 20 http://{address}/ip")
}

/// As which address a server sees the client, over UDP.
pub(crate) fn ask_over_udp(address: &str, port: u16) -> String {
    format!("timeout 20 bash -c 'exec 3<>/dev/udp/{address}/{port}; echo >&3; head -n1 <&3'")
}

/// `sh -c SCRIPT`, as words of a shell.
pub(crate) fn sh(script: &str) -> String {
    format!("sh -c '{}'", script.replace('\'', "'\\''"))
}
