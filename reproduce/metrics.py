"""Declare every metric once; all code that handles metrics by name looks them up here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that papers print or runs measure."""

    name: str
    """Name in TOML files, logs and records."""
    kind: str
    """"retrieval", "labels" (health of pseudo labels), "maps" (activation), "training", "gain" or "count" (of data)."""
    title: str
    """Name on pages."""
    short: str = ""
    """Heading in a terminal's summary; empty for none."""
    percent: bool = True
    rank: int = 0
    """k of rank-k, the percentage of queries with a match among the first k; 0 for other metrics."""
    gain_of: str = ""
    """For a gain, the metric of which it is a difference."""
    judged: bool = False
    """Whether verdicts consider it."""
    printed: bool = False
    """Whether tables of papers may print it."""
    claimed: bool = False
    """Whether claims may compare it."""
    drawn: bool = False
    """Whether it can be measured only on drawn images."""
    listed: bool = False
    """Whether the page of a case lists it for every training seed."""
    roomy: bool = False
    """Whether only wide terminals show it."""
    live: str = ""
    """Format of its last value in the line of a running stage; empty for none."""


def _ranks(*ks: int) -> list[Metric]:
    return [
        Metric(
            name=f"rank{k}",
            kind="retrieval",
            title=f"rank-{k}",
            short=f"R{k}",
            rank=k,
            judged=k == 1,
            printed=True,
            claimed=True,
            listed=True,
            roomy=k > 1,
        )
        for k in ks
    ]


def _counts(*names: str) -> list[Metric]:
    return [
        Metric(name=name, kind="count", title=name.replace("_", " "), percent=False, printed=True) for name in names
    ]


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="mAP",
            kind="retrieval",
            title="mAP",
            short="mAP",
            judged=True,
            printed=True,
            claimed=True,
            listed=True,
            live="mAP {:.1f}",
        ),
        *_ranks(1, 5, 10),
        Metric(name="mINP", kind="retrieval", title="mINP", listed=True),
        Metric(name="separation", kind="retrieval", title="separation", claimed=True),
        Metric(name="renewed", kind="retrieval", title="mAP with the target's batch statistics"),
        Metric(name="clusters", kind="labels", title="clusters", percent=False, live="{:.0f} clusters"),
        Metric(
            name="portion",
            kind="labels",
            title="images kept",
            short="kept",
            printed=True,
            claimed=True,
            live="{:.0f} % kept",
        ),
        Metric(name="purity", kind="labels", title="purity", live="{:.0f} % pure"),
        Metric(name="together", kind="labels", title="pairs of one person's kept images in one cluster"),
        Metric(name="first_labels", kind="labels", title="labels at the start", claimed=True),
        Metric(name="agreement", kind="labels", title="agreement", percent=False),
        Metric(name="found", kind="labels", title="clusters before selection", percent=False),
        Metric(name="largest", kind="labels", title="largest cluster", percent=False),
        Metric(name="median", kind="labels", title="median cluster", percent=False),
        Metric(name="outliers", kind="labels", title="outliers", percent=False),
        Metric(name="eps", kind="labels", title="eps", percent=False),
        Metric(name="tail", kind="labels", title="weight on other clusters"),
        Metric(name="positives", kind="labels", title="positives of an image", percent=False),
        Metric(name="on_person", kind="maps", title="activation on the person", claimed=True, drawn=True),
        Metric(name="on_others", kind="maps", title="activation on what is in the way", claimed=True, drawn=True),
        Metric(name="loss", kind="training", title="loss", percent=False, live="loss {:.3f}"),
        Metric(name="reconstruction", kind="training", title="reconstruction loss", percent=False),
        Metric(name="feature_accuracy", kind="training", title="accuracy of the discriminator of features"),
        Metric(name="pixel_accuracy", kind="training", title="accuracy of the discriminator of images"),
        Metric(name="early", kind="training", title="mAP over the first third of training", claimed=True),
        Metric(name="mAP_gain", kind="gain", title="mAP gain", gain_of="mAP", printed=True, claimed=True),
        Metric(name="rank1_gain", kind="gain", title="rank-1 gain", gain_of="rank1", printed=True, claimed=True),
        *_counts("train_ids", "train_images", "gallery_ids", "gallery_images", "query_ids", "query_images"),
    )
}
"""Metrics by name, in the order of pages and summaries."""


def names(**wanted: Any) -> tuple[str, ...]:
    """Return the names of the metrics with these attributes, as in `names(kind="retrieval", printed=True)`."""
    return tuple(
        name
        for name, metric in METRICS.items()
        if all(getattr(metric, attribute) == value for attribute, value in wanted.items())
    )


def printed() -> tuple[str, ...]:
    """Return the retrieval metrics that tables print."""
    return names(kind="retrieval", printed=True)


def measured() -> tuple[str, ...]:
    """Return the printed metrics that a run measures: `printed`, and those of pseudo labels."""
    return (*printed(), *names(kind="labels", printed=True))


def title(name: str) -> str:
    """Return a metric's name on pages, or its own name if it is not declared."""
    return METRICS[name].title if name in METRICS else name


def short(name: str) -> str:
    """Return a metric's name in a terminal."""
    return (METRICS[name].short if name in METRICS else "") or name


def live() -> dict[str, str]:
    """Return the formats for the line of a running stage: pseudo labels, then loss, then retrieval."""
    kinds = ("labels", "training", "retrieval")
    return {name: METRICS[name].live for kind in kinds for name in names(kind=kind) if METRICS[name].live}
