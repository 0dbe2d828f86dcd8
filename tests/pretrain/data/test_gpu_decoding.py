"""Decoding on the GPU, on a CPU: the same functions, with torchvision's own decoder for nvJPEG."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from common.errors import InputError
from common.images.loading import Reading
from common.images.sampling import MicroBatch
from pretrain.data import gpu_decoding, splits
from pretrain.data.augment import draw_crop, eval_image, train_image
from pretrain.data.gpu_decoding import check_gpu_decoding, collate_files, decode_batch, read_item
from pretrain.data.image_sets import FileSet
from pretrain.data.splits import Split, open_split
from pretrain.recipes import Images

CPU = torch.device("cpu")
SEED, EPOCH = 3, 2


def picture(height: int, width: int) -> NDArray[np.uint8]:
    """Return waves, of which every part is another."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 9 + y / 31), np.cos(y / 7 - x / 23), np.sin((x + 2 * y) / 13)]
    return np.uint8(127.5 + 127 * np.stack(waves, axis=2))


def cmyk() -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(40, 50)).convert("CMYK").save(file, "JPEG")
    return file.getvalue()


def encoded(pixels: NDArray[np.uint8], suffix: str = ".jpg") -> bytes:
    return cv2.imencode(suffix, pixels[..., ::-1])[1].tobytes()


FILES = {
    "a.jpg": encoded(picture(120, 160)),
    "b.jpg": encoded(picture(90, 40)),
    "grey.jpg": encoded(picture(50, 70)[:, :, :1]),
    "cmyk.jpg": cmyk(),
    "png.jpg": encoded(picture(33, 45), ".png"),
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "train" / "only"
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return tmp_path


def file_set(root: Path) -> FileSet:
    paths = sorted(root.rglob("*.jpg"))
    return FileSet(paths, np.arange(len(paths)), tuple(map(str, range(len(paths)))))


@pytest.mark.parametrize("epoch", range(4))
def test_images_are_those_of_the_workers(files: Path, epoch: int) -> None:
    """The same crops and flips, and nearly the same pixels: two builds of libjpeg here."""
    data = file_set(files)
    items = [read_item(data, SEED, 0.08, epoch, index) for index in range(len(data.paths))]
    images, labels = decode_batch(collate_files(items), 24, CPU)
    assert labels.tolist() == data.labels.tolist()
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    for index, image in enumerate(images):
        expected = train_image(data.image(index), 24, SEED, epoch, index).astype(int)
        assert np.abs(image.permute(1, 2, 0).numpy() - expected).max() <= 4
    crops = [draw_crop(*data.image(i).shape[:2], SEED, epoch, i) for i in range(len(items))]
    assert [item.crop for item in items] == crops


def test_only_plain_jpegs_are_left_to_the_gpu(files: Path) -> None:
    data = file_set(files)
    items = [read_item(data, SEED, 0.08, EPOCH, index) for index in range(len(data.paths))]
    left = {
        path.name for path, item in zip(data.paths, items, strict=True) if item.content.dim() == 1
    }
    assert left == {"a.jpg", "b.jpg", "grey.jpg"}


def test_damage_is_named_by_the_worker(files: Path) -> None:
    (files / "train" / "only" / "b.jpg").write_bytes(FILES["b.jpg"][:-20])
    with pytest.raises(InputError, match=r"only/b\.jpg is cut off"):
        read_item(file_set(files), SEED, 0.08, EPOCH, 1)
    with pytest.raises(InputError, match=r"absent\.jpg is unreadable"):
        read_item(FileSet([files / "absent.jpg"], np.zeros(1, int), ("a",)), SEED, 1.0, 0, 0)


def test_a_file_that_the_gpu_refuses_is_decoded_by_the_cpu(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, calls = gpu_decoding._decode_jpegs, []

    def refuse(jpegs: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        calls.append(len(jpegs))
        if any(len(jpeg) == len(FILES["b.jpg"]) for jpeg in jpegs):
            raise RuntimeError("unsupported")
        return decode(jpegs, device)

    monkeypatch.setattr(gpu_decoding, "_decode_jpegs", refuse)
    data = file_set(files)
    items = [read_item(data, SEED, 0.08, EPOCH, index) for index in range(len(data.paths))]
    images, _ = decode_batch(collate_files(items), 24, CPU)
    assert calls == [3, 1, 1, 1]
    expected = train_image(data.image(1), 24, SEED, EPOCH, 1).astype(int)
    assert np.abs(images[1].permute(1, 2, 0).numpy() - expected).max() <= 1


def test_damage_that_nobody_can_decode_is_told(files: Path) -> None:
    start = FILES["a.jpg"].index(b"\xff\xda")
    broken = FILES["a.jpg"][:start] + b"\xff\xda\x00\x02\xff\xd9"
    (files / "train" / "only" / "a.jpg").write_bytes(broken)
    items = [read_item(file_set(files), SEED, 0.08, EPOCH, index) for index in range(2)]
    with pytest.raises(InputError, match=r"an image is damaged .*--images\.decode cpu"):
        decode_batch(collate_files(items), 24, CPU)


# ---- the recipe ----


def split_of(root: Path, *, training: bool, workers: int = 0) -> Split:
    images = Images(dataset="imagenet", size=24, crop="resized", decode="gpu", split_by=None)
    reading = Reading(workers=workers, device=CPU)
    return open_split(images, root, "train", reading, training=training, seed=SEED)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_split_is_decoded_in_batches(
    files: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(splits, "check_gpu_decoding", lambda device: None)
    split = split_of(files, training=True, workers=workers)
    assert split.source == ".jpg files, nvJPEG"
    data = file_set(files)
    batches = [MicroBatch(EPOCH, np.array(part), 1.0) for part in ([4, 0, 2], [1, 3])]
    for batch, (images, labels) in zip(batches, split.load(batches), strict=True):
        assert labels.tolist() == [0] * len(batch.indices)
        for index, image in zip(batch.indices, images, strict=True):
            expected = train_image(data.image(index), 24, SEED, EPOCH, index).astype(int)
            assert np.abs(image.permute(1, 2, 0).numpy() - expected).max() <= 4


def test_images_are_scored_as_ever(files: Path) -> None:
    split = split_of(files, training=False)
    ((images, _),) = split.load([MicroBatch(0, np.arange(5), 1.0)])
    expected = [eval_image(file_set(files).image(index), 24) for index in range(5)]
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), expected)
    assert split.source == ".jpg files"


def test_without_a_gpu_it_is_refused(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"needs an NVIDIA GPU, and this runs on cpu: use --im"):
        split_of(files, training=True)

    def refuse(jpegs: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        raise RuntimeError("not compiled\nwith nvJPEG")

    monkeypatch.setattr(gpu_decoding, "_decode_jpegs", refuse)
    with pytest.raises(InputError, match=r"on cuda:1 \(not compiled with nvJPEG\): use --images"):
        check_gpu_decoding(torch.device("cuda:1"))


def test_small_images_are_not_for_it() -> None:
    with pytest.raises(ValueError, match=r"images\.decode gpu goes with images\.crop resized"):
        Images(dataset="cifar10", size=32, crop="pad", decode="gpu")
