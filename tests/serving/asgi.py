"""Speaks to an ASGI application in this process: requests go in piece by piece, as from a network."""

from __future__ import annotations

import asyncio
import dataclasses
import json

TOKEN = "a-token-of-twenty-letters-and-more"
CARD = {"threshold": 0.01, "frame_threshold": -0.02, "threshold_rule": "made up"}


@dataclasses.dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes
    pieces_taken: int

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The type of an error, after a look at its shape."""
        assert set(self.json) == {"error"} and set(self.json["error"]) == {"type", "message"}
        assert self.json["error"]["message"] and self.headers["content-type"] == "application/json"
        return self.json["error"]["type"]


async def ask(
    app, path="/v1/detect", *, method="POST", body=b"", pieces=None, headers=None, pause_s=0.0, hang_up=False
) -> Response:
    """One request.

    Args:
        pieces: of the body; None: it comes whole. With them no Content-Length is sent but that in `headers`.
        headers: None as a value leaves a usual one out.
        pause_s: before each piece; hang_up: the client goes away after the last of them.
    """
    path, _, query = path.partition("?")
    usual = {"host": "127.0.0.1:8000"} | ({"content-length": str(len(body))} if pieces is None and body is not None else {})
    given = {name.lower(): value for name, value in (usual | (headers or {})).items() if value is not None}
    waiting = list([body] if pieces is None else pieces)
    taken, sent, done = 0, [], asyncio.Event()

    async def receive():
        nonlocal taken
        if waiting:
            await asyncio.sleep(pause_s)
            taken += 1
            more = len(waiting) > 1 or hang_up
            return {"type": "http.request", "body": waiting.pop(0), "more_body": more}
        if not hang_up:
            await done.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http", "path": path,
        "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 1), "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()]}
    await app(scope, receive, send)
    start, *rest = sent
    return Response(start["status"], {name.decode().lower(): value.decode() for name, value in start["headers"]},
                    b"".join(message.get("body", b"") for message in rest), taken)


def asked(app, *arguments, **keywords) -> Response:
    return asyncio.run(ask(app, *arguments, **keywords))
