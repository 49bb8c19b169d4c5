"""Quality of the toybox's text encoder: zero-shot nouns, retrieval, and attention to BOS.

Shown in: book/toybox.md
"""

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from t2i_lens.probes.text_attention import bos_mass, read_prompts
from t2i_lens.toybox.nets.pair import ContrastivePair
from t2i_lens.toybox.quality.intervals import mean, share
from t2i_lens.toybox.world.atlas import world_words
from t2i_lens.toybox.world.captions import caption
from t2i_lens.toybox.world.scenes import Scene, render, sample_scene


@torch.no_grad()
def text_quality(pair: ContrastivePair, pipe: StableDiffusionPipeline, seed: int = 102) -> dict:
    """Zero-shot noun accuracy on held-out single objects; retrieval@1, text to picture, of 256.

    Zero-shot with "a photo of a NOUN", on all pictures and on those in natural colours alone,
    because the plain sentence speaks of an untinted object.
    """
    rng = np.random.default_rng(seed)
    words = world_words()
    nouns = list(words["nouns"])

    def embed(texts: list[str]) -> torch.Tensor:
        ids = pipe.tokenizer(texts, padding=True, truncation=True, return_tensors="pt").input_ids
        return pair.embed_text(ids)

    singles = [sample_scene(rng, (1.0, 0.0, 0.0, 0.0)) for _ in range(640)]
    pictures = torch.from_numpy(np.stack([render(scene, rng) for scene in singles]))
    vectors = pair.embed_pictures(pictures)
    plain = (vectors @ embed([f"a photo of a {noun}" for noun in nouns]).T).argmax(1)
    things = [scene.things[0] for scene in singles]

    def hits(guess: torch.Tensor, natural: bool = False) -> dict:
        pairs = zip(guess, things, strict=True)
        counted = [(nouns[i], t) for i, t in pairs if not natural or t.colour is None]
        return share([noun == thing.noun for noun, thing in counted])

    scenes: dict[str, Scene] = {}
    while len(scenes) < 256:  # distinct contents: no two scenes say the same
        scene = sample_scene(rng)
        scenes.setdefault(caption(scene), scene)
    pictures = torch.from_numpy(np.stack([render(scene, rng) for scene in scenes.values()]))
    ranks = (embed(list(scenes)) @ pair.embed_pictures(pictures).T).argmax(1)
    return {
        "zero_shot_noun_plain_natural_colours": hits(plain, natural=True),
        "zero_shot_noun_plain_all": hits(plain),
        "retrieval_at_1_of_256": share((ranks == torch.arange(256)).numpy()),
    }


def bos_attention(pipe: StableDiffusionPipeline, prompts: int = 256, seed: int = 105) -> dict:
    """Attention paid to BOS in each text layer, mean over heads; 95 % t-intervals over prompts."""
    rng = np.random.default_rng(seed)
    reading = read_prompts(pipe, [caption(sample_scene(rng)) for _ in range(prompts)])
    masses = torch.stack(
        [bos_mass(p, row.eos) for p, row in zip(reading.patterns, reading.rows, strict=True)]
    ).mean(-1)
    result = {}
    for layer, values in zip(reading.layers, masses.T.numpy(), strict=True):
        result[f"attention_to_BOS_in_layer_{layer + 1}"] = mean(values)
    return result
