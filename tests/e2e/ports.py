# SPDX-License-Identifier: MIT OR Apache-2.0
"""Many TAPs of this namespace as ports of a daemon, by way of its attach.sock; each belongs to a process of its own.

SOCKET come_and_go COUNT RATE   attaches RATE of them a second and ends each at once; says how long all of them took
SOCKET stay COUNT               attaches them, says "up", and keeps them until standard input ends
"""

import array
import concurrent.futures
import fcntl
import json
import os
import socket
import struct
import sys
import time

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
# Checksums, segments of TCP over IPv4 and IPv6.
OFFLOADS = 1 | 2 | 4
SIOCSIFFLAGS, SIOCSIFHWADDR, IFF_UP, ARPHRD_ETHER = 0x8914, 0x8924, 1, 1

path, role, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def ask(daemon, what, request, fds=()):
    """The daemon's answer; None when it has not noticed yet that the name is free."""
    beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    daemon.sendmsg([json.dumps({what: request}).encode()], beside)
    kind, answer = next(iter(json.loads(daemon.recv(1 << 16)).items()))
    if kind == "error" and answer["code"] == "exists":
        return None
    assert kind != "error", answer
    return answer


def make_tap(name, mac):
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(tap, TUNSETOFFLOAD, OFFLOADS)
    address = bytes.fromhex(mac.replace(":", ""))
    fcntl.ioctl(control, SIOCSIFHWADDR, struct.pack("16sH6s16x", name, ARPHRD_ETHER, address))
    fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", name, IFF_UP))
    return tap


class Process:
    """One that does nothing, as long as it is wanted."""

    def __init__(self):
        wait, self.wanted = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            # Nothing of what is others', such as their TAPs.
            os.closerange(0, wait)
            os.closerange(wait + 1, 1 << 16)
            os.read(wait, 1)
            os._exit(0)
        os.close(wait)
        self.life = os.pidfd_open(self.pid)

    def end(self):
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        os.close(self.wanted)
        os.close(self.life)


def attach(number, name):
    daemon = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    daemon.connect(path)
    while not (offer := ask(daemon, "offer", {"name": name, "at": "a test"})):
        time.sleep(0.001)
    process = Process()
    interface = f"tap{number}"
    tap = make_tap(interface.encode(), offer["member"]["mac"])
    device = {"kind": "tap", "uso": False, "vnet_header": True, "is_borrowed": False, "life": "process"}
    ask(daemon, "device", {**device, "interface": interface}, [tap, process.life])
    os.close(tap)
    daemon.close()
    return process


def come_and_go(rate):
    start = time.monotonic()

    def cycle(number):
        attach(number, f"n{number % rate}").end()

    # One at a time waits for the kernel, which makes and removes interfaces in its own time.
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        cycles = []
        for number in range(count):
            time.sleep(max(0, start + number / rate - time.monotonic()))
            cycles.append(pool.submit(cycle, number))
        for cycle in cycles:
            cycle.result()
    print(f"{count} in {time.monotonic() - start:.1f} s", flush=True)


if role == "come_and_go":
    come_and_go(int(sys.argv[4]))
else:
    processes = [attach(number, f"n{number}") for number in range(count)]
    print("up", flush=True)
    sys.stdin.read()
    for process in processes:
        process.end()
