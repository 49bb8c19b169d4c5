"""Support of chapters by profiles: which chapter runs on which profile, and the reasons why not."""

from functools import cache
from pathlib import Path

import yaml

from t2i_lens.base.paths import DATA

FILE = DATA / "support.yaml"


def load_support(file: Path = FILE) -> dict[str, dict]:
    """Chapter -> `profiles` it runs on and `otherwise`, the reason why on no other.

    `because` may give a profile a reason of its own; `tokens` says how many TI embeddings it
    compares, by their kind, see `Subject.require_tokens`. Without the file nothing is restricted.

    Raises:
        ValueError: an entry lacks its profiles or its reason.
    """
    return _read(file, file.stat().st_mtime_ns) if file.exists() else {}


@cache
def _read(file: Path, changed: int) -> dict[str, dict]:
    """The file as it was at a time: a sweep asks once for each of its runs."""
    chapters = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    for chapter, entry in chapters.items():
        known = {"profiles", "otherwise", "because", "tokens"}
        if not entry.get("profiles") or not entry.get("otherwise") or set(entry) - known:
            raise ValueError(f"{file}, {chapter}: give profiles, otherwise, maybe because, tokens")
    return chapters


def tokens_needed(chapter: str) -> dict[str, int]:
    """How many TI embeddings a chapter compares at least, by kind; empty if nothing is said."""
    return load_support().get(chapter, {}).get("tokens", {})


def reason_against(chapter: str, profile: str, chapters: dict[str, dict]) -> str | None:
    """Reason why a chapter does not run on a profile; None if it does, or is not listed."""
    entry = chapters.get(chapter)
    if entry is None or profile in entry["profiles"]:
        return None
    return entry.get("because", {}).get(profile, entry["otherwise"])


def require(chapter: str, profile: str) -> None:
    """Refuse a profile that a chapter does not support.

    Raises:
        ValueError: one line with the reason and the profiles that it supports.
    """
    chapters = load_support()
    reason = reason_against(chapter, profile, chapters)
    if reason is not None:
        others = ", ".join(chapters[chapter]["profiles"])
        raise ValueError(f"{chapter} does not run on {profile!r}: {reason}; it runs on: {others}")
