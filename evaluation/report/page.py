"""Parts as one HTML page that needs nothing else: the look is in evaluation/templates, the policy is made here.

Style and script are named in the page's content security policy by their checksums, so that a text that got past the
escaping could still not run."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evaluation.report.blocks import Part


@cache
def asset(name: str) -> Markup:
    """A style or script of ours, to be put into a page as it is."""
    return Markup((files("evaluation") / "templates" / name).read_text("utf8"))


def source(name: str) -> str:
    """The checksum of an asset as a content security policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(asset(name).encode()).digest()).decode()}'"


def policy(images: str = "data:") -> str:
    """The content security policy of a page: our style, our script, pictures from `images`, and nothing else."""
    return (
        f"default-src 'none'; img-src {images}; style-src {source('report.css')}; script-src {source('report.js')}; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def environment() -> Environment:
    """The templates, with everything escaped that is not our own style or script."""
    return Environment(
        loader=PackageLoader("evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, images: str = "data:", **values: Any) -> str:
    """A page from one of our templates."""
    page = environment().get_template(template)
    text = page.render(style=asset("report.css"), script=asset("report.js"), policy=policy(images), **values)
    # What is left of a lone surrogate would not be written.
    return text.encode("utf8", "replace").decode("utf8")


def render_page(parts: Sequence[Part]) -> str:
    """The report on all parts, the first one's name as its title."""
    return render("report.html.j2", parts=parts, title=parts[0].name, harmless=all(part.harmless for part in parts))
