"""Atomic writing of files and folders, and sha256 hashes of their content."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path


def digest(content: bytes) -> str:
    """sha256 of bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def seed_of(text: str) -> int:
    """Seed of 64 bits that a text fixes: the first bytes of its sha256."""
    return int(digest(text.encode())[:16], 16)


def file_digest(file: Path) -> str:
    """sha256 of a file's content, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write(file: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def replace_folder(new: Path, target: Path) -> None:
    """Put a finished folder in the place of an older one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        previous = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        os.replace(target, previous)  # onto an empty folder
        os.replace(new, target)
        shutil.rmtree(previous)
    else:
        os.replace(new, target)
