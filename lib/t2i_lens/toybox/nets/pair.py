"""The contrastive pair of towers: what the text encoder is trained in.

Shown in: book/toybox.md
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from t2i_lens.toybox.nets import networks


class ContrastivePair(nn.Module):
    """CLIP: a text tower pooled at EOS against a picture tower, cosines with a learned scale."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.text = networks.build_text_encoder(vocabulary)
        self.text_projection = nn.Linear(networks.TEXT_WIDTH, networks.TEXT_WIDTH, bias=False)
        self.pictures = networks.PictureTower()
        self.picture_projection = nn.Linear(networks.PICTURE_WIDTH, networks.TEXT_WIDTH, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(np.log(1 / 0.07), dtype=torch.float32))

    def embed_text(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids ``[batch, token]`` to unit vectors ``[batch, width]``."""
        return self.project_text(self.text(ids).pooler_output)

    def project_text(self, pooled: torch.Tensor) -> torch.Tensor:
        """States at EOS ``[batch, width]`` to unit vectors ``[batch, width]``."""
        return functional.normalize(self.text_projection(pooled).float(), dim=-1)

    def embed_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        """uint8 ``[batch, 64, 64, 3]`` to unit vectors ``[batch, width]``."""
        pooled = self.pictures(pictures).mean(1)
        return functional.normalize(self.picture_projection(pooled).float(), dim=-1)


class RecallingPair(ContrastivePair):
    """A pair whose text states also tell their own token and the one before it.

    The contrastive loss reads EOS alone, so in a small encoder the states of all words become
    summaries of the sentence so far, from which a U-Net hardly learns what to draw where. The two
    heads are not shipped.
    """

    def __init__(self, vocabulary: int):
        super().__init__(vocabulary)
        self.own = nn.Linear(networks.TEXT_WIDTH, vocabulary)
        self.previous = nn.Linear(networks.TEXT_WIDTH, vocabulary)

    def recall_loss(self, states: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of both heads in nats, summed over the heads, mean over tokens.

        Tokens count from the first word to the first EOS.

        Args:
            states: ``[batch, token, width]``.
            ids: ``[batch, token]``, padded with EOS.
        """
        eos = self.text.config.eos_token_id
        counted = (ids == eos).cumsum(1) <= 1
        counted[:, 0] = False  # BOS has nothing before it
        previous_ids, tokens = ids.roll(1, 1)[counted], states[counted]
        own = functional.cross_entropy(self.own(tokens), ids[counted])
        return own + functional.cross_entropy(self.previous(tokens), previous_ids)
