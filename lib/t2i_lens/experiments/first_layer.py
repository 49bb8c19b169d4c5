"""The attention score of a text encoder's first layer as a sum of token, position and bias terms.

The first layer reads x = LN(e + p), the normalised sum of token and position embedding. With its
scale 1/σ(e + p) taken as given, LN is linear, so query, key and score are sums of parts that equal
the encoder's own numbers.
"""

import numpy as np
import torch
from jaxtyping import Float
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from t2i_lens.models.tokens import encode
from t2i_lens.probes.edits import Swap, Value
from t2i_lens.probes.text_attention import read_ids
from t2i_lens.probes.text_encoder_hooks import LayerWeights, layer_weights, text_core
from t2i_lens.stats.metrics import unit_rows

TERMS = ("token–token", "token–position", "position–token", "position–position", "bias")

# Parts of a score by what its query and its key are made of: token, position, bias.
ScoreParts = Float[Tensor, "token head 3 3"]


def split_norm(
    weights: LayerWeights,
    tokens: Float[Tensor, "token d_model"],
    positions: Float[Tensor, "token d_model"],
) -> Float[Tensor, "3 token d_model"]:
    """LN(token + position) as a sum of three parts.

    Args:
        weights: Of the layer whose LayerNorm it is.
        tokens: Token embeddings, one per place.
        positions: Position embeddings of these places.

    Returns:
        The token's and the position's part, centred, scaled by 1/σ(token + position) and
        by the norm's weight; and the norm's bias.
    """
    weight, bias = weights.norm.to(tokens)
    scale = ((tokens + positions).var(-1, keepdim=True, unbiased=False) + weights.eps).rsqrt()
    parts = [(x - x.mean(-1, keepdim=True)) * scale * weight for x in (tokens, positions)]
    return torch.stack([*parts, bias.expand_as(tokens)])


def score_parts(
    weights: LayerWeights,
    queries: Float[Tensor, "3 token d_model"],
    keys: Float[Tensor, "3 #token d_model"],
) -> ScoreParts:
    """Scores of paired queries and keys, by the parts of query and key.

    The biases of the projections belong to the bias part.

    Args:
        queries: From `split_norm`, of the places that look.
        keys: From `split_norm`, of the place each looks at; one place for all is enough.

    Returns:
        [token, head, part of the query, part of the key]; the sum over the parts is the
        score before softmax.

    Shown in: notebooks/08_first_layer.ipynb
    """
    query, key = (
        torch.einsum("hcd,ptd->pthc", weight.to(x), x)
        for weight, x in ((weights.query_weight, queries), (weights.key_weight, keys))
    )
    query[2] += weights.query_bias.to(query)
    key[2] += weights.key_bias.to(key)
    return torch.einsum("pthc,rthc->thpr", query, key.expand_as(query)) * weights.scale


def named_terms(
    parts: Float[np.ndarray, "*axes 3 3"],
) -> Float[np.ndarray, "*axes term"]:
    """The four products of token and position, and everything with a bias in it, as `TERMS`."""
    four = parts[..., :2, :2].reshape(*parts.shape[:-2], 4)
    bias = parts.sum(axis=(-2, -1)) - four.sum(axis=-1)
    return np.concatenate([four, bias[..., None]], axis=-1)


@torch.no_grad()
def place_rows(
    pipe, prompt: str, position: int, rows: Float[np.ndarray, "token d_model"]
) -> dict[str, np.ndarray]:
    """Puts each row at one place of a prompt and computes how the first layer attends from it.

    Nothing after the place matters, since CLIP's attention is causal.

    Args:
        prompt: Whose tokens stand before the place.
        position: Of the place, above 0.
        rows: Token embeddings, each of which takes the place in turn.

    Returns:
        `attention` [token, head, key], from the place to the keys 0 … position, as after
        softmax; `own` and `bos`, the `score_parts` of the scores on itself and on BOS. Sums
        are taken in 64 bits.

    Raises:
        ValueError: the place is not after BOS and before EOS.
    """
    row = encode(pipe, prompt)
    if not 0 < position < row.eos:
        raise ValueError(f"position {position} of {prompt!r} is not between BOS and EOS")
    encoder = pipe.text_encoder
    weights = layer_weights(encoder)
    table = text_core(encoder).embeddings.token_embedding.weight.detach()
    positions = weights.positions.double()
    tokens = table[list(row.ids[:position])].double()
    keys = split_norm(weights, tokens, positions[:position])
    placed = torch.from_numpy(rows).to(table.device).double()
    placed = split_norm(weights, placed, positions[position].expand_as(placed))
    towards = [score_parts(weights, placed, keys[:, [key]]) for key in range(position)]
    own = score_parts(weights, placed, placed)
    scores = torch.stack([parts.sum((-2, -1)) for parts in [*towards, own]], -1)
    measured = {"attention": scores.softmax(-1), "own": own, "bos": towards[0]}
    return {name: tensor.cpu().numpy() for name, tensor in measured.items()}


def place_attention(
    pipe, prompt: str, position: int, rows: Float[np.ndarray, "token d_model"]
) -> dict[str, np.ndarray]:
    """The `attention` of `place_rows` alone, for a whole vocabulary of rows."""
    return {"attention": place_rows(pipe, prompt, position, rows)["attention"]}


def measure_rows(
    pipe, prompt: str, position: int, rows: Float[np.ndarray, "token d_model"]
) -> dict[str, np.ndarray]:
    """As `place_rows`, but read in the encoder itself.

    Returns:
        `attention` and `scores` [token, head, key] of the first layer, from the place.
    """
    # What follows the place is left out: it changes nothing before it.
    ids = torch.tensor([encode(pipe, prompt).ids[: position + 1]] * len(rows))
    edits = [[Swap(Value("row", torch.from_numpy(row)), positions=(position,))] for row in rows]
    reading = read_ids(pipe.text_encoder, ids, layers=[0], edits=edits)
    activations = {"attention": reading.patterns, "scores": reading.scores}
    return {name: tensor[:, 0, :, position].cpu().numpy() for name, tensor in activations.items()}


def at_norms(
    rows: Float[np.ndarray, "token d_model"], norms: Float[np.ndarray, " norm"]
) -> Float[np.ndarray, "token norm d_model"]:
    """Each row's direction at each norm.

    Raises:
        ValueError: a row is zero.
    """
    return unit_rows(rows)[:, None] * np.asarray(norms, dtype=rows.dtype)[:, None]


def probe_positions(
    pipe,
    rows: Float[np.ndarray, "token d_model"],
    norms: Float[np.ndarray, " norm"],
    tokens: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Reads the position from the normalised sum of token and position, at forced norms.

    As in Directional TI (Kim et al., 2512.13672) a small perceptron is trained on tokens at
    their own norms and tested at forced ones; but at every position, and on other tokens. A
    linear discriminant trained again at each norm shows what could still be read.

    Args:
        rows: Vocabulary embeddings, at least twice `tokens` of them.
        norms: That the tested rows are forced to.
        tokens: How many are trained on, and how many others are tested.
        seed: Of the choice of tokens and of the perceptron.

    Returns:
        Whether the position was read right: `fixed`, by the probe trained once,
        `refitted`, by the one trained at each norm, both bool [norm, token, position]; `shuffled`
        [token, position], by a probe trained on shuffled positions, tested on rows at their
        own norms.

    Raises:
        ValueError: too few rows.

    Shown in: notebooks/08_first_layer.ipynb
    """
    if len(rows) < 2 * tokens:
        raise ValueError(f"{len(rows)} rows, but {2 * tokens} are trained on and tested")
    rng = np.random.default_rng(seed)
    train, test = rows[rng.permutation(len(rows))[: 2 * tokens]].reshape(2, tokens, -1)
    weights = layer_weights(pipe.text_encoder)
    labels = np.tile(np.arange(len(weights.positions)), tokens)

    def inputs(rows: np.ndarray) -> np.ndarray:
        """What the layer reads of every row at every position, positions fastest."""
        positions = weights.positions.repeat(len(rows), 1)
        repeated = torch.from_numpy(rows).to(positions).repeat_interleave(len(weights.positions), 0)
        return split_norm(weights, repeated, positions).sum(0).cpu().numpy()

    def right(probe, rows: np.ndarray) -> np.ndarray:
        return (probe.predict(inputs(rows)) == labels).reshape(tokens, -1)

    def perceptron(truth: np.ndarray) -> MLPClassifier:
        probe = MLPClassifier(
            batch_size=512, learning_rate_init=5e-3, early_stopping=True, random_state=seed
        )
        return probe.fit(inputs(train), truth)

    fixed, refitted = perceptron(labels), []
    train_at, test_at = (at_norms(part, norms).swapaxes(0, 1) for part in (train, test))
    for trained, tested in zip(train_at, test_at, strict=True):
        discriminant = LinearDiscriminantAnalysis().fit(inputs(trained), labels)
        refitted.append(right(discriminant, tested))
    return {
        "fixed": np.stack([right(fixed, tested) for tested in test_at]),
        "refitted": np.stack(refitted),
        "shuffled": right(perceptron(rng.permutation(labels)), test),
    }
