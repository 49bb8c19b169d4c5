"""TI embeddings of the Hub's concept library: located by id, and a list of some to measure."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from t2i_lens.base.paths import DATA

LIBRARY = "sd-concepts-library"
FILES = ("learned_embeds.safetensors", "learned_embeds.bin")


@dataclass(frozen=True)
class PublicToken:
    """An entry of `data/public_tokens.yaml`; a `commit` of None is looked up when fetched."""

    id: str
    class_word: str
    hero: bool = False
    kind: str = "object"
    commit: str | None = None


@dataclass(frozen=True)
class PublicTokens:
    """The list: the profiles whose model they were trained on, and the bytes of a file, about."""

    profiles: tuple[str, ...]
    bytes: int
    tokens: tuple[PublicToken, ...]

    def get(self, id: str) -> PublicToken | None:
        """The entry of an id; None where the list has none."""
        return next((token for token in self.tokens if token.id == id), None)


def public_tokens(file: Path = DATA / "public_tokens.yaml") -> PublicTokens:
    """The public tokens that chapters measure where nobody brought a token."""
    listed = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    tokens = tuple(PublicToken(**entry) for entry in listed["tokens"])
    return PublicTokens(tuple(listed["profiles"]), listed["bytes"], tokens)


def is_id(source: str) -> bool:
    """Whether a source is an id `sd-concepts-library/<name>`, and no file of that path."""
    return not Path(source).exists() and bool(re.fullmatch(rf"{LIBRARY}/[\w.-]+", source))


def locate(source: str, commit: str | None = None) -> Path:
    """The file itself, or for an id `sd-concepts-library/<name>` the file from the Hub.

    A file of that path goes before the id.

    Args:
        commit: Of the repository; that of its main branch if None.

    Raises:
        OSError: the id is unknown, or its file is neither cached nor reachable.
    """
    if not is_id(source):
        return Path(source)
    offline = False
    for name in FILES:
        try:
            return Path(hf_hub_download(source, name, revision=commit, local_files_only=offline))
        except LocalEntryNotFoundError:
            offline = True  # no network, and not cached: the other file may be
        except RepositoryNotFoundError:
            raise OSError(f"the Hub has no {source}: check the name") from None
        except RevisionNotFoundError:
            raise OSError(f"{source} has no commit {commit}: check the list") from None
        except EntryNotFoundError:
            continue
        except Exception as error:  # the transport's own errors, once it gives up
            raise OSError(f"{source} cannot be fetched ({type(error).__name__})") from None
    raise OSError(
        f"{source}: no {' or '.join(FILES)} in the cache or on the Hub as reached from here; "
        "connect to the network, or give a file"
    )
