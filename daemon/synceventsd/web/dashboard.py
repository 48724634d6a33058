"""The page at `/`: one file without outside resources, under a policy that lets nothing else run."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files

from attrs import frozen


@frozen
class Page:
    """The page, and the Content-Security-Policy that names its own script and style by their hashes."""

    html: bytes
    security_policy: str


def load_page() -> Page:
    """Read the page from the package."""
    html = files("synceventsd.web").joinpath("dashboard.html").read_bytes()
    return Page(html, security_policy(html))


def security_policy(html: bytes) -> str:
    """Return the policy under which the page's inline script and style run, and nothing else does."""
    script, style = (_hash(html, tag) for tag in (b"script", b"style"))
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; img-src data:; connect-src 'self'; "
        "require-trusted-types-for 'script'; trusted-types 'none'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(html: bytes, tag: bytes) -> str:
    found = re.search(b"<" + tag + b">(.*?)</" + tag + b">", html, re.DOTALL)
    return "'none'" if found is None else f"'sha256-{b64encode(sha256(found[1]).digest()).decode()}'"
