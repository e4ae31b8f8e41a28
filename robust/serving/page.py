"""The page that is served at /, and the policy that lets it run its own script, its own style and nothing else."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pathlib import Path

POLICY = ("default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; img-src data:; "
          "connect-src 'self'; style-src {style}; script-src {script}")


@functools.cache
def page() -> str:
    return Path(__file__).with_name("page.html").read_text()


@functools.cache
def page_policy() -> str:
    """Content-Security-Policy with the hashes of the page's one script and one style."""
    return POLICY.format(style=_hash("style"), script=_hash("script"))


def _hash(element: str) -> str:
    (content,) = re.findall(rf"<{element}>(.*?)</{element}>", page(), re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
