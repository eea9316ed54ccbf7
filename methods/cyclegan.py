"""Unpaired translation of images between two domains or two cameras, and domains of translated images.

Paper: Zhu et al., "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks" (ICCV 2017), called
    CycleGAN here. RAE names it for pixel transfer before training, and gives no details. MMCL and
    JVTC show images translated between cameras by it, as Zhong et al. do, "Camera Style Adaptation for Person
    Re-identification" (CVPR 2018).
Code: junyanz/pytorch-CycleGAN-and-pix2pix.
Deviates:
    - Six residual blocks, as CycleGAN has for small images. It is trained for five passes over the larger domain at a
      constant rate, like SPGAN (Deng et al., CVPR 2018), which translates people; CycleGAN has 200 passes.
    - Discriminators have three layers of stride 2 and see patches of 38 pixels, so that small images have patches too;
      CycleGAN's see 70. They see the latest translations only, without a pool of earlier ones.
    - Images are flipped, not cropped.
    - The generators' strided convolutions reflect at the border; the published ones pad with zeros.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from itertools import combinations
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from reproduce.artifacts import Folder, Training, snapshot
from reproduce.data.sources import ImageStage
from reproduce.data.transforms import Augment, Pixels
from reproduce.errors import UserError
from reproduce.stage import Env, Stage, added, role

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from reproduce.data.images import Resample
    from reproduce.dataset import Dataset, Image

CENTRED = Pixels(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""Statistics that normalise pixels to -1 .. 1."""


@dataclass(frozen=True)
class CycleGAN(Stage[Training]):
    """Train two generators that translate images of each domain to the style of the other."""

    first: Any
    """A domain; its labels are not used."""
    second: Any
    """Another domain; its labels are not used."""
    seed: int = 1
    """Seeds initial weights, batches and flips."""
    input: tuple[int, int] = role("input", (256, 128))
    """Height and width in pixels."""
    resample: Resample = "bilinear"
    """How images are resized to `input`."""
    width: int = role("channels", 64)
    """Channels of the generators' first layer."""
    blocks: int = 6
    """Residual blocks of a generator."""
    widths: tuple[int, int, int] = role("channels", (64, 128, 256))
    """Channels of the discriminators."""
    epochs: int = role("epochs", 5)
    """Passes over the larger domain."""
    batch: int = 1
    """Images of each domain per iteration."""
    cycle: float = 10.0
    """Weight of the cycle losses."""
    identity: float = 5.0
    """Weight of the identity losses."""
    lr: float = role("rate", 2e-4)
    """Constant learning rate of Adam (0.5, 0.999)."""
    augment: Augment = Augment(pad=0, pixels=CENTRED)
    """Augmentation of the images."""
    cameras: tuple[int, int] | None = added(None)
    """The camera of each domain, counted from 0, whose images are used; None for all."""

    @property
    def detail(self) -> str:
        return "" if self.cameras is None else " and ".join(f"camera {camera + 1}" for camera in self.cameras)

    @property
    def work(self) -> float:
        return 10_000.0 * self.epochs

    def run(self, env: Env) -> Training:
        import torch

        from methods.blocks.steps import descend
        from reproduce.data.images import Images
        from reproduce.data.sampling import generator, shuffled_batches
        from reproduce.data.transforms import augment

        data = [env.open(domain) for domain in (self.first, self.second)]
        shown = [
            [image for image in own.train if camera is None or image.camid == camera]
            for own, camera in zip(data, self.cameras or (None, None), strict=True)
        ]
        if not all(shown):
            raise UserError(f"no training image is of {self.detail}: give cameras of {data[0].name}, counted from 0")
        images = [
            Images(own.root, chosen, self.input, env.device, resample=self.resample)
            for own, chosen in zip(data, shown, strict=True)
        ]
        count = max(map(len, images)) // self.batch
        net = self.network().to(env.device)
        parts = {"generators": (net.forth, net.back), "discriminators": (net.first, net.second)}
        optimizers = {
            name: torch.optim.Adam(
                [weight for part in own for weight in part.parameters()], lr=self.lr, betas=(0.5, 0.999)
            )
            for name, own in parts.items()
        }
        state = SimpleNamespace(net=net, optimizers=optimizers)

        for epoch in env.epochs(self.epochs, state):
            batches = [
                shuffled_batches(len(own), self.batch, seed=self.seed, epoch=2 * epoch + at, iterations=count)
                for at, own in enumerate(images)
            ]
            streams = [own.batches(chosen) for own, chosen in zip(images, batches, strict=True)]
            values: dict[str, list[Tensor]] = {"adversarial": [], "cycle": [], "same": [], "discriminators": []}
            for step, pixels in enumerate(zip(*streams, strict=True)):
                first, second = (
                    augment(own, self.augment, generator(self.seed, "augment", at, epoch, step))
                    for at, own in enumerate(pixels)
                )
                made = net.translate(first, second)
                loss = made.adversarial + self.cycle * made.cycle + self.identity * made.same
                descend(loss, optimizers["generators"])
                judged = net.judge(first, second, made)
                descend(judged, optimizers["discriminators"])
                for name, value in zip(values, (*made[2:], judged), strict=True):
                    values[name].append(value.detach())
            means = {name: torch.stack(each) for name, each in values.items()}
            env.log(epoch + 1, **means, lr=self.lr, images=2 * count * self.batch)
        return Training({"last": snapshot(net)})

    def network(self) -> Any:
        """Build generators and discriminators with their initial weights."""
        from methods.blocks.cyclegan import Pair

        return Pair(self.width, self.blocks, self.widths, seed=self.seed)


@dataclass(frozen=True)
class Translated(ImageStage):
    """Translate the training images of a domain; its test images stay as they are."""

    gan: CycleGAN
    """The translation."""
    domain: Any
    """Whose images are translated: those of one of the GAN's domains, or translations of such images."""
    back: bool = False
    """Whether to translate from the GAN's second to its first domain."""

    @property
    def detail(self) -> str:
        labels = [getattr(domain, "label", str(domain)) for domain in (self.gan.first, self.gan.second)]
        return f"to {labels[0] if self.back else labels[1]}"

    def run(self, env: Env) -> Folder:
        data = env.open(self.domain)
        translate(env, data, data.train, self.gan, back=self.back)
        copy(env, data, (*data.query, *data.gallery))
        return Folder(env.folder)

    def network(self) -> nn.Module:
        """Build the generator: images (B, 3, H, W) between -1 and 1 to the same."""
        pair = self.gan.network()
        generator: nn.Module = pair.back if self.back else pair.forth
        return generator

    def learnt(self, env: Env) -> Mapping[str, Tensor]:
        """Load the generator's weights."""
        return learnt(env, self.gan, back=self.back)


@dataclass(frozen=True)
class CameraStyle(ImageStage):
    """Training images of a domain in the style of one of its cameras, whose own images stay as they are."""

    domain: Any
    """The domain; it has no test images here."""
    camera: int
    """The camera, counted from 0."""
    gans: tuple[CycleGAN, ...]
    """Translations between this camera and each other one."""

    @property
    def detail(self) -> str:
        return f"camera {self.camera + 1}"

    def open(self, env: Env) -> Dataset:
        """Read the images, in the order of the domain's."""
        data = env.open(self.domain)
        return replace(data, name=self.label, root=env.get(self).path, query=(), gallery=(), digest="")

    def run(self, env: Env) -> Folder:
        data = env.open(self.domain)
        by_camera = {camera: [image for image in data.train if image.camid == camera] for camera in data.cameras}
        copy(env, data, by_camera.pop(self.camera, []))
        for gan in self.gans:
            [other] = set(gan.cameras or ()) - {self.camera}
            back = gan.cameras == (self.camera, other)
            translate(env, data, by_camera.pop(other, []), gan, back=back)
        if any(by_camera.values()):
            missing = ", ".join(str(camera + 1) for camera, images in by_camera.items() if images)
            raise UserError(
                f"{data.name} has images of camera {missing}: give a translation from each to {self.detail}"
            )
        return Folder(env.folder)


def camera_styles(domain: Any, cameras: Sequence[int], seed: int = 1) -> tuple[CameraStyle, ...]:
    """Make a domain's training images in the style of each camera, by a CycleGAN for each pair of them.

    Args:
        domain: the domain.
        cameras: all cameras of its training images, counted from 0.
        seed: seeds the translations.
    """
    gans = [CycleGAN(domain, domain, seed=seed, cameras=pair) for pair in combinations(cameras, 2)]
    return tuple(
        CameraStyle(domain, camera, tuple(gan for gan in gans if gan.cameras and camera in gan.cameras))
        for camera in cameras
    )


def translate(env: Env, data: Dataset, chosen: Sequence[Image], gan: CycleGAN, *, back: bool) -> None:
    """Write translations of a data set's images under their names."""
    import torch

    from reproduce.data.images import Images, encode
    from reproduce.data.transforms import normalise

    pair = gan.network()
    net = pair.back if back else pair.forth
    net.load_state_dict(learnt(env, gan, back=back))
    net.to(env.device).eval()
    images = Images(data.root, chosen, gan.input, env.device, resample=gan.resample)
    single = [[index] for index in range(len(images))]
    with torch.inference_mode():
        for image, pixels in zip(chosen, images.batches(single), strict=True):
            made = (127.5 * (net(normalise(pixels, CENTRED))[0] + 1)).round().clamp(0, 255).byte()
            (env.folder / image.path).parent.mkdir(parents=True, exist_ok=True)
            encode(env.folder / image.path, made.permute(1, 2, 0).cpu().numpy())


def copy(env: Env, data: Dataset, images: Sequence[Image]) -> None:
    """Copy images of a data set under their names."""
    for image in images:
        (env.folder / image.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data.root / image.path, env.folder / image.path)


def learnt(env: Env, gan: CycleGAN, *, back: bool) -> Mapping[str, Tensor]:
    """Load the weights of one of a translation's generators."""
    from methods.blocks.heads import part

    return part(env.get(gan).checkpoints["last"], "back" if back else "forth")
