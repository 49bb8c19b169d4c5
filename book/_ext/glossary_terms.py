"""Terms of the glossary, linked where a page first uses them, with their definition to point at.

The definition travels in the page, so that pointing makes no request.
"""

import re

from docutils import nodes
from sphinx.application import Sphinx

GLOSSARY = "glossary"
# Also everyday words: they would be linked where the term is not meant.
COMMON = {"claim", "control", "norm", "score", "slot", "step", "arm", "judge", "probe", "verdict"}
# Text inside of these is left as it is.
CLOSED = (
    nodes.reference, nodes.literal, nodes.title, nodes.caption, nodes.raw, nodes.math,
    nodes.literal_block, nodes.table, nodes.strong,
)  # fmt: skip


def collect(app: Sphinx, doctree: nodes.document) -> None:
    """Keep the definitions of the glossary: term -> (anchor, text)."""
    if app.env.docname != GLOSSARY:
        return
    found = {}
    for item in doctree.findall(nodes.definition_list_item):
        (definition,) = item.findall(nodes.definition)
        text = " ".join(definition.astext().split())
        for term in item.findall(nodes.term):
            found[term.astext().lower()] = (term["ids"][0], text)
    app.env.glossary_definitions = found


def link(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Link the first use of each term in the paragraphs of a page."""
    terms = {
        term: about
        for term, about in getattr(app.env, "glossary_definitions", {}).items()
        if term not in COMMON
    }
    if docname == GLOSSARY or not terms or not hasattr(app.builder, "get_relative_uri"):
        return
    page = app.builder.get_relative_uri(docname, GLOSSARY)
    names = "|".join(re.escape(term) for term in sorted(terms, key=len, reverse=True))
    wanted = re.compile(rf"(?<![\w-])({names})s?(?![\w-])", flags=re.I)
    seen: set[str] = set()
    for text in list(doctree.findall(nodes.Text)):
        if not _inside(text, nodes.paragraph) or any(_inside(text, kind) for kind in CLOSED):
            continue
        parts, last = [], 0
        for match in wanted.finditer(text):
            term = match[1].lower()
            if term in seen:
                continue
            seen.add(term)
            parts += [
                nodes.Text(text[last : match.start()]),
                _reference(match[0], page, *terms[term]),
            ]
            last = match.end()
        if parts:
            text.parent.replace(text, [*parts, nodes.Text(text[last:])])


def _inside(node: nodes.Node, kind: type) -> bool:
    while node is not None:
        if isinstance(node, kind):
            return True
        node = node.parent
    return False


def _reference(text: str, page: str, anchor: str, definition: str) -> nodes.raw:
    attributes = nodes.raw("", "", format="html")
    quoted = definition.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    start = f'<a class="term-link" href="{page}#{anchor}" data-definition="{quoted}">'
    attributes += nodes.Text(f"{start}{text}</a>")
    attributes.rawsource = attributes.astext()
    return attributes


def setup(app: Sphinx) -> dict:
    app.connect("doctree-read", collect)
    app.connect("doctree-resolved", link)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
