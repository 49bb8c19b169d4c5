"""The manifest of `data/`: sha256, licence and source of every file.

`data/manifest.yaml` is a list of groups. A group's `folder`, `licence` and `source` are written
by hand; its `files` (path below `data/` and sha256, as in a pooch registry) are generated. A file
belongs to the group with the longest folder that holds it; the group "." holds only the files
that lie directly in `data/`, so that a new folder needs a licence and a source of its own.

Commands: `python -m t2i_lens.study.manifest update` and `python -m t2i_lens.study.manifest verify`.
"""

import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import yaml

from t2i_lens.base.files import file_digest, write
from t2i_lens.base.paths import DATA

NAME = "manifest.yaml"
HEAD = """\
# sha256, licence and source of every file below data/.
# Write folder, licence and source by hand; files are filled in by
# `python -m t2i_lens.study.manifest update`.
"""


def files(root: Path = DATA) -> list[str]:
    """Paths below `root` that the manifest must list: all but itself and hidden files."""
    paths = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    visible = (p for p in paths if not any(part.startswith(".") for part in p.parts))
    return sorted(p.as_posix() for p in visible if p.as_posix() != NAME)


def verify(root: Path = DATA) -> list[str]:
    """Differences between the manifest and the files, one line each.

    Reports a file that is not listed, a listed file that is missing or was changed, and a group
    without licence or source.
    """
    problems, listed = [], {}
    for group in _groups(root):
        for field in ("licence", "source"):
            if not group.get(field):
                problems.append(f"group '{group['folder']}' has no {field} in {NAME}")
        listed |= group.get("files") or {}
    present = files(root)
    for path in sorted(set(present) | set(listed)):
        if path not in listed:
            problems.append(f"{path} is not in {NAME}; run update")
        elif path not in present:
            problems.append(f"{path} is in {NAME} but missing; restore it or run update")
        elif listed[path] != file_digest(root / path):
            problems.append(f"{path} was changed; restore it, or run update if it was meant")
    return problems


def update(root: Path = DATA, rules: Iterable[dict] | None = None) -> None:
    """Write the manifest from the files that exist.

    Args:
        rules: Groups as maps of `folder`, `licence`, `source`; those of the manifest by default.

    Raises:
        ValueError: a file belongs to no group. The old manifest is kept then.
    """
    groups = [
        {key: rule.get(key, "") for key in ("folder", "licence", "source")} | {"files": {}}
        for rule in (_groups(root) if rules is None else rules)
    ]
    by_folder = {PurePosixPath(group["folder"]): group for group in groups}
    for path in files(root):
        folders = PurePosixPath(path).parents
        # "." is the last parent of every path; it counts only for files directly in it.
        home = next((f for f in folders if f in by_folder and (f.name or len(folders) == 1)), None)
        if home is None:
            raise ValueError(f"no group in {NAME} for {path}; add its folder, licence and source")
        by_folder[home]["files"][path] = file_digest(root / path)
    text = yaml.safe_dump(groups, sort_keys=False, allow_unicode=True, width=100)
    write(root / NAME, (HEAD + text).encode())


def _groups(root: Path) -> list[dict]:
    return yaml.safe_load((root / NAME).read_text(encoding="utf-8"))


def main(arguments: list[str]) -> int:
    """Run `update` or `verify`; the exit code is 0 when there is no difference."""
    if arguments == ["update"]:
        try:
            update()
        except ValueError as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    if arguments == ["verify"]:
        problems = verify()
        print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
        return 1 if problems else 0
    print("usage: python -m t2i_lens.study.manifest update|verify", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
