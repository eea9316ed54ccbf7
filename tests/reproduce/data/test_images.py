"""Batches of images, resident or streamed: equal pixels, order, memory limits, and errors that name the file."""

from __future__ import annotations

import itertools
import random
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from reproduce.data import images as module
from reproduce.data.images import AHEAD, Images, Resample, decode
from reproduce.dataset import Image
from reproduce.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = (24, 12)
EVERYTHING = 10**9


def picture(seed: int, mode: str = "RGB", height: int = 40, width: int = 20) -> Pil.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Pil.fromarray(noise).resize((width, height)).convert(mode)


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, list[Image]]:
    """Write twenty images of different sizes, JPEG and PNG."""
    images = []
    for seed in range(20):
        name = f"{seed}.{'jpg' if seed % 2 else 'png'}"
        picture(seed, height=32 + seed, width=40 - seed).save(tmp_path / name)
        images.append(Image(name, seed, 0))
    return tmp_path, images


def reference(path: Path, resample: Resample = "bicubic") -> Any:
    kind = {"bicubic": Pil.Resampling.BICUBIC, "bilinear": Pil.Resampling.BILINEAR}[resample]
    return np.array(Pil.open(path).convert("RGB").resize((SIZE[1], SIZE[0]), kind)).transpose(2, 0, 1)


def decoding_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("budget", [0, EVERYTHING])
def test_pixels(folder: tuple[Path, list[Image]], budget: int, threads: int, resample: Resample) -> None:
    root, entries = folder
    images = Images(root, entries, SIZE, budget_bytes=budget, resample=resample, threads=threads)
    assert images.resident == (budget > 0)
    expected = np.stack([reference(root / entry.path, resample) for entry in entries])
    wanted: list[Any] = [[3, 1, 3], range(20), np.array([19, 0]), torch.tensor([7]), [], [5, 5], range(8)]
    for _ in range(2):
        batches = list(images.batches(wanted))
        assert len(batches) == len(wanted)
        for indices, batch in zip(wanted, batches, strict=True):
            assert batch.dtype == torch.uint8
            assert batch.is_contiguous()
            assert batch.shape == (len(indices), 3, *SIZE)
            np.testing.assert_array_equal(batch, expected[list(map(int, indices))])
            batch.fill_(0)  # a batch belongs to whoever asked for it


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("budget", [0, EVERYTHING, None])
def test_pixels_on_cuda(folder: tuple[Path, list[Image]], budget: int | None) -> None:
    root, entries = folder
    wanted = [[3, 1, 3], range(20), [5]]
    expected = list(Images(root, entries, SIZE).batches(wanted))
    images = Images(root, entries, SIZE, "cuda", budget_bytes=budget)
    for _ in range(2):
        for batch, other in zip(images.batches(wanted), expected, strict=True):
            assert batch.device.type == "cuda"
            assert torch.equal(batch.cpu(), other)


def test_resident_images_fit_the_budget_exactly(
    folder: tuple[Path, list[Image]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, entries = folder
    needed = 20 * 3 * SIZE[0] * SIZE[1]
    assert Images(root, entries, SIZE, budget_bytes=needed).resident
    assert not Images(root, entries, SIZE, budget_bytes=needed - 1).resident
    monkeypatch.setattr(module, "_budget", lambda device: 2 * needed)
    assert [Images(root, entries, SIZE, share=share).resident for share in (1.0, 0.5, 0.49)] == [True, True, False]
    assert len(Images(root, entries, SIZE)) == 20


def test_default_budget_is_a_quarter_of_available_memory(
    folder: tuple[Path, list[Image]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, entries = folder
    needed = 20 * 3 * SIZE[0] * SIZE[1]
    assert 2**20 < module._available() < 2**50
    monkeypatch.setattr(module, "_available", lambda: 4 * needed)
    assert Images(root, entries, SIZE).resident
    monkeypatch.setattr(module, "_available", lambda: 4 * needed - 1)
    assert not Images(root, entries, SIZE).resident


@pytest.mark.parametrize(("free", "fits"), [(24, True), (22, True), (21.5, False), (10, False)])
def test_images_take_at_most_an_eighth_of_a_gpu(
    free: float, fits: bool, folder: tuple[Path, list[Image]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 24 units 3 may hold images, and the set needs 1."""
    unit = 20 * 3 * SIZE[0] * SIZE[1]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * unit), 24 * unit))
    assert (module._budget(torch.device("cuda")) >= unit) == fits


class Fake:
    """Replacement for `decode` that counts calls and is slow."""

    def __init__(self, delay: float = 0.0) -> None:
        self.calls: list[str] = []
        self.delay = delay

    def __call__(self, path: Path, size: tuple[int, int], resample: str) -> Any:
        self.calls.append(path.name)
        time.sleep(random.Random(path.name).random() * self.delay)
        if path.name == "broken":
            raise UserError("broken is not a readable image")
        return np.full((3, *size), int(path.name), np.uint8)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    stand_in = Fake()
    monkeypatch.setattr(module, "decode", stand_in)
    return stand_in


def numbered(count: int) -> list[Image]:
    return [Image(str(number), 0, 0) for number in range(count)]


@pytest.mark.parametrize("budget", [0, EVERYTHING])
def test_endless_source_is_read_at_most_four_batches_ahead(fake: Fake, budget: int) -> None:
    drawn = 0

    def source() -> Iterator[list[int]]:
        nonlocal drawn
        for start in itertools.count():
            drawn += 1
            yield [(2 * start) % 200, (2 * start + 1) % 200]

    batches = Images(Path(), numbered(200), SIZE, budget_bytes=budget).batches(source())
    assert drawn == 0
    for position, _ in enumerate(itertools.islice(batches, 60)):
        assert drawn == position + 1 + AHEAD
        assert len(fake.calls) <= 2 * drawn
    batches.close()  # type: ignore[attr-defined]
    assert drawn == 60 + AHEAD


def test_order_does_not_depend_on_thread_speed(fake: Fake) -> None:
    fake.delay = 0.005
    images = Images(Path(), numbered(60), SIZE, budget_bytes=0, threads=8)
    order = random.Random(0).sample(range(60), 60)
    batches = images.batches([order[start : start + 6] for start in range(0, 60, 6)])
    assert [int(image[0, 0, 0]) for batch in batches for image in batch] == order


def test_resident_images_are_decoded_once_on_demand(fake: Fake) -> None:
    images = Images(Path(), numbered(10), SIZE, budget_bytes=EVERYTHING)
    assert fake.calls == []
    for _ in range(3):
        list(images.batches([[1, 1, 2], [5]]))
    assert sorted(fake.calls) == ["1", "2", "5"]


def test_streamed_images_are_decoded_once_per_batch(fake: Fake) -> None:
    images = Images(Path(), numbered(10), SIZE, budget_bytes=0)
    list(images.batches([[1, 1, 2], [1]]))
    assert sorted(fake.calls) == ["1", "1", "2"]


def test_images_stored_in_inference_mode_can_be_trained_on(fake: Fake) -> None:
    images = Images(Path(), numbered(4), SIZE, budget_bytes=EVERYTHING)
    with torch.inference_mode():
        list(images.batches([[0, 1]]))
    (batch,) = images.batches([range(4)])
    assert not batch.is_inference()
    assert batch[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("budget", [0, EVERYTHING])
def test_broken_file_ends_an_endless_source_at_once(fake: Fake, budget: int) -> None:
    images = Images(Path(), [*numbered(50), Image("broken", 0, 0)], SIZE, budget_bytes=budget)
    batches = images.batches(itertools.chain([[0], [50, 1]], ([number % 50] for number in itertools.count(2))))
    next(batches)
    with pytest.raises(UserError, match="broken is not a readable image"):
        next(batches)
    assert len(fake.calls) <= 2 + 1 + AHEAD
    assert decoding_threads() == []
    assert next(batches, None) is None


def test_threads_end_with_the_generator(fake: Fake) -> None:
    fake.delay = 0.01
    batches = Images(Path(), numbered(200), SIZE, budget_bytes=0).batches(
        range(start, start + 20) for start in range(180)
    )
    next(batches)
    assert decoding_threads()
    del batches
    assert decoding_threads() == []
    assert len(fake.calls) < 60  # what was waiting is not decoded
    list(Images(Path(), numbered(20), SIZE).batches([range(20)]))
    assert decoding_threads() == []


def test_two_readers_share_resident_images(fake: Fake) -> None:
    images = Images(Path(), numbered(20), SIZE, budget_bytes=EVERYTHING)
    forth, back = ([[number] for number in order] for order in (range(20), range(19, -1, -1)))
    for one, other in zip(images.batches(forth), images.batches(back), strict=True):
        assert int(one[0, 0, 0, 0]) + int(other[0, 0, 0, 0]) == 19


def test_errors_of_the_source_propagate(fake: Fake) -> None:
    def source() -> Iterator[list[int]]:
        yield [0]
        raise RuntimeError("sampler")

    with pytest.raises(RuntimeError, match="sampler"):
        list(Images(Path(), numbered(2), SIZE).batches(source()))
    assert decoding_threads() == []


@pytest.mark.parametrize("index", [-1, 3])
def test_index_out_of_range_raises(fake: Fake, index: int) -> None:
    with pytest.raises(IndexError, match=f"image {index} is out of range: there are 3"):
        list(Images(Path(), numbered(3), SIZE).batches([[0, index]]))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_modes_are_converted(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.jpg" if mode in ("CMYK", "YCbCr") else "image.png")
    picture(0, mode).save(path)
    pixels = decode(path, SIZE)
    assert pixels.shape == (3, *SIZE)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, reference(path))
    if mode in ("1", "L", "LA"):
        np.testing.assert_array_equal(pixels[0], pixels[2])


@pytest.mark.filterwarnings("error")
def test_palette_with_transparency(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    picture(0, "P").save(path, transparency=bytes(range(256)))
    opaque = tmp_path / "opaque.png"
    picture(0, "P").save(opaque)
    np.testing.assert_array_equal(decode(path, SIZE), decode(opaque, SIZE))


def test_format_does_not_depend_on_the_suffix(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "really.png")
    (tmp_path / "really.png").rename(tmp_path / "named.jpg")
    np.testing.assert_array_equal(decode(tmp_path / "named.jpg", SIZE), reference(tmp_path / "named.jpg"))


def jpeg(path: Path) -> bytes:
    picture(0, height=128, width=64).save(path, "JPEG")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda path: jpeg(path)[:-200], "image file is truncated"),
        (lambda path: jpeg(path)[:30], ""),
        (lambda path: b"<!DOCTYPE html><html><body>Not found</body></html>", "its content is something else"),
        (lambda path: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "its content is something else"),
        (lambda path: b"", "it is empty"),
        (lambda path: None, "No such file or directory"),
    ],
    ids=["cut", "head only", "html", "program", "empty", "missing"],
)
def test_broken_file_raises_with_its_name(tmp_path: Path, content: Any, reason: str) -> None:
    path = tmp_path / "0001_c1s1_000001_00.jpg"
    if (made := content(path)) is not None:
        path.write_bytes(made)
    images = Images(tmp_path, [Image(path.name, 1, 0)], SIZE)
    message = rf"{path.name} is not a readable image: {reason}.*; replace or remove it"
    with pytest.raises(UserError, match=message):
        list(images.batches([[0]]))


def test_more_than_eight_bits_per_channel_raise(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Pil.fromarray(np.arange(800, dtype=np.uint16).reshape(40, 20) * 80).save(path)
    with pytest.raises(UserError, match="more than 8 bits per channel"):
        decode(path, SIZE)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_damaged_files_are_read_or_raise(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image"
    picture(1).save(path, kind)
    whole = path.read_bytes()
    draw = random.Random(kind)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 5])):
            damaged[draw.randrange(min(len(whole), 200))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            assert decode(path, SIZE).shape == (3, *SIZE)
        except UserError:
            refused += 1
    assert refused
