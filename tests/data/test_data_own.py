"""Data of one's own: tensors, files and folders of pictures reach a training as they are."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from steer import Condition
from steer.data import ImageFolder, Tensors
from steer.data.picture_files import captions_of, classes_of, pictures_in, read_pictures
from steer.networks.text import vocabulary


def drawn(data, seed=0):
    data.prepare_data()
    data.setup("fit")
    return data.draw(torch.Generator().manual_seed(seed))


# --- tensors ------------------------------------------------------------------------------------
def test_every_sample_comes_with_its_own_condition_and_equally_often():
    x = torch.arange(10, dtype=torch.float64)[:, None].expand(10, 3)
    x1, labels = drawn(Tensors(x, torch.arange(10), batch_size=20_000))
    assert x1.dtype == torch.float32
    assert torch.equal(x1, labels[:, None].float().expand(-1, 3))
    assert (labels.bincount(minlength=10) / 20_000 - 0.1).abs().max() < 0.01


def test_texts_and_conditions_of_several_parts_go_with_their_samples():
    x = torch.arange(4.0)[:, None]
    _, texts = drawn(Tensors(x, ["0", "1", "2", "3"], batch_size=8))
    x1, cond = drawn(Tensors(x, Condition(pooled=x + 10, texts=["0", "1", "2", "3"]), batch_size=8))
    assert torch.equal(cond.pooled, x1 + 10)
    assert [float(text) for text in texts] == x1[:, 0].tolist()
    assert cond.texts == texts


def test_bytes_are_pictures():
    x = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)
    x1, _ = drawn(Tensors(x, batch_size=3))
    assert torch.equal(x1, torch.tensor([-1.0, 1.0]).expand(3, 1, 1, 2))


def test_a_mirrored_half_and_no_more():
    x = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)
    x1, _ = drawn(Tensors(x, batch_size=4000, flip=True))
    assert set(x1.flatten(1).sum(1).tolist()) == {0.0}
    assert abs(x1[:, 0, 0, 0].mean().item()) < 0.05  # four standard errors are .063


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_held_out_is_never_trained_on(seed):
    data = Tensors(torch.arange(40.0)[:, None], batch_size=2000, seed=seed, validation=10)
    x1, _ = drawn(data, seed)
    (batch,) = data.val_dataloader()
    kept = set(batch[0][:, 0].tolist())
    assert len(kept) == 10
    assert kept | set(x1[:, 0].tolist()) == set(range(40))
    assert not kept & set(x1[:, 0].tolist())


@pytest.mark.parametrize("suffix", ["npy", "pt", "safetensors"])
def test_files(tmp_path, suffix):
    x = torch.randn(5, 3)
    path = tmp_path / f"x.{suffix}"
    match suffix:
        case "npy":
            np.save(path, x.numpy())
        case "pt":
            torch.save(x, path)
        case "safetensors":
            save_file({"x": x, "cond": torch.arange(5, dtype=torch.int32)}, path)
    x1, cond = drawn(Tensors(str(path), batch_size=50))
    assert {tuple(row) for row in x1.tolist()} == {tuple(row) for row in x.tolist()}
    assert (cond is not None) == (suffix == "safetensors")
    if cond is not None:
        assert torch.equal(x[cond], x1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Tensors(torch.zeros(3, 2), [0, 1]), "one entry per sample, 3 of them; got 2"),
        (lambda: Tensors(torch.tensor([[0.0], [torch.nan]])), "sample 1 of x is not finite"),
        (lambda: Tensors(torch.zeros(3)), r"x has shape \(n, \*shape\)"),
        (lambda: Tensors(torch.zeros(3, 2), validation=3), "validation=3 leaves nothing of 3"),
        (lambda: Tensors("missing.npy"), "there is no file missing.npy"),
        (lambda: Tensors([[1.0]]), "expected a tensor or an array of numbers; got a list"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(build, message):
    with pytest.raises(ValueError, match=message):
        drawn(build())


# --- folders ------------------------------------------------------------------------------------
def paint(path, colour, size=(4, 4), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def folder_of_two(home):
    paint(home / "dog" / "2.png", (0, 255, 0))
    paint(home / "cat" / "1.PNG", (255, 0, 0))
    paint(home / "cat" / "far" / "3.png", (255, 0, 0))
    (home / ".DS_Store").write_text("")
    paint(home / "cat" / "._1.png", (9, 9, 9))
    return home


def test_labels_are_the_folders(tmp_path):
    folder = folder_of_two(tmp_path)
    assert classes_of(folder) == ["cat", "dog"]
    x1, labels = drawn(ImageFolder(folder, 60, shape=(3, 2, 2)))
    red, green = torch.tensor([1.0, -1, -1]), torch.tensor([-1.0, 1, -1])
    expected = torch.where(labels[:, None] == 0, red, green)
    assert torch.equal(x1, expected[:, :, None, None].expand(-1, 3, 2, 2))
    assert set(labels.tolist()) == {0, 1}
    assert drawn(ImageFolder(folder, 4, conditions=False))[1] is None


def test_captions_are_those_of_the_metadata(tmp_path):
    folder = folder_of_two(tmp_path)
    texts = {"cat/1.PNG": "A red cat.", "cat/far/3.png": "A red cat.", "dog/2.png": "a green dog"}
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in texts.items()]
    (folder / "metadata.jsonl").write_text("\n".join([*lines, ""]))
    assert captions_of(folder) == [*texts.values()]
    assert vocabulary(texts.values()) == ["a", "cat", "dog", "green", "red"]
    x1, captions = drawn(ImageFolder(folder, 60))
    assert all(
        (text == "a green dog") == (x[1] > 0).all() for x, text in zip(x1, captions, strict=True)
    )
    (folder / "metadata.jsonl").write_text(lines[0])
    with pytest.raises(ValueError, match=r"metadata.jsonl has no line for cat/far/3.png"):
        ImageFolder(folder).prepare_data()
    (folder / "metadata.jsonl").write_text('{"file_name": "cat/1.PNG", "caption": "x"}')
    with pytest.raises(ValueError, match="line 1: expected a text 'text'; it has 'file_name', 'ca"):
        ImageFolder(folder).prepare_data()


def test_pictures_without_either_have_no_condition(tmp_path):
    paint(tmp_path / "1.png", (0, 0, 0))
    assert drawn(ImageFolder(tmp_path, 2))[1] is None
    paint(tmp_path / "cat" / "1.png", (0, 0, 0))
    with pytest.raises(ValueError, match="has 1 pictures outside of class folders"):
        ImageFolder(tmp_path, 2).prepare_data()


def test_pictures_are_scaled_to_cover_and_cut_to_the_middle(tmp_path):
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, 20:40] = 255  # the middle square is white
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide.transpose(1, 0, 2)).save(tmp_path / "high.png")
    read = read_pictures(pictures_in(tmp_path), (1, 10, 10))
    assert read.shape == (2, 1, 10, 10)
    assert (read[:, :, 1:-1, 1:-1] > 250).all()  # the filter rings a little


def test_pictures_are_turned_as_their_camera_says(tmp_path):
    image = Image.fromarray(np.repeat([[0, 255]], 2, axis=0).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # seen turned by a quarter, clockwise: left becomes top
    image.save(tmp_path / "1.png", exif=exif)
    assert read_pictures([tmp_path / "1.png"], (1, 2, 2))[0, 0].tolist() == [[0, 0], [255, 255]]


def test_what_is_transparent_is_white(tmp_path):
    paint(tmp_path / "1.png", (9, 9, 9, 0), mode="RGBA")
    assert (read_pictures([tmp_path / "1.png"], (3, 4, 4)) == 255).all()


def test_bad_pictures_are_named(tmp_path):
    with pytest.raises(ValueError, match="no pictures in"):
        pictures_in(tmp_path)
    (tmp_path / "1.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"cannot read the picture .*1\.png"):
        ImageFolder(tmp_path).prepare_data()
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"1\.png has more than eight bits"):
        ImageFolder(tmp_path).prepare_data()
    with pytest.raises(ValueError, match=r"shape is \(C, H, W\)"):
        ImageFolder(tmp_path, shape=(32, 32))
