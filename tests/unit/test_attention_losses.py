"""Losses on attention maps, on cases whose values are known."""

import pytest
import torch

from t2i_lens.methods import attention_losses as losses


def spots(*places, size=8, tokens=6):
    """Maps with one bright place for each token: token -> (row, column)."""
    maps = torch.full((size, size, tokens), 1e-6)
    for token, (row, column) in enumerate(places):
        maps[row, column, token] = 1.0
    return maps


APART = spots((0, 0), (1, 1), (1, 6), (6, 1), (6, 6), (3, 3))
ALIKE = spots((0, 0), (3, 3), (3, 3), (3, 3), (3, 3), (3, 3))


def test_maps_apart_have_the_identity_for_s_and_alike_maps_equal_rows():
    torch.testing.assert_close(losses.map_similarity(APART, 4), torch.eye(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(losses.map_similarity(ALIKE, 4), torch.full((4, 4), 0.25))


def test_the_papers_loss_is_the_weighted_distance_of_s_and_the_power_of_t():
    t = torch.tensor([[1.0, 0.0], [0.8, 0.2]])
    loss, raw = losses.TsamPaper(t), losses.TsamPaper(t, renormalised=False)
    first, second = 0.8**4, 0.2**4
    torch.testing.assert_close(loss.power.sum(-1), torch.ones(2))
    # S is the identity: row 1 is right, row 2 has weight 1.
    power = first / (first + second)
    assert loss(APART).item() == pytest.approx(2 * power, abs=1e-3)
    assert raw(APART).item() == pytest.approx(first + 1 - second, abs=1e-3)
    # S is 1/2 everywhere: row 1, of weight 1/2, is 1/2 away.
    assert loss(ALIKE).item() == pytest.approx(0.25 + 2 * (power - 0.5), abs=1e-3)


def test_the_codes_loss_is_0_where_the_cosines_follow_t_below_the_diagonal():
    maps = spots((0, 0), (1, 1), (6, 6), (1, 1), (3, 6), (3, 3))
    t = torch.zeros(3, 3)
    t[1, 0], t[2, 0] = 1.0, 1.0  # the third word looks at the first, whose map is its own
    bound = losses.TsamCode(t)(maps).item()
    t[2] = torch.tensor([0.0, 1.0, 0.0])
    unbound = losses.TsamCode(t)(maps).item()
    # Row 1 alone has one entry, whose cosine is 1. Row 2 weighs 0.2 * 2.
    assert bound == pytest.approx(0.0, abs=1e-3)
    assert unbound == pytest.approx(0.4, abs=1e-3)


def test_attend_and_excite_looks_at_the_most_neglected_noun():
    maps = torch.full((8, 8, 6), 0.1)
    maps[2:6, 2:6, 1] = 0.9  # a patch, so that smoothing keeps its middle
    seen = losses.AttendExcite((1,))(maps).item()
    neglected = losses.AttendExcite((1, 3))(maps).item()
    assert seen == pytest.approx(0.0, abs=1e-3)
    assert neglected == pytest.approx(1 - 1 / 4, abs=1e-3)  # four tokens share what is left


def test_syngen_wants_an_attribute_on_its_noun_and_away_from_other_words():
    phrases = ((1, 2), (3, 4))
    right = spots((0, 0), (1, 1), (1, 1), (6, 6), (6, 6), (3, 3))
    wrong = spots((0, 0), (1, 1), (6, 6), (6, 6), (1, 1), (3, 3))
    loss = losses.SynGen(phrases, 5)
    assert loss(right) < loss(APART) and loss(right) < loss(wrong)
    alone = losses.SynGen(((1,), (2,)), 3)
    assert alone(wrong) < alone(right)  # two nouns without attributes: apart is better


def test_smoothing_keeps_what_is_even_and_the_sum_inside():
    even = torch.ones(5, 5, 2)
    torch.testing.assert_close(losses.smoothed(even), even)
    spot = torch.zeros(5, 5, 1)
    spot[2, 2] = 1
    assert losses.smoothed(spot).sum().item() == pytest.approx(1.0, abs=1e-6)
    assert losses.smoothed(spot)[2, 2].item() == pytest.approx(0.619, abs=1e-3)  # of the 3x3 kernel
