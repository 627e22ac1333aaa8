#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""A machine's network card: a TAP of this namespace, and frames behind their lengths on a stream socket.

Usage: machine.py SOCKET INTERFACE MAC
"""
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
path, name, mac = sys.argv[1:]
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
stream.connect(path)


def outwards():
    while True:
        frame = os.read(tap, 65536)
        stream.sendall(struct.pack("!I", len(frame)) + frame)


threading.Thread(target=outwards, daemon=True).start()
subprocess.run(["ip", "link", "set", name, "address", mac, "up"], check=True)
print("up", flush=True)
inwards = stream.makefile("rb")
while prefix := inwards.read(4):
    os.write(tap, inwards.read(struct.unpack("!I", prefix)[0]))
