"""What a trained model does with pictures that are changed on purpose."""

import numpy as np
import numpy.typing as npt
import pytest

from mammo.data.phantom_lesions import paint_lesion
from mammo.devices import choose_device
from mammo.inference import RoiScorer
from mammo.layout import Workspace
from mammo.models.bundle import load_bundle
from mammo.storage import read_json
from mammo.systems import read_part

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scorer(reproduced: Workspace) -> RoiScorer:
    """The champion."""
    system = read_json(reproduced.reports / "champion.json")["system"]
    return RoiScorer.on(load_bundle(reproduced.bundle(system)), choose_device("cpu"))


@pytest.fixture(scope="module")
def normal(reproduced: Workspace) -> npt.NDArray[np.uint8]:
    """Normal phantom ROIs that training has not seen."""
    parts = [read_part(reproduced, name) for name in ("val", "test")]
    return np.concatenate([part.images[part.labels == 0] for part in parts])


def shares(scorer: RoiScorer, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Vote share of each ROI."""
    return np.array([vote.vote_share for vote in scorer.votes(images)])


def test_a_lesion_painted_into_a_normal_roi_raises_the_vote_share(
    scorer: RoiScorer, normal: npt.NDArray[np.uint8]
) -> None:
    kinds = ("SPIC", "CIRC", "CALC", "ARCH")
    painted = np.stack([paint_lesion(image, kinds[i % len(kinds)], seed=i) for i, image in enumerate(normal)])
    assert shares(scorer, painted).mean() > shares(scorer, normal).mean() + 0.15


def test_flips_and_rotations_leave_the_scores_nearly_unchanged(
    scorer: RoiScorer, normal: npt.NDArray[np.uint8]
) -> None:
    score = scorer.patch_scores(normal).mean(axis=1)
    for turned in (normal[:, ::-1], normal[:, :, ::-1], np.rot90(normal, axes=(1, 2))):
        change = np.abs(scorer.patch_scores(np.ascontiguousarray(turned)).mean(axis=1) - score)
        assert change.mean() < 0.1


def test_an_answer_does_not_depend_on_the_rois_beside_it(
    scorer: RoiScorer, normal: npt.NDArray[np.uint8]
) -> None:
    together = scorer.patch_scores(normal[:5])
    alone = np.concatenate([scorer.patch_scores(image[None]) for image in normal[:5]])
    np.testing.assert_allclose(together, alone, atol=0.02)
