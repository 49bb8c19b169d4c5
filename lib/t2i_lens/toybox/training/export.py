"""Write the trained networks to ``data/models``: the pipeline, the picture tower, the judge.

Shown in: book/toybox.md
"""

import json
import shutil
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from t2i_lens.base.paths import DATA
from t2i_lens.toybox import judge
from t2i_lens.toybox.nets import networks
from t2i_lens.toybox.nets.pair import ContrastivePair
from t2i_lens.toybox.training import stages
from t2i_lens.toybox.world.captions import Care, caption, careless

TOYBOX = DATA / "models" / "toybox"
TOWER = DATA / "models" / "picture_tower"
STAGES = ("autoencoder", "text_encoder", "judge", "unet")
COUNTED_CAPTIONS = 50_000


def pipeline_of(
    folder: Path, preset, words: CLIPTokenizer, device: torch.device
) -> tuple[StableDiffusionPipeline, ContrastivePair]:
    """The newest averaged weights of a training folder, finished or not, as a pipeline."""
    vae = stages.train_autoencoder(folder, preset.autoencoder, device)
    pair = stages.train_text_encoder(folder, words, preset.text_encoder, device, preset.dials)
    state = torch.load(folder / "unet.pt", map_location=device, weights_only=True)["average"]
    unet: UNet2DConditionModel = networks.build_unet()
    prefix = "module."
    unet.load_state_dict(
        {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
    )
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=pair.text, tokenizer=words, unet=unet.eval(),
        scheduler=networks.build_scheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    return pipe.to("cpu"), pair.to("cpu")


def export(folder: Path, preset, words: CLIPTokenizer, device: torch.device) -> None:
    """Write everything that is shipped; the U-Net in fp16, the small networks in fp32."""
    pipe, pair = pipeline_of(folder, preset, words, device)
    pipe.unet.half()
    pipe.save_pretrained(TOYBOX, safe_serialization=True)
    forget_derived(TOYBOX / "vae")
    for name in ("vocab.json", "merges.txt"):  # CLIP's own format, which transformers leaves out
        shutil.copyfile(folder / "tokenizer" / name, TOYBOX / "tokenizer" / name)
    TOWER.mkdir(parents=True, exist_ok=True)
    # The text tower is in the pipeline, and the heads of recall have done their work.
    elsewhere = ("text.", "own.", "previous.")
    tower = {
        n: v.half().contiguous()
        for n, v in pair.state_dict().items()
        if not n.startswith(elsewhere)
    }
    save_file(tower, TOWER / "picture_tower.safetensors")
    judge.save_judge(judge.train(folder, preset.judge, device).cpu())
    counts = token_counts(words, preset.dials.care)
    (TOYBOX / "token_counts.json").write_text(json.dumps(counts) + "\n")
    curves(folder)


def forget_derived(autoencoder: Path) -> None:
    """Take from an `AutoencoderTiny`'s configuration what its constructor derives and refuses.

    diffusers writes `block_out_channels` beside the encoder's and the decoder's own, and remarks on
    it whenever the folder is loaded.
    """
    file = autoencoder / "config.json"
    config = json.loads(file.read_text())
    config.pop("block_out_channels", None)
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def token_counts(words: CLIPTokenizer, care: Care, seed: int = 5) -> dict[str, int]:
    """How often each token id occurs in 50,000 captions drawn as in the contrastive training.

    Ids that are missing were never trained: the world cannot say them.
    """
    rng = np.random.default_rng(seed)
    total: Counter[int] = Counter()
    for _ in range(COUNTED_CAPTIONS // 1000):
        scenes = [stages.sample_named(rng) for _ in range(1000)]
        ids = words([caption(careless(scene, rng, care), rng) for scene in scenes]).input_ids
        total.update(token for row in ids for token in row)
    return {str(token): total[token] for token in sorted(total)}


def load_pair(pipe: StableDiffusionPipeline) -> ContrastivePair:
    """The contrastive pair again: the pipeline's text encoder with the shipped picture tower."""
    pair = ContrastivePair(len(pipe.tokenizer))
    weights = {n: v.float() for n, v in load_file(TOWER / "picture_tower.safetensors").items()}
    weights |= {f"text.{name}": value for name, value in pipe.text_encoder.state_dict().items()}
    pair.load_state_dict(weights)
    return pair.eval()


def curves(folder: Path) -> None:
    """Copy the loss curves beside the weights, as CSV and as one picture."""
    figure, axes = plt.subplots(1, len(STAGES), figsize=(12, 2.8), constrained_layout=True)
    for stage, axis in zip(STAGES, axes, strict=True):
        rows = pd.read_csv(folder / f"{stage}.csv")
        (TOYBOX / "training").mkdir(exist_ok=True)
        rows.to_csv(TOYBOX / "training" / f"{stage}.csv", index=False)
        axis.plot(rows["step"], rows["loss"], color="#0072B2")
        axis.set(title=stage.replace("_", " "), xlabel="step", ylabel="loss", yscale="log")
    figure.savefig(TOYBOX / "training" / "curves.png", dpi=110)
    plt.close(figure)
