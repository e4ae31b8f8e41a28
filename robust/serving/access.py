"""Who may ask for a verdict: who knows the token; without one, programs and pages of this machine alone."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from robust.errors import ConfigError
from robust.serve_config import ServeConfig, is_loopback
from robust.serving.errors import ServiceError

SHORTEST_TOKEN = 20


@dataclasses.dataclass(frozen=True)
class Access:
    """Args: token: None: nothing but the names of this machine is asked for."""

    token: str | None = dataclasses.field(repr=False)

    @classmethod
    def from_environment(cls, config: ServeConfig, environment: Mapping[str, str], *, local: bool) -> Access:
        """Args: local: whether only this machine can reach the endpoint.

        Raises:
            ConfigError: others can and there is no token, or it is too short to be one.
        """
        token = environment.get(config.token_env, "")
        if not token and local:
            return cls(None)
        if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
            told = "is not set" if not token else f"is no token of {SHORTEST_TOKEN} or more letters and digits"
            raise ConfigError(f"serve.token_env: the environment variable {config.token_env} {told}; others than this "
                              f"machine reach the endpoint: export {config.token_env}=$(openssl rand -hex 32)")
        return cls(token)

    def require(self, headers: Mapping[str, str]) -> None:
        """Raises: ServiceError: these headers of a request do not suffice."""
        if self.token is None:
            _require_this_machine(headers)
        elif not _same(_bearer(headers.get("authorization", "")), self.token):
            raise ServiceError(401, "send the header 'Authorization: Bearer TOKEN' with the token of this endpoint",
                               www_authenticate="Bearer")


def _bearer(header: str) -> str:
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _same(given: str, token: str) -> bool:
    """In a time that tells neither the token nor its length."""
    digests = [hashlib.sha256(one.encode("utf-8", "surrogatepass")).digest() for one in (given, token)]
    return hmac.compare_digest(*digests)


def _require_this_machine(headers: Mapping[str, str]) -> None:
    """Browsers of this machine carry out the requests of foreign pages too, which must not reach an open endpoint."""
    host = headers.get("host", "")
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        name = None
    if name is None or not is_loopback(name):
        raise ServiceError(403, "this endpoint has no token and answers only to localhost and 127.0.0.1")
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        raise ServiceError(403, "this endpoint has no token and takes no requests of other pages")
