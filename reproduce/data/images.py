"""Images on a device, decoded and resized by PIL: kept there if they fit, else streamed by a few threads."""

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

from reproduce import ranks
from reproduce.data.packs import PackedImage, file_of
from reproduce.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from reproduce.dataset import Image

Resample: TypeAlias = Literal["bicubic", "bilinear"]

AHEAD = 4
"""Batches decoded ahead of the one in use."""

_FILTERS = {"bicubic": Pil.Resampling.BICUBIC, "bilinear": Pil.Resampling.BILINEAR}
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")


class Images:
    """The images of a split at one size, read in batches.

    They are either resident, decoded at first use and kept on the device, or streamed, decoded at every use. Both give
    the same pixels.
    """

    resident: bool
    """Whether decoded images are kept on the device."""

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
        """Set up the images without decoding any.

        Args:
            root: folder or pack that the images' paths are relative to.
            images: the images that batches index.
            size: (height, width) in pixels; the aspect ratio of an image is not kept.
            device: device of the batches.
            budget_bytes: memory that resident images may take, at 3 bytes per pixel; by default what all sets leave
                of an eighth of a CUDA device, or a quarter of the available main memory.
            share: fraction of that default to use.
            resample: filter for resizing.
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
        self.resident = ranks.all_have(int(np.prod(shape)) <= budget, self._device)
        self._store = torch.empty(shape if self.resident else 0, dtype=torch.uint8, device=self._device)
        self._stored = bytearray(len(images))

    def __len__(self) -> int:
        return len(self._images)

    def batches(self, index_batches: Iterable[Iterable[int]]) -> Iterator[Tensor]:
        """Yield the images of each batch of indices, in order.

        Batches are taken from `index_batches` at most four ahead, so it may be endless. Threads end with the generator,
        however it ends.

        Args:
            index_batches: indices into the images, from 0, any number per batch; repeats are allowed.

        Yields:
            (B, 3, height, width) uint8, RGB, on the device; the caller may change it.

        Raises:
            UserError: a file is missing or not an image; the message names it.
            IndexError: an index is out of range.
        """
        source = iter(index_batches)
        ahead: deque[tuple[list[int], list[int], list[Future[NDArray[np.uint8]]]]] = deque()
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        try:
            while True:
                while len(ahead) <= AHEAD and (batch := next(source, None)) is not None:
                    indices = [self._checked(index) for index in batch]
                    absent = list(dict.fromkeys(index for index in indices if not self._stored[index]))
                    own = ranks.dealt(absent)
                    ahead.append((indices, absent, [pool.submit(self._decode, index) for index in own]))
                if not ahead:
                    return
                yield self._assemble(*ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} is out of range: there are {len(self)}, counted from 0")
        return int(index)

    def _decode(self, index: int) -> NDArray[np.uint8]:
        return decode(file_of(self._root, self._images[index].path), self._size, self._resample)

    def _assemble(self, indices: list[int], absent: list[int], decoded: list[Future[NDArray[np.uint8]]]) -> Tensor:
        """Make a batch of stored images and of the absent ones, of which this rank has decoded those dealt to it."""
        pixels = ranks.collected(self._to_device([future.result() for future in decoded]), len(absent))
        if not self.resident:
            if absent == indices:
                return pixels
            place = {index: at for at, index in enumerate(absent)}
            return pixels[torch.tensor([place[index] for index in indices], device=self._device)]
        if absent:
            self._store[torch.tensor(absent, device=self._device)] = pixels
            for index in absent:
                self._stored[index] = True
        return self._store[torch.tensor(indices, dtype=torch.long, device=self._device)]

    def _to_device(self, pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
        pinned = self._device.type == "cuda"
        batch = torch.empty((len(pixels), 3, *self._size), dtype=torch.uint8, pin_memory=pinned)
        for target, image in zip(batch.numpy(), pixels, strict=True):
            target[...] = image
        return batch.to(self._device, non_blocking=pinned)


def decode(path: Path | PackedImage, size: tuple[int, int], resample: Resample = "bicubic") -> NDArray[np.uint8]:
    """Read an image file as RGB, as `opened` does, and resize it.

    Args:
        path: a JPEG, PNG, BMP or WebP file, whatever its suffix, or one in a pack.
        size: (height, width) in pixels.
        resample: filter; it averages over all pixels if the image shrinks.

    Returns:
        (3, height, width) uint8.

    Raises:
        UserError: as `opened`.
    """
    pixels = opened(path).resize((size[1], size[0]), _FILTERS[resample])
    return np.ascontiguousarray(np.asarray(pixels).transpose(2, 0, 1))


def opened(path: Path | PackedImage) -> Pil.Image:
    """Read an image file as RGB.

    Grey images are repeated over the channels, palettes and CMYK are converted, transparency is dropped; the file's
    rotation tag is ignored.

    Raises:
        UserError: the file is missing, truncated, not an image, or has more than 8 bits per channel.
    """
    try:
        with Pil.open(path, formats=_FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError("it has more than 8 bits per channel")
            opaque = image.convert("RGBA") if "transparency" in image.info else image
            return opaque.convert("RGB")
    except UnidentifiedImageError:
        reason = "its content is something else" if _size(path) else "it is empty"
    except OSError as error:
        reason = error.strerror or str(error)
    except (SyntaxError, ValueError, Pil.DecompressionBombError) as error:
        reason = str(error)
    raise UserError(f"{path} is not a readable image: {reason}; replace or remove it")


def _size(path: Path | PackedImage) -> int:
    return path.stat().st_size if isinstance(path, Path) else path.getbuffer().nbytes


def encode(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write pixels (height, width, 3) to a file: PNG if its suffix says so, else JPEG of quality 95."""
    kind: dict[str, Any] = {"format": "PNG"} if path.suffix == ".png" else {"format": "JPEG", "quality": 95}
    Pil.fromarray(pixels).save(path, **kind)


def _budget(device: torch.device) -> int:
    """Compute the default memory for resident images, in bytes.

    On a GPU all sets together get an eighth of it, since a training may need the rest.
    """
    if device.type == "cuda":
        free, whole = torch.cuda.mem_get_info(device)
        return max(0, free - whole * 7 // 8)
    return _available() // 4


def _available() -> int:
    """Compute the bytes of main memory available without swapping, within a container's limit."""
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
