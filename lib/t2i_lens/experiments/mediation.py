"""Mediation: by which path does a learned token cost a prompt its other objects?

The class word and the token are exchanged, not in the whole prompt but along one path: in the keys
or the values of cross-attention, at some positions, in some layers of the U-Net or steps, or in
one part of one layer of the text encoder. Pearl's natural effects (2001) are the means of the
pictures that follow. "Break" puts the token's activations into the class word's picture, "mend"
the class word's into the token's.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from t2i_lens.experiments.prompt_sets import OTHER_NOUNS, load_prompts
from t2i_lens.judging.protocols import FOUND
from t2i_lens.models.tokens import TokenRow, encode
from t2i_lens.probes.edits import Edit, Inject, Swap, Value
from t2i_lens.probes.hookable import execution_device
from t2i_lens.probes.sampling import generate, require, text_states
from t2i_lens.probes.text_parts import exchanged_part, kept_part
from t2i_lens.probes.unet_hooks import cross_attention_layers

TOKEN, CLASS_WORD, NOUN = "TI token", "class word", "another noun"
NOISED = "noised "  # before a word: noise is added to its row
UNRELATED = "unrelated prompt"
NOISE = 3.0  # standard deviations of the table's entries, as in causal tracing (Meng et al. 2022)
ROLES = ("slot", "words after", "EOS", "padding")
OTHERS = ROLES[1:]
BLOCKS = {"down": "down_blocks", "middle": "mid_block", "up": "up_blocks"}
THIRDS = ("early", "middle steps", "late")
PARTS = ("residual", "attention", "MLP")
PROMPTS = (0, 4, 11)  # of the hero's set: two objects each, the slot at the first or second place
LAYERS = 6  # text layers whose parts are exchanged
KEYS = ["base", "donor", "family", "mediator", "concept", "prompt", "seed"]


@dataclass(frozen=True)
class Exchange:
    """A prompt with one word, some of whose activations come from the prompt with another.

    Attributes:
        base: The word that is drawn: `TOKEN`, `CLASS_WORD`, `NOUN`, or one of them `NOISED`.
        donor: The word, or the `UNRELATED` prompt, that the activations come from; empty for none.
        family: What the prompt is divided into: "paths", "positions", "blocks", "steps", ...
        mediator: The part that is exchanged.
        into: Keys, values or both get the donor's states.
        roles: Positions that get them; all if empty.
        block: Beginning of the paths of the U-Net's layers that get them; all if empty.
        third: Of the steps that get them, from 0; all if None.
        part: In place of all these, a part of a text layer at the roles; "" for none.
        layer: Number of the text layer, from 0.
        change: Of the donor's states, for a control: "half" the way, "permuted" channels of the
            difference, "shifted" by one position.
    """

    base: str
    donor: str = ""
    family: str = "whole"
    mediator: str = "none"
    into: tuple[str, ...] = ("key", "value")
    roles: tuple[str, ...] = ()
    block: str = ""
    third: int | None = None
    part: str = ""
    layer: int = 0
    change: str = ""

    @property
    def name(self) -> str:
        """Of the exchange among all: base, donor, family and mediator."""
        return " | ".join((self.base, self.donor, self.family, self.mediator))


def exchanges() -> list[Exchange]:
    """All exchanges of the study, those that others build on first.

    Some pictures stand for two: the token's prompt with the class word's keys is the class word's
    prompt with the token's values.
    """
    both_ways = ((TOKEN, CLASS_WORD), (CLASS_WORD, TOKEN))
    found = [Exchange(word) for word in (TOKEN, CLASS_WORD, NOUN)]
    found += [_path(TOKEN, CLASS_WORD, into) for into in ("keys", "values")]
    found += [_positions(*pair, role, (role,)) for pair in both_ways for role in ROLES]
    found += [_path(CLASS_WORD, NOUN, into) for into in ("keys", "values")]
    found += [_positions(CLASS_WORD, NOUN, "slot", ("slot",))]
    found += [_positions(CLASS_WORD, NOUN, "others", OTHERS)]
    for donor in (CLASS_WORD, NOUN):
        found += [_text(TOKEN, donor, "residual", layer) for layer in range(LAYERS)]
    for base, donor in both_ways:
        found += [Exchange(base, donor, "blocks", b, block=path) for b, path in BLOCKS.items()]
        found += [Exchange(base, donor, "steps", t, third=n) for n, t in enumerate(THIRDS)]
    found += [*_controls(), *_tracing(CLASS_WORD)]
    for part in PARTS[1:]:
        found += [_text(TOKEN, CLASS_WORD, part, layer) for layer in range(LAYERS)]
    for part in PARTS:
        found += [_text(CLASS_WORD, TOKEN, part, layer) for layer in range(LAYERS)]
    return found


def _path(base: str, donor: str, into: str) -> Exchange:
    return Exchange(base, donor, "paths", into, into=(into.removesuffix("s"),))


def _positions(base: str, donor: str, name: str, roles: tuple[str, ...]) -> Exchange:
    return Exchange(base, donor, "positions", name, roles=roles)


def _text(base: str, donor: str, part: str, layer: int, roles=OTHERS) -> Exchange:
    where = f"{part} {layer + 1}"
    return Exchange(base, donor, f"text {part}", where, roles=roles, part=part, layer=layer)


def _controls() -> list[Exchange]:
    pair = (TOKEN, CLASS_WORD, "controls")
    changed = [Exchange(*pair, change, roles=OTHERS, change=change)
               for change in ("half", "permuted", "shifted")]  # fmt: skip
    return [*changed, Exchange(TOKEN, UNRELATED, "controls", "unrelated prompt", roles=OTHERS)]


def _tracing(word: str) -> list[Exchange]:
    """Causal tracing: attention outputs of the sound run put back into the noised one."""
    noised, found = NOISED + word, [Exchange(NOISED + word)]
    for role in (("slot",), ("words after",), ("EOS", "padding")):
        for layer in range(LAYERS):
            name = f"{' and '.join(role)} {layer + 1}"
            found.append(
                Exchange(noised, word, "tracing", name, roles=role, part="attention", layer=layer)
            )
    return found


@dataclass(frozen=True)
class Sentence:
    """A prompt of a concept, with each word that can stand in its slot.

    Attributes:
        words: Token, class word and another noun.
        noun: The concept's own, which the judge knows.
    """

    concept: str
    prompt: str
    context: tuple[str, ...]
    words: tuple[str, str, str]

    def text(self, word: str) -> str:
        """The sentence with the word of that name in its slot."""
        return self.prompt.replace("{}", self.word(word))

    def word(self, name: str) -> str:
        """The word itself, noised or not."""
        return self.words[(TOKEN, CLASS_WORD, NOUN).index(name.removeprefix(NOISED))]


def roles(row: TokenRow, word: str) -> dict[str, tuple[int, ...]]:
    """Positions of a prompt by role.

    BOS and the words before the slot have no role: no state there depends on the slot's word, as a
    causal encoder looks back only.
    """
    slot = row.positions(word)
    return {
        "slot": slot,
        "words after": tuple(range(slot[-1] + 1, row.eos)),
        "EOS": (row.eos,),
        "padding": tuple(range(row.padding.start, row.padding.stop)),
    }


def measure(
    pipe, judge, sentences: Sequence[dict], exchange: dict, seeds: Sequence[int], **sampling
) -> pd.DataFrame:
    """Draw sentences with one exchange, and read what is in the pictures.

    Args:
        pipe: Stable Diffusion 1 or 2, to which the tokens are attached.
        judge: Knows every context noun, every concept and its class word.
        sentences: Fields of `Sentence`; the words of one have equally many tokens.
        exchange: Fields of `Exchange`.
        seeds: One latent each, the same for all exchanges.
        sampling: Passed to `sampling.generate`.

    Returns:
        A row per sentence and seed: `KEYS`; `lost`, how many of the `asked` context objects are
        not found; `doubt`, 1 minus their mean probability; `concept_found` and `word_found`,
        whether the concept and the class word's object are there.

    Raises:
        ValueError: another pipeline, words of different lengths, or as the edits do.

    Shown in: notebooks/31_mediation.ipynb
    """
    drawn, by = [sentence_of(fields) for fields in sentences], exchange_of(exchange)
    pictures = draw(pipe, drawn, by, seeds, **sampling)
    return answers(judge, drawn, by, seeds, pictures)


def draw(
    pipe, sentences: Sequence[Sentence], exchange: Exchange, seeds: Sequence[int], **sampling
) -> np.ndarray:
    """Pictures with one exchange, uint8 [sentence, seed, height, width, 3]; see `measure`."""
    require(
        pipe, StableDiffusionPipeline, "mediation exchanges keys and values of Stable Diffusion"
    )
    _require_equal_lengths(pipe, sentences, exchange)
    texts = [sentence.text(exchange.base) for sentence in sentences]
    edits = edits_of(pipe, sentences, exchange, sampling["num_inference_steps"])
    return generate(pipe, texts, list(seeds), edits=edits, **sampling)


def _require_equal_lengths(pipe, sentences: Sequence[Sentence], exchange: Exchange) -> None:
    names = [word for word in (exchange.base, exchange.donor) if word not in ("", UNRELATED)]
    for sentence in sentences:
        if len({encode(pipe, sentence.text(name)).eos for name in names}) > 1:
            words = " and ".join(repr(sentence.word(name)) for name in names)
            raise ValueError(
                f"{words} have different numbers of tokens: exchange equally long words"
            )


def edits_of(
    pipe, sentences: Sequence[Sentence], exchange: Exchange, steps: int
) -> list[list[Edit]]:
    """The edits that make an exchange, a list for each sentence."""
    base = states_of(pipe, sentences, exchange.base)
    whole = [[Inject(Value("states", row))] for row in base]
    if not exchange.donor:
        return whole if exchange.base.startswith(NOISED) else [[] for _ in sentences]
    if exchange.part:
        mixed = _through_part(pipe, sentences, exchange)
        return [[Inject(Value("states", row))] for row in mixed]
    donor = _changed(base, states_of(pipe, sentences, exchange.donor), exchange.change)
    names = [p for p in cross_attention_layers(pipe.unet) if p.startswith(exchange.block)]
    third = exchange.third
    span = None if third is None else (round(steps * third / 3), round(steps * (third + 1) / 3))
    edits = []
    for sentence, row in zip(sentences, donor, strict=True):
        places = positions_of(pipe, sentence, exchange) if exchange.roles else None
        if exchange.change == "shifted":
            row = row.clone()
            row[list(places)] = row[list(places)].roll(1, 0)
        put = Inject(Value("states", row), tuple(names), span, exchange.into, places)
        edits.append([put])
    return edits


def positions_of(pipe, sentence: Sentence, exchange: Exchange) -> tuple[int, ...]:
    """Positions of a sentence that an exchange changes."""
    word = sentence.word(exchange.base)
    by_role = roles(encode(pipe, sentence.prompt.replace("{}", word)), word)
    return tuple(p for role in exchange.roles for p in by_role[role])


@torch.no_grad()
def states_of(pipe, sentences: Sequence[Sentence], word: str) -> Float[Tensor, "sentence token d"]:
    """The text encoder's output for each sentence with a word in its slot.

    Args:
        word: Its name, see `Exchange.base`; of `UNRELATED`, the sentences in another order with
            their class words.
    """
    if word == UNRELATED:
        turned = [*sentences[len(sentences) // 2 + 1 :], *sentences[: len(sentences) // 2 + 1]]
        return states_of(pipe, turned, CLASS_WORD)
    texts = [sentence.text(word) for sentence in sentences]
    return text_states(pipe, texts, len(texts), edits=_noise(pipe, sentences, word))


def _noise(pipe, sentences: Sequence[Sentence], word: str) -> list[list[Edit]]:
    """Noise on the slot's row, another for each sentence, the same at every call."""
    if not word.startswith(NOISED):
        return [[] for _ in sentences]
    table = pipe.text_encoder.get_input_embeddings().weight
    spread, edits = float(table.std()), []
    for number, sentence in enumerate(sentences):
        row = encode(pipe, sentence.text(word))
        slot = row.positions(sentence.word(word))
        noise = torch.randn(
            len(slot), table.shape[1], generator=torch.Generator().manual_seed(number)
        )
        own = table[[row.ids[p] for p in slot]].detach().cpu()
        edits.append([Swap(Value("noised", own + NOISE * spread * noise), positions=slot)])
    return edits


@torch.no_grad()
def _through_part(pipe, sentences, exchange: Exchange) -> Float[Tensor, "sentence token d"]:
    encoder, (part, layer) = pipe.text_encoder, (exchange.part, exchange.layer)
    with kept_part(encoder, part, layer) as kept:
        states_of(pipe, sentences, exchange.donor)
    where = torch.zeros(kept[0].shape[:2], dtype=torch.bool, device=execution_device(encoder))
    for row, sentence in zip(where, sentences, strict=True):
        row[list(positions_of(pipe, sentence, exchange))] = True
    with exchanged_part(encoder, part, layer, kept[0], where):
        return states_of(pipe, sentences, exchange.base)


def _changed(base: Tensor, donor: Tensor, change: str) -> Tensor:
    if change == "half":
        return base + 0.5 * (donor - base)
    if change == "permuted":
        order = torch.randperm(base.shape[-1], generator=torch.Generator().manual_seed(0))
        return base + (donor - base)[..., order]
    return donor


def answers(
    judge,
    sentences: Sequence[Sentence],
    exchange: Exchange,
    seeds: Sequence[int],
    pictures: np.ndarray,
) -> pd.DataFrame:
    """What the judge finds in pictures [sentence, seed, ...] of an exchange; see `measure`."""
    nouns = np.asarray(judge.read(pictures.reshape(-1, *pictures.shape[2:])).nouns)
    rows = []
    for number, chance in enumerate(nouns):
        sentence = sentences[number // len(seeds)]
        context = chance[[judge.nouns.index(noun) for noun in sentence.context]]
        found = {
            name: bool(chance[judge.nouns.index(noun)] >= FOUND)
            for name, noun in (
                ("concept_found", sentence.concept), ("word_found", sentence.words[1]),
            )
        }  # fmt: skip
        rows.append(
            {name: getattr(exchange, name) for name in KEYS[:4]}
            | {"concept": sentence.concept, "prompt": sentence.prompt}
            | {"seed": seeds[number % len(seeds)], "lost": int((context < FOUND).sum())}
            | {"asked": len(context), "doubt": float(1 - context.mean())} | found
        )  # fmt: skip
    return pd.DataFrame(rows)


def sentences_of(concepts: Sequence) -> list[Sentence]:
    """Every prompt of every concept, prompts fastest.

    Args:
        concepts: `embeddings.Concept`s; an ordinary noun is the other noun of each, in turn.
    """
    hero = load_prompts("hero")
    nouns = zip(concepts, cycle(OTHER_NOUNS), strict=False)
    return [
        Sentence(
            concept.name,
            prompt.text,
            prompt.context,
            (concept.placeholder_token, concept.superclass, noun),
        )
        for concept, noun in nouns
        for prompt in (hero[number] for number in PROMPTS)
    ]


def fields_of(items: Sequence[Sentence] | Sequence[Exchange]) -> list[dict]:
    """Sentences or exchanges as `measure` takes them."""
    return [asdict(item) for item in items]


def sentence_of(fields: dict) -> Sentence:
    """A sentence again from its fields."""
    pairs = {name: tuple(fields[name]) for name in ("context", "words")}
    return Sentence(**fields | pairs)


def exchange_of(fields: dict) -> Exchange:
    """An exchange again from its fields."""
    return Exchange(**fields | {name: tuple(fields[name]) for name in ("into", "roles")})
