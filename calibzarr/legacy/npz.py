"""NumPy's compressed archives: written faster than NumPy does it, and read within bounds.

An archive is a zip file of ``.npy`` files. See the ``.npy`` format in NumPy's documentation, and
PKWARE's APPNOTE for the records of a zip file.
"""

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from calibzarr.legacy import bounded
from calibzarr.legacy.bounded import Unreadable

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_VERSION = 20  # of the zip format, the first with deflate
_MIDNIGHT_1980 = 0, 33  # time and date: equal arrays give equal files
_DEFLATED = zipfile.ZIP_DEFLATED

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_HEADER_BYTES = 1000  # of a .npy file, at most; NumPy writes 128
_ENCRYPTED = 1  # bit of a member's flags
_SLACK = 1 << 16  # bytes of an archive beside its values, at most
_DAMAGES = (  # as zipfile tells of them
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OverflowError,
    RuntimeError,
    ValueError,
)
_LOW_MANTISSA = 0x1FFF  # bits of a float32 that are 0 if it was a float16


def encode(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of an archive, as ``np.savez_compressed`` would make one.

    Compressed latents are no smaller for being searched for repetitions, except when they are
    rounded: without the search, which NumPy does not leave out, this takes a third of the time.

    Args:
        arrays: by name, none of them of objects.

    Raises:
        ValueError: if the archive would have 4 GiB or more.
    """
    members, directory = io.BytesIO(), io.BytesIO()
    for key, array in arrays.items():
        name = f"{key}.npy".encode()
        file = io.BytesIO()
        np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
        content = file.getvalue()
        compressor = _compressor(np.asarray(array))
        data = compressor.compress(content) + compressor.flush()
        offset = members.tell()
        if max(offset + len(data), len(content)) >= 1 << 32:
            raise ValueError(f"arrays of {len(content)} bytes are too large for one archive")
        common = (_VERSION, 0, _DEFLATED, *_MIDNIGHT_1980, zlib.crc32(content), len(data))
        lengths = len(content), len(name), 0
        members.write(_LOCAL.pack(b"PK\3\4", *common, *lengths) + name + data)
        directory.write(
            _CENTRAL.pack(b"PK\1\2", _VERSION, *common, *lengths, 0, 0, 0, 0, offset) + name
        )
    start, size = members.tell(), directory.tell()
    end = _END.pack(b"PK\5\6", 0, 0, len(arrays), len(arrays), size, start, 0)
    return b"".join([members.getvalue(), directory.getvalue(), end])


def _compressor(array: np.ndarray) -> "zlib._Compress":
    """Of the fastest kind that is within a few percent of ``np.savez_compressed`` in size."""
    level, strategy = 6, zlib.Z_DEFAULT_STRATEGY
    if array.dtype == np.float32 and array.ndim:
        rounded = not (array.view(np.uint32) & _LOW_MANTISSA).any()
        level, strategy = (4, strategy) if rounded else (level, zlib.Z_HUFFMAN_ONLY)
    return zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)


def read(path: Path, names: Collection[str], most_bytes: int) -> dict[str, np.ndarray]:
    """Read some arrays of an archive; nothing is unpickled, and no memory taken on its word.

    Args:
        path: the file.
        names: of the arrays; those that it lacks are left out.
        most_bytes: of all these arrays together.

    Raises:
        Unreadable: if it is damaged, no such archive, larger, or of anything but numbers.
    """
    data = bounded.read(path, most_bytes + _SLACK)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        wanted = {name: members[name] for name in names if name in members}
        declared = sum(info.file_size for info in wanted.values())
        if declared > most_bytes + _HEADER_BYTES * len(wanted):
            raise Unreadable(f"declares {declared} bytes, where at most {most_bytes} are expected")
        return {name: _array(name, _content(data, info)) for name, info in wanted.items()}
    except Unreadable:
        raise
    except _DAMAGES as error:
        raise Unreadable(f"is damaged ({error or type(error).__name__})") from None


def _content(data: bytes, info: zipfile.ZipInfo) -> bytes:
    """The bytes of one member; inflated no further than to the size that it declares."""
    signature, *_, name_length, extra_length = _LOCAL.unpack_from(data, info.header_offset)
    start = info.header_offset + _LOCAL.size + name_length + extra_length
    content = data[start : start + info.compress_size]
    if signature != b"PK\3\4" or info.flag_bits & _ENCRYPTED:
        raise Unreadable(f"is damaged ({info.filename} is encrypted, or is not where it should be)")
    if info.compress_type == _DEFLATED:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, info.file_size + 1)
    elif info.compress_type != zipfile.ZIP_STORED:
        raise Unreadable(f"is compressed by a method, {info.compress_type}, that NumPy never uses")
    if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise Unreadable(f"is damaged ({info.filename} has another size or checksum)")
    return content


def _array(name: str, content: bytes) -> np.ndarray:
    try:
        shape, fortran_order, dtype, start = _header(content[: _header_size(content)])
    except (ValueError, KeyError, RecursionError, TypeError) as error:
        raise Unreadable(f"is damaged ({name}: {error})") from None
    if dtype.kind not in "biuf":
        raise Unreadable(f"holds no numbers in {name}, but {dtype}")
    needed = math.prod(shape) * dtype.itemsize
    if needed != len(content) - start or min(shape, default=0) < 0:
        raise Unreadable(f"declares {name} of shape {shape}, which its bytes do not fill")
    values = np.frombuffer(content, dtype, offset=start)
    return values.reshape(shape, order="F" if fortran_order else "C")


def _header_size(content: bytes) -> int:
    """Bytes of a ``.npy`` file before its values."""
    form = {1: "<H", 2: "<I"}.get(content[6], "") if len(content) > 12 else ""
    if not form:
        raise ValueError("of another version")
    size = np.lib.format.MAGIC_LEN + struct.calcsize(form) + struct.unpack_from(form, content, 8)[0]
    return int(min(size, 2 * _HEADER_BYTES))


@lru_cache(maxsize=64)  # most files of a directory have the same few headers
def _header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether in Fortran's order, dtype and size of a header."""
    file = io.BytesIO(header)
    read_header = _HEADERS[np.lib.format.read_magic(file)]
    return *read_header(file, max_header_size=_HEADER_BYTES), file.tell()
