"""Fashion-MNIST is read from where it lies, and a bad file ends in one clear line."""

import gzip
import struct

import pytest
import torch

from steer.data import FashionMnist, fashion_mnist, to_signed
from steer.data import fashion as module
from steer.data.idx import read_idx


def idx(values: torch.Tensor) -> bytes:
    header = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + bytes(values.int().flatten().tolist())


def write(folder, images, labels):
    for prefix in ("train", "t10k"):
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images), mtime=0))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(
            idx(labels)
        )  # plain and gzipped files are both read
    return folder


@pytest.fixture
def folder(tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (20, 28, 28), generator=generator)
    return write(tmp_path, images, torch.arange(20) % 10)


def test_idx_round_trip(tmp_path):
    values = torch.arange(24).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(idx(values))
    read = read_idx(tmp_path / "a")
    assert read.dtype == torch.uint8
    assert torch.equal(read, values.to(torch.uint8))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not an IDX file"),
        (b"\x00\x00\x0d\x01" + bytes(8), "not an IDX file"),
        (b"\x00\x00\x08\x03\x00", "cut short"),
        (idx(torch.zeros(3, 3))[:-1], "expected 9 values for shape"),
        (idx(torch.zeros(3, 3)) + b"\x00", "expected 9 values for shape"),
    ],
)
def test_broken_idx_is_refused(tmp_path, content, complaint):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=complaint) as error:
        read_idx(tmp_path / "a")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"not gzip", gzip.compress(bytes(1000), mtime=0)[:-9]])
def test_broken_gzip_is_refused(tmp_path, content):
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(ValueError, match="cannot read"):
        read_idx(tmp_path / "a.gz")


def test_reads_a_folder(folder):
    images, labels = fashion_mnist("train", folder)
    assert (images.shape, images.dtype) == ((20, 1, 28, 28), torch.uint8)
    assert (labels.dtype, labels.tolist()) == (torch.int64, [i % 10 for i in range(20)])


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no train-images-idx3-ubyte.gz in"):
        fashion_mnist("train", tmp_path)


def test_unknown_split():
    with pytest.raises(ValueError, match="'train' and 'test'"):
        fashion_mnist("validation")


def test_other_data_are_refused(tmp_path):
    write(tmp_path, torch.zeros(5, 32, 32), torch.zeros(5))
    with pytest.raises(ValueError, match="does not hold Fashion-MNIST"):
        fashion_mnist("test", tmp_path)


def test_one_line_when_none_can_be_had(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("name resolution failed\nand more")

    monkeypatch.setattr(module, "DEBIAN", tmp_path / "nowhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.FashionMNIST", offline)
    with pytest.raises(ValueError, match="apt install dataset-fashion-mnist") as error:
        fashion_mnist("test")
    assert "\n" not in str(error.value)


def test_downloads_into_the_cache(folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache"

    def download(root, download):
        raw = cache / "flowmap-steer" / "FashionMNIST" / "raw"
        assert (root, download) == (str(cache / "flowmap-steer"), True)
        raw.parent.mkdir(parents=True)
        raw.symlink_to(folder)

    monkeypatch.setattr(module, "DEBIAN", tmp_path / "nowhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr("torchvision.datasets.FashionMNIST", download)
    assert len(fashion_mnist("test")[0]) == 20


def test_bytes_become_signed_unit_floats():
    x = to_signed(torch.tensor([0, 255], dtype=torch.uint8))
    assert (x.dtype, x.tolist()) == (torch.float32, [-1.0, 1.0])


def test_module_draws_matching_pairs(folder):
    data = FashionMnist(6, folder=folder)
    data.prepare_data()
    data.setup("fit")
    x, labels = data.draw(torch.Generator().manual_seed(0))
    images, all_labels = fashion_mnist("train", folder)
    assert (x.shape, x.dtype) == ((6, 1, 28, 28), torch.float32)
    for image, label in zip(x, labels, strict=True):
        where = (to_signed(images) == image).flatten(1).all(1).nonzero().item()
        assert all_labels[where] == label


def test_validation_passes_once_over_the_test_images(folder):
    data = FashionMnist(6, folder=folder)
    data.setup("fit")
    labels = torch.cat([labels for _, labels in data.val_dataloader()])
    assert labels.tolist() == [i % 10 for i in range(20)]
