"""The commands `t2i-lens embeddings`."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from t2i_lens.inversion.published_files import LearnedToken

app = typer.Typer(no_args_is_help=True, help="Read, convert and keep files of TI embeddings.")
Source = Annotated[str, typer.Argument(metavar="FILE", help="or an id sd-concepts-library/…")]
Name = Annotated[str | None, typer.Option(help="placeholder, in place of the file's own")]

Profile = Annotated[str, typer.Option(help="model that they were trained on")]


class Layout(StrEnum):
    diffusers = "diffusers"
    a1111 = "a1111"


@app.command()
def inspect(
    file: Source,
    name: Name = None,
    lr: Annotated[
        float | None, typer.Option(min=1e-12, help="rate that reached the optimiser")
    ] = None,
    decay: Annotated[float, typer.Option(min=0, help="weight decay of AdamW")] = 0.01,
) -> None:
    """Show the contents of an embedding file: names, vectors, widths, norms, the likely model.

    Says where each norm lies among public tokens and, as far as the recipe is known, on the law of
    the optimiser.
    """
    from t2i_lens.inversion.public_norms import place

    places = []
    table = Table("token", "vectors", "width", "dtype", "norms", "likely model", "layout")
    for token in _tokens(file, name):
        widths = " + ".join(str(rows.shape[1]) for rows in token.rows)
        dtypes = {str(rows.dtype).removeprefix("torch.") for rows in token.rows}
        norms = [
            ", ".join(f"{norm:.3g}" for norm in rows.double().norm(dim=1)) for rows in token.rows
        ]
        counts = dict.fromkeys(str(len(rows)) for rows in token.rows)
        table.add_row(
            shown(token.name), " + ".join(counts), widths, ", ".join(sorted(dtypes)),
            " + ".join(norms), token.likely_model, token.layout,
        )  # fmt: skip
        for rows in token.rows:
            norm, recipe = float(rows.double().norm(dim=1).mean()), {"steps": token.step}
            recipe |= {"learning_rate": lr, "weight_decay": decay}
            places.append(f"{shown(token.name)}: {place(norm, rows.shape[1], **recipe)}")
    # Rich would read a name such as [b] as a style.
    console = Console(markup=False, highlight=False)
    console.print(table)
    for line in places:
        console.print(line, soft_wrap=True)


@app.command()
def convert(
    file: Source,
    to: Annotated[Layout, typer.Option(help="tool that will read the file")],
    output: Annotated[Path, typer.Option(help="folder")] = Path(),
    name: Name = None,
) -> None:
    """Write each token of an embedding file to a safetensors file of its own."""
    from t2i_lens.inversion.published_files import write_tokens

    for written in write_tokens(_tokens(file, name), output, to.value):
        print(written)


@app.command()
def add(
    file: Source,
    class_word: Annotated[
        str | None, typer.Option(help="ordinary word to compare with; one token")
    ] = None,
    profile: Profile = "sd15",
    name: Name = None,
) -> None:
    """Add the tokens of an embedding file to the tokens that a profile's chapters measure.

    The class word of a token that data/public_tokens.yaml lists is stated there.
    """
    from t2i_lens.inversion import concept_library as library
    from t2i_lens.inversion.published_files import add_public, add_tokens

    listed = library.public_tokens().get(file) if library.is_id(file) else None
    if listed and class_word is None and name is None:
        added = add_public(listed, profile)
    elif class_word is None:
        raise ValueError(f"{file} is not listed: say what to compare it with, --class-word WORD")
    else:
        added = add_tokens(_tokens(file, name), class_word, profile, source=file)
    for folder in added:
        print(folder)


@app.command("list")
def list_tokens(profile: Profile = "sd15") -> None:
    """List the TI embeddings of a profile: those shipped, trained here and brought."""
    from t2i_lens.inversion.embedding_table import folder_of
    from t2i_lens.inversion.own_tokens import listed

    table = Table("token", "vectors", "width", "class word", "source", "folder")
    for row in listed(folder_of(profile)).to_dict("records"):
        columns = ("token", "vectors", "width", "class_word", "source", "folder")
        table.add_row(*(shown(str(row[column])) for column in columns))
    Console(markup=False).print(table)


@app.command()
def remove(
    token: Annotated[str, typer.Argument(help="placeholder, or name of its folder")],
    profile: Profile = "sd15",
) -> None:
    """Remove a TI embedding that was trained or brought; its files are deleted."""
    from t2i_lens.inversion.embedding_table import folder_of
    from t2i_lens.inversion.own_tokens import remove as delete
    from t2i_lens.models.profiles import get

    if not get(profile).on_hub:
        raise ValueError(f"the TI embeddings of {profile} are shipped: name another profile")
    print(shown(f"removed {delete(folder_of(profile), token)}"))


def shown(text: str) -> str:
    """A text for a terminal: what is no printable character is written as its code."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _tokens(file: str, name: str | None) -> "list[LearnedToken]":
    """The placeholders of a file; what should be known of one is said on standard error."""
    from t2i_lens.inversion.concept_library import locate
    from t2i_lens.inversion.published_files import read_tokens

    tokens = read_tokens(locate(file), name)
    for token in tokens:
        if token.note:
            print(f"note: {shown(token.note)}", file=sys.stderr)
    return tokens
