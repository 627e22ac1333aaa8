# SPDX-License-Identifier: MIT OR Apache-2.0
"""Frames and messages that no tool here sends or shows: `probe.py arp ADDRESS`, `probe.py pref64`."""

import select
import socket
import struct
import sys
import time


def arp(address):
    """An RFC 5227 probe: asks who has an address, in nobody's name. Says whether somebody answers."""
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
    wire.bind(("eth0", 0x0806))
    mac = wire.getsockname()[4]
    question = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, bytes(4), bytes(6), socket.inet_aton(address))
    wire.send(b"\xff" * 6 + mac + b"\x08\x06" + question)
    end = time.monotonic() + 1
    while (left := end - time.monotonic()) > 0 and select.select([wire], [], [], left)[0]:
        frame = wire.recv(2000)
        if frame[20:22] == b"\0\2" and frame[28:32] == socket.inet_aton(address):
            return "answered by " + frame[22:28].hex(":")
    return "silence"


def pref64():
    """Solicits a Router Advertisement; tells the prefix and the seconds of its PREF64 option (RFC 8781 section 4)."""
    wire = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    wire.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    index = socket.if_nametoindex("eth0")
    wire.sendto(b"\x85\0\0\0\0\0\0\0", ("ff02::2", 0, 0, index))
    end = time.monotonic() + 5
    while (left := end - time.monotonic()) > 0 and select.select([wire], [], [], left)[0]:
        message = wire.recv(2000)
        if message[0] != 134:
            continue
        options = message[16:]
        while options:
            kind, length = options[0], options[1] * 8
            if kind == 38:
                (scaled,) = struct.unpack("!H", options[2:4])
                bits = [96, 64, 56, 48, 40, 32][scaled & 7]
                prefix = socket.inet_ntop(socket.AF_INET6, options[4:16] + bytes(4))
                return f"{prefix}/{bits} for {scaled & ~7} s"
            options = options[length:]
        return "advertisement without PREF64"
    return "no advertisement"


print({"arp": arp, "pref64": pref64}[sys.argv[1]](*sys.argv[2:]))
