"""The launch button of a chapter opens the notebook it was made from, not the executed copy."""

from sphinx.application import Sphinx

EXECUTED, SOURCE = "/chapters/", "/notebooks/"


def point_at_source(app, pagename, templatename, context, doctree):
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if button.get("text") == "Colab":
                button["url"] = button["url"].replace(EXECUTED, SOURCE)


def setup(app: Sphinx) -> dict:
    # After the theme has made its buttons, which it does at 501.
    app.connect("html-page-context", point_at_source, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
