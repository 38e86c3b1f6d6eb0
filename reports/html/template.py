"""A page from a template: style, script and policy of every page, and the one place where anything is escaped.

The page's policy (a Content-Security-Policy in its head) allows one script and one style sheet, by their hashes, and
nothing from anywhere. Everything that a run brought along is text: Jinja escapes it, and `svg.py` cleans figures.
"""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from esft_bench.reports.formatting import amount
from esft_bench.reports.tables.view import EFFECT

HERE = Path(__file__).parent


def fill(template: str, **values: Any) -> str:
    """Fill a template of this package, with the page's style, script and policy."""
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    ours = {"style": Markup(style), "script": Markup(script)}  # noqa: S704 - files of this package
    return _environment().get_template(template).render(policy=policy, effect=EFFECT, **ours, **values)


def slug(text: str) -> str:
    """A text as an id."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"amount": amount, "slug": slug}
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return environment


@cache
def _asset(name: str) -> str:
    return (HERE / name).read_text("utf-8")


def _hash(text: str) -> str:
    """A source's hash as a Content-Security-Policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
