# SPDX-License-Identifier: MIT OR Apache-2.0
"""The server of the end-to-end tests: HTTP on 80, TCP and UDP echo on 7, discard on 9, UDP who-am-I on 11.

Its arguments are the addresses of what it serves over UDP, and paths of unix sockets: HTTP at each of these, and echo at one
that ends in ".echo".
"""

import contextlib
import hashlib
import os
import socket
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BLOCK = hashlib.shake_256(b"wharf").digest(1 << 20)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """/N answers with N bytes of a known stream; /ip with the client's address."""
        if self.path == "/ip":
            return self.answer(self.client_address[0].encode())
        size = int(self.path[1:] or 0)
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        while size:
            part = BLOCK[: min(size, len(BLOCK))]
            self.wfile.write(part)
            size -= len(part)

    def do_PUT(self):
        """Answers with the SHA-256 of the body."""
        left = int(self.headers["Content-Length"])
        digest = hashlib.sha256()
        while left:
            part = self.rfile.read(min(left, 1 << 20))
            digest.update(part)
            left -= len(part)
        self.answer(digest.hexdigest().encode())

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True
    request_queue_size = 1024


class UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 1024

    def get_request(self):
        request, _ = super().get_request()
        return request, ("nobody", 0)


def listen_at(path):
    """Whoever wharf is run by may connect."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    os.chmod(path, 0o777)
    listener.listen(1024)
    return listener


def listen(port):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
    return listener


def quietly(handle, connection):
    with contextlib.suppress(OSError):
        handle(connection)


def echo_until_end(connection):
    """Sends everything back, and its own end only after the client's: shows half-closes."""
    kept = []
    with connection:
        while part := connection.recv(65536):
            kept.append(part)
        connection.sendall(b"".join(kept))


def serve(listener, handle):
    while True:
        connection, _ = listener.accept()
        background(quietly, handle, connection)


def hold(connection):
    """Echoes byte by byte as they come."""
    with connection:
        while part := connection.recv(65536):
            connection.sendall(part)


def discard(connection):
    with connection:
        while connection.recv(65536):
            pass


def brief(port):
    """One byte, then the end: for many short connections."""
    listener = listen(port)
    while True:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.send(b"x")


def serve_udp(port, host, answer):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # In a sandbox none of these addresses is there.
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as server:
        server.bind((host, port))
        while True:
            data, client = server.recvfrom(65535)
            server.sendto(answer(data, client), client)


def background(function, *args):
    threading.Thread(target=function, args=args, daemon=True).start()


background(serve, listen(7), echo_until_end)
background(serve, listen(8), hold)
background(serve, listen(9), discard)
background(brief, 10)
paths = [argument for argument in sys.argv[1:] if argument.startswith("/")]
for path in paths:
    unix_server = UnixServer(path, Handler)
    os.chmod(path, 0o777)
    background(unix_server.serve_forever)
    background(serve, listen_at(path + ".echo"), echo_until_end)
for address in [argument for argument in sys.argv[1:] if argument not in paths]:
    background(serve_udp, 7, address, lambda data, _: data)
    background(serve_udp, 11, address, lambda _, client: client[0].encode() + b"\n")
Server(("::", 80), Handler).serve_forever()
