"""Find, check and convert published weights.

In a folder of weights, those called `imagenet` of a backbone are the file of its makers (`resnet50-0676ba61.pth`), or
`resnet50.safetensors`; all others are `<backbone>-<name>.safetensors`, which `convert` writes.
"""

from __future__ import annotations

import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce import files
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
"""SHA-256, or its known beginning, of the files that papers start from, by name and backbone.

The ImageNet weights are torchvision's (two files of the same weights) and IBN-Net's; file names contain the first eight
digits. `resnet50-11ad3fa6.pth` holds torchvision's later ones, from a better recipe, and is never used.
"""

_MOST, _DEEPEST = 100_000, 16
"""Tensors in a file of weights, and mappings inside each other; published files have a few thousand, and three."""

_FIRST_BLOCKS = ("layer1.0.conv1.weight", "3.0.conv1.weight", "4.0.conv1.weight")
"""Names of layer 1's first weight: as in torchvision, and in an nn.Sequential without and with the stem's ReLU."""

_TRUNK = re.compile(r"(conv1|bn1|layer[1-4])\.")

COUNTER = "num_batches_tracked"
"""Suffix of the names of batch counters, which published files may lack."""
_OWN_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


DRAWN = "objects"
"""Name of the stand-in for ImageNet's weights at smaller scales, from a net trained to classify drawn objects."""


def file_name(backbone: str, name: str) -> str:
    """Return the file name of converted weights."""
    return f"{backbone}-{name}.safetensors"


def marks(name: str, backbone: str) -> list[str]:
    """Return the suffixes of the published files' names."""
    return [digest[:8] for digest in PUBLISHED.get(name, {}).get(backbone, ())]


def is_published(name: str, backbone: str, source_sha256: str) -> bool:
    """Return whether a file, or the one that it was converted from (`source_sha256`), is the published one."""
    return source_sha256.startswith(PUBLISHED.get(name, {}).get(backbone, ()))


def source_sha256(path: Path, own: str) -> str:
    """Return the SHA-256 of the file that weights were converted from, as noted by `convert`, or else their own.

    Args:
        path: Path of the file.
        own: Its SHA-256; a note about other weights is ignored.
    """
    try:
        note = json.loads(path.with_suffix(".json").read_bytes())
        return str(note["source_sha256"]) if path.suffix == ".safetensors" and note["sha256"] == own else own
    except (OSError, ValueError, KeyError, TypeError):
        return own


def folders() -> list[Path]:
    """Return the default folders of weights: ours, then torch's download cache."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"  # on every system, unlike ours
    torch_home = os.environ.get("TORCH_HOME") or Path(caches) / "torch"
    return [user_cache("weights"), Path(torch_home).expanduser() / "hub" / "checkpoints"]


def fitting(name: str, backbone: str, places: Sequence[Path]) -> list[Path]:
    """Return the files that fit a name, in the first folder that has any; more than one is ambiguous.

    Args:
        name: Name of the weights, such as "imagenet" or "luperson".
        backbone: Backbone, such as "resnet50".
        places: Folders to search.
    """
    for place in places:
        if files := [path for path in sorted(place.glob(f"{backbone}*")) if _fits(path, name, backbone)]:
            marked = [path for mark in marks(name, backbone) for path in files if path.stem.endswith(f"-{mark}")]
            return marked[:1] or files
    return []


def _fits(path: Path, name: str, backbone: str) -> bool:
    rest = path.stem.removeprefix(backbone)
    if path.suffix == ".safetensors":
        return rest == f"-{name}" or (name == "imagenet" and not rest)
    suffixes = {f"-{mark}" for mark in marks(name, backbone)}
    return path.suffix == ".pth" and name == "imagenet" and (not rest or rest in suffixes)


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file of weights, and check it against the beginning in a published file's name.

    Raises:
        UserError: They differ, or the file cannot be read.
    """
    _check_regular(path)
    try:
        digest = files.sha256(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); fetch it again") from None
    named = re.fullmatch(r".+-([0-9a-f]{8})", path.stem)
    if path.suffix == ".pth" and named and not digest.startswith(named[1]):
        raise UserError(
            f"{path} is damaged or not what its name says: its SHA-256 begins with {digest[:8]}; fetch it again"
        )
    return digest


def _check_regular(path: Path) -> None:
    if path.exists() and not path.is_file():  # to open a pipe might take for ever
        raise UserError(f"{path} is no file, but a pipe, a device or a folder: give a file of weights")


def _check_stored(path: Path) -> None:
    """Refuse records that take more memory than the file: torch never compresses them.

    Raises:
        UserError: there are such records.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    compressed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
    if compressed or sum(record.file_size for record in records) > path.stat().st_size:
        raise UserError(f"{path} is refused: its records are compressed or overlap, which torch.save never does")


def named_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Load the tensors of a .safetensors or torch.save file; those of nested mappings are named `outer/inner`.

    Only tensors, numbers, strings and their containers are unpickled.

    Raises:
        UserError: The file cannot be read, or contains code or other objects.
    """
    import torch
    from safetensors.torch import load_file

    _check_regular(path)
    try:
        _check_stored(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # of old formats
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # what torch raises on a damaged file depends on the damage
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{path} is refused: beside tensors it asks to run {code[1]}, and nothing of it was run; "
                "ask its makers for a file of the weights alone"
            ) from None
        raise UserError(f"{path} is not a readable file of weights ({type(error).__name__}): fetch it again") from error
    named: dict[str, torch.Tensor] = {}
    try:
        for count, (name, tensor) in enumerate(_flattened(state, "")):
            if count == _MOST or name.count("/") > _DEEPEST:
                raise RecursionError
            if tensor is not None:
                named[name] = tensor
    except RecursionError:
        raise UserError(
            f"{path} is refused: its mappings hold themselves, or more than {_MOST:,} parts: give another file"
        ) from None
    return named


def _flattened(value: object, name: str) -> Iterator[tuple[str, torch.Tensor | None]]:
    """Yield every tensor with its name, and before them None for each mapping that holds them."""
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        yield name, None
        for key, inner in value.items():
            if isinstance(key, str):
                yield from _flattened(inner, f"{name}/{key}" if name else key)


def mismatch(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    """Describe how named tensors differ from a net's in names and shapes; empty if they do not."""
    faults = {
        "missing": wanted.keys() - found.keys(),
        "unknown": found.keys() - wanted.keys(),
        "of another shape": {key for key in found.keys() & wanted.keys() if found[key].shape != wanted[key].shape},
    }
    return "; ".join(f"{len(keys)} {fault}, such as {min(keys)}" for fault, keys in faults.items() if keys)


@dataclass(frozen=True)
class Converted:
    """The description of a converted file, also written as a .json of the same name beside it."""

    path: Path
    """Path of the .safetensors file."""
    source: str
    """Name of the published file."""
    backbone: str
    """"resnet50" or "resnet50_ibn_a"."""
    prefix: str
    """Prefix of the backbone's names in the source, with slashes for nested mappings."""
    sha256: str
    """SHA-256 of the new file."""
    source_sha256: str
    """SHA-256 of the published one."""
    stem_relu: bool | None
    """False if the source's own code runs the backbone without the stem's ReLU; None if unknown."""
    left_out: int
    """Number of the source's tensors that belong to other parts, such as a classifier."""


def convert(source: Path, name: str, folder: Path, *, net: str | None = None) -> Converted:
    """Write the ResNet-50 of a published file under the names that torchvision and IBN-Net use.

    Every layout of the field has a ResNet-50's names after some prefix: `state_dict/module.backbone.` (OpenUnReID),
    `model/backbone.` (fast-reid), `state_dict/module.encoder_q.` (MoCo, LUPerson), `state_dict/module.base.` (MMT,
    SpCL), in the last with numbers instead of the first names. So the prefix is searched, not listed.

    Args:
        source: A torch.save or .safetensors file.
        name: Name of these weights in recipes, such as "luperson".
        folder: Folder of weights, created if missing.
        net: Prefix to use if the file holds several nets.

    Raises:
        UserError: The file is refused, holds no ResNet-50 or several, or one of another shape; or the name is taken.
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
        converted = Converted(path, source.name, backbone, prefix, own_sha256, source_sha256, stem_relu, left_out)
        label.write_text(json.dumps(asdict(converted) | {"path": path.name}, indent=1) + "\n")
    return converted


def _prefix(source: Path, tensors: Mapping[str, object], net: str | None) -> str:
    """Find the prefix of the only ResNet in a file; of MoCo's two encoders, that of the trained one."""
    prefixes = sorted(
        prefix
        for prefix in {key.removesuffix(block) for key in tensors for block in _FIRST_BLOCKS if key.endswith(block)}
        if prefix[-1:] in ("", ".", "/") and (f"{prefix}conv1.weight" in tensors or f"{prefix}0.weight" in tensors)
    )
    if net is not None:
        if net not in prefixes:
            raise UserError(f"--net {net}: {source} holds {_quoted(prefixes)}")
        return net
    trained = [prefix for prefix in prefixes if prefix.endswith("encoder_q.")]
    if len(trained or prefixes) != 1:
        several = f"several nets, {_quoted(prefixes)}: choose one with --net"
        raise UserError(f"{source} holds {several if prefixes else 'no ResNet-50: give another file'}")
    return (trained or prefixes)[0]


def _quoted(prefixes: Sequence[str]) -> str:
    return ", ".join(repr(prefix) for prefix in prefixes) or "no ResNet-50"


def _renamed(inner: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], bool | None]:
    """Rename the numbered parts of an nn.Sequential backbone; also return whether its stem has a ReLU."""
    if "0.weight" not in inner:
        return dict(inner), None
    first = 3 if "3.0.conv1.weight" in inner else 4  # without and with the ReLU before the pooling
    names = ["conv1", "bn1"] + [""] * (first - 2) + [f"layer{number}" for number in range(1, 5)]
    parts = ((key, *key.partition(".")[::2]) for key in inner)
    known = {key: f"{names[int(at)]}.{rest}" for key, at, rest in parts if at.isdecimal() and int(at) < len(names)}
    return {known.get(key, key): value for key, value in inner.items()}, first == 4


def _expected(*, ibn: bool) -> dict[str, torch.Tensor]:
    """Return the weights of a ResNet-50, except classifier and batch counters, as tensors without values."""
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
