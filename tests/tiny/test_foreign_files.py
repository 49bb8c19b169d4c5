"""Files of other trainers and hostile files: named right, or refused in one line."""

import json
import os
import pickle
import struct
import zipfile

import pytest
import safetensors.torch
import torch

from t2i_lens.inversion import tensor_files
from t2i_lens.inversion.published_files import read_tokens, write_tokens

L, G, T5 = torch.ones(2, 768), torch.ones(2, 1280), torch.ones(3, 4096)
LAYOUTS = {
    "OneTrainer, SD 1.5": ({"emp_params": L}, "OneTrainer", "SD 1.x", (768,)),
    "OneTrainer, spelled right": ({"emb_params": L}, "A1111 .safetensors", "SD 1.x", (768,)),
    "OneTrainer with rows for the output": (
        {"emp_params": L, "emp_params_out": L}, "OneTrainer", "SD 1.x", (768,),
    ),
    "OneTrainer, SDXL": (
        {"clip_l": L, "clip_g": G, "clip_l_out": L, "clip_g_out": G}, "OneTrainer", "SDXL",
        (768, 1280),
    ),
    "SD3": ({"t5xxl": T5, "clip_g": G, "clip_l": L}, "clip_l + clip_g + t5", "SD3",
            (768, 1280, 4096)),
    "SD3 of OneTrainer": ({"clip_l": L, "clip_g": G, "t5": T5}, "clip_l + clip_g + t5", "SD3",
                          (768, 1280, 4096)),
    "Flux": ({"clip_l": L, "t5xxl": T5}, "clip_l + t5", "Flux", (768, 4096)),
    "Flux of OneTrainer": ({"t5": T5, "clip_l": L, "t5_out": T5}, "OneTrainer", "Flux",
                           (768, 4096)),
    "CLIP-L alone": ({"clip_l": L}, "clip_l", "SD 1.x, or the first encoder of SDXL, SD3 or Flux",
                     (768,)),
    "CLIP-G alone": ({"clip_g": G}, "clip_g", "second encoder of SDXL or SD3 alone", (1280,)),
    "T5 alone": ({"t5xxl": T5}, "t5", "T5 of SD3, Flux or PixArt alone", (4096,)),
    "encoders by number": ({"text_encoders_0": L, "text_encoders_1": G}, "SDXL", "SDXL",
                           (768, 1280)),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_by_encoders_is_named_as_the_file_and_its_kind_is_stated(tmp_path, case, suffix):
    content, layout, model, widths = case
    file = tmp_path / f"Dream{suffix}"
    if suffix == ".pt":
        torch.save(content, file)
    else:
        safetensors.torch.save_file({k: v.clone() for k, v in content.items()}, file)
    (token,) = read_tokens(file)
    assert (token.name, token.layout, token.likely_model) == ("Dream", layout, model)
    assert tuple(rows.shape[1] for rows in token.rows) == widths
    assert bool(token.note) == any(key.endswith("_out") for key in content)
    assert not token.output


def test_rows_for_the_output_alone_are_said_to_be_such(tmp_path):
    torch.save({"emp_params_out": L}, tmp_path / "Dream.pt")
    (token,) = read_tokens(tmp_path / "Dream.pt")
    assert token.output and token.name == "Dream"
    with pytest.raises(ValueError, match="neither tool reads"):
        write_tokens([token], tmp_path / "out", "a1111")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"clip_l": L, "<toy>": L}, "entries of text encoders and others, such as '<toy>'"),
        ({"t5": T5, "t5xxl": T5}, "two entries for one text encoder"),
        ({"clip_l": L, "clip_g": G[:1]}, "other numbers of vectors"),
        ({"clip_l": [1.0, 2.0], "clip_g": G}, "'clip_l' is no tensor"),
        ({"<toy>": [0.1, 0.2]}, "its entry '<toy>' is no token"),
        ({"string_to_param": {"*": [0.1]}}, "is no tensor of real numbers"),
        ({"string_to_param": [L]}, "empty string_to_param"),
    ],
)
def test_a_content_that_is_no_embedding_is_refused(tmp_path, content, told):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=told):
        read_tokens(tmp_path / "x.pt")


def test_a_star_stands_for_the_files_name(tmp_path):
    torch.save({"*": L}, tmp_path / "dream.bin")
    (token,) = read_tokens(tmp_path / "dream.bin")
    assert token.name == "dream"


def test_a_name_inside_that_is_not_the_files_is_said(tmp_path):
    content = {"string_to_param": {"*": L}, "name": "badhandv3"}
    torch.save(content, tmp_path / "badhandv4.pt")
    (token,) = read_tokens(tmp_path / "badhandv4.pt")
    assert token.name == "badhandv3" and "--name badhandv4" in token.note
    (named,) = read_tokens(tmp_path / "badhandv4.pt", "badhandv4")
    assert named.name == "badhandv4" and named.note == ""
    torch.save(content, tmp_path / "badhandv3.pt")
    assert read_tokens(tmp_path / "badhandv3.pt")[0].note == ""


def huge():
    return torch.zeros(1).expand(10**6, 3 * 10**6)


TENSORS = {
    "sparse": lambda: torch.eye(4).to_sparse(),
    "compressed sparse": lambda: torch.eye(4).to_sparse_csr(),
    "meta": lambda: torch.empty(1, 768, device="meta"),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "12 TB by a stride of 0": huge,
    "whole numbers": lambda: torch.ones(1, 768, dtype=torch.int8),
    "complex": lambda: torch.ones(1, 768, dtype=torch.complex64),
    "truth values": lambda: torch.ones(1, 768, dtype=torch.bool),
    "three axes": lambda: torch.ones(1, 2, 768),
    "no axis": lambda: torch.tensor(1.0),
    "nothing": lambda: torch.ones(0, 768),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(1, 8), 0.1, 0, torch.qint8),
}


@pytest.mark.parametrize("make", TENSORS.values(), ids=TENSORS)
@pytest.mark.parametrize("wrap", [lambda t: {"<toy>": t}, lambda t: {"string_to_param": {"*": t}}])
def test_a_tensor_that_is_no_rows_is_refused_before_it_is_read(tmp_path, make, wrap):
    torch.save(wrap(make()), tmp_path / "x.pt")
    assert (tmp_path / "x.pt").stat().st_size < 20_000
    with pytest.raises(ValueError, match="x.pt") as refusal:
        read_tokens(tmp_path / "x.pt")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_small_floats_are_read(tmp_path, dtype):
    rows = torch.ones(2, 768).to(dtype)
    safetensors.torch.save_file({"<toy>": rows}, tmp_path / "x.safetensors")
    (token,) = read_tokens(tmp_path / "x.safetensors")
    assert torch.equal(token.rows[0].float(), rows.float())


def test_rows_out_of_order_in_memory_are_made_plain(tmp_path):
    torch.save({"<toy>": torch.ones(768, 4).T}, tmp_path / "x.pt")
    (token,) = read_tokens(tmp_path / "x.pt")
    assert token.rows[0].is_contiguous() and token.rows[0].shape == (4, 768)


def zip_of(file, target):
    """A file of torch with its parts compressed."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))


def test_a_small_file_that_unpacks_to_a_large_one_is_refused_before_it_is_read(
    tmp_path, monkeypatch
):
    torch.save({"<toy>": torch.zeros(22_000, 768)}, tmp_path / "plain.pt")  # 64.5 MB
    zip_of(tmp_path / "plain.pt", tmp_path / "x.pt")
    assert (tmp_path / "x.pt").stat().st_size < 200_000
    monkeypatch.setattr(torch, "load", None)  # whoever reads it calls this
    for name in ("plain.pt", "x.pt"):
        with pytest.raises(ValueError, match=f"{name} has 64 MB: too large for an embedding"):
            read_tokens(tmp_path / name)


def test_a_compressed_file_of_a_usual_size_is_read(tmp_path):
    torch.save({"<toy>": L}, tmp_path / "plain.pt")
    zip_of(tmp_path / "plain.pt", tmp_path / "x.pt")
    (token,) = read_tokens(tmp_path / "x.pt")
    assert torch.equal(token.rows[0], L)


def test_a_safetensors_file_too_large_for_an_embedding_is_refused(tmp_path, monkeypatch):
    safetensors.torch.save_file({"<toy>": L}, tmp_path / "x.safetensors")
    monkeypatch.setattr(tensor_files, "LARGEST", 6000)  # 2 rows of 768 numbers take 6144 bytes
    with pytest.raises(ValueError, match="too large for an embedding"):
        read_tokens(tmp_path / "x.safetensors")


def test_a_zip_without_a_directory_is_damaged(tmp_path):
    torch.save({"<toy>": L}, tmp_path / "x.pt")
    content = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged or no PyTorch file: download it again"):
        read_tokens(tmp_path / "x.pt")


def header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


DAMAGED = {
    "brackets": header(b"[" * 200_000),
    "objects": header(b'{"a":' * 100_000),
    "no object": header(b"[]"),
    "unknown dtype": header(
        json.dumps({"<t>": {"dtype": "F3", "shape": [1], "data_offsets": [0, 1]}}).encode()
    ) + b"0",
    "a header longer than the file": struct.pack("<Q", 2**40) + b"{}",
    "empty": b"",
}  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_said_to_be_damaged(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="damaged: download it again"):
        read_tokens(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
    ],
)
@pytest.mark.parametrize("name", ["x.safetensors", "x.bin"])
def test_what_stands_in_place_of_a_download_is_named(tmp_path, content, told, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=told):
        read_tokens(tmp_path / name)


class Runs:
    """Unpickled, it calls a function."""

    def __init__(self, function, *given):
        self.call = function, given

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "given", "named"),
    [(eval, ("1",), "eval"), (print, ("x",), "print"), (os.mkdir, ("x",), "posix.mkdir"),
     (getattr, (1, "real"), "getattr"), (exec, ("1",), "exec")],
)  # fmt: skip
def test_code_is_refused_by_its_name_and_not_called_damage(tmp_path, function, given, named):
    torch.save({"<toy>": L, "more": Runs(function, *given)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=f"wants to run or build {named}: refused"):
        read_tokens(tmp_path / "x.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Runs(function, *given), protocol=2))
    with pytest.raises(ValueError, match=f"wants to run or build {named}: refused"):
        read_tokens(tmp_path / "plain.pt")


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_a_file_that_may_not_be_opened_is_not_called_damaged(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(b"something")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(PermissionError, match="may not be read: check its permissions"):
        read_tokens(tmp_path / name)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb", "a\u202eb", "a\x00b", "a" * 300])
def test_a_name_that_is_no_file_name_writes_nothing(tmp_path, name):
    torch.save({name: L}, tmp_path / "x.pt")
    with pytest.raises((ValueError, OSError)) as refusal:
        write_tokens(read_tokens(tmp_path / "x.pt"), tmp_path / "out", "diffusers")
    assert str(refusal.value).isprintable()
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "/"])
def test_a_token_without_a_name_fit_for_a_file_is_not_converted(tmp_path, name):
    torch.save({"<toy>": L}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="cannot name a file: give another with --name"):
        write_tokens(read_tokens(tmp_path / "x.pt", name), tmp_path / "out", "a1111")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    torch.save({"<toy>": L}, tmp_path / "x.pt")
    (tmp_path / "out").write_text("a file, no folder")
    with pytest.raises(OSError, match="out cannot be written to"):
        write_tokens(read_tokens(tmp_path / "x.pt"), tmp_path / "out", "diffusers")


def test_a_full_disk_leaves_no_part_of_what_was_to_be_written(tmp_path, monkeypatch):
    torch.save({"<toy>": L, "<pet>": L}, tmp_path / "x.pt")
    from t2i_lens.inversion import published_files

    whole = published_files.write

    def full(target, content):
        if "pet" in target.name:
            raise OSError(28, "No space left on device")
        whole(target, content)

    monkeypatch.setattr(published_files, "write", full)
    with pytest.raises(OSError, match="out cannot be written to: No space left on device"):
        write_tokens(read_tokens(tmp_path / "x.pt"), tmp_path / "out", "diffusers")
    assert not list((tmp_path / "out").iterdir())
