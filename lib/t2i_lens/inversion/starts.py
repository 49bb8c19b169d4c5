"""Initial rows for textual inversion: the class word, proposed alternatives, and two controls.

The usual start is the class word's row. The alternatives are published proposals; the controls do
not depend on the concept.

Sources: Gal et al. 2022 (class word); Cross Initialization, Pang et al., arXiv 2312.15905 (the
text encoder's output, and the mean of several names).
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from diffusers import StableDiffusionPipeline

from t2i_lens.base.files import seed_of
from t2i_lens.base.shapes import EmbeddingRows
from t2i_lens.inversion.embedding_table import Vocabulary
from t2i_lens.inversion.embeddings import Concept
from t2i_lens.inversion.training import initializer_rows, word_row
from t2i_lens.models.tokens import encode

Initialisation = Literal[
    "class_word", "mean_of_names", "encoder_output", "random_row", "random_direction"
]
INITIALISATIONS: tuple[Initialisation, ...] = get_args(Initialisation)


def initial_rows(
    pipe: StableDiffusionPipeline,
    concept: Concept,
    initialisation: Initialisation,
    vocabulary: Vocabulary,
    names: Sequence[str] = (),
    seed: int = 0,
) -> EmbeddingRows:
    """The row where a concept's placeholder starts, [1, d_model], float32.

    Args:
        initialisation: `class_word`: the row of its initializer token. `mean_of_names`: the mean
            row of `names`. `encoder_output`: what the text encoder gives, after its final norm,
            at the position of the initializer token, fed alone. `random_row`: one of the
            vocabulary's trained rows. `random_direction`: uniform on the sphere whose radius is
            the vocabulary's mean norm.
        names: Single-token words; the concept's own initializer is not taken.
        seed: Of the two random ones, together with the concept's name.

    Raises:
        ValueError: a word is not one token, or there are no names to take the mean of.
    """
    if initialisation == "class_word":
        return initializer_rows(pipe, concept, 1)
    if initialisation == "mean_of_names":
        other_names = [name for name in names if name != concept.initializer_token]
        if not other_names:
            raise ValueError("mean_of_names needs names other than the initializer")
        return torch.stack([word_row(pipe, name) for name in other_names]).mean(0, keepdim=True)
    if initialisation == "encoder_output":
        word_row(pipe, concept.initializer_token)  # refuses a word of several tokens
        prompt = encode(pipe, concept.initializer_token)
        ids = torch.tensor([prompt.ids], device=pipe.text_encoder.device)
        with torch.no_grad():
            states = pipe.text_encoder(ids).last_hidden_state
        (position,) = prompt.positions(concept.initializer_token)
        return states[0, position : position + 1].float()
    generator = torch.Generator().manual_seed(seed_of(f"{seed}:{concept.name}:{initialisation}"))
    if initialisation == "random_row":
        number = int(torch.randint(len(vocabulary.trained), (1,), generator=generator))
        return torch.from_numpy(vocabulary.trained[number : number + 1])
    direction = torch.randn(1, vocabulary.trained.shape[1], generator=generator)
    return direction / direction.norm() * vocabulary.mean_norm
