"""Read a GGUF file's header: its fields and where its tensors lie. In bounds, whatever it says.

The `gguf` library has a reader too. It makes an array of every number of every list, most of a
minute for a vocabulary of 262,144, and never ends on a damaged file that claims a list long
enough. This one takes lists whole, checks each count against the bytes that are left, and refuses
tensors that overlap or leave the file. Values are dequantised by the library. Knows no model.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from lastblock.errors import WeightsError

_NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4",
    6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_MOST_DIMENSIONS, _MOST_ELEMENTS = 4, 2**40


class _DamagedError(Exception):
    """What is wrong with the file; becomes a WeightsError that names it."""


@dataclass(frozen=True)
class GGUFTensor:
    """``shape`` as torch has it, rows first; ``data`` are its bytes, mapped from the file."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    data: npt.NDArray[np.uint8]

    def values(self) -> npt.NDArray[np.float32]:
        """The dequantised tensor: a new float32 array of ``shape``.

        Raises:
            NotImplementedError: the `gguf` library cannot undo this quantisation.
        """
        rows = self.data.reshape(*self.shape[:-1], -1)
        # Float32 itself comes back as the mapped file, which cannot be written to.
        return np.require(dequantize(rows, self.kind), np.float32, ["C", "W"])


@dataclass(frozen=True)
class GGUFFile:
    """Fields (numbers, strings, booleans and lists of them) and tensors, by name."""

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, GGUFTensor]


def read_gguf(path: Path) -> GGUFFile:
    """Map a file and read its header; a tensor is read when its values are asked for.

    Raises:
        WeightsError: it cannot be read, is no GGUF file, or is damaged.
    """
    try:
        return _read(path, np.memmap(path, mode="r"))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (_DamagedError, ValueError) as error:  # numpy says ValueError of an empty file
        raise WeightsError(
            f"{path}: is no readable GGUF file: {error}; fetch or convert it again"
        ) from None


def _read(path: Path, data: npt.NDArray[np.uint8]) -> GGUFFile:
    header = _Header(data)
    if bytes(header.take(4)) != b"GGUF":
        raise _DamagedError("it does not begin with GGUF")
    version = header.number("<u4")
    if version not in _VERSIONS:
        raise _DamagedError(f"version {version} is not known (known: 2, 3; little-endian)")
    n_tensors, n_fields = header.number("<u8"), header.number("<u8")
    fields: dict[str, Any] = {}
    for _ in range(n_fields):
        name = header.string()
        if name in fields:
            raise _DamagedError(f"field {name!r} stands there twice")
        fields[name] = header.value(header.number("<u4"))
    infos = [_Info.read(header) for _ in range(n_tensors)]
    alignment = fields.get("general.alignment", 32)
    if type(alignment) is not int or alignment <= 0 or alignment % 8:
        raise _DamagedError(f"alignment {alignment!r} is not a multiple of 8")
    start = -(-header.position // alignment) * alignment
    return GGUFFile(path, fields, _place(infos, data, start, alignment))


class _Header:
    """A cursor over the file that cannot leave it."""

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        self._data: memoryview = data.data
        self.position = 0

    def take(self, size: int) -> memoryview:
        end = self.position + size
        if end > len(self._data):
            raise _DamagedError(f"it ends at byte {len(self._data)}, before what byte {end} holds")
        taken = self._data[self.position : end]
        self.position = end
        return taken

    def numbers(self, kind: str, count: int) -> list[Any]:
        dtype = np.dtype(kind)
        return list(np.frombuffer(self.take(dtype.itemsize * count), dtype).tolist())

    def number(self, kind: str) -> Any:
        return self.numbers(kind, 1)[0]

    def string(self) -> str:
        (size,) = struct.unpack("<Q", self.take(8))
        at = self.position
        try:
            return bytes(self.take(size)).decode()
        except UnicodeDecodeError:
            raise _DamagedError(f"the string at byte {at} is not UTF-8") from None

    def value(self, kind: int) -> Any:
        if kind == _ARRAY:
            kind, count = self.number("<u4"), self.number("<u8")
            if kind == _STRING:
                return [self.string() for _ in range(count)]
            return self.numbers(_dtype(kind), count)
        return self.string() if kind == _STRING else self.number(_dtype(kind))


def _dtype(kind: int) -> str:
    if kind not in _NUMBERS:
        raise _DamagedError(f"a field has the unknown type {kind}")
    return _NUMBERS[kind]


@dataclass(frozen=True)
class _Info:
    """One row of the table of tensors."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    size: int  # bytes

    @staticmethod
    def read(header: _Header) -> _Info:
        name, dimensions = header.string(), header.number("<u4")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise _DamagedError(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(reversed(header.numbers("<u8", dimensions)))
        kind, offset = header.number("<u4"), header.number("<u8")
        elements = math.prod(shape)
        if not 0 < elements < _MOST_ELEMENTS:
            raise _DamagedError(f"tensor {name!r} has the shape {shape}")
        try:
            quantisation = GGMLQuantizationType(kind)
        except ValueError:
            raise _DamagedError(f"tensor {name!r} has the unknown type {kind}") from None
        block, size = GGML_QUANT_SIZES[quantisation]
        if shape[-1] % block:
            raise _DamagedError(
                f"tensor {name!r} has rows of {shape[-1]}, no multiple of {quantisation.name}'s "
                f"block of {block}"
            )
        return _Info(name, shape, quantisation, offset, elements // block * size)


def _place(
    infos: list[_Info], data: npt.NDArray[np.uint8], start: int, alignment: int
) -> dict[str, GGUFTensor]:
    """The tensors in the file's order, each with its own stretch of the file."""
    tensors: dict[str, GGUFTensor] = {}
    free = 0
    for info in sorted(infos, key=lambda info: info.offset):
        if info.name in tensors:
            raise _DamagedError(f"tensor {info.name!r} stands there twice")
        if info.offset < free or info.offset % alignment:
            raise _DamagedError(f"tensor {info.name!r} overlaps another, or is not aligned")
        free = info.offset + info.size
        if start + free > len(data):
            raise _DamagedError(
                f"tensor {info.name!r} would end at byte {start + free}, the file ends at "
                f"{len(data)}: it is truncated"
            )
        stretch = data[start + info.offset : start + free]
        tensors[info.name] = GGUFTensor(info.name, info.shape, info.kind, stretch)
    return tensors
