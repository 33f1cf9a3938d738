"""Small clothes, of noise."""

import gzip
import struct

import torch


def leave(folder):
    """Makes a folder that looks like Fashion-MNIST, with 40 images of noise in each split."""
    generator = torch.Generator().manual_seed(0)
    folder.mkdir()
    for split in ("train", "t10k"):
        images = torch.randint(256, (40, 28, 28), generator=generator, dtype=torch.uint8)
        labels = torch.arange(40, dtype=torch.uint8) % 10
        for name, x in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">BBBB{x.ndim}I", 0, 0, 8, x.ndim, *x.shape)
            (folder / f"{split}-{name}-ubyte.gz").write_bytes(
                gzip.compress(header + x.numpy().tobytes())
            )
