"""Images on a device: decoded and resized as PIL does it, kept there if they fit, streamed by a few threads if not."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image as Pil
from PIL import UnidentifiedImageError
from torch import Tensor

from reproduce.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from reproduce.dataset import Image

Resample: TypeAlias = Literal["bicubic", "bilinear"]

AHEAD = 4
"""Batches that are decoded while one is in use."""

_FILTERS = {"bicubic": Pil.Resampling.BICUBIC, "bilinear": Pil.Resampling.BILINEAR}
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")


class Images:
    """The images of a split at one size, to be had in batches.

    Both ways give the same pixels: a resident store, where an image is decoded when first asked for and stays on the
    device, and streaming, where it is decoded each time.

    Attributes:
        resident: whether decoded images are kept on the device.
    """

    def __init__(
        self,
        root: Path,
        images: Sequence[Image],
        size: tuple[int, int],
        device: torch.device | str = "cpu",
        *,
        budget_bytes: int | None = None,
        share: float = 1.0,
        resample: Resample = "bicubic",
        threads: int = 2,
    ) -> None:
        """Decode nothing yet.

        Args:
            root: folder that the images' paths start from.
            images: what the indices of batches count.
            size: (height, width) in pixels; the aspect of an image is not kept.
            device: where batches are wanted.
            budget_bytes: memory that a resident store may take, at 3 bytes a pixel; by default half of what is free
                on a CUDA device, or a quarter of the available main memory.
            share: of that default.
            resample: filter of the resizing.
            threads: images decoded at once.
        """
        self._root = Path(root)
        self._images = images
        self._size = size
        self._device = torch.device(device)
        self._resample: Resample = resample
        self._threads = threads
        shape = (len(images), 3, *size)
        budget = share * _budget(self._device) if budget_bytes is None else budget_bytes
        self.resident = int(np.prod(shape)) <= budget
        self._store = torch.empty(shape if self.resident else 0, dtype=torch.uint8, device=self._device)
        self._stored = bytearray(len(images))

    def __len__(self) -> int:
        return len(self._images)

    def batches(self, index_batches: Iterable[Iterable[int]]) -> Iterator[Tensor]:
        """Yield the images of each batch of indices, in order.

        Batches are drawn from `index_batches` up to four before they are due, so an endless one is fine. Threads end
        with the generator, however it ends.

        Args:
            index_batches: indices into the images, from 0, any number a batch; repeats are allowed.

        Yields:
            (B, 3, height, width) uint8, RGB, on the device; the caller may change it.

        Raises:
            UserError: a file is missing or not an image; the message names it.
            IndexError: there is no such image.
        """
        source = iter(index_batches)
        ahead: deque[tuple[list[int], dict[int, Future[NDArray[np.uint8]]]]] = deque()
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        try:
            while True:
                while len(ahead) <= AHEAD and (batch := next(source, None)) is not None:
                    indices = [self._checked(index) for index in batch]
                    absent = dict.fromkeys(index for index in indices if not self._stored[index])
                    ahead.append((indices, {index: pool.submit(self._decode, index) for index in absent}))
                if not ahead:
                    return
                yield self._assemble(*ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} was asked for, but there are {len(self)}, counted from 0")
        return int(index)

    def _decode(self, index: int) -> NDArray[np.uint8]:
        return decode(self._root / self._images[index].path, self._size, self._resample)

    def _assemble(self, indices: list[int], decoded: dict[int, Future[NDArray[np.uint8]]]) -> Tensor:
        pixels = {index: future.result() for index, future in decoded.items()}
        if not self.resident:
            return self._to_device([pixels[index] for index in indices])
        if pixels:
            self._store[torch.tensor(list(pixels), device=self._device)] = self._to_device(list(pixels.values()))
            for index in pixels:
                self._stored[index] = True
        return self._store[torch.tensor(indices, dtype=torch.long, device=self._device)]

    def _to_device(self, pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
        pinned = self._device.type == "cuda"
        batch = torch.empty((len(pixels), 3, *self._size), dtype=torch.uint8, pin_memory=pinned)
        for row, image in zip(batch.numpy(), pixels, strict=True):
            row[...] = image
        return batch.to(self._device, non_blocking=pinned)


def decode(path: Path, size: tuple[int, int], resample: Resample = "bicubic") -> NDArray[np.uint8]:
    """Read an image file as RGB and resize it.

    Grey images are repeated over the channels, palettes and CMYK converted, transparency dropped; a rotation noted in
    the file is not applied.

    Args:
        path: a JPEG, PNG, BMP or WebP file, whatever its name ends in.
        size: (height, width) in pixels.
        resample: filter; it averages over all pixels where the image shrinks.

    Returns:
        (3, height, width) uint8.

    Raises:
        UserError: the file is missing, cut short, not an image, or has more than 8 bits a channel.
    """
    try:
        with Pil.open(path, formats=_FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError("it has more than 8 bits a channel")
            opaque = image.convert("RGBA") if "transparency" in image.info else image
            rgb = opaque.convert("RGB")
    except UnidentifiedImageError:
        reason = "its content is something else" if path.stat().st_size else "it is empty"
    except OSError as error:
        reason = error.strerror or str(error)
    except (SyntaxError, ValueError, Pil.DecompressionBombError) as error:
        reason = str(error)
    else:
        pixels = rgb.resize((size[1], size[0]), _FILTERS[resample])
        return np.ascontiguousarray(np.asarray(pixels).transpose(2, 0, 1))
    raise UserError(f"{path} is not a readable image: {reason}; replace or remove it")


def encode(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write an image file of pixels (height, width, 3): PNG where its name says so, else JPEG of quality 95."""
    kind: dict[str, Any] = {"format": "PNG"} if path.suffix == ".png" else {"format": "JPEG", "quality": 95}
    Pil.fromarray(pixels).save(path, **kind)


def _budget(device: torch.device) -> int:
    """Bytes that a resident store may take by default."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) // 2
    return _available() // 4


def _available() -> int:
    """Bytes of main memory that can be had without swapping, within the limit of a container."""
    page = os.sysconf("SC_PAGE_SIZE")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        available = os.sysconf("SC_PHYS_PAGES") * page // 2
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / name).read_text() for name in ("memory.max", "memory.current"))
        return min(available, max(0, int(limit) - int(used)))
    except (OSError, ValueError):
        return available
