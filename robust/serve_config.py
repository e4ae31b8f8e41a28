"""The `serve` section of ray_config.yaml: the HTTP endpoint of jobs.serve. The model is that of `detect`."""
from __future__ import annotations

import ipaddress

from pydantic import model_validator

from robust.config_section import Section, resource


class ReplicasConfig(Section):
    """Processes of one kind, and what each of them has."""

    least: int = resource(1, ge=1, le=1000, description="processes at any time")
    most: int = resource(1, ge=1, le=1000, description="processes under load; above least: Ray Serve scales between them")
    cpus: float = resource(1, gt=0, le=1024, description="CPUs of one; as many threads")
    gpus: float = resource(0, ge=0, le=64, description="GPU share of one; 0: CPU")

    @model_validator(mode="after")
    def _a_range(self) -> ReplicasConfig:
        if self.least > self.most:
            raise ValueError(f"serve: least = {self.least} processes are more than most = {self.most}")
        return self


class ServeConfig(Section):
    host: str = resource("127.0.0.1", description="address to listen on; any other than this machine's own needs a token")
    port: int = resource(8000, ge=1, le=65535, description="port to listen on")
    token_env: str = resource(
        "DETECT_TOKEN", pattern=r"^[A-Z_][A-Z0-9_]{0,63}$", description="name of the environment variable with the bearer token"
    )
    max_upload_mb: float = resource(256, gt=0, le=2**20, description="largest file that is taken, MiB")
    timeout_s: float = resource(120, gt=0, le=3600, description="seconds from a request's first byte to its verdict")
    queue: int = resource(
        16, ge=1, le=10000, description="requests that one process of `faces` holds; more are told to come again"
    )
    faces: ReplicasConfig = ReplicasConfig()
    model: ReplicasConfig = ReplicasConfig()
    batch_crops: int = resource(64, ge=1, le=4096, description="face crops of several requests that the model takes at once")
    batch_wait_s: float = resource(0.01, ge=0, le=10, description="seconds that it waits for more; 0: takes what is there")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the endpoint."""
        return is_loopback(self.host)


def is_loopback(name: str) -> bool:
    """Whether a host's name is one of this machine's own for itself."""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def http_options(config: ServeConfig, *, host: str) -> dict:
    """As Ray Serve takes them. Its own limit is for requests that no process takes; the endpoint's is told in the answer."""
    return {"host": host, "port": config.port, "request_timeout_s": config.timeout_s + 10}
