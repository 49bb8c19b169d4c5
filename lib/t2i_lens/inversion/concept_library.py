"""TI embeddings of the Hub's concept library, located by their id."""

import re
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

LIBRARY = "sd-concepts-library"
FILES = ("learned_embeds.safetensors", "learned_embeds.bin")


def locate(source: str) -> Path:
    """The file itself, or for an id `sd-concepts-library/<name>` the file from the Hub.

    A file of that path goes before the id.

    Raises:
        OSError: the id is unknown, or its file is neither cached nor reachable.
    """
    if Path(source).exists() or not re.fullmatch(rf"{LIBRARY}/[\w.-]+", source):
        return Path(source)
    offline = False
    for name in FILES:
        try:
            return Path(hf_hub_download(source, name, local_files_only=offline))
        except LocalEntryNotFoundError:
            offline = True  # no network, and not cached: the other file may be
        except RepositoryNotFoundError:
            raise OSError(f"the Hub has no {source}: check the name") from None
        except EntryNotFoundError:
            continue
        except Exception as error:  # the transport's own errors, once it gives up
            raise OSError(f"{source} cannot be fetched ({type(error).__name__})") from None
    raise OSError(
        f"{source}: no {' or '.join(FILES)} in the cache or on the Hub as reached from here; "
        "connect to the network, or give a file"
    )
