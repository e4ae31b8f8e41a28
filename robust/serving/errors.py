"""What goes wrong with a request, in the one shape that every client gets: {"error": {"type", "message"}}."""

from __future__ import annotations

TYPES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "upload_timeout",
    411: "length_required",
    413: "too_large",
    415: "unsupported_media_type",
    422: "unreadable",
    500: "internal",
    503: "busy",
    504: "timeout",
}
"""One type a status."""


class ServiceError(Exception):
    """An answer that is no verdict. Args: headers: beside those of every answer."""

    def __init__(self, status: int, message: str, **headers: str):
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def as_dict(self) -> dict:
        return error_document(self.status, self.message)


def error_document(status: int, message: str) -> dict:
    return {"error": {"type": TYPES.get(status, "bad_request" if status < 500 else "internal"), "message": message}}
