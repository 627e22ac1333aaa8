// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the command finds around it: processes, descriptors, signals, limits, ids, names, addresses.

use std::fs;

use super::caller::{NOBODY, binary, finish, inside, is_root, outside, scratch, uid, wharf_run};

#[test]
fn command_is_process_2_and_sees_only_init_and_itself() {
    let finished = inside(&[], "echo $$; cat /proc/1/comm; ls -d /proc/[0-9]*");
    let lines: Vec<&str> = finished.text().lines().collect();
    assert_eq!(lines.get(..4), Some(&["2", "wharf-init", "/proc/1", "/proc/2"][..]), "{lines:?}");
}

#[test]
fn only_standard_descriptors_are_open_in_the_command() {
    let finished = outside("exec 7</etc/passwd; $WHARF run -- ls /proc/self/fd");
    // 3 is the directory that ls reads.
    assert_eq!(finished.text(), "0\n1\n2\n3\n");
}

#[test]
fn root_inside_can_look_into_neither_memory_nor_descriptors_of_init() {
    let finished = inside(&["--map-root"], "ls /proc/1/fd; cat /proc/1/mem; cat /proc/1/environ; true");
    assert_eq!(finished.text(), "");
    assert_eq!(finished.stderr.matches("Permission denied").count(), 3, "{finished:?}");
}

#[test]
fn signals_are_as_the_caller_left_them_but_sigpipe_is_default() {
    let look = "grep -E '^Sig(Blk|Ign)' /proc/self/status";
    let finished = outside(&format!("trap '' HUP; {look}; $WHARF run -- {look}"));
    let lines: Vec<&str> = finished.text().lines().collect();
    assert_eq!(lines.get(..2), lines.get(2..), "outside and inside differ");
    let ignored = lines.get(1).and_then(|line| line.split_whitespace().nth(1)).unwrap();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    assert_eq!(ignored & (1 << (13 - 1)), 0, "SIGPIPE is ignored");
    assert_eq!(ignored & 1, 1, "SIGHUP is no longer ignored");
}

#[test]
fn limit_of_open_files_is_the_callers() {
    assert_eq!(outside("ulimit -Sn 300; $WHARF run -- sh -c 'ulimit -Sn'").text(), "300\n");
}

#[test]
fn host_name_is_the_given_one_inside_only() {
    let before = rustix::system::uname().nodename().to_owned();
    assert_eq!(inside(&["--hostname", "quay.example"], "uname -n").text(), "quay.example\n");
    let address = inside(&["--hostname", "quay.example"], "getent hosts quay.example localhost; id -u");
    assert!(address.text().contains("127.0.1.1 ") && address.stdout.contains("localhost"), "{address:?}");
    assert_eq!(inside(&[], "uname -n").text().trim_end(), before.to_string_lossy());
    assert_eq!(rustix::system::uname().nodename(), before.as_c_str());
}

#[test]
fn mapped_to_root_the_caller_is_root_and_alone() {
    let text = inside(&["--map-root"], "id -u; id -g; cat /proc/self/uid_map /proc/self/setgroups")
        .text()
        .to_owned();
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "0", &uid().to_string(), "1", "deny"]);
}

#[test]
fn keeping_its_uid_the_caller_is_itself_without_capabilities() {
    let text = inside(&["--keep-uid"], "id -u; grep CapEff /proc/self/status").text().to_owned();
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words, [&uid().to_string(), "CapEff:", "0000000000000000"]);
}

/// Runs a script as the ordinary user with /etc/subuid and /etc/subgid of our own, which takes root to arrange.
fn with_subordinate_ids(name: &str, ranges: &str, script: &str) -> Option<super::caller::Finished> {
    if !is_root() {
        return None;
    }
    let directory = scratch(name);
    fs::write(directory.join("ranges"), ranges).unwrap();
    let arrange = format!(
        "mount --bind {0}/ranges /etc/subuid && mount --bind {0}/ranges /etc/subgid && \
         exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups sh -c '{script}'",
        directory.display()
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "sh", "-c", &arrange]).env("WHARF", binary()).current_dir("/");
    Some(finish(&mut command))
}

#[test]
fn subordinate_ids_are_mapped_where_there_are_any_and_can_be_changed_to() {
    let script =
        "$WHARF run -- sh -c \"cat /proc/self/uid_map; setpriv --reuid=7 --regid=7 --clear-groups id -u\"";
    let Some(finished) = with_subordinate_ids("ids", "65534:200000:1000\n", script) else {
        // An ordinary user cannot arrange ranges; what it has decides, and either way the command runs.
        inside(&[], "id -u").text();
        return;
    };
    let words: Vec<&str> = finished.text().split_whitespace().collect();
    assert_eq!(words, ["0", "65534", "1", "1", "200000", "1000", "7"]);
}

#[test]
fn without_subordinate_ids_the_default_falls_back_and_says_so_with_v() {
    let script = "$WHARF -v run -- cat /proc/self/uid_map; $WHARF run --map-auto -- true; echo $?";
    let Some(finished) = with_subordinate_ids("no-ids", "", script) else { return };
    let words: Vec<&str> = finished.text().split_whitespace().collect();
    assert_eq!(words, ["0", "65534", "1", "125"]);
    assert_eq!(finished.stderr.matches("usermod --add-subuids").count(), 2, "{finished:?}");
}

#[test]
fn root_keeps_every_id_it_has() {
    if !is_root() {
        return;
    }
    let own = fs::read_to_string("/proc/self/uid_map").unwrap();
    let mut command = std::process::Command::new(binary());
    let finished = finish(command.args(["run", "--", "cat", "/proc/self/uid_map"]));
    let [inside, outside]: [Vec<&str>; 2] =
        [finished.text(), &own].map(|map| map.split_whitespace().collect());
    assert_eq!(inside.first(), outside.first());
    assert_eq!(inside.last(), outside.last());
}

#[test]
fn both_families_are_configured_at_once_and_need_no_detection() {
    let finished = inside(
        &["--cidr", "192.0.2.0/24", "--ipv6-prefix", "2001:db8:1:2::/64", "--mtu", "4000"],
        "ip -o addr show dev eth0; ip -o link show dev eth0; ip route; ip -6 route; cat /etc/resolv.conf",
    );
    let text = finished.text();
    for words in [
        "inet 192.0.2.100/24 brd 192.0.2.255",
        "inet6 2001:db8:1:2::100/64",
        "inet6 fe80::",
        "mtu 4000",
        "LOWER_UP",
        "link/ether 02:77:68:61:72:64",
        "default via 192.0.2.2 dev eth0",
        "default via fe80::2 dev eth0",
        "nameserver 192.0.2.3\n",
    ] {
        assert!(text.contains(words), "{words} is missing in:\n{text}");
    }
    assert!(!text.contains("tentative"), "{text}");
}

#[test]
fn one_family_alone_leaves_nothing_of_the_other_on_the_link() {
    let four =
        inside(&["--ipv4-only", "--mtu", "576"], "ip -o addr show dev eth0; ip -6 route show dev eth0");
    assert!(four.text().contains("inet ") && !four.text().contains("inet6"), "{four:?}");
    let six = inside(&["--ipv6-only"], "ip -o addr show dev eth0; ip route; cat /etc/resolv.conf");
    assert!(six.text().contains("inet6 fd") && !six.text().contains("inet "), "{six:?}");
    assert!(six.text().contains("nameserver fd"), "{six:?}");
}

#[test]
fn the_gateway_answers_on_every_kind_of_device_with_any_number_of_workers() {
    for device in ["tap", "veth"] {
        for workers in ["1", "3"] {
            let options = ["--device", device, "--workers", workers, "--cidr", "192.0.2.0/24"];
            let finished = inside(&options, "ping -q -c 2 -i 0.1 -W 5 192.0.2.2");
            assert!(finished.text().contains("2 received"), "{device} {workers}: {finished:?}");
        }
    }
}

#[test]
fn without_dev_net_tun_a_veth_pair_takes_its_place() {
    let script = "mount -t tmpfs none /dev/net && $WHARF -v run --cidr 192.0.2.0/24 -- \
                  sh -c 'ping -q -c 1 -W 5 192.0.2.2; ip -d link show eth0'";
    let finished = outside(&format!("unshare -Urm sh -c \"{script}\""));
    assert!(finished.text().contains("1 received"), "{finished:?}");
    assert!(finished.stdout.contains("veth"), "{finished:?}");
    assert!(finished.stderr.contains("no /dev/net/tun; to mend it:"), "{finished:?}");
}

#[test]
fn with_neither_device_the_error_is_the_doctors() {
    let finished =
        outside("unshare -Urm sh -c 'mount -t tmpfs none /dev/net; $WHARF run --device tap true; echo $?'");
    assert_eq!(finished.text(), "125\n");
    assert!(finished.stderr.contains("sudo modprobe tun"), "{finished:?}");
}

#[test]
fn user_namespaces_turned_off_is_said_with_the_setting_by_run_and_doctor_alike() {
    let script =
        "echo 0 >/proc/sys/user/max_user_namespaces; $WHARF run true; echo $?; $WHARF doctor; echo $?";
    let finished = outside(&format!("unshare -Ur sh -c '{script}'"));
    assert!(finished.stderr.contains("sudo sysctl -w user.max_user_namespaces"), "{finished:?}");
    assert!(finished.text().contains("sudo sysctl -w user.max_user_namespaces"), "{finished:?}");
    assert!(finished.stdout.starts_with("125\n") && finished.stdout.ends_with("1\n"), "{finished:?}");
}

#[test]
fn doctor_finds_this_machine_fit_and_its_json_is_json() {
    let finished = outside("$WHARF doctor --json");
    let points: serde_json::Value = serde_json::from_str(finished.text()).unwrap();
    let points = points.as_array().unwrap();
    assert!(points.len() >= 7, "{points:?}");
    let required = points.iter().filter(|point| point["class"] == "required");
    assert!(required.clone().count() >= 3 && required.clone().all(|point| point["ok"] == true), "{points:?}");
}

#[test]
fn a_network_is_chosen_that_the_host_does_not_route() {
    let script = "ip link set lo up; ip addr add 10.0.2.15/24 dev lo; ip addr add 10.0.3.1/32 dev lo; \
                  $WHARF run -- ip -4 -o addr show dev eth0";
    let finished = outside(&format!("unshare -Urn sh -c '{script}'"));
    assert!(finished.text().contains("inet 10.0.4.100/24"), "{finished:?}");
}

#[test]
fn a_network_asked_for_in_spite_of_the_hosts_routes_is_made_with_a_warning() {
    let script = "ip link set lo up; ip addr add 192.0.2.15/24 dev lo; \
                  $WHARF run --cidr 192.0.2.0/24 -- ip -4 -o addr show dev eth0";
    let finished = outside(&format!("unshare -Urn sh -c '{script}'"));
    assert!(finished.text().contains("inet 192.0.2.100/24"), "{finished:?}");
    assert!(finished.stderr.contains("hides"), "{finished:?}");
}

#[test]
fn a_sandbox_works_inside_a_sandbox() {
    let mut command =
        wharf_run(&["--", "sh", "-c", "$WHARF run -- sh -c 'ping -q -c 1 -W 5 10.0.3.2; ip -4 -o addr'"]);
    let finished = finish(&mut command);
    assert!(finished.text().contains("1 received"), "{finished:?}");
    assert!(finished.stdout.contains("10.0.3.100/24"), "{finished:?}");
}

#[test]
fn where_proc_is_partly_hidden_run_warns_and_goes_on() {
    // As container runtimes do it; the kernel then lets nobody below mount a /proc that shows what is hidden.
    let script = "mount -t tmpfs none /proc/irq && $WHARF run -- sh -c \"ping -q -c 1 -W 5 10.0.2.2; cat /etc/resolv.conf\"";
    let finished = outside(&format!("unshare -Urmn sh -c '{script}'"));
    assert!(finished.text().contains("1 received"), "{finished:?}");
    assert!(finished.stdout.contains("nameserver 10.0.2.3"), "{finished:?}");
    assert!(finished.stderr.contains("/proc of the sandbox's own"), "{finished:?}");
}

#[test]
fn nothing_of_the_sandboxs_mounts_shows_outside() {
    assert!(inside(&[], "grep -c wharf /proc/mounts").text().trim_end() != "0");
    let outside = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!outside.contains("wharf"), "{outside}");
}

#[test]
fn sys_shows_the_sandboxs_interfaces_and_the_hosts_control_groups() {
    let finished = inside(&[], "ls /sys/class/net");
    assert_eq!(finished.text(), "eth0\nlo\n");
    let list = "ls /sys/fs/cgroup";
    assert_eq!(inside(&[], list).text(), outside(list).text());
}
