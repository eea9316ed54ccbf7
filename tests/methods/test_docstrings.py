from __future__ import annotations

import re
import sys

import pytest
from runs import pretraining, source

from methods import mmt, msplr
from reproduce.clustering import KMeans
from reproduce.data.domains import Domain
from reproduce.evaluation import Trained
from reproduce.session.campaign import deviations

TRAININGS = [
    source(),
    pretraining(),
    msplr.Adapt(source(), Domain("duke"), KMeans(4)),
    mmt.Adapt((source(), source(seed=2)), Domain("duke"), KMeans(4)),
]


@pytest.mark.parametrize("stage", TRAININGS, ids=lambda stage: stage.name)
def test_docstring_names_paper_code_and_deviations(stage: Trained) -> None:
    text = sys.modules[type(stage).__module__].__doc__ or ""
    assert re.search(r"^Paper: ", text, re.MULTILINE)
    assert re.search(r"^Code: ", text, re.MULTILINE)
    listed = deviations(stage)
    assert len(listed) == text.partition("Deviates:")[2].count("\n    - ")
    assert all(line[0].isupper() and line.endswith(".") for line in listed)
