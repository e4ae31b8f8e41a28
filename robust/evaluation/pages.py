"""What the HTML pages share: one self-contained file each, of a template beside the others."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import jinja2
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"


def template(name: str, **filters: Callable) -> jinja2.Template:
    """A template that escapes what it is given, and fails on what it is not given."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True)
    environment.filters.update(filters)
    return environment.get_template(name)


def style() -> Markup:
    """The pages' common look: our own file, not data."""
    return Markup((TEMPLATES / "report.css").read_text())


def webp_uri(data: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(data).decode()
