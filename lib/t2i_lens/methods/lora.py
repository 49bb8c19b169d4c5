"""DreamBooth by low-rank adapters: an identifier before the class word, and LoRA by peft.

The identifier's row stays as it is; adapters of all attention projections learn, with pictures of
the class as prior preservation (Ruiz et al., arXiv 2208.12242; Hu et al., arXiv 2106.09685).

Shown in: notebooks/23_remedies.ipynb
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from t2i_lens.methods.teaching import Way

RANK = 4
RATE = 1e-3
NAME = "concept"
PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0"]


class Adapters(Way):
    """One concept's adapters, in the U-Net itself; the second lesson is its prior.

    Raises:
        ValueError: other than one concept with its prior.
    """

    def __init__(self, pipe, lessons, initial):
        super().__init__(pipe, lessons, initial)
        if len(lessons) != 2:
            raise ValueError("adapters are trained for one concept at a time, with its prior")
        for rows in self.rows:
            rows.requires_grad_(False)
        add(pipe.unet)
        self.parts = {n: p for n, p in pipe.unet.named_parameters() if p.requires_grad}

    def groups(self):
        return [{"params": list(self.parts.values()), "lr": RATE, "weight_decay": 1e-2}]

    def learned(self) -> dict[str, Tensor]:
        """Copies of the adapters' weights; the U-Net is left without adapters."""
        copies = {name: part.detach().clone() for name, part in self.parts.items()}
        self.pipe.unet.unload_lora()
        return copies


def add(unet) -> None:
    """Puts adapters that change nothing into a U-Net."""
    from peft import LoraConfig  # brings much along

    unet.add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights=True, target_modules=PROJECTIONS),
        adapter_name=NAME,
    )


@contextmanager
def adapted(unet, learned: dict[str, Tensor]) -> Iterator[None]:
    """Inside the block the U-Net has these adapters."""
    add(unet)
    try:
        own = dict(unet.named_parameters())
        for name, part in learned.items():
            own[name].data.copy_(part)
        yield
    finally:
        unet.unload_lora()
