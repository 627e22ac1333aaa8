# SPDX-License-Identifier: MIT OR Apache-2.0
"""Multicast by ordinary sockets, as programs use it.

listen IFACE GROUP...    joins the groups, says "ready", and then each group from which a datagram came, once
send IFACE GROUP...      sends <GROUP's number> to each group, from the first on, again and again until its input ends
"""

import select
import socket
import struct
import sys

PORT = 5000
# linux/in.h
IP_MULTICAST_IF = 32


def family_of(group):
    return socket.AF_INET6 if ":" in group else socket.AF_INET


def joined(index, group):
    family = family_of(group)
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((group, PORT))
    address = socket.inet_pton(family, group)
    if family == socket.AF_INET:
        s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, address + struct.pack("=4xi", index))
    else:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, address + struct.pack("=i", index))
    return s


def listen(interface, *groups):
    waiting = {joined(socket.if_nametoindex(interface), group): group for group in groups}
    print("ready", flush=True)
    while waiting:
        for s in select.select(list(waiting), [], [])[0]:
            print(waiting.pop(s), flush=True)


def outward(index, group):
    s = socket.socket(family_of(group), socket.SOCK_DGRAM)
    if s.family == socket.AF_INET:
        s.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_IF, struct.pack("=8xi", index))
    else:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    return s


def send(interface, *groups):
    sockets = [(outward(socket.if_nametoindex(interface), group), group) for group in groups]
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        for number, (s, group) in enumerate(sockets):
            s.sendto(f"<{number}>".encode(), (group, PORT))


globals()[sys.argv[1]](*sys.argv[2:])
