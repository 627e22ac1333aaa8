// SPDX-License-Identifier: MIT OR Apache-2.0
//! Networks that cannot be had: callers fail, and tell why in the helper's words.

use super::host::with_each_helper;

#[test]
fn podman_tells_what_the_helper_does_not_take() {
    with_each_helper(|host| {
        let host = host.with_image();
        for (option, words) in [
            ("mtu=65522", "MTU must be a positive integer (< 65522)"),
            ("cidr=10.0.2.0/26", "prefix length needs to be 1-25"),
            (
                "cidr=10.0.2.100/24",
                "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24",
            ),
        ] {
            let run = format!("podman run --rm --network slirp4netns:{option} localhost/image true");
            let refused = host.by_user(&run);
            assert_eq!(refused.status, Some(126), "{option}: {refused:?}");
            assert!(refused.stderr.contains("/mnt/bin/slirp4netns failed"), "{option}: {refused:?}");
            assert!(refused.stderr.contains(words), "{option}: {refused:?}");
            assert_eq!(host.helpers(), 0);
        }
    });
}

#[test]
fn podman_tells_that_there_are_no_taps() {
    with_each_helper(|host| {
        let host = host.with_image();
        host.as_root("mount --bind /dev/null /dev/net/tun").text();
        let refused = host.by_user("podman run --rm --network slirp4netns localhost/image true");
        assert_eq!(refused.status, Some(126), "{refused:?}");
        for words in [
            "/mnt/bin/slirp4netns failed",
            "ioctl(TUNSETIFF): Inappropriate ioctl for device",
            "child failed(1)",
        ] {
            assert!(refused.stderr.contains(words), "{refused:?}");
        }
    });
}

#[test]
fn rootlesskit_tells_what_the_helper_does_not_take() {
    with_each_helper(|host| {
        let refused = host.by_user("rootlesskit --debug --net=slirp4netns --cidr=10.7.7.0/26 true");
        assert_eq!(refused.status, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("prefix length needs to be 1-25"), "{refused:?}");
        assert!(refused.stderr.contains("slirp4netns failed"), "{refused:?}");
    });
}
