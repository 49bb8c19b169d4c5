"""The toybox with joint attention (`toybox-mm`): Stable Diffusion 3's classes, same world.

Its text encoder and autoencoder are the toybox's own.

Shown in: book/toybox.md
"""

from t2i_lens.base.lazy import Lazy
from t2i_lens.base.paths import DATA
from t2i_lens.models import profiles

JOINT_TOYBOX = profiles.ModelProfile(
    name="toybox-mm",
    repo=str(DATA / "models" / "toybox-mm"),
    revision=None,
    dtype="float32",
    height=64,
    width=64,
    num_inference_steps=25,
    guidance_scale=4.0,
    cross_attention_layers=6,
    family="sd3",
    world=profiles.KNOWN_WORLD,
)


def joint_pipe() -> Lazy:
    """Its pipeline, loaded when first needed.

    Raises:
        FileNotFoundError: the weights are missing.
    """
    return Lazy(lambda: profiles.load(JOINT_TOYBOX), profiles.fingerprint(JOINT_TOYBOX))
