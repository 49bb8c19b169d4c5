"""Generated pages: Jinja2 templates of this folder, filled with numbers."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

TEMPLATES = Environment(
    loader=PackageLoader("t2i_lens.study"),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)


def render(template: str, **values: Any) -> str:
    """A page in Markdown, from a template such as `profiles.md`.

    Raises:
        UndefinedError: the template needs a value that is not given.
    """
    return TEMPLATES.get_template(template).render(**values).strip() + "\n"
