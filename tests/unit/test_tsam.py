"""T-SAM's propositions, on cases made so that they hold exactly or nearly."""

import pytest
import torch

from t2i_lens.methods import tsam

SCALE = 0.5


def gaussian(pixels, channels=3, seed=0):
    """Queries with a mean and a covariance that are not those of a unit Gaussian."""
    rng = torch.Generator().manual_seed(seed)
    unit = torch.randn(pixels, channels, generator=rng, dtype=torch.float64)
    mixing = torch.tensor([[0.9, 0.2, 0.0], [0.0, 0.6, 0.3], [0.1, 0.0, 0.4]], dtype=torch.float64)
    return unit @ mixing + torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)


def keys(seed=1, tokens=4):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, 3, generator=rng, dtype=torch.float64)


def test_cosines_follow_from_keys_where_bos_decides_the_sum_and_queries_are_gaussian():
    query, key = gaussian(400_000), keys()
    scores = SCALE * query @ key.T
    maps = (scores - scores[:, :1]).exp()
    predicted = tsam.key_cosines(query, key, SCALE)
    # The formula's error is of order 1 / sqrt(number of places), 0.002 here.
    torch.testing.assert_close(tsam.column_cosines(maps), predicted, atol=0.01, rtol=0)
    assert predicted.min() < 0.9  # the maps do differ
    sink = tsam.sink_cosines(query, key, SCALE)
    torch.testing.assert_close(sink, tsam.column_cosines(maps))


def test_maps_have_a_cosine_however_little_a_word_gets():
    query, key = gaussian(30), keys()
    pattern = (SCALE * query @ key.T).softmax(-1)
    expected = tsam.column_cosines(pattern)
    torch.testing.assert_close(tsam.map_cosines(query, key, SCALE), expected)
    # With keys like these a softmax in float32 has columns of zeros.
    query, key = query.float(), key.float() * 1000
    assert tsam.column_cosines((SCALE * query @ key.T).softmax(-1)).isnan().any()
    assert tsam.map_cosines(query, key, SCALE).isfinite().all()


def test_a_sink_that_nobody_looks_at_gives_no_nan():
    query, key = gaussian(30), keys() * 1000
    sink = tsam.sink_cosines(query.float(), key.float(), SCALE)
    assert sink.isfinite().all()


def test_fewer_queries_leave_a_larger_error():
    def error(pixels):
        total = 0.0
        for seed in range(20):
            query, key = gaussian(pixels, seed=seed), keys()
            maps = (SCALE * query @ (key - key[:1]).T).exp()
            cosines = tsam.column_cosines(maps)
            total += (cosines - tsam.key_cosines(query, key, SCALE)).abs().mean().item()
        return total

    assert error(64) > 2 * error(64 * 64)


def test_the_mean_of_the_queries_cancels_and_equal_keys_have_equal_maps():
    query, key = gaussian(100), keys()
    key[2] = key[1]
    predicted = tsam.key_cosines(query, key, SCALE)
    moved = tsam.key_cosines(query + 3, key, SCALE)
    torch.testing.assert_close(predicted, moved)
    assert predicted[1, 2] == pytest.approx(1)
    torch.testing.assert_close(predicted.diagonal(), torch.ones(4, dtype=torch.float64))


def test_shares_are_exact_where_all_queries_are_equal():
    query = gaussian(1).expand(50, -1)
    expected = (SCALE * query[0] @ keys().T).softmax(-1)
    torch.testing.assert_close(tsam.predicted_shares(query, keys(), SCALE), expected)


def test_predicted_shares_weigh_tokens_as_the_mean_of_their_odds_against_bos():
    query, key = gaussian(400_000), keys()
    odds = (SCALE * query @ (key - key[:1]).T).exp().mean(0)
    shares = tsam.predicted_shares(query, key, SCALE)
    assert shares.sum().item() == pytest.approx(1)
    # Sampling error of a mean of 400,000 log-normal draws.
    torch.testing.assert_close(shares / shares[0], odds, rtol=0.01, atol=0)


def test_shares_keep_batch_and_head_apart():
    query = torch.stack([gaussian(20, seed=s) for s in range(4)]).unflatten(0, (2, 2))
    key = torch.stack([keys(seed=s) for s in range(4)]).unflatten(0, (2, 2))
    shares = tsam.predicted_shares(query, key, SCALE)
    alone = tsam.predicted_shares(query[1, 0], key[1, 0], SCALE)
    torch.testing.assert_close(shares[1, 0], alone)
    cosines = tsam.key_cosines(query, key, SCALE)
    alone = tsam.key_cosines(query[0, 1], key[0, 1], SCALE)
    torch.testing.assert_close(cosines[0, 1], alone)


def test_outputs_become_alike_as_attention_moves_to_bos():
    value = torch.eye(4, dtype=torch.float64) + 0.1
    rest = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64)
    sink = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    unlike = []
    for off in (0.0, 0.02, 0.04):
        pattern = (1 - off) * sink + off * rest
        eps = tsam.off_sink(pattern)
        torch.testing.assert_close(eps, torch.full_like(eps, off / (1 - off)))
        unlike.append(1 - tsam.output_cosines(pattern, value)[0, 1].item())
    assert unlike[0] == pytest.approx(0, abs=1e-12)
    # Between two such outputs the angle is of order eps, so what cosine lacks is of its square.
    assert unlike[2] / unlike[1] == pytest.approx(4, rel=0.1)
