"""What the bench says of recording is measured on real layers, and the page shows it."""

import json

import pytest
import torch

from benchmarks import bench_capture
from benchmarks.bench_capture import REDUCED
from benchmarks.capture_tools import NONE, TOOLS, denoise, held_after, operations, random_pipeline
from t2i_lens.study import pages

OURS = [name for name in TOOLS if name.startswith("t2i_lens")]


@pytest.fixture(scope="module")
def small():
    return random_pipeline("sd1", **REDUCED)


def test_the_real_configuration_without_memory_holds_what_the_real_tensors_hold(small):
    meta = random_pipeline("sd1", meta=True, **REDUCED)
    for name, tool in TOOLS.items():
        assert held_after(meta, tool, (1, 2)) == held_after(small, tool, (1, 2)), name


@pytest.mark.parametrize("name", OURS)
def test_our_state_is_that_of_one_step_after_any_number_of_steps(small, name):
    sizes = held_after(small, TOOLS[name], (1, 2, 4))
    heads = 8 if "heads apart" in name else 1
    # Layers at 16x16, 8x8, 4x4 and 2x2: 5, 5, 5 and the middle one; 77 tokens, 4 bytes.
    pixels = 5 * 256 + 5 * 64 + 5 * 16 + 4
    assert sizes == dict.fromkeys((1, 2, 4), pixels * 77 * 4 * heads)


def test_the_state_of_what_keeps_every_step_grows_with_them(small):
    sizes = held_after(small, TOOLS["attention-map-diffusers"], (1, 2, 4))
    assert sizes[4] == 2 * sizes[2] == 4 * sizes[1]


def test_the_maps_of_sdxl_at_1024_pixels_are_held_in_35_megabytes():
    sizes = held_after(random_pipeline("sdxl", meta=True), TOOLS["t2i_lens"], (1,))
    # 10 layers at 64x64 pixels and 60 at 32x32.
    assert sizes[1] == (10 * 64**2 + 60 * 32**2) * 77 * 4 <= 35e6


def test_our_operations_do_not_grow_with_the_heads_and_stay_within_the_bar():
    counts = bench_capture.count_operations()
    for name in OURS:
        assert len(set(counts[name].values())) == 1, name
    assert max(counts["t2i_lens"].values()) <= pages.MOST_OPERATIONS
    assert max(counts["t2i_lens, shared"].values()) <= pages.MOST_OPERATIONS
    assert counts["daam"][20] > counts["daam"][8] > pages.MOST_OPERATIONS


def test_layers_are_called_again_where_they_stand_and_nothing_is_left(small):
    hooks = [dict(m._forward_hooks) | dict(m._forward_pre_hooks) for m in small.unet.modules()]
    with bench_capture._layer_clock(small.unet, 3) as times:
        assert len(operations(small.unet, lambda: denoise(small, 1))) == 16 * 4
    assert len(times) == 16 and {len(each) for each in times.values()} == {3}
    layers, step = bench_capture.layer_and_step_seconds(small, TOOLS[NONE], 3)
    assert 0 < layers < step
    after = [dict(m._forward_hooks) | dict(m._forward_pre_hooks) for m in small.unet.modules()]
    assert after == hooks


def test_memory_is_that_of_the_largest_moment():
    def work():
        block = torch.ones(512, 2**18)
        del block
        return 1

    result, size = bench_capture.memory(work)
    assert result == 1
    # 537 MB, of which the process may have had some, freed before, already.
    assert size is None or 300e6 < size < 600e6


def test_the_page_shows_what_was_measured(small, tmp_path):
    file = tmp_path / "capture.json"
    assert "it has not been run" in pages.capture_page(file)
    steps = {name: held_after(small, tool, (1, 2)) for name, tool in TOOLS.items()}
    result = {
        "machine": bench_capture.machine(),
        "versions": {"daam": "0.2.0", "attention-map-diffusers": "1.0.0"},
        "operations": {name: {8: 10, 20: 10} for name in TOOLS},
        "state": steps,
        "state_sdxl": {name: {1: 31_500_000} for name in TOOLS},
        **bench_capture.measure(small, rounds=2, repeats=1),
    }
    file.write_text(json.dumps(result))
    page = pages.capture_page(file)
    for name in bench_capture.TIMED:
        layers, ratio = (
            result[key][name]["median"] for key in ("layers, seconds", "layers, ratio")
        )
        assert f"| {name} | {layers:.3f} s | {ratio:.3f} [" in page
    assert result["layers, ratio"][NONE]["median"] == 1
    assert "State independent of the number of steps: **met**" in page
    assert "State of all layers of SDXL within 35.0 MB: **met**" in page


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.99, 1.01, "met"), (1.03, 1.05, "missed"), (1.0, 1.03, "open")]
)
def test_a_bar_is_met_by_all_rounds_or_missed_by_all(low, high, verdict):
    ratio = {name: {"median": 1, "low": low, "high": high} for name in bench_capture.TIMED}
    found = {
        "layers, ratio": ratio,
        "layers, ratio to eager": ratio,
        "operations": {name: {"8": 10, "20": 10} for name in TOOLS},
        "state": {name: {"1": 1} for name in TOOLS},
        "state_sdxl": {name: {"1": 36_000_000} for name in TOOLS},
    }
    lines = pages._bars(found)
    times = [line for line in lines if "more time" in line]
    assert len(times) == 3 and all(f"**{verdict}" in line for line in times)
    assert lines[-1].endswith("35.0 MB: **missed**.")


def test_the_page_of_chapters_gives_every_reason_once_and_links_what_is_in_the_book():
    chapters = {
        "01_a": {"profiles": ["toybox", "sd15"], "otherwise": "no judge", "because": {"if": "T5"}},
        "02_b": {"profiles": ["toybox"], "otherwise": "no judge"},
    }
    page = pages.profiles_page({"01_a"}, chapters)
    assert "| {doc}`01_a <chapters/01_a>` | ✓ | a | ✓ | a | a | b | a |" in page
    assert "| 02_b | ✓ | a | a | a | a | a | a |" in page
    assert page.count("no judge") == 1 and "- **b**: T5" in page
