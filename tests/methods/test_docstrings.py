from __future__ import annotations

import re
import sys

import pytest
from runs import tiny, trainings

from methods import classify
from reproduce.evaluation import Trained
from reproduce.session.trials import deviations


@pytest.mark.parametrize(
    "kind", [kind for kind in trainings() if kind is not classify.Classify], ids=lambda kind: kind.__module__
)
def test_docstring_names_paper_code_and_deviations(kind: type[Trained]) -> None:
    text = sys.modules[kind.__module__].__doc__ or ""
    assert re.search(r"^Paper: ", text, re.MULTILINE)
    assert re.search(r"^Code: ", text, re.MULTILINE)
    listed = deviations(tiny(kind))
    assert len(listed) == text.partition("Deviates:")[2].count("\n    - ")
    assert all(line[0].isupper() and line.endswith(".") for line in listed)
