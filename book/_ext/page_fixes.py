"""Two corrections of every page: where the launch button leads, and no script loaded twice."""

from sphinx.application import Sphinx

EXECUTED, SOURCE = "/chapters/", "/notebooks/"


def point_at_source(app, pagename, templatename, context, doctree):
    """The launch button opens the notebook a chapter was made from, not the executed copy."""
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if button.get("text") == "Colab":
                button["url"] = button["url"].replace(EXECUTED, SOURCE)


def load_scripts_once(app, pagename, templatename, context, doctree):
    """Pages with formulas list MathJax twice, and its second start is an error in the console."""
    scripts, seen = context.get("script_files", []), set()
    kept = []
    for script in scripts:
        name = getattr(script, "filename", None)
        if not name or name not in seen:
            kept.append(script)
        seen.add(name)
    scripts[:] = kept


def setup(app: Sphinx) -> dict:
    # After the theme has made its buttons and added its scripts, which it does at 501.
    app.connect("html-page-context", point_at_source, priority=900)
    app.connect("html-page-context", load_scripts_once, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
