"""Measure a training step: whole, part by part, in other arithmetic, and as a plain torch loop."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from reproduce.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reproduce.data.images import Images
    from reproduce.dataset import Dataset

Size: TypeAlias = tuple[int, ...]
Work: TypeAlias = Callable[[], Any]
Prepare: TypeAlias = Callable[[Size, int], Work | None]

STEPS = 10
CLASSES = 100
NET = "REPRODUCE_BENCH_NET"
"""Environment variable that names the net."""
RESNET50 = "torchvision.models:resnet50"


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class Setup(NamedTuple):
    """What a measurement works on."""

    batch: int
    shape: tuple[int, int]
    """Height and width in pixels."""
    device: str

    @classmethod
    def of(cls, size: Size) -> Setup:
        """Read (B,) or (B, height); without a height images are 256 x 128, or 64 x 32 without a GPU."""
        where = device()
        height = size[1] if len(size) > 1 else 256 if where == "cuda" else 64
        return cls(size[0], (height, height // 2), where)

    def net(self, *, channels_last: bool = True) -> nn.Module:
        """Build the net, from images to `CLASSES` logits, with the same initial weights each time.

        Raises:
            UserError: There is no such net.
        """
        import torch

        name = os.environ.get(NET, RESNET50)
        module, _, attribute = name.partition(":")
        try:
            build = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"--net {name}: {error}; give a function or class as {RESNET50}") from None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            net: nn.Module = build()
            for module_ in net.modules():
                if isinstance(module_, torch.nn.Conv2d):
                    torch.nn.init.kaiming_normal_(module_.weight)
            net = _classifying(net, self.shape)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return net.to(self.device).to(memory_format=layout)

    def constant(self, *, channels_last: bool = True) -> Tensor:
        """Draw a batch of normalised images."""
        import torch

        from reproduce.data.sampling import generator

        inputs = torch.randn(self.batch, 3, *self.shape, generator=generator(1, "bench", "constant")).to(self.device)
        return inputs.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    def target(self) -> Tensor:
        import torch

        return torch.arange(self.batch, device=self.device) % CLASSES

    def images(self, *, resident: bool, count: int | None = None) -> Images:
        """Draw a small domain and open its images, or `count`, from files of the shape in which they are used."""
        from itertools import cycle, islice

        from reproduce.data.images import Images

        domain = _drawn(self.shape)
        shown = list(islice(cycle(domain.train), count or len(domain.train)))
        images = Images(domain.root, shown, self.shape, self.device, budget_bytes=None if resident else 0)
        if resident:
            for _ in images.batches([range(len(images))]):
                pass
        return images

    def batches(self, images: Images, count: int) -> Iterable[list[int]]:
        from reproduce.data.sampling import shuffled_batches

        return shuffled_batches(len(images), self.batch, seed=1, epoch=0, iterations=count)


def _drawn(shape: tuple[int, int]) -> Dataset:
    import atexit
    import dataclasses
    import tempfile

    from reproduce.data.reading import read
    from reproduce.data.world import Dials, draw
    from reproduce.scales import SCALES, stand_in_size

    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    size = dataclasses.replace(stand_in_size("market", SCALES["smoke"]), height=shape[0], width=shape[1])
    draw(Path(folder.name), "market", seed=1, size=size, dials=Dials())
    return read(Path(folder.name), "market")


def _classifying(net: nn.Module, shape: tuple[int, int]) -> nn.Module:
    """Add average pooling, where the net returns maps, and a classifier."""
    import torch
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net
            with torch.no_grad():
                self.classifier = nn.Linear(self.features(torch.zeros(2, 3, *shape)).shape[1], CLASSES)

        def features(self, inputs: Tensor) -> Tensor:
            output: Tensor = self.net(inputs)
            return output.mean((2, 3)) if output.dim() == 4 else output

        def forward(self, inputs: Tensor) -> Tensor:
            logits: Tensor = self.classifier(self.features(inputs))
            return logits

    return Classifier()


class Loop:
    """A training step by cross-entropy and Adam.

    Args:
        setup: Batch, shape and device.
        mixed: Whether to multiply in bfloat16.
        channels_last: Layout of weights and images.
        compiled: Mode of `torch.compile`; empty for none.
        tf32: Whether a GPU may multiply in TF32.
    """

    def __init__(
        self, setup: Setup, *, mixed: bool = False, channels_last: bool = True, compiled: str = "", tf32: bool = False
    ) -> None:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        self.net: Any = setup.net(channels_last=channels_last).train()
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=3.5e-4)
        self._forward = torch.compile(self.net, mode=compiled) if compiled else self.net
        self._target, self._device, self._mixed = setup.target(), setup.device, mixed

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits (B, `CLASSES`)."""
        import torch

        with torch.autocast(self._device, torch.bfloat16, enabled=self._mixed):
            logits: Tensor = self._forward(inputs)
        return logits.float()

    def loss(self, logits: Tensor) -> Tensor:
        import torch

        return torch.nn.functional.cross_entropy(logits, self._target)

    def backward(self, inputs: Tensor) -> Tensor:
        """Run forward, loss and backward; return the loss."""
        loss = self.loss(self.forward(inputs))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def step(self, inputs: Tensor) -> Tensor:
        """Run a whole step; return its loss."""
        loss = self.backward(inputs)
        self.optimizer.step()
        return loss


def _repeated(once: Callable[[int], Any]) -> Work:
    """Run two steps, and return what runs `STEPS`."""

    def work(count: int = STEPS) -> None:
        for at in range(count):
            once(at)

    work(2)
    return lambda: work(STEPS)


def _constant(*, gpu: bool = False, **how: Any) -> Prepare:
    """Train on constant tensors, in one of the ways of `Loop`; with `gpu` only where there is one."""

    def prepare(size: Size, columns: int) -> Work | None:
        setup = Setup.of(size)
        if gpu and setup.device == "cpu":
            return None
        loop = Loop(setup, **how)
        inputs = setup.constant(channels_last=how.get("channels_last", True))
        return _repeated(lambda at: loop.step(inputs))

    return prepare


def _real(*, resident: bool, trained: bool = True) -> Prepare:
    """Train on augmented images, or, if not `trained`, only read them."""

    def prepare(size: Size, columns: int) -> Work:
        from reproduce.data.sampling import generator
        from reproduce.data.transforms import Augment, Erase, augment

        setup, recipe = Setup.of(size), Augment(erase=Erase())
        loop = Loop(setup) if trained else None
        images = setup.images(resident=resident)

        def steps(count: int) -> None:
            for at, pixels in enumerate(images.batches(setup.batches(images, count))):
                if loop:
                    loop.step(augment(pixels, recipe, generator(1, "bench", at)))

        steps(2)
        return lambda: steps(STEPS)

    return prepare


def _augmentation(size: Size, columns: int) -> Work:
    from reproduce.data.sampling import generator
    from reproduce.data.transforms import Augment, Erase, augment

    setup, recipe = Setup.of(size), Augment(erase=Erase())
    images = setup.images(resident=True)
    [pixels] = images.batches(setup.batches(images, 1))
    return _repeated(lambda at: augment(pixels, recipe, generator(1, "bench", at)))


def _part(work: Callable[[Loop, Tensor, Tensor], Any]) -> Prepare:
    """Run a part of the step, given a loop that has gradients, a batch and its logits."""

    def prepare(size: Size, columns: int) -> Work:
        setup = Setup.of(size)
        loop, inputs = Loop(setup), setup.constant()
        loop.backward(inputs)
        logits = loop.forward(inputs).detach().requires_grad_()
        return _repeated(lambda at: work(loop, inputs, logits))

    return prepare


def _evaluation(size: Size, columns: int) -> Work:
    """Embed as many images as the steps train on."""
    from reproduce.evaluation import embed

    setup = Setup.of(size)
    net = setup.net().eval()
    images = setup.images(resident=True, count=setup.batch * STEPS)
    embed(net, images)
    return lambda: embed(net, images)


def _plain(size: Size, columns: int) -> Work:
    """Train by a loop of torch, torchvision and nothing else, which decodes in its own process."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader
    from torchvision import transforms as its  # type: ignore[import-untyped]

    setup = Setup.of(size)
    domain = _drawn(setup.shape)
    transform = its.Compose(
        [
            its.Resize(setup.shape, interpolation=its.InterpolationMode.BICUBIC),
            its.RandomHorizontalFlip(),
            its.Pad(10),
            its.RandomCrop(setup.shape),
            its.ToTensor(),
            its.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            its.RandomErasing(),
        ]
    )
    net = setup.net(channels_last=False).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=3.5e-4)
    target = setup.target()

    class Read(torch.utils.data.Dataset[Any]):
        def __getitem__(self, index: int) -> Any:
            return transform(Image.open(domain.root / domain.train[index].path).convert("RGB"))

    def steps(count: int) -> None:
        batches = list(setup.batches(domain.train, count))  # type: ignore[arg-type]
        for inputs in DataLoader(Read(), batch_sampler=batches):
            loss = torch.nn.functional.cross_entropy(net(inputs.to(setup.device)), target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    steps(2)
    return lambda: steps(STEPS)


WAYS: dict[str, dict[str, Any]] = {
    "constant tensors": {},
    "constant tensors in mixed precision": {"mixed": True},
    "constant tensors in the default layout": {"channels_last": False},
    "constant tensors in TF32": {"tf32": True, "gpu": True},
    "constant tensors, compiled": {"compiled": "default", "gpu": True},
    "constant tensors, compiled, CUDA graphs": {"compiled": "reduce-overhead", "gpu": True},
    "constant tensors, compiled, CUDA graphs, TF32": {"compiled": "reduce-overhead", "tf32": True, "gpu": True},
    "constant tensors, compiled, mixed precision": {"compiled": "default", "mixed": True, "gpu": True},
}
"""Ways to train; those that need a GPU are measured only there."""

CONTENDERS: dict[str, Prepare] = {
    **{name: _constant(**how) for name, how in WAYS.items()},
    "images kept on the device": _real(resident=True),
    "images decoded each time": _real(resident=False),
    "plain loop": _plain,
    "part: input, kept on the device": _real(resident=True, trained=False),
    "part: input, decoded": _real(resident=False, trained=False),
    "part: augmentation": _augmentation,
    "part: forward": _part(lambda loop, inputs, logits: loop.forward(inputs)),
    "part: loss, both ways": _part(lambda loop, inputs, logits: loop.loss(logits).backward()),  # type: ignore[no-untyped-call]
    "part: forward, loss and backward": _part(lambda loop, inputs, logits: loop.backward(inputs)),
    "part: optimiser": _part(lambda loop, inputs, logits: loop.optimizer.step()),
    "part: evaluation of as many images": _evaluation,
}


def check(size: Size, columns: int) -> dict[str, Any]:
    """Compare the losses of three steps in each way with those of the first way.

    Returns:
        The largest difference of each way; 0 where every loss has the same bits.
    """
    setup = Setup.of(size)
    losses: dict[str, list[float]] = {}
    for name, how in WAYS.items():
        if how.get("gpu") and setup.device == "cpu":
            continue
        loop = Loop(setup, **{key: value for key, value in how.items() if key != "gpu"})
        inputs = setup.constant(channels_last=how.get("channels_last", True))
        losses[name] = [float(loop.step(inputs)) for _ in range(3)]
    first = losses["constant tensors"]
    return {
        f"largest difference of three losses, {name}": max(abs(a - b) for a, b in zip(first, own, strict=True))
        for name, own in losses.items()
    }
