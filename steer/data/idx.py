"""Reader of the IDX format of MNIST and similar data sets.

A file is: two zero bytes, a type byte (8 = unsigned byte), the number of axes, each axis as a
big-endian 32-bit integer, then the values in row-major order.

Reference: LeCun, Cortes & Burges, the MNIST database.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

UNSIGNED_BYTE = 8


def read_idx(path: Path) -> Tensor:
    """Read the uint8 tensor of an IDX file, gzipped if its name ends in .gz.

    Raises:
        ValueError: the file cannot be read, is not IDX of unsigned bytes, or holds fewer or more
            bytes than it says.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot read {path}: {error}; delete it and fetch it again") from error
    if len(content) < 4 or content[:3] != bytes((0, 0, UNSIGNED_BYTE)):
        raise ValueError(
            f"{path} is not an IDX file of bytes: "
            f"expected it to begin 00 00 08, got {content[:3].hex(' ')}"
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(
            f"{path} is cut short: its header alone takes {start} bytes, it has {len(content)}"
        )
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"{path}: expected {math.prod(shape)} values for shape {shape}, "
            f"got {len(content) - start}"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[start:].reshape(shape)
