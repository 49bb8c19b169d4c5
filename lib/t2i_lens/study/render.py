"""Generated pages: Jinja2 templates of this folder, filled with numbers."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

TEMPLATES = Environment(
    loader=PackageLoader("t2i_lens.study"),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
    autoescape=select_autoescape(["html"]),
)
TEMPLATES.filters["slug"] = lambda text: text.replace(" ", "-")


def render(template: str, **values: Any) -> str:
    """A page in Markdown or a part of one in HTML, from a template such as `profiles.md`.

    Values are escaped in templates of HTML and stand as they are in Markdown.

    Raises:
        UndefinedError: the template needs a value that is not given.
    """
    return TEMPLATES.get_template(template).render(**values).strip() + "\n"
