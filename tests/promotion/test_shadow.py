"""`mammo shadow`: champion and challenger on the ROIs that both voted on."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mammo.core.errors import DataError
from mammo.core.files import Workspace
from mammo.promotion.monitoring import agreements
from mammo.report.terminal import agreements_table
from mammo.serve.log import PredictionLog, read_log
from tests.settings import PARAMS


def answer(roi: int, version: str, probability: float, weights: str = "aaaaaaaa") -> dict[str, Any]:
    """What a version says; above 0.5 it says Tumor."""
    label = "Tumor" if probability > 0.5 else "Normal"
    row = {"prediction_id": f"v{version}.{weights}.{roi:016x}", "model_version": version, "label": label}
    shares = dict.fromkeys(("vote_share", "score", "probability"), probability)
    return row | shares | {"referral": False, "in_domain": True}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Ten ROIs by versions 1 and 2, which disagree on two of them; one was sent four times, one goes to 3.

    Another store's version 2 answered about one more.
    """
    shutil.copy(PARAMS, tmp_path / "params.yaml")
    space = Workspace(tmp_path)
    log, image = PredictionLog(space.predictions), np.zeros((120, 120), np.uint8)
    for roi in [*range(10), 4, 4, 4]:
        other = {3: 0.8, 7: 0.6}.get(roi, 0.3)
        log.write(answer(roi, "1", 0.2), image, "rois", 0, answer(roi, "2", other))
    log.write(answer(3, "1", 0.2), image, "rois", 0, answer(3, "3", 0.2))
    log.write(answer(3, "1", 0.2), image, "rois", 0, answer(3, "2", 0.2, "bbbbbbbb"))
    log.write(answer(99, "1", 0.2), image, "rois", 0, None)
    log.close()
    return space


def test_a_roi_counts_once_however_often_it_was_sent(workspace: Workspace) -> None:
    found = agreements(workspace)[0]

    assert (found.agreement.n, found.agreement.value) == (10, 0.8)
    # Wilson's interval of 8 of 10, as Brown, Cai and DasGupta (2001) compute it.
    assert (found.agreement.ci_low, found.agreement.ci_high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert found.difference.value == pytest.approx((0.6 + 0.4 + 8 * 0.1) / 10)
    assert found.difference.ci_low < found.difference.value < found.difference.ci_high


def test_disagreements_are_named_the_most_different_first(workspace: Workspace) -> None:
    assert agreements(workspace)[0].disagreements == [
        {
            "prediction_id": "v1.aaaaaaaa.0000000000000003",
            "label": ["Normal", "Tumor"],
            "probability": [0.2, 0.8],
        },
        {
            "prediction_id": "v1.aaaaaaaa.0000000000000007",
            "label": ["Normal", "Tumor"],
            "probability": [0.2, 0.6],
        },
    ]


def test_each_pair_of_versions_has_its_own_report(workspace: Workspace) -> None:
    assert [(one.champion, one.challenger, one.agreement.n) for one in agreements(workspace)] == [
        ("v1.aaaaaaaa", "v2.aaaaaaaa", 10),
        ("v1.aaaaaaaa", "v2.bbbbbbbb", 1),
        ("v1.aaaaaaaa", "v3.aaaaaaaa", 1),
    ]


def test_the_table_shows_both_answers(workspace: Workspace) -> None:
    with (console := Console(width=100)).capture() as shown:
        console.print(agreements_table(agreements(workspace)))
    assert "v1.aaaaaaaa and challenger v2.aaaaaaaa: 10 ROIs" in shown.get()
    assert "Normal 0.20" in shown.get()
    assert "Tumor 0.80" in shown.get()


def test_a_line_that_is_still_written_is_left_out_and_a_damaged_one_is_named(workspace: Workspace) -> None:
    (path,) = workspace.predictions.iterdir()
    whole = path.read_text()
    path.write_text(whole + whole[:50])
    assert len(list(read_log(workspace.predictions))) == len(whole.splitlines())

    path.write_text(whole[:50] + "\n" + whole)
    with pytest.raises(DataError, match=r"line 1 must be an answer as JSON.*delete that line"):
        list(read_log(workspace.predictions))
