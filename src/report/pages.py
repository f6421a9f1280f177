"""Pages from the templates in page/: self-contained, nothing fetched, every text from outside escaped."""

import base64
import hashlib
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from src.report import words


def render_page(template: str, **content: Any) -> str:
    """A page or fragment of page/ with this content; it may say whatever `src.report.words` says.

    The page forbids itself, by its Content-Security-Policy, to fetch anything and to run any script but its own.
    """
    folder = resources.files("src.report") / "page"
    script, style = ((folder / name).read_text(encoding="utf-8") for name in ("sort.js", "style.css"))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("src.report", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals |= {name: value for name, value in vars(words).items() if not name.startswith("_")}
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        style=Markup(style),  # noqa: S704 (ours)
        script=Markup(script),  # noqa: S704 (ours)
        script_hash=f"sha256-{digest}",
        **content,
    )
