"""What is stated of the published models is what their real classes build, without weights."""

import pytest

from t2i_lens.models import profiles
from t2i_lens.models.architectures import (
    DENOISERS,
    empty_component,
    read_config,
    stated_layers,
    text_layers,
)

NAMES = ["sd1", "sd21", "sdxl", "if", "sd3"]
HUB = [profile for profile in profiles.PROFILES.values() if profile.on_hub]


@pytest.fixture(scope="module")
def built():
    """Name -> the stated facts and the denoiser on the meta device."""
    found = {}
    for name in NAMES:
        config = read_config(name)
        (kind,) = set(DENOISERS) & set(config["components"])
        found[name] = config, empty_component(config["components"][kind])
    return found


def millions(network):
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


@pytest.mark.parametrize("name", NAMES)
def test_the_stated_parameters_are_those_of_the_real_classes(name):
    for component, entry in read_config(name)["components"].items():
        total = sum(parameter.numel() for parameter in empty_component(entry).parameters())
        assert total == entry["parameters"], component


@pytest.mark.parametrize(
    ("name", "published"), [("sd1", 859.5), ("sdxl", 2567), ("if", 4300), ("sd3", 2028)]
)
def test_the_denoisers_have_their_published_sizes(built, name, published):
    # Published to three or four digits, IF's to two.
    assert millions(built[name][1]) == pytest.approx(published, rel=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_stated_layers_are_those_found_in_the_stated_order(built, name):
    config, network = built[name]
    assert text_layers(network) == stated_layers(config)


@pytest.mark.parametrize(("name", "count"), [*zip(NAMES, [16, 16, 70, 22, 24], strict=True)])
def test_each_architecture_has_its_published_number_of_layers(built, name, count):
    assert len(text_layers(built[name][1])) == count


def test_a_unet_runs_down_then_middle_then_up(built):
    layers = text_layers(built["sdxl"][1])
    blocks = list(dict.fromkeys(path.split(".attentions")[0] for path in layers))
    expected = ["down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.1"]
    assert blocks == expected
    assert [layers.index(next(p for p in layers if p.startswith(b))) for b in expected] == [
        0, 4, 24, 34, 64,
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "indices"), [("sdxl", [55, 56, 57]), ("if", [17]), ("sd3", [10])])
def test_the_localised_layers_stand_at_their_published_indices(built, name, indices):
    config, network = built[name]
    layers = text_layers(network)
    assert [layers.index(path) for path in config["localised"]] == indices


def share(config, network, projections):
    """Percent of the denoiser's parameters in the weights of these projections."""
    layers = [network.get_submodule(path) for path in config["localised"]]
    weights = [getattr(layer, name).weight.numel() for layer in layers for name in projections]
    return 100 * sum(weights) / (1e6 * millions(network))


@pytest.mark.parametrize(("name", "published"), [("sdxl", 0.61), ("if", 0.21), ("sd3", 0.23)])
def test_the_published_share_is_that_of_keys_and_values(built, name, published):
    # Published with two decimals.
    assert share(*built[name], ["to_k", "to_v"]) == pytest.approx(published, abs=0.005)


def test_in_if_the_published_share_is_not_the_one_that_reads_the_text(built):
    # IF's text enters through projections of its own, and they are larger.
    assert share(*built["if"], ["add_k_proj", "add_v_proj"]) == pytest.approx(0.276, abs=0.005)


@pytest.mark.parametrize("profile", HUB, ids=lambda profile: profile.name)
def test_a_profile_counts_the_layers_of_its_configuration(profile):
    assert len(stated_layers(read_config(profile.config))) == profile.cross_attention_layers


def test_a_missing_configuration_is_named():
    with pytest.raises(FileNotFoundError, match=r"none\.json is missing"):
        read_config("none")
