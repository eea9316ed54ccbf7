"""Published weights: where they lie, how they are known, and how a published file becomes one of ours.

In a folder of weights, those called `imagenet` of a backbone are the file of its makers (`resnet50-0676ba61.pth`), or
`resnet50.safetensors`; all others are `<backbone>-<name>.safetensors`, which `convert` writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce.errors import UserError
from reproduce.files import replacing, user_cache

if TYPE_CHECKING:
    import torch

PUBLISHED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "imagenet": {
        "resnet50": (
            "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
            "19c8e3572231adff6824a2da93fd67b5986919a2e65f8b6007eab4edee220097",
        ),
        "resnet50_ibn_a": ("d9d0bb7b",),
    }
}
"""SHA-256 of the files that papers start from, or as much of its beginning as is known, by name and backbone.

The ImageNet weights are torchvision's (two files of the same weights) and IBN-Net's, whose names hold the first eight
digits. `resnet50-11ad3fa6.pth` holds torchvision's later ones, from a better recipe, and is never taken.
"""

_FIRST_BLOCKS = ("layer1.0.conv1.weight", "3.0.conv1.weight", "4.0.conv1.weight")
"""The first weight of layer 1: under its name, and in an nn.Sequential without and with the ReLU of the stem."""

_TRUNK = re.compile(r"(conv1|bn1|layer[1-4])\.")

COUNTER = "num_batches_tracked"
"""How names of numbers end that count batches: published files may lack them."""
_OWN_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


DRAWN = "objects"
"""Name of the weights that stand in for ImageNet's at smaller scales: of a net that tells drawn objects apart."""


def file_name(backbone: str, name: str) -> str:
    """What a file of ours is called."""
    return f"{backbone}-{name}.safetensors"


def marks(name: str, backbone: str) -> list[str]:
    """What the names of the published files end in."""
    return [digest[:8] for digest in PUBLISHED.get(name, {}).get(backbone, ())]


def is_published(name: str, backbone: str, source_sha256: str) -> bool:
    """Whether a file, or the one that it was converted from (`source_sha256`), is the published one."""
    return source_sha256.startswith(PUBLISHED.get(name, {}).get(backbone, ()))


def source_sha256(path: Path, own: str) -> str:
    """SHA-256 of the file that a file of weights was converted from, as `convert` noted it, or else its own.

    Args:
        path: of the file.
        own: its SHA-256. A note about other weights does not count.
    """
    try:
        note = json.loads(path.with_suffix(".json").read_bytes())
        return str(note["source_sha256"]) if path.suffix == ".safetensors" and note["sha256"] == own else own
    except (OSError, ValueError, KeyError, TypeError):
        return own


def folders() -> list[Path]:
    """Where weights are looked for when no folder is given: ours, then torch's download cache."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"  # on every system, unlike ours
    torch_home = os.environ.get("TORCH_HOME") or Path(caches) / "torch"
    return [user_cache("weights"), Path(torch_home).expanduser() / "hub" / "checkpoints"]


def fitting(name: str, backbone: str, places: Sequence[Path]) -> list[Path]:
    """The files that may be meant by a name, in the first folder that has any; more than one is a question.

    Args:
        name: such as "imagenet" or "luperson".
        backbone: such as "resnet50".
        places: folders to look into.
    """
    for place in places:
        if found := [path for path in sorted(place.glob(f"{backbone}*")) if _is_meant(path, name, backbone)]:
            known = [path for mark in marks(name, backbone) for path in found if path.stem.endswith(f"-{mark}")]
            return known[:1] or found
    return []


def _is_meant(path: Path, name: str, backbone: str) -> bool:
    rest = path.stem.removeprefix(backbone)
    if path.suffix == ".safetensors":
        return rest == f"-{name}" or (name == "imagenet" and not rest)
    known = {f"-{mark}" for mark in marks(name, backbone)}
    return path.suffix == ".pth" and name == "imagenet" and (not rest or rest in known)


def sha256(path: Path) -> str:
    """SHA-256 of a file of weights, compared with the beginning of it that published names hold.

    Raises:
        UserError: they differ, or the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); fetch it again") from None
    named = re.fullmatch(r".+-([0-9a-f]{8})", path.stem)
    if path.suffix == ".pth" and named and not found.startswith(named[1]):
        raise UserError(
            f"{path} is damaged or not what its name says: its SHA-256 begins with {found[:8]}; fetch it again"
        )
    return found


def named_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file or of a file of torch.save, those of nested mappings as `outer/inner`.

    Nothing but tensors, numbers, texts and their containers is ever unpickled.

    Raises:
        UserError: the file cannot be read, or holds code or other objects.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # of old formats
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises on a damaged file depends on the damage
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{path} is refused: beside tensors it asks to run {code[1]}, and nothing of it was run; "
                "ask its makers for a file of the weights alone"
            ) from None
        raise UserError(f"{path} is not a readable file of weights ({type(error).__name__}): fetch it again") from error
    return dict(_flattened(state, ""))


def _flattened(value: object, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(key, str):
                yield from _flattened(inner, f"{name}/{key}" if name else key)


def mismatch(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    """How named tensors differ from those of a net in names and shapes, in words; empty where they do not."""
    faults = {
        "missing": wanted.keys() - found.keys(),
        "unknown": found.keys() - wanted.keys(),
        "of another shape": {key for key in found.keys() & wanted.keys() if found[key].shape != wanted[key].shape},
    }
    return "; ".join(f"{len(keys)} {fault}, such as {min(keys)}" for fault, keys in faults.items() if keys)


@dataclass(frozen=True)
class Converted:
    """What `convert` wrote.

    Attributes:
        path: of the .safetensors file; a .json of the same name beside it holds all this.
        source: name of the published file.
        backbone: "resnet50" or "resnet50_ibn_a".
        prefix: what preceded the backbone's names in the source, nested mappings with a slash.
        sha256: of the new file.
        source_sha256: of the published one.
        stem_relu: False where the source's own code runs the backbone without the ReLU of the stem; None if unknown.
        left_out: how many tensors of the source belong to other parts, such as a classifier.
    """

    path: Path
    source: str
    backbone: str
    prefix: str
    sha256: str
    source_sha256: str
    stem_relu: bool | None
    left_out: int


def convert(source: Path, name: str, folder: Path, *, net: str | None = None) -> Converted:
    """Write the ResNet-50 of a published file under the names that torchvision and IBN-Net use.

    Every layout of the field is a ResNet-50's names behind some prefix: `state_dict/module.backbone.` (OpenUnReID),
    `model/backbone.` (fast-reid), `state_dict/module.encoder_q.` (MoCo, LUPerson), `state_dict/module.base.` (MMT,
    SpCL), in the last with numbers for the first names. So the prefix is looked for, not listed.

    Args:
        source: a file of torch.save or a .safetensors file.
        name: what methods call these weights, such as "luperson".
        folder: of weights, made if need be.
        net: the prefix to take where the file holds several nets.

    Raises:
        UserError: the file is refused, holds no ResNet-50 or several, or one of another shape; or the name is taken.
    """
    from safetensors.torch import save_file

    if not _OWN_NAME.fullmatch(name) or name == "scratch":
        raise UserError(f"--as {name}: give a name of small letters, digits and _, and not scratch")
    tensors = named_tensors(source)
    prefix = _prefix(source, tensors, net)
    inner = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    renamed, stem_relu = _renamed(inner)
    trunk = {key: value for key, value in renamed.items() if _TRUNK.match(key) and not key.endswith(COUNTER)}
    backbone = "resnet50_ibn_a" if "layer1.0.bn1.IN.weight" in trunk else "resnet50"
    if wrong := mismatch(trunk, _expected(ibn=backbone == "resnet50_ibn_a")):
        raise UserError(f"{source} does not hold a {backbone} at {prefix!r} ({wrong}): give the file of such a net")
    weights = {key: value.float().contiguous() for key, value in trunk.items()}

    path = folder / file_name(backbone, name)
    source_sha256 = sha256(source)
    with replacing(path.with_suffix(".json")) as label, replacing(path) as whole:
        save_file(weights, whole)
        own_sha256 = sha256(whole)
        if path.exists() and sha256(path) != own_sha256:
            raise UserError(f"{path} is there already, with other weights: give another name with --as, or remove it")
        left_out = len(tensors) - len(weights)
        made = Converted(path, source.name, backbone, prefix, own_sha256, source_sha256, stem_relu, left_out)
        label.write_text(json.dumps(asdict(made) | {"path": path.name}, indent=1) + "\n")
    return made


def _prefix(source: Path, tensors: Mapping[str, object], net: str | None) -> str:
    """What precedes the names of the one ResNet in a file; of MoCo's two encoders, the one that is trained."""
    found = sorted(
        prefix
        for prefix in {key.removesuffix(block) for key in tensors for block in _FIRST_BLOCKS if key.endswith(block)}
        if prefix[-1:] in ("", ".", "/") and (f"{prefix}conv1.weight" in tensors or f"{prefix}0.weight" in tensors)
    )
    if net is not None:
        if net not in found:
            raise UserError(f"--net {net}: {source} holds {_quoted(found)}")
        return net
    trained = [prefix for prefix in found if prefix.endswith("encoder_q.")]
    if len(trained or found) != 1:
        many = f"several nets, {_quoted(found)}: choose one with --net" if found else "no ResNet-50: give another file"
        raise UserError(f"{source} holds {many}")
    return (trained or found)[0]


def _quoted(prefixes: Sequence[str]) -> str:
    return ", ".join(repr(prefix) for prefix in prefixes) or "no ResNet-50"


def _renamed(inner: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], bool | None]:
    """Names instead of numbers where a backbone is an nn.Sequential, and whether that has a ReLU in its stem."""
    if "0.weight" not in inner:
        return dict(inner), None
    first = 3 if "3.0.conv1.weight" in inner else 4  # without and with the ReLU before the pooling
    names = ["conv1", "bn1"] + [""] * (first - 2) + [f"layer{number}" for number in range(1, 5)]
    parts = ((key, *key.partition(".")[::2]) for key in inner)
    known = {key: f"{names[int(at)]}.{rest}" for key, at, rest in parts if at.isdecimal() and int(at) < len(names)}
    return {known.get(key, key): value for key, value in inner.items()}, first == 4


def _expected(*, ibn: bool) -> dict[str, torch.Tensor]:
    """The weights of a ResNet-50 but its classifier and its counters of batches, without values."""
    import torch
    import torchvision  # type: ignore[import-untyped]

    with torch.device("meta"):
        state = torchvision.models.resnet50(weights=None).state_dict()
    expected: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        norm, _, kind = key.rpartition(".")
        if ibn and re.fullmatch(r"layer[123]\.\d+\.bn1", norm):
            half = len(value) // 2 if kind != COUNTER else 0
            expected[f"{norm}.BN.{kind}"] = value[half:] if half else value
            if kind in ("weight", "bias"):
                expected[f"{norm}.IN.{kind}"] = value[:half]
        else:
            expected[key] = value
    return {key: value for key, value in expected.items() if _TRUNK.match(key) and not key.endswith(COUNTER)}
