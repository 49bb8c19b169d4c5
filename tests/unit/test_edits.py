"""Edits are pure, change what they say and nothing else, and have settings that change nothing."""

import math

import pytest
import torch

from t2i_lens.base.lazy import canonical
from t2i_lens.probes.edits import Force, Inject, Patch, Rotate, Scale, Site, Slerp, Swap, Value

STATES = torch.randn(7, 16, generator=torch.Generator().manual_seed(0))
GOAL = Value("goal", torch.randn(16, generator=torch.Generator().manual_seed(1)))
OTHER = Value("other", torch.randn(7, 16, generator=torch.Generator().manual_seed(2)))
PATTERN = torch.full((4, 7, 7), 1.0).tril() / torch.arange(1, 8)[:, None]
FIRST = Value("first", torch.eye(7)[0])
EMBEDDING, KEY = Site("embedding"), Site("key", "down.attn2", step=3)

REAL = [
    (Scale(2.0, positions=(2, 4)), EMBEDDING),
    (Rotate(GOAL, 0.3, positions=(2, 4)), EMBEDDING),
    (Slerp(GOAL, 0.3, positions=(2, 4)), EMBEDDING),
    (Swap(GOAL, positions=(2, 4)), EMBEDDING),
    (Swap(GOAL, positions=(2, 4), stage="text"), Site("text")),
    (Patch(OTHER, 1, (2, 4)), Site("residual", 1)),
    (Inject(OTHER, positions=(2, 4)), KEY),
]
IDENTITIES = [
    (Scale(1.0, positions=(2, 4)), EMBEDDING),
    (Rotate(GOAL, 0.0, positions=(2, 4)), EMBEDDING),
    (Slerp(GOAL, 0.0, positions=(2, 4)), EMBEDDING),
    (Swap(GOAL, positions=()), EMBEDDING),
    (Patch(OTHER, 1, ()), Site("residual", 1)),
    (Inject(OTHER, layers=()), KEY),
]


@pytest.mark.parametrize(("edit", "site"), REAL, ids=lambda x: type(x).__name__)
def test_an_edit_changes_its_positions_only_and_not_its_input(edit, site):
    before = STATES.clone()
    after = edit(STATES, site)
    assert torch.equal(STATES, before)
    others = [0, 1, 3, 5, 6]
    assert torch.equal(after[others], before[others])
    assert not torch.isclose(after[[2, 4]], before[[2, 4]]).all(-1).any()


@pytest.mark.parametrize(("edit", "site"), IDENTITIES, ids=lambda x: type(x).__name__)
def test_identity_settings_change_no_bit(edit, site):
    assert torch.equal(edit(STATES, site), STATES)


@pytest.mark.parametrize(("edit", "site"), REAL, ids=lambda x: type(x).__name__)
def test_an_edit_passes_over_other_sites(edit, site):
    elsewhere = {"embedding": "text", "text": "embedding", "residual": "text", "key": "text"}
    assert edit(STATES, Site(elsewhere[site.stage], site.layer)) is STATES


def test_slerp_runs_along_the_arc_and_arrives_with_the_goals_norm():
    edit = Slerp(GOAL, 1.0, positions=(2,))
    torch.testing.assert_close(edit(STATES, EMBEDDING)[2], GOAL.tensor)
    unit = Value("unit", torch.nn.functional.normalize(GOAL.tensor, dim=0))
    start = torch.nn.functional.normalize(STATES, dim=-1)
    angle = torch.arccos(start[2] @ unit.tensor)
    half = Slerp(unit, 0.5, positions=(2,))(start, EMBEDDING)[2]
    torch.testing.assert_close(torch.arccos(half @ start[2]), angle / 2)
    torch.testing.assert_close(half.norm(), torch.tensor(1.0))
    away = Slerp(unit, -0.5, positions=(2,))(start, EMBEDDING)[2]
    torch.testing.assert_close(torch.arccos(away @ unit.tensor), 1.5 * angle)


def test_rotate_turns_by_the_angle_and_keeps_the_norm():
    before = STATES[2]
    after = Rotate(GOAL, 0.3, positions=(2,))(STATES, EMBEDDING)[2]
    torch.testing.assert_close(after.norm(), before.norm())
    cosine = torch.nn.functional.cosine_similarity
    torch.testing.assert_close(cosine(after, before, 0), torch.tensor(math.cos(0.3)))
    nearer = torch.arccos(cosine(before, GOAL.tensor, 0)) - 0.3
    torch.testing.assert_close(torch.arccos(cosine(after, GOAL.tensor, 0)), nearer)


@pytest.mark.parametrize("edit", [Slerp, Rotate])
def test_a_parallel_goal_is_refused(edit):
    with pytest.raises(ValueError, match="parallel to same#"):
        edit(Value("same", 2 * STATES[2]), 0.5, positions=(2,))(STATES, EMBEDDING)


def test_swap_takes_a_row_for_each_position():
    rows = Value("rows", OTHER.tensor[:2])
    assert torch.equal(Swap(rows, positions=(5, 1))(STATES, EMBEDDING)[[5, 1]], rows.tensor)


def test_force_replaces_rows_of_the_chosen_heads():
    site = Site("pattern", 0)
    after = Force(FIRST, 0, (2, 3), heads=(1,))(PATTERN, site)
    assert torch.equal(after[1, 2], FIRST.tensor)
    assert torch.equal(after[1, 3], FIRST.tensor)
    unchanged = torch.ones(4, 7, dtype=torch.bool)
    unchanged[1, [2, 3]] = False
    assert torch.equal(after[unchanged], PATTERN[unchanged])
    assert Force(FIRST, 0, ())(PATTERN, site) is PATTERN
    assert Force(FIRST, 0, (2,))(PATTERN, Site("pattern", 1)) is PATTERN
    by_head = Value("by head", torch.eye(7)[[0, 1, 2, 0]])
    assert torch.equal(Force(by_head, 0, (2,))(PATTERN, site)[:, 2], by_head.tensor)


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(ValueError, match="sum to 1"):
        Force(Value("half", 0.5 * torch.eye(7)[0]), 0, (2,))
    with pytest.raises(ValueError, match="after query"):
        Force(Value("ahead", torch.eye(7)[3]), 0, (2, 5))


def test_injection_keeps_to_its_layers_steps_parts_and_branch():
    edit = Inject(OTHER, layers=("a", "b"), steps=(2, 4), into=("value",))
    ours = Site("value", "b", step=2)
    assert torch.equal(edit(STATES, ours), OTHER.tensor)
    others = [
        Site("value", "c", step=2),
        Site("value", "b", step=4),
        Site("value", "b", step=1),
        Site("key", "b", step=2),
        Site("value", "b", step=2, branch="unconditional"),
    ]
    assert all(edit(STATES, site) is STATES for site in others)


def test_positions_outside_the_prompt_are_refused():
    with pytest.raises(ValueError, match="not all among 7 tokens"):
        Inject(OTHER, positions=(7,))(STATES, KEY)


def test_repr_is_a_caption_and_tells_edits_apart():
    edit = Slerp(GOAL, 0.184, positions=(2,))
    assert repr(edit).startswith("Slerp(") and "t=0.184" in repr(edit) and "goal#" in repr(edit)
    again = Slerp(Value("goal", GOAL.tensor.clone()), 0.184, positions=(2,))
    assert again == edit and hash(again) == hash(edit) and repr(again) == repr(edit)
    nudged = GOAL.tensor.clone()
    nudged[0] = torch.nextafter(nudged[0], torch.tensor(9.0))
    variants = [
        Slerp(Value("goal", nudged), 0.184, positions=(2,)),
        Slerp(GOAL, 0.185, positions=(2,)),
        Slerp(GOAL, 0.184, positions=(3,)),
        Slerp(GOAL, 0.184, positions=(2,), stage="text"),
    ]
    assert len({edit.fingerprint, *(v.fingerprint for v in variants)}) == 5
    assert canonical([edit]) == canonical([again]) != canonical([variants[0]])


def test_a_value_keeps_its_content_when_its_source_changes():
    source = torch.ones(3)
    value = Value("source", source)
    source.zero_()
    assert torch.equal(value.tensor, torch.ones(3))
