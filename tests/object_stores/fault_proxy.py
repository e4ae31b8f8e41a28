"""An HTTP proxy before a real S3 server that does to a share of the requests what networks and busy stores do.

Signatures stay valid, because the client signs the proxy's own address and the Host header is passed on as it came.
One request a connection keeps it simple; the client opens another.
"""

from __future__ import annotations

import itertools
import random
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

ERROR = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>%s</Message></Error>'


@dataclass
class Request:
    """What a client sent: the head's first line and fields (names in lower case), and the whole body."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    fault: str | None = None

    def header(self, name: str) -> str | None:
        return next((value for field_name, value in self.headers if field_name.lower() == name), None)

    def to_bytes(self) -> bytes:
        kept = [(name, value) for name, value in self.headers if name.lower() not in ("connection", "expect")]
        lines = [
            f"{self.method} {self.path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in kept),
            "Connection: close",
        ]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + self.body


Choose = Callable[[Request], str | None]
"""Which fault befalls a request: slow_down, internal, reset, lost, cut, delay, another answer "CODE NAME", or None."""


def share(fraction: float, faults: tuple[str, ...], seed: int = 0) -> Choose:
    """The faults in turn, for this fraction of all requests."""
    drawn, turn, lock = random.Random(seed), itertools.cycle(faults), threading.Lock()

    def choose(_: Request) -> str | None:
        with lock:
            return next(turn) if drawn.random() < fraction else None

    return choose


@dataclass
class FaultProxy:
    """`with FaultProxy(server_url) as proxy: proxy.choose = share(0.3, ("reset",))`; proxy.url is its address.

    Attributes:
        change: what is made of a request before it is passed on, if anything.
        seen: all requests so far, each with its fault.
        delay_s: of the fault "delay".
    """

    server_url: str
    tls: ssl.SSLContext | None = None
    choose: Choose = lambda request: None
    change: Callable[[Request], Request] | None = None
    delay_s: float = 1.0
    seen: list[Request] = field(default_factory=list)

    def __enter__(self) -> FaultProxy:
        proxy, server = self, urlsplit(self.server_url)
        self._server = server.hostname, server.port

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                proxy._serve(self.request)

        self._listener = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._listener.daemon_threads, self._listener.block_on_close = True, False
        threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http{'s' if self.tls else ''}://127.0.0.1:{self._listener.server_address[1]}"
        return self

    def __exit__(self, *_) -> None:
        self._listener.shutdown()
        self._listener.server_close()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(30)
        try:
            if self.tls:
                client = self.tls.wrap_socket(client, server_side=True)
            with client:
                request = read_request(client)
                if request is not None:
                    self._answer(client, request)
        except (OSError, ssl.SSLError):
            pass  # the client went away

    def _answer(self, client: socket.socket, request: Request) -> None:
        request.fault = fault = self.choose(request)
        self.seen.append(request)
        if fault in ("slow_down", "internal"):
            fault = {"slow_down": "503 SlowDown", "internal": "500 InternalError"}[fault]
        if fault is not None and fault[0].isdigit():
            return client.sendall(error_answer(request, *fault.split(" ", 1)))
        if fault == "reset":
            return reset(client)
        if fault == "delay":
            time.sleep(self.delay_s)
        answer = self._forward(self.change(request) if self.change else request)
        if fault == "lost":
            return reset(client)
        head, end, body = answer.partition(b"\r\n\r\n")
        client.sendall(head + end + body[: len(body) // 2] if fault == "cut" else answer)

    def _forward(self, request: Request) -> bytes:
        with socket.create_connection(self._server, timeout=30) as server:
            server.sendall(request.to_bytes())
            answer = bytearray()
            while part := server.recv(1 << 20):
                answer += part
        return bytes(answer)


def read_request(client: socket.socket) -> Request | None:
    file = client.makefile("rb")
    first = file.readline().decode("latin-1").split()
    if len(first) != 3:
        return None
    headers = []
    while line := file.readline().decode("latin-1").rstrip("\r\n"):
        name, _, value = line.partition(":")
        headers.append((name, value.strip()))
    request = Request(first[0], first[1], headers, b"")
    if request.header("expect"):
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.body = (
        _chunked(file) if request.header("transfer-encoding") else file.read(int(request.header("content-length") or 0))
    )
    return request


def _chunked(file) -> bytes:
    body = bytearray()
    while True:
        line = file.readline()
        size = int(line.split(b";")[0], 16)
        body += line + file.read(size) + file.readline()
        if size == 0:
            return bytes(body)


def error_answer(request: Request, status: str, code: str) -> bytes:
    """S3's XML error; `code` may be followed by a message."""
    name, _, message = code.partition(" ")
    body = b"" if request.method == "HEAD" else ERROR % (name.encode(), (message or "injected").encode())
    return (
        f"HTTP/1.1 {status} X\r\nContent-Type: application/xml\r\nConnection: close\r\n"
        f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S GMT', time.gmtime())}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def reset(client: socket.socket) -> None:
    """Ends the connection with RST, as a crashed peer or a firewall does."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
