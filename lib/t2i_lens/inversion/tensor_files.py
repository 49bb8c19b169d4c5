"""Files of tensors from anywhere: read without running code, or refused in one line.

A pickle goes through torch's weights-only reader, which refuses code.
"""

import pickletools
import re
import zipfile
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from t2i_lens.models.model_files import check_safetensors

PICKLED = (".bin", ".pt")
LARGEST = 64 * 2**20  # bytes; the largest public embedding known has 4 MB, a checkpoint gigabytes
ZIPPED = b"PK\x03\x04"  # begins what torch saves since 1.6
# What stands in place of a file that was not downloaded.
STAND_INS = {b"version https://git-lfs": "a pointer of Git LFS", b"<": "a web page"}
REFUSALS = r"Unsupported|unsupported|Trying to|Can only|Only persistent_load"


def read_tensors(file: Path) -> object:
    """The content of a .safetensors, .bin or .pt file.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: it may not be read.
        ValueError: it is damaged, has another suffix, is larger than `LARGEST`, also once
            unpacked, or holds code; the message says which.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: check the path")
    suffix = file.suffix.lower()
    if suffix != ".safetensors" and suffix not in PICKLED:
        raise ValueError(f"{file} ends in {suffix!r}: .safetensors, .bin and .pt are read")
    try:
        with file.open("rb") as stream:
            begin = stream.read(64).lstrip()
    except PermissionError:
        raise PermissionError(f"{file} may not be read: check its permissions") from None
    for mark, what in STAND_INS.items():
        if begin.startswith(mark):
            raise ValueError(f"{file} is {what}: download the file itself")
    if suffix in PICKLED and begin.startswith(ZIPPED):
        _check_size(file, _unpacked_size(file))
    _check_size(file, file.stat().st_size)
    return _read_safetensors(file) if suffix == ".safetensors" else _read_pickle(file)


def _check_size(file: Path, size: int) -> None:
    if size > LARGEST:
        raise ValueError(f"{file} has {size / 2**20:.0f} MB: too large for an embedding")


def _unpacked_size(file: Path) -> int:
    """Bytes of everything in a zip, as its directory states them; torch reads no more."""
    try:
        with zipfile.ZipFile(file) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        raise ValueError(f"{file} is damaged or no PyTorch file: download it again") from None


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        check_safetensors(file)
        return safetensors.torch.load_file(file)
    except (ValueError, KeyError, AttributeError, safetensors.SafetensorError):
        raise ValueError(f"{file} is damaged: download it again") from None


def _read_pickle(file: Path) -> object:
    # CompVis's trainer leaves a ParameterDict. Letting it in runs none of its code: the reader
    # only fills its `__dict__`, from which the tensors are taken.
    allowed = [torch.nn.ParameterDict]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for what is no file of its own
        told = str(error)
        found = re.search(r"(?:GLOBAL|class|function|global) [`<]?(?:class ')?([\w.]+)", told)
        unknown = re.search(r"Unsupported operand (\d+)", told)
        is_pickle = unknown is None or chr(int(unknown[1])) in pickletools.code2op
        if is_pickle and "Weights only load failed" in told and re.search(REFUSALS, told):
            what = found[1] if found else "more than tensors"
            raise ValueError(
                f"{file} wants to run or build {what}: refused, only tensors are read"
            ) from None
        raise ValueError(f"{file} is damaged or no PyTorch file: download it again") from None


def plain_rows(tensor: object, what: str) -> Tensor:
    """A tensor as rows [vector, d_model] of finite numbers in memory.

    Args:
        what: How messages call it.

    Raises:
        ValueError: it is none; nothing of its content is read before its size is known.
    """
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{what} is no tensor of real numbers")
    if tensor.is_nested or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise ValueError(f"{what} is a nested, sparse or empty (meta) tensor, not plain rows")
    if not tensor.is_floating_point():
        raise ValueError(f"{what} is no tensor of real numbers")
    if tensor.ndim not in (1, 2) or tensor.numel() == 0:
        raise ValueError(f"{what} has shape {tuple(tensor.shape)}, not [vector, d_model]")
    # Strides can make a file of a kilobyte claim a tensor of terabytes.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"{what} claims more numbers than the file holds")
    try:
        finite = tensor.double().isfinite().all()
    except (RuntimeError, NotImplementedError):  # formats that pack several numbers in one
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"{what} is in {kind}, which is not supported") from None
    if not finite:
        raise ValueError(f"{what} holds numbers that are not finite")
    return torch.atleast_2d(tensor.detach()).contiguous()
