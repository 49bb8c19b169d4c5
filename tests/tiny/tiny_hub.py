"""A cache of the Hub whose repositories of the study hold tiny models of the real classes."""

from pathlib import Path

import torch
import yaml
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from families import text_config
from transformers import (
    BitImageProcessorPil,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessorPil,
    Owlv2Processor,
)

from t2i_lens.base.paths import DATA
from t2i_lens.inversion.concept_library import public_tokens
from t2i_lens.inversion.embeddings import load_concepts
from t2i_lens.judging import judges
from t2i_lens.models import profiles
from t2i_lens.models.architectures import read_config
from t2i_lens.toybox.nets.tokenizer import build

WIDTH, SECOND = 32, 48  # of the text encoders
SHARPER, SHIFT = 10, -0.2  # found by trial: a noun is found in some pictures of noise, not in all
PUBLIC = "3" * 40  # commit of each public token
MORE = "a photo of the style in that says toy turtle"


def sentences() -> list[str]:
    """All that the study's prompts say to a model that is not the toybox."""
    sets = yaml.safe_load((DATA / "prompts" / "prompts.yaml").read_text())
    said = [prompt["text"].replace("{}", "") for prompts in sets.values() for prompt in prompts]
    said += [concept.superclass for concept in load_concepts()]
    said += [token.class_word for token in public_tokens().tokens]
    words = yaml.safe_load((DATA / "prompts" / "words.yaml").read_text())["sd"]
    return [*said, (DATA / "prompts" / "sd.yaml").read_text(), " ".join(words["animals"]), MORE]


def tiny_sd15(words: CLIPTokenizer, plain: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """SD 1.5 with its own 16 layers by name and number, 3 text layers and 32×32 pictures.

    Args: plain: Whose autoencoder and sampler it takes.
    """
    torch.manual_seed(0)
    config = read_config("sd1")["components"]["unet"]["config"] | {
        "block_out_channels": (8, 8, 16, 16), "cross_attention_dim": WIDTH, "norm_num_groups": 4,
        "attention_head_dim": 2, "sample_size": 16,
    }  # fmt: skip
    return StableDiffusionPipeline(
        vae=plain.vae, text_encoder=CLIPTextModel(text_config(words, WIDTH)).eval(),
        tokenizer=words, unet=UNet2DConditionModel.from_config(config).eval(),
        scheduler=plain.scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def tiny_sdxl(words: CLIPTokenizer, plain: StableDiffusionPipeline) -> StableDiffusionXLPipeline:
    """SDXL with its own 70 layers by name and number, two text encoders and 32×32 pictures."""
    torch.manual_seed(3)
    config = read_config("sdxl")["components"]["unet"]["config"] | {
        "block_out_channels": (8, 8, 16), "cross_attention_dim": WIDTH + SECOND,
        "norm_num_groups": 4, "attention_head_dim": (2, 2, 4), "sample_size": 16,
        "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": SECOND + 6 * 8,
    }  # fmt: skip
    second = CLIPTextModelWithProjection(text_config(words, SECOND, hidden_act="gelu"))
    return StableDiffusionXLPipeline(
        vae=plain.vae, text_encoder=CLIPTextModel(text_config(words, WIDTH)).eval(),
        text_encoder_2=second.eval(), tokenizer=words, tokenizer_2=words,
        unet=UNet2DConditionModel.from_config(config).eval(), scheduler=plain.scheduler,
        force_zeros_for_empty_prompt=True, add_watermarker=False,
    )  # fmt: skip


def place(hub: Path, repo: str, commit: str) -> Path:
    """The folder in which the Hub's library looks for a commit of a repository."""
    home = hub / f"models--{repo.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    (home / "snapshots" / commit).mkdir(parents=True)
    return home / "snapshots" / commit


def save_detector(folder: Path, vocabulary: Path) -> None:
    """OWLv2 on pictures of 32 pixels that finds a noun in some pictures of noise, not in all."""
    words = CLIPTokenizer.from_pretrained(vocabulary, model_max_length=16)
    layer = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2}  # fmt: skip
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id,
           "pad_token_id": words.pad_token_id}  # fmt: skip
    torch.manual_seed(1)
    config = Owlv2Config(
        text_config={"vocab_size": len(words), **layer, **ids},
        vision_config={"image_size": 32, "patch_size": 8, **layer},
        projection_dim=16,
    )
    model = Owlv2ForObjectDetection(config)
    with torch.no_grad():  # as initialised, it would say the same of every picture
        for weights in model.owlv2.vision_model.parameters():
            weights.mul_(SHARPER)
        for head in (model.class_head.logit_scale, model.class_head.logit_shift):
            head.weight.zero_()
        model.class_head.logit_scale.bias.fill_(SHARPER)
        model.class_head.logit_shift.bias.fill_(SHIFT)
    model.save_pretrained(folder)
    pictures = Owlv2ImageProcessorPil(size={"height": 32, "width": 32})
    Owlv2Processor(image_processor=pictures, tokenizer=words).save_pretrained(folder)


def save_encoder(folder: Path) -> None:
    """DINOv2 on pictures of 28 pixels."""
    torch.manual_seed(2)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    Dinov2Model(Dinov2Config(image_size=28, patch_size=14, **sizes)).save_pretrained(folder)
    crop = {"height": 28, "width": 28}
    BitImageProcessorPil(size={"shortest_edge": 28}, crop_size=crop).save_pretrained(folder)


def make_hub(home: Path, plain: StableDiffusionPipeline) -> Path:
    """A cache for `HF_HOME` with SD 1.5, SDXL, public tokens, and two models that see pictures.

    Args: plain: As in `tiny_sd15`.
    """
    hub, words = home / "hub", build(home / "words", sentences() * 2)
    for name, tiny in {"sd15": tiny_sd15, "sdxl": tiny_sdxl}.items():
        profile = profiles.get(name)
        tiny(words, plain).save_pretrained(place(hub, profile.repo, profile.revision))
    save_detector(place(hub, judges.DETECTOR, "1" * 40), home / "words")
    save_encoder(place(hub, judges.ENCODER, "2" * 40))
    for number, token in enumerate(public_tokens().tokens):
        rows = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(number)) * 0.1
        name = token.id.partition("/")[2]
        learned = {f"<{name}>": rows[0]}
        torch.save(learned, place(hub, token.id, PUBLIC) / "learned_embeds.bin")
    return home
