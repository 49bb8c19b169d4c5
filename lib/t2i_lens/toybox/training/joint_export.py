"""Write the toybox with joint attention to ``data/models/toybox-mm``.

Shown in: book/toybox.md
"""

import json
import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline
from transformers import CLIPTokenizer

from t2i_lens.base.paths import DATA
from t2i_lens.toybox.nets import joint
from t2i_lens.toybox.training import stages
from t2i_lens.toybox.training.export import forget_derived

TOYBOX_MM = DATA / "models" / "toybox-mm"


def pipeline_of(
    folder: Path, preset, words: CLIPTokenizer, device: torch.device
) -> StableDiffusion3Pipeline:
    """The newest averaged weights of a training folder, finished or not, as a pipeline.

    Its tokenizers pad to `joint.CAPTION_TOKENS`, the length that the transformer was trained on.
    """
    vae = stages.train_autoencoder(folder, preset.autoencoder, device)
    pair = stages.train_text_encoder(folder, words, preset.text_encoder, device, preset.dials)
    state = torch.load(folder / "transformer.pt", map_location=device, weights_only=True)
    transformer, prefix = joint.build_transformer(), "module."
    averaged = {n.removeprefix(prefix): v for n, v in state["average"].items() if prefix in n}
    transformer.load_state_dict(averaged)
    short = [
        CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=joint.CAPTION_TOKENS)
        for _ in range(2)
    ]
    pipe = StableDiffusion3Pipeline(
        transformer=transformer.eval(), scheduler=joint.build_scheduler(), vae=vae,
        text_encoder=joint.projected_encoder(pair), tokenizer=short[0],
        text_encoder_2=joint.blank_encoder(len(words)), tokenizer_2=short[1],
        text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip
    return pipe.to("cpu")


def export(folder: Path, preset, words: CLIPTokenizer, device: torch.device) -> None:
    """Write the pipeline in fp16 and the loss curve beside it."""
    pipe = pipeline_of(folder, preset, words, device)
    for part in (pipe.transformer, pipe.text_encoder, pipe.text_encoder_2, pipe.vae):
        part.half()
    pipe.save_pretrained(TOYBOX_MM, safe_serialization=True)
    forget_derived(TOYBOX_MM / "vae")
    for encoder in ("text_encoder", "text_encoder_2"):
        _computed_in_fp32(TOYBOX_MM / encoder / "config.json")
    for tokenizer in ("tokenizer", "tokenizer_2"):
        for name in ("vocab.json", "merges.txt"):  # CLIP's own format
            shutil.copyfile(folder / "tokenizer" / name, TOYBOX_MM / tokenizer / name)
    shutil.copyfile(folder / "transformer.csv", TOYBOX_MM / "transformer.csv")


def _computed_in_fp32(file: Path) -> None:
    """State float32 in a configuration, as diffusers' parts are loaded in it by default.

    transformers would load a text encoder in the dtype of its configuration, half precision here.
    """
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n")
