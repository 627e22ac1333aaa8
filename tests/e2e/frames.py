# SPDX-License-Identifier: MIT OR Apache-2.0
"""Frames made by hand, and who receives them. Each has a tag in it, such as <arp>.

capture IFACE                 says "ready", then prints the VLANs and tags of what came until <end>, one per line
largest IFACE                 says "ready", then at a line of input the length of the largest frame that came
broadcast IFACE TAG [VID...]  sends a broadcast without a VLAN tag, or one with each of these
forge IFACE ROLE=ADDRESS...   sends one frame for everything that a port must not say, and <end>; see forgeries
"""

import re
import select
import socket
import struct
import sys

if sys.argv[1] == "forge":  # It takes its time to load.
    from scapy.all import (
        ARP, BOOTP, DHCP, IP, UDP, Ether, ICMPv6ND_NA, ICMPv6ND_RA, ICMPv6NDOptDstLLAddr, ICMPv6NDOptPrefixInfo, IPv6,
        Padding, conf, get_if_hwaddr, sendp,
    )  # fmt: skip

# linux/if_packet.h
SOL_PACKET, PACKET_AUXDATA, PACKET_IGNORE_OUTGOING, TP_STATUS_VLAN_VALID = 263, 8, 23, 1 << 4
ETH_P_ALL, ETH_P_8021Q = 3, 0x8100
# IEEE 802's EtherType for experiments: nobody answers.
EXPERIMENT = 0x88B5


def packet_socket(interface):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    s.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    s.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    s.bind((interface, ETH_P_ALL))
    return s


def vlan_of(ancillary):
    """The kernel takes the tag out of a frame, and tells it beside."""
    for _, kind, data in ancillary:
        if kind == PACKET_AUXDATA:
            status, _, _, _, _, tci, _ = struct.unpack("IIIHHHH", data)
            return tci & 0xFFF if status & TP_STATUS_VLAN_VALID else "-"


def capture(interface):
    s = packet_socket(interface)
    print("ready", flush=True)
    seen = set()
    while True:
        frame, ancillary, _, _ = s.recvmsg(65535, 256)
        for tag in re.findall(rb"<([a-z0-9-]+)>", frame):
            if tag == b"end":
                print(*sorted(seen), sep="\n")
                return
            seen.add(f"{vlan_of(ancillary)} {tag.decode()}")


def largest(interface):
    s = packet_socket(interface)
    print("ready", flush=True)
    most = 0
    # The length alone is wanted: a packet socket tells that of the whole.
    while sys.stdin not in select.select([s, sys.stdin], [], [])[0]:
        most = max(most, s.recv_into(bytearray(1), 1, socket.MSG_TRUNC))
    print(most)


def broadcast(interface, tag, *vids):
    s = packet_socket(interface)
    addresses = bytes([255] * 6) + s.getsockname()[4]
    payload = struct.pack("!H", EXPERIMENT) + f"<{tag}>".encode().ljust(46)
    for vlan in [struct.pack("!HH", ETH_P_8021Q, int(vid)) for vid in vids] or [b""]:
        s.send(addresses + vlan + payload)


def forgeries(mac, ipv4, ipv6, victim, gateway_mac, gateway, gateway6, neighbor_mac, neighbor, neighbor6):
    """What the port with mac, ipv4 and ipv6 must not send to the victim's MAC address."""
    own = Ether(src=mac, dst=victim)
    hello = UDP(sport=1, dport=9) / b"hello"
    answer = {"op": 2, "hwsrc": mac, "hwdst": victim, "pdst": ipv4}
    yield "gateway-mac", Ether(src=gateway_mac, dst=victim) / IP(src=ipv4, dst=neighbor) / hello
    yield "neighbor-mac", Ether(src=neighbor_mac, dst=victim) / IP(src=ipv4, dst=neighbor) / hello
    yield "neighbor-ipv4", own / IP(src=neighbor, dst=ipv4) / hello
    yield "neighbor-ipv6", own / IPv6(src=neighbor6, dst=ipv6) / hello
    yield "outside-ipv4", own / IP(src="198.51.100.1", dst=ipv4) / hello
    yield "arp-gateway", own / ARP(psrc=gateway, **answer)
    yield "arp-neighbor", own / ARP(psrc=neighbor, **answer)
    advertisement = ICMPv6ND_NA(tgt=gateway6, R=1, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=mac)
    yield "na-gateway", own / IPv6(src=ipv6, dst="ff02::1", hlim=255) / advertisement
    offer = BOOTP(op=2, yiaddr=ipv4, siaddr=ipv4) / DHCP(options=[("message-type", "offer"), "end"])
    yield "dhcp-offer", own / IP(src=ipv4, dst="255.255.255.255") / UDP(sport=67, dport=68) / offer
    link_local = IPv6(src=link_local_of(mac), dst="ff02::1", hlim=255)
    yield "ra", own / link_local / ICMPv6ND_RA() / ICMPv6NDOptPrefixInfo(prefix="2001:db8:bad::")


def link_local_of(mac):
    """RFC 4291 appendix A."""
    a, b, c, d, e, f = (int(part, 16) for part in mac.split(":"))
    return f"fe80::{a ^ 2:02x}{b:02x}:{c:02x}ff:fe{d:02x}:{e:02x}{f:02x}"


def forge(interface, *roles):
    ends = dict(role.split("=") for role in roles)
    made = forgeries(mac=get_if_hwaddr(interface), **ends)
    conf.verb = 0
    sendp([frame / Padding(f"<{tag}>".encode()) for tag, frame in made], iface=interface)
    broadcast(interface, "end")


globals()[sys.argv[1]](*sys.argv[2:])
