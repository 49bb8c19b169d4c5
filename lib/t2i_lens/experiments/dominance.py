"""Attention dominance: the heat-map norm of each token of a prompt, and the shape of its map."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import xarray as xr

from t2i_lens.base.prompts import Prompt
from t2i_lens.experiments.arms import Arm, Design, distinct, draw_arms
from t2i_lens.models.tokens import TokenRow
from t2i_lens.probes.cross_attention import AttentionMaps, Keep, record
from t2i_lens.probes.heat_maps import daam_norms, heat_maps, token_shares
from t2i_lens.probes.sampling import generate, initial_latents
from t2i_lens.probes.unet_hooks import short_name
from t2i_lens.stats.metrics import flatness, gini, roughness


def role_of(row: TokenRow, position: int, slot: Sequence[int]) -> str:
    """Role of a token in its prompt: bos, slot, word, eos or padding."""
    if position == row.bos:
        return "bos"
    if position >= row.eos:
        return "eos" if position == row.eos else "padding"
    return "slot" if position in slot else "word"


def _roles(row: TokenRow, word: str) -> list[str]:
    slot = row.positions(word)
    return [role_of(row, position, slot) for position in range(len(row.ids))]


def measure_tokens(pipe, design: Design, **sampling) -> xr.Dataset:
    """Draw a design and measure the heat map of every token of every picture.

    Args:
        pipe: As in `arms.draw`.

    Returns:
        [concept, arm, prompt, seed, position]: `norm`, the L2 norm of the token's 64x64 heat map
        in DAAM's units; `share`, its share of all attention, 0 to 1; `gini`, `flatness` and
        `roughness` of the heat map, see `metrics`; `piece` and `role` of the token.

    Raises:
        ValueError: as `arms.placed`.

    Shown in: notebooks/04_attention_dominance.ipynb
    """
    unique, twins = distinct(design.arms)
    with record(pipe) as recorder:
        draw_arms(pipe, unique, design.prompts, design.seeds, recorder=recorder, **sampling)
    maps, pictures = recorder.maps(), len(design.prompts) * len(design.seeds)
    heat = heat_maps(maps).numpy()
    words = [arm.word for arm in unique for _ in range(pictures)]
    numbers = {
        "norm": np.linalg.norm(heat, axis=(-2, -1)),
        "share": token_shares(maps).numpy(),
        # One picture at a time: sorting all pixels of all maps at once would take gigabytes.
        **{f.__name__: np.stack(list(map(f, heat))) for f in (gini, flatness, roughness)},
        "piece": np.array([row.pieces for row in maps.rows]),
        "role": np.array([_roles(*pair) for pair in zip(maps.rows, words, strict=True)]),
    }
    by_arm = {k: v.reshape(len(unique), pictures, -1)[twins] for k, v in numbers.items()}
    return xr.Dataset({name: design.label(v, "position") for name, v in by_arm.items()})


def per_picture(tokens: xr.Dataset) -> xr.Dataset:
    """The numbers that the claims speak of, from `measure_tokens`.

    Returns:
        [concept, arm, prompt, seed]: mean `norm`, `share`, `gini`, `flatness` and `roughness` of
        the slot, of BOS and of the ordinary words, as `slot_norm`, `word_norm` and so on;
        `slot_over_words` and `bos_over_rest`, ratios of norms, the second to the largest of all
        other tokens; `gini_gap`, `flatness_gap` and `roughness_gap`, the slot's minus the mean
        over words; `padding_share`, the sum of EOS and all after it.
    """
    columns, role = ["norm", "share", "gini", "flatness", "roughness"], tokens["role"]
    table = xr.Dataset()
    for kind in ("slot", "word", "bos"):
        means = tokens[columns].where(role == kind).mean("position")
        table = table.assign({f"{kind}_{column}": means[column] for column in columns})
    largest = tokens["norm"].where(role != "bos").max("position")
    from_eos = tokens["share"].where(role.isin(["eos", "padding"])).sum("position")
    gaps = {f"{c}_gap": table[f"slot_{c}"] - table[f"word_{c}"] for c in columns[2:]}
    return table.assign(
        slot_over_words=table["slot_norm"] / table["word_norm"],
        bos_over_rest=table["bos_norm"] / largest,
        padding_share=from_eos,
        **gaps,
    )


def draw_with_maps(
    pipe, arms: Sequence[Arm], prompt: str, seeds: Sequence[int], **sampling
) -> dict[str, np.ndarray]:
    """Pictures of one prompt with the heat maps of its tokens, BOS to EOS.

    Args:
        arms: As in `arms.draw`; their words have equally many tokens.
        prompt: With the slot `{}`.

    Returns:
        `pictures` uint8 [arm, seed, height, width, 3]; `maps` [arm, seed, token, 64, 64],
        probabilities averaged over steps, in [0, 1]; `pieces` [arm, token].

    Raises:
        ValueError: as `arms.placed`, or the arms' prompts differ in length.
    """
    maps, pictures = _recorded(pipe, arms, [Prompt(prompt, ())], seeds, Keep(), sampling)
    fed = _fed(maps)
    heat = heat_maps(maps)[:, :fed] / len(maps.steps)
    return {
        "pictures": pictures,
        "maps": heat.reshape(len(arms), len(seeds), *heat.shape[1:]).numpy(),
        "pieces": _pieces(maps, fed)[:: len(seeds)],
    }


def maps_by_step(
    pipe, arms: Sequence[Arm], prompt: str, seed: int, kept: Sequence[int], **sampling
) -> dict[str, np.ndarray]:
    """Pictures of one prompt with the heat maps of its tokens, BOS to EOS, apart for some steps.

    Args:
        arms: As in `draw_with_maps`.
        prompt: With the slot `{}`.
        kept: Steps, from 0.

    Returns:
        `pictures` uint8 [arm, height, width, 3]; `maps` [arm, step, token, 16, 16], the share of
        attention that a place pays to a token, 0 to 1; `pieces` [arm, token].

    Raises:
        ValueError: as `draw_with_maps`.

    Shown in: notebooks/04_attention_dominance.ipynb
    """
    keep = Keep(per_step=True, steps=tuple(kept))
    maps, pictures = _recorded(pipe, arms, [Prompt(prompt, ())], [seed], keep, sampling)
    fed = _fed(maps)
    steps = [_one_step(maps, step, list(maps.layers), fed, (16, 16)) for step in range(len(kept))]
    return {
        "pictures": pictures.reshape(len(arms), *pictures.shape[-3:]),
        "maps": torch.stack(steps, 1).numpy(),
        "pieces": _pieces(maps, fed),
    }


def trace_norms(
    pipe, arms: Sequence[Arm], prompt: str, seeds: Sequence[int], **sampling
) -> dict[str, np.ndarray]:
    """Norms of heat maps apart for every step and layer.

    Args:
        As in `draw_with_maps`.

    Returns:
        `norms` [arm, seed, step, layer, token], of one step and layer alone, so 0 to 64,
        BOS to EOS; `layers`, their short names; `roles` [token].

    Raises:
        ValueError: as `draw_with_maps`.
    """
    maps, _ = _recorded(pipe, arms, [Prompt(prompt, ())], seeds, Keep(per_step=True), sampling)
    row, fed = maps.rows[0], _fed(maps)
    norms = np.stack([_norms_by_step(maps, path, fed) for path in maps.layers], 2)
    return {
        "norms": norms.reshape(len(arms), len(seeds), *norms.shape[1:]),
        "layers": np.array([short_name(path) for path in maps.layers]),
        "roles": np.array(_roles(row, arms[0].word)[: row.eos + 1]),
    }


def beside_daam(pipe, prompt: str, seed: int, **sampling) -> dict[str, np.ndarray]:
    """Heat maps of one picture by the package daam and by our recorder.

    daam leaves the middle block out and keeps its own size, so ours does the same. It cuts
    the tokens after EOS.

    Args:
        prompt: A finished sentence; placeholders of one vector only, others daam mislabels.
        sampling: `num_inference_steps` and `guidance_scale`, above 1.

    Returns:
        `daam` and `recorder`, [token, height, width], probabilities summed over steps.
    """
    import daam  # loads a language toolkit, which only this comparison should wait for

    latents = initial_latents(pipe, [seed])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # one for every layer and step
        with torch.no_grad(), daam.trace(pipe) as tracer:
            pipe(prompt, latents=latents, output_type="np", **sampling)
            # Its default factors are those of a 512-pixel model; 16x16 latents make 6 and 12.
            factors = tracer.all_heat_maps.factors()
            daam_maps = tracer.compute_global_heat_map(factors=factors).heat_maps
    # daam clips each head's resized map at 0, so heads have to be kept apart here as well.
    with record(pipe, Keep(per_head=True)) as recorder:
        generate(pipe, [prompt], [seed], recorder=recorder, **sampling)
    maps = recorder.maps()
    outer = [path for path in maps.layers if not path.startswith("mid")]
    recorded = heat_maps(maps, tuple(daam_maps.shape[1:]), layers=outer)[0, : len(daam_maps)]
    return {"daam": daam_maps.numpy(), "recorder": recorded.numpy()}


def _norms_by_step(maps: AttentionMaps, path: str, tokens: int) -> np.ndarray:
    """Norms of one layer's heat maps, [sample, step, token]."""
    layer = maps.layers[path][..., :tokens]
    steps_as_samples = layer.transpose(1, 2).flatten(0, 1).unsqueeze(2)
    norms = daam_norms(replace(maps, layers={path: steps_as_samples}))
    return norms.unflatten(0, (len(layer), -1)).numpy()


def _fed(maps: AttentionMaps) -> int:
    """Tokens from BOS to EOS, equally many in all samples."""
    ends = {row.eos for row in maps.rows}
    if len(ends) > 1:
        raise ValueError("the arms' words have different numbers of tokens; draw them apart")
    return ends.pop() + 1


def _pieces(maps: AttentionMaps, fed: int) -> np.ndarray:
    names = [["BOS", *row.pieces[1 : fed - 1], "EOS"] for row in maps.rows]
    return np.array([[name.removesuffix("</w>") for name in row] for row in names])


def _one_step(
    maps: AttentionMaps, step: int, paths: Sequence[str], fed: int, size: tuple[int, int]
) -> torch.Tensor:
    """Heat maps [sample, token, height, width] of one step alone."""
    alone = {path: maps.layers[path][:, :, step : step + 1, ..., :fed] for path in paths}
    one = replace(maps, layers=alone, steps=(maps.steps[step],), tokens=tuple(range(fed)))
    return heat_maps(one, size)


def _recorded(
    pipe, arms: Sequence[Arm], prompts: Sequence[Prompt], seeds: Sequence[int], keep: Keep, sampling
):
    with record(pipe, keep) as recorder:
        pictures = draw_arms(pipe, arms, prompts, seeds, recorder=recorder, **sampling)
    return recorder.maps(), pictures
