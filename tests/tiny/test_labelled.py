"""Labelled arrays hold the recorder's numbers, under the names of their axes and positions."""

import numpy as np
import pytest

from t2i_lens.base.shapes import CrossAttentionMap, TextPattern
from t2i_lens.probes.cross_attention import Keep, record
from t2i_lens.probes.labelled import MAP_AXES, TEXT_AXES, label_cross_attention, label_text
from t2i_lens.probes.sampling import generate
from t2i_lens.probes.text_attention import read_prompts

QUICK = {"num_inference_steps": 3, "guidance_scale": 5.0}


def recorded(pipe, keep, prompts=("a red toy",)):
    with record(pipe, keep) as recorder:
        generate(pipe, list(prompts), [0], recorder=recorder, **QUICK)
    return recorder.maps()


def test_the_axes_of_labelled_arrays_are_those_of_the_shapes():
    assert " ".join(MAP_AXES) == CrossAttentionMap.dim_str
    assert TEXT_AXES["patterns"][1:] == tuple(TextPattern.dim_str.split()[1:])


def test_a_map_is_picked_by_the_name_of_its_branch_step_and_token(shared_pipe):
    keep = Keep(
        per_step=True, steps=(0, 2), tokens=(0, 2), branches=("unconditional", "conditional")
    )
    maps = recorded(shared_pipe, keep)
    (path, *_) = maps.layers
    array = label_cross_attention(maps, path)
    assert array["piece"].values.tolist() == [maps.rows[0].pieces[p] for p in (0, 2)]
    picked = array.sel(branch="conditional", step=2, token=2)
    np.testing.assert_array_equal(picked.values, maps.layers[path][:, 1, 1, ..., 1].numpy())


def test_over_tokens_a_labelled_map_sums_to_its_number_of_steps(shared_pipe):
    maps = recorded(shared_pipe, Keep())
    for path in maps.layers:
        total = label_cross_attention(maps, path).sum("token")
        np.testing.assert_allclose(total, maps.summed_steps, rtol=1e-5)


def test_samples_of_several_prompts_have_no_pieces_in_common(shared_pipe):
    maps = recorded(shared_pipe, Keep(), ["a red toy", "a cat"])
    assert "piece" not in label_cross_attention(maps, next(iter(maps.layers))).coords


def test_a_layer_that_was_not_recorded_is_refused(shared_pipe):
    with pytest.raises(ValueError, match="no maps of layer 'attn9'"):
        label_cross_attention(recorded(shared_pipe, Keep()), "attn9")


@pytest.mark.parametrize("tensor", TEXT_AXES)
def test_every_tensor_of_a_text_reading_gets_its_axes(shared_pipe, tensor):
    reading = read_prompts(shared_pipe, ["a red toy"], layers=[1])
    array = label_text(reading, tensor)
    np.testing.assert_array_equal(array.values, getattr(reading, tensor).numpy())
    assert array.dims == TEXT_AXES[tensor]
    assert array["piece"].values.tolist() == list(reading.rows[0].pieces)
    if "layer" in array.dims:
        assert array["layer"].values.tolist() == [1]
