# SPDX-License-Identifier: MIT OR Apache-2.0
"""Numbers that go to an echo server and come back, over UDP and TCP in turn, until standard input says "end".

ADDRESS PORT    says "up"; answers each line "count" with how many came back, after at least one more; says "nothing lost"

The TCP server is that of PORT, the UDP server that of port 7. A datagram that is lost is never sent again.
"""

import socket
import sys
import threading

address, port = sys.argv[1], int(sys.argv[2])
tcp = socket.create_connection((address, port), timeout=60)
udp = socket.socket(tcp.family, socket.SOCK_DGRAM)
udp.settimeout(60)
udp.connect((address, 7))
exchanged = 0
more = threading.Condition()
ended = False


def go_on():
    global exchanged
    while not ended:
        number = b"%016d" % exchanged
        for s in (udp, tcp):
            s.sendall(number)
            got = b""
            while len(got) < len(number):
                part = s.recv(len(number) - len(got))
                assert part, exchanged
                got += part
            assert got == number, (got, number)
        with more:
            exchanged += 1
            more.notify_all()


flow = threading.Thread(target=go_on)
flow.start()
print("up", flush=True)
for line in sys.stdin:
    if line.strip() == "end":
        break
    with more:
        before = exchanged
        more.wait_for(lambda: exchanged > before or not flow.is_alive(), timeout=70)
        print(exchanged, flush=True)
ended = True
flow.join()
print("nothing lost", flush=True)
