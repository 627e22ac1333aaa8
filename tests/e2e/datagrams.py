# SPDX-License-Identifier: MIT OR Apache-2.0
"""A UDP server that says whom it sees, and its clients.

serve PORT                  answers each datagram with its sender's end and the datagram; see call_back
ask TO PORT SOURCE TEXT     prints who answers, and whom the server sees; the text +N is N bytes
call_back PORT [listen]     has the server send something to another port, and prints what comes there
many                        300 clients on the host's loopback, three for each port
"""

import socket
import sys

# IP_RECVERR: errors are told to sockets that are not connected, too.
RECVERR = 11


def serve(port):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.setsockopt(socket.SOL_IP, RECVERR, 1)
    s.bind(("::", int(port)))
    while True:
        try:
            data, client = s.recvfrom(65535)
        except OSError as error:
            print(error.strerror, flush=True)
            continue
        words = data.split()
        if words[:1] == [b"call"]:
            s.sendto(b"hello", ("::ffff:" + words[1].decode(), int(words[2])))
        else:
            host = client[0].removeprefix("::ffff:")
            s.sendto(f"{host} {client[1]} ".encode() + data, client)


def ask(to, port, source, text):
    family, kind, _, _, server = socket.getaddrinfo(to, int(port), type=socket.SOCK_DGRAM)[0]
    s = socket.socket(family, kind)
    s.settimeout(10)
    s.bind(("", int(source)))
    data = bytes(int(text[1:])) if text[0] == "+" else text.encode()
    s.sendto(data, server)
    answer, sender = s.recvfrom(65535)
    host, seen, body = answer.split(b" ", 2)
    assert body == data, len(body)
    print(sender[0], sender[1], host.decode(), seen.decode())


def call_back(port, listen=None):
    here, asks = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    if listen:
        here.settimeout(10)
        here.bind(("", int(port)))
    asks.sendto(b"call 203.0.113.2 " + port.encode(), ("203.0.113.1", 5353))
    if listen:
        text, sender = here.recvfrom(100)
        print(text.decode(), *sender)


def many():
    clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(300)]
    for number, s in enumerate(clients):
        s.settimeout(10)
        s.bind((f"127.0.0.{number % 3 + 1}", 20000 + number // 3))
        s.sendto(b"%d" % number, ("127.0.0.1", 5353))
        assert s.recvfrom(100)[0].split()[2] == b"%d" % number
    # No more at once than any receive buffer holds.
    for first in range(0, 300, 30):
        some = clients[first : first + 30]
        for number, s in enumerate(some):
            s.sendto(b"%d" % number, ("127.0.0.1", 5353))
        for number, s in enumerate(some):
            assert s.recvfrom(100)[0].split()[2] == b"%d" % number
    print("all answered")


globals()[sys.argv[1]](*sys.argv[2:])
