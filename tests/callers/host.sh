# SPDX-License-Identifier: MIT OR Apache-2.0
# The first process of a test's machine, in namespaces of its own (mounts, network, processes). All that it makes goes
# with it: files are in a tmpfs on /mnt, and the machine's own are covered by bind mounts. It ends with its input.
#
#   $HELPER     what is called slirp4netns here
#   $SERVER     the text of the test server
set -eu

mount -t tmpfs -o mode=755 none /mnt
mount -t tmpfs -o mode=1777 none /dev/shm
mkdir -p /run/netns
mount -t tmpfs none /run/netns

# A user of whom nothing else knows.
mkdir -p /mnt/etc /mnt/bin /mnt/home/.config/containers /mnt/run /mnt/tmp
chmod 700 /mnt/run
{ cat /etc/passwd; echo 'caller:x:4711:4711::/mnt/home:/bin/sh'; } > /mnt/etc/passwd
{ cat /etc/group; echo 'caller:x:4711:'; } > /mnt/etc/group
echo 'caller:200000:65536' | tee /mnt/etc/subuid > /mnt/etc/subgid
echo 'nameserver 203.0.113.2' > /mnt/etc/resolv.conf
for name in passwd group subuid subgid resolv.conf; do
    mount --bind "/mnt/etc/$name" "/etc/$name"
done

# By path and by name in PATH, there is only the helper under test.
printf %s "$SERVER" > /mnt/server.py
touch /mnt/bin/slirp4netns
mount --bind "$HELPER" /mnt/bin/slirp4netns
mount --bind /mnt/bin/slirp4netns /usr/bin/slirp4netns

# crun refuses a hybrid hierarchy of control groups, where it finds the second one mounted.
if [ -d /sys/fs/cgroup/unified ]; then
    mount -t tmpfs none /sys/fs/cgroup/unified
fi
mount --make-rshared /

# The network: this machine, and a server next to it.
ip link set lo up
ip netns add server
ip -n server link set lo up
ip link add out0 type veth peer name in0 netns server
ip addr add 203.0.113.1/24 dev out0
ip addr add 2001:db8:1::1/64 dev out0 nodad
ip -n server addr add 203.0.113.2/24 dev in0
ip -n server addr add 2001:db8:1::2/64 dev in0 nodad
ip link set out0 up
ip -n server link set in0 up
ip route add default via 203.0.113.2
ip route add default via 2001:db8:1::2
sysctl -qw net.ipv4.ping_group_range='0 2147483647'
in_server() { nsenter --net=/run/netns/server "$@"; }
in_server python3 /mnt/server.py 203.0.113.2 2001:db8:1::2 >/dev/null &
in_server dnsmasq -k --pid-file= -za 203.0.113.2 --no-resolv --no-hosts --host-record=web.example,198.51.100.1 -u root &

# The image has next to no files: containers get the machine's /usr.
cat > /mnt/home/.config/containers/storage.conf <<END
[storage]
driver = "vfs"
runroot = "/mnt/run/containers"
graphroot = "/mnt/home/storage"
END
cat > /mnt/home/.config/containers/containers.conf <<END
[containers]
default_sysctls = []
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
network_cmd_path = "/mnt/bin/slirp4netns"
runtime = "crun"
[network]
network_backend = "netavark"
END
root=/mnt/tmp/image
mkdir -p "$root/etc" "$root/tmp" "$root/usr"
echo 'root:x:0:0::/:/bin/sh' > "$root/etc/passwd"
for name in bin sbin lib lib64; do
    if [ -L "/$name" ]; then
        ln -s "usr/$name" "$root/$name"
    fi
done
mkdir "$root/mnt"
cp /mnt/server.py "$root/mnt/"
tar -C "$root" -cf /mnt/image.tar .
chown -R 4711:4711 /mnt/home /mnt/run /mnt/tmp

tries=500
until curl -sS -m 5 -o /dev/null http://203.0.113.2/0 2>/dev/null &&
    in_server ss -Huln 'sport = :53' | grep -q .; do
    tries=$((tries - 1))
    [ $tries -gt 0 ]
    sleep 0.02
done
echo ready

# Whatever is orphaned here ends as a child of this shell, which must wait for it: callers ask whether a process exists.
exec 3<&0
cat <&3 >/dev/null &
wait $!
