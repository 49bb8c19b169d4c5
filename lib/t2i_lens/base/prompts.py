"""The type of a prompt: a sentence with a slot for its subject, and the nouns of its context."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """A sentence with a slot `{}` for its subject, and the nouns that it names as context."""

    text: str
    context: tuple[str, ...]
