"""Exchanges of mediation, the effects that follow from their table, and what adds up."""

import numpy as np
import pandas as pd
import pytest

from t2i_lens.experiments import mediation
from t2i_lens.experiments import mediation_effects as effects
from t2i_lens.experiments.mediation import CLASS_WORD, LAYERS, NOISED, NOUN, OTHERS, TOKEN

CONCEPTS = [f"concept {n}" for n in range(12)]


def table(outcome):
    """A table of all exchanges, whose outcome is a function of the exchange and the concept."""
    rows = [
        {name: getattr(exchange, name) for name in mediation.KEYS[:4]}
        | {"concept": concept, "prompt": "a {}", "seed": 0, "lost": outcome(exchange, number)}
        for exchange in mediation.exchanges()
        for number, concept in enumerate(CONCEPTS)
    ]
    return pd.DataFrame(rows)


def tokens_share(exchange):
    """By key and value, slot and others: whether the states are the token's."""
    here = exchange.base == TOKEN
    return {
        (stage, place): (exchange.donor == TOKEN)
        if exchange.donor in (TOKEN, CLASS_WORD)
        and stage in exchange.into
        and (not exchange.roles or place in exchange.roles)
        and not exchange.block and exchange.third is None and not exchange.part
        else here
        for stage in ("key", "value")
        for place in ("slot", *OTHERS)
    }  # fmt: skip


def additive(exchange, number):
    weights = {"key": 0.2, "value": 0.5}
    places = {"slot": 0.1, "words after": 0.5, "EOS": 0.1, "padding": 0.3}
    of = tokens_share(exchange)
    return 0.1 + number * 0.01 + sum(
        weights[stage] * places[place] for (stage, place), is_token in of.items() if is_token
    )  # fmt: skip


def test_no_exchange_is_listed_twice_and_fields_bring_each_back():
    found = mediation.exchanges()
    assert len({exchange.name for exchange in found}) == len(found)
    fields = mediation.fields_of(found)
    assert [mediation.exchange_of(one) for one in fields] == found


def test_effects_that_add_up_have_no_interaction_and_the_weights_that_made_them():
    means = effects.concept_means(table(additive), "lost")
    paths = effects.decomposition(means, "paths")
    assert paths["keys"]["alone"].value == pytest.approx(0.2)
    assert paths["values"]["restored"].value == pytest.approx(0.5)
    # Sums of a dozen floats of size one.
    assert paths["together"]["interaction"].value == pytest.approx(0, abs=1e-12)
    places = effects.decomposition(means, "positions")
    assert places["padding"]["alone"].value == pytest.approx(0.7 * 0.3)
    assert places["together"]["sum"].value == pytest.approx(places["together"]["total"].value)
    own = effects.decomposition(means, "own position")
    assert own["others"]["restored"].value == pytest.approx(0.7 * 0.9)
    assert effects.share(means, "own position", "slot", "alone").value == pytest.approx(0.1)


def test_objects_lost_only_where_both_are_the_tokens_are_interaction():
    def both(exchange, number):
        return float(all(tokens_share(exchange).values()))

    means = effects.concept_means(table(both), "lost")
    keys = effects.parts_of(means, "paths", "keys")
    assert (keys["total"] == 1).all() and (keys["alone"] == 0).all()
    assert (keys["restored"] == 1).all() and (keys["interaction"] == 1).all()
    for part in (keys, effects.parts_of(means, "positions", "EOS")):
        together = part["alone"] + part["all but it"] + part["interaction"]
        assert np.allclose(together, part["total"])


def test_a_token_that_costs_nothing_has_no_shares():
    means = effects.concept_means(table(lambda exchange, number: number % 2), "lost")
    assert effects.share(means, "paths", "keys", "alone") is None
    assert effects.first_layer_share(means) is None


def test_the_first_layer_leads_by_what_it_restores_beyond_any_later_layers_addition():
    assert effects.first_layer_lead(np.array([0.5, 0.6, 0.9, 0.9])) == pytest.approx(0.2)
    ours, noun = (np.tile(np.linspace(0, 1, LAYERS)[:, None], 12) * w for w in (1.0, 0.5))
    ours[0] = 0.9
    lead, control, apart = effects.compared_leads(ours, noun)
    assert lead.value - control.value == pytest.approx(apart.value)


def test_a_text_layer_breaks_and_mends_by_what_its_exchange_adds_and_takes():
    def by_layer(exchange, number):
        if exchange.part != "residual" or exchange.donor == NOUN:
            return 1.0 if exchange.base == TOKEN else 0.2
        moved = 0.1 * exchange.layer
        return 1.0 - moved if exchange.base == TOKEN else 0.2 + 2 * moved

    means = effects.concept_means(table(by_layer), "lost")
    layers = np.arange(LAYERS)
    mended = effects.recoveries(means, CLASS_WORD, "residual")
    assert mended.shape == (LAYERS, len(CONCEPTS))
    assert mended.mean(1) == pytest.approx(0.1 * layers)
    assert effects.text_costs(means, "residual").mean(1) == pytest.approx(0.2 * layers)
    assert effects.text_costs(means, "MLP") == pytest.approx(0)


def test_tracing_gives_back_shares_of_what_the_noise_took():
    def found(exchange, number):
        if exchange.base != NOISED + CLASS_WORD:
            return 1.0
        restored = exchange.family == "tracing" and exchange.mediator == "slot 1"
        return 0.8 if restored else 0.0

    outcomes = effects.traced(effects.concept_means(table(found), "lost"), CLASS_WORD)
    grid = effects.recovery_grid(outcomes.mean(1))
    assert grid[0, 0] == pytest.approx(0.8) and np.delete(grid.ravel(), 0).max() == 0
    subject, after, apart = effects.tracing_leads(outcomes)
    # Only the subject's first layer recovers, and no other role is compared with it.
    assert subject.value == pytest.approx(0.8) and after.value == pytest.approx(0)
    assert apart.value == pytest.approx(0.8)


def test_a_controls_share_is_of_the_same_total():
    def half(exchange, number):
        if exchange.mediator == "permuted":
            return 0.75
        return 1.0 if exchange.base == TOKEN and not exchange.donor else 0.5

    means = effects.concept_means(table(half), "lost")
    assert effects.changed_share(means, "permuted").value == pytest.approx(0.5)
    assert effects.beyond_permuted(means).value == pytest.approx(0.5)


def test_another_noun_is_compared_with_the_class_word():
    def outcome(exchange, number):
        return {"values": 0.6, "keys": 0.1}.get(exchange.mediator, 0.0) * (exchange.donor == NOUN)

    _, noun = effects.values_over_keys(effects.concept_means(table(outcome), "lost"))
    assert noun == pytest.approx(0.5)
