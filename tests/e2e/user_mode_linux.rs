// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel in a process (user-mode Linux), attached by a socket whose messages are frames.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::lab::{Finished, Lab, scratch, server_stream};

const OURS: &str = "$WHARF slirp4netns";
const THEIRS: &str = "/usr/bin/slirp4netns";

/// Boots user-mode Linux with `script` for its first process, behind a gateway of `program` with these options. What
/// the script prints between two marks is the output; what the gateway says of its own end follows.
fn boot(lab: &Lab, program: &str, options: &str, name: &str, script: &str) -> Finished {
    let directory = scratch().join(format!("uml-{name}"));
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    let init = directory.join("init");
    let text = format!(
        "#!/bin/sh
         mount -t proc proc /proc; mount -t tmpfs none /run; mount -t tmpfs none /tmp
         ip link set lo up; ip link set vec0 up
         echo '<<<'; {{ {script}; }} 2>&1; echo '>>>'
         busybox poweroff -f"
    );
    fs::write(&init, text).unwrap();
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).unwrap();
    let (directory, init) = (directory.display(), init.display());
    lab.by_user(&format!(
        "export HOME={directory} TMPDIR={directory}
         {program} --target-type=bess {options} {directory}/socket >/dev/null 2>{directory}/log & gateway=$!
         until [ -S {directory}/socket ]; do sleep 0.05; done
         timeout -k 1 45 linux.uml mem=96M vec0:transport=bess,dst={directory}/socket,depth=128 root=/dev/root rootfstype=hostfs ro \\
             init={init} quiet con=null con0=null,fd:1 </dev/null 2>&1 | tr -d '\\r' | sed -n '/^<<<$/,/^>>>$/p' | sed '1d;$d'
         [ '{program}' = {THEIRS} ] && kill $gateway
         wait $gateway; echo \"status $?\" >>{directory}/log; ls {directory}/socket >>{directory}/log 2>&1
         cat {directory}/log >&2"
    ))
}

#[test]
fn it_is_configured_by_dhcp_and_reaches_the_gateway() {
    let lab = Lab::new();
    let lease = "echo '#!/bin/sh\n[ \"$1\" != bound ] || { ip addr add $ip/$mask dev vec0; echo $ip/$mask $router $dns; }' >/tmp/lease
        chmod +x /tmp/lease; udhcpc -f -q -n -i vec0 -s /tmp/lease 2>/dev/null
        ping -c1 -W5 10.0.2.2 | grep -o '1 received'";
    for (program, name) in [(OURS, "dhcp-ours"), (THEIRS, "dhcp-theirs")] {
        let seen = boot(&lab, program, "", name, lease);
        assert_eq!(seen.text(), "10.0.2.15/24 10.0.2.2 10.0.2.3\n1 received\n", "{program} {seen:?}");
    }
}

#[test]
fn streams_arrive_unchanged_both_ways_and_its_end_is_the_gateways() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let size = 20_000_000;
    let digest = server_stream(&lab, size);
    let script = format!(
        "ip addr add 10.0.2.100/24 dev vec0; ip route add default via 10.0.2.2
         curl -sS http://198.51.100.1/{size} >/tmp/stream; sha256sum </tmp/stream
         curl -sS -T /tmp/stream http://198.51.100.1/; echo"
    );
    let seen = boot(&lab, OURS, "--enable-sandbox --enable-seccomp", "streams", &script);
    assert_eq!(seen.text(), format!("{digest}  -\n{digest}\n"), "{seen:?}");
    for words in
        ["Waiting for connection to", "the guest has closed its connection", "status 0", "No such file"]
    {
        assert!(seen.stderr.contains(words), "{words}: {seen:?}");
    }
}

#[test]
fn it_speaks_ipv6_as_the_gateway_advertises_it() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let script = "cd /usr/lib/uml/modules/$(uname -r)/kernel
        for module in lib/crc-ccitt net/ipv6/ipv6; do busybox insmod $module.ko; done
        until ip -6 addr show dev vec0 scope global -tentative | grep -q fd00: ; do sleep 0.1; done
        curl -sS -g 'http://[2001:db8:2::1]/1000' | wc -c";
    let seen = boot(&lab, OURS, "--enable-ipv6", "ipv6", script);
    assert_eq!(seen.text(), "1000\n", "{seen:?}");
}
