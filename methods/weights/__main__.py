"""`python -m methods.weights FOLDER`: retrain the initial weights of the narrow nets and write them to a folder.

This takes five minutes on one processor core. Bits differ by processor, so retrained weights give results another
identity; `--weights FOLDER` uses them at the scales smoke and small.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from methods.classify import Classify, nearest_mean
from reproduce import weights
from reproduce.running import runner
from reproduce.scales import SCALES, STEMS, at_scale
from reproduce.stage import closure, rewrite


def main() -> None:
    """Train each narrow backbone, and write its weights with a note beside them."""
    parser = argparse.ArgumentParser(prog="python -m methods.weights", description="train weights on drawn objects")
    parser.add_argument("folder", type=Path, help="folder for the weights")
    parser.add_argument(
        "--store", type=Path, default=Path("build/store"), help="store of finished stages (default build/store)"
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for backbone in STEMS:
        train: Classify = rewrite(Classify(backbone=backbone), by_role=at_scale(SCALES["small"]))
        print(write(train, options.folder, runner.Site(options.store)))


def write(train: Classify, folder: Path, site: runner.Site) -> Path:
    """Train, write the backbone's weights and a note into a folder, and return the path of the weights."""
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(site.threads)  # bits depend on it

    import msgspec

    from methods.blocks import backbones

    def say(event: Mapping[str, Any]) -> None:
        if event["event"] == "log":
            print(f"{train.backbone}: epoch {event['step']} of {train.epochs}, loss {event['loss']:.2f}", flush=True)

    store = runner.Store(site.store)
    for stage in closure([train]):
        runner.build(stage, site, say)
    training, record = store.load(train), store.described(train)
    net = {
        name: tensor for name, tensor in train.backbone_weights(training).items() if not name.endswith(weights.COUNTER)
    }
    path = folder / weights.file_name(train.backbone, weights.DRAWN)
    save_file({name: tensor.contiguous() for name, tensor in net.items()}, path)
    backbone = backbones.build(
        train.backbone, last_stride=train.last_stride, stem_relu=train.stem_relu, seed=train.seed, weights=path
    )
    note = {
        "sha256": weights.sha256(path),
        "accuracy": training.facts["accuracy"],
        "nearest_mean": nearest_mean(backbone),
        "stages": [store.described(stage).spec for stage in closure([train])],
        "provenance": msgspec.to_builtins(record.provenance),
    }
    path.with_suffix(".json").write_text(json.dumps(note, indent=1) + "\n")
    return path


if __name__ == "__main__":
    main()
