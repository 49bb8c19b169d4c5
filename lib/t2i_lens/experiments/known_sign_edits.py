"""Edits of signs with a known outcome, drawn by the world, and other readers of signs.

Shown in: notebooks/14_text_metrics.ipynb
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8

from t2i_lens.experiments.sign_editing import add_noise
from t2i_lens.toybox.judge import Judge
from t2i_lens.toybox.nets.pair import ContrastivePair
from t2i_lens.toybox.world.scenes import Scene, Thing, render, sample_scene

NOISE = 16.0  # grey levels
STEP = 16  # grey levels: the smallest difference whose square is 0 modulo 256
KNOWN = (
    "word exchanged",
    "letters reversed",
    f"{STEP} levels darker",
    f"noise of {NOISE:.0f}",
    "one pixel lower",
    "another scene",
)


def known_edits(sources: Sequence[str], targets: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """Pictures of a sign and an object, with the word exchanged and one more change.

    Args:
        sources: Words of the world.
        targets: The words to exchange them for.
        seed: Of objects, colours, places and noise.

    Returns:
        `source` uint8 [pair, 1, 64, 64, 3] and `edited` [edit, pair, 1, 64, 64, 3], the
        edits in the order of `KNOWN`: the word exchanged, the target's letters reversed, and the
        word exchanged with one more thing changed.
    """
    drawn, edited = [], []
    for number, (source, target) in enumerate(zip(sources, targets, strict=True)):
        rng = np.random.default_rng([seed, number])
        scene, other = (sample_scene(rng, (1.0, 0.0, 0.0, 0.0)) for _ in range(2))
        drawn.append(_sign(scene, source, [seed, number, 0]))
        word = _sign(scene, target, [seed, number, 0])
        edited.append(
            [
                word,
                _sign(scene, target[::-1], [seed, number, 0]),
                np.maximum(word, STEP) - np.uint8(STEP),
                add_noise(word, NOISE, seed + number),
                np.roll(word, 1, axis=0),
                _sign(other, target, [seed, number, 1]),
            ]
        )
    return {
        "source": np.stack(drawn)[:, None],
        "edited": np.stack(edited, axis=1)[:, :, None],
    }


def _sign(scene: Scene, word: str, seed: list[int]) -> UInt8[np.ndarray, "64 64 3"]:
    # The same seed puts object and sign in the same places, whatever the word.
    thing = Thing(scene.things[0].noun, scene.things[0].colour)
    pair = (thing, Thing("sign", word=word))
    return render(Scene(pair, "next to", scene.background), np.random.default_rng(seed))


@torch.no_grad()
def clip_cosines(
    pair: ContrastivePair,
    pipe,
    pictures: UInt8[np.ndarray, "method pair seed 64 64 3"],
    texts: Sequence[str],
) -> dict[str, np.ndarray]:
    """`cosine` [method, pair, seed] of each picture with its pair's text, in the toybox's CLIP."""
    ids = pipe.tokenizer(list(texts), padding=True, return_tensors="pt").input_ids
    text_vectors = pair.embed_text(ids)
    flat = torch.from_numpy(pictures.reshape(-1, *pictures.shape[3:]))
    vectors = pair.embed_pictures(flat).reshape(*pictures.shape[:3], -1)
    return {"cosine": torch.einsum("mpsd,pd->mps", vectors, text_vectors).numpy()}


def judged_words(
    judge: Judge, pictures: UInt8[np.ndarray, "method pair seed 64 64 3"]
) -> dict[str, np.ndarray]:
    """`words` [method, pair, seed] of the world that the judge reads, "" for none."""
    read = judge.word(judge.read(pictures.reshape(-1, *pictures.shape[3:])))
    return {"words": np.array([word or "" for word in read]).reshape(pictures.shape[:3])}
