"""What every page shares: the template engine that escapes all names, one style, one script, one policy."""

import base64
import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from stin_pipe.stin.results.numbers import p_value, percent, points

KNOWN_STYLES = ("spatial", "temporal", "fused")


@dataclass(frozen=True, kw_only=True)
class Page:
    """The page's own style and script, and the policy that allows nothing else: no other script, no fetch, no
    form, and pictures and clips only from the page itself."""

    css: Markup
    js: Markup
    policy: str


def render_page(template: str, **values: Any) -> str:
    """Fill a template of this package and return HTML that is valid UTF-8; every value is escaped."""
    environment = Environment(
        loader=PackageLoader("stin_pipe.workflows.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "points": points,
        "p_value": p_value,
        "style": lambda name: name if name in KNOWN_STYLES else "other",
    }
    html = environment.get_template(template).render(page=_page(), **values)

    # A file name that is not UTF-8 carries surrogates, which no page can hold.
    return html.encode("utf-8", "backslashreplace").decode()


def _page() -> Page:
    folder = resources.files("stin_pipe.workflows.report")
    css, js = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src {_hash(css)}; "
        f"script-src {_hash(js)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return Page(css=Markup(css), js=Markup(js), policy=policy)  # noqa: S704 - our own files


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
