"""What an evaluation rests on: the paper's two ways of computing an AUC are settings, and a vote alone has none."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, recall_score, roc_auc_score

from mammo.core.config import EvaluateConfig
from mammo.systems.assess import judge
from mammo.systems.train import Scored


@pytest.fixture
def scored() -> Scored:
    rng = np.random.default_rng(0)
    labels = np.arange(40, dtype=np.int64) % 2
    patches = np.clip(rng.normal(0.45 + 0.1 * labels[:, None], 0.2, (40, 9)), 0, 1)
    groups = np.array([f"g{row}" for row in range(40)], dtype=object)
    shares = (patches > 0.5).mean(axis=1)
    return Scored("made", labels, groups, patches, shares, (shares > 0.5).astype(np.int64))


def test_an_auc_of_decisions_is_the_balanced_accuracy(scored: Scored) -> None:
    config = EvaluateConfig(n_bootstrap=100, auc_of="decisions")
    found = judge(scored, config)["roi"]
    assert found["auc_score"]["value"] == pytest.approx(
        balanced_accuracy_score(scored.labels, scored.decided)
    )
    usual = judge(scored, EvaluateConfig(n_bootstrap=100))["roi"]
    assert usual["auc_score"]["value"] == pytest.approx(roc_auc_score(scored.labels, scored.scores))


def test_an_auc_of_patches_can_rest_on_the_larger_probability(scored: Scored) -> None:
    labels, patches = np.repeat(scored.labels, 9), scored.patch_scores.ravel()
    expected = {"tumor": patches, "larger": np.maximum(patches, 1 - patches)}
    for setting, evidence in expected.items():
        config = EvaluateConfig.model_validate({"n_bootstrap": 100, "patch_auc_of": setting})
        found = judge(scored, config, 0.5)["patch"]["auc_score"]["value"]
        assert found == pytest.approx(roc_auc_score(labels, evidence))


def test_who_votes_once_has_no_auc_of_the_vote_share(scored: Scored) -> None:
    config = EvaluateConfig(n_bootstrap=100)
    once = Scored(
        "floor",
        scored.labels,
        scored.groups,
        scored.scores[:, None],
        scored.decided.astype(float),
        scored.decided,
    )
    assert "auc_vote_share" in judge(scored, config)["roi"]
    assert "auc_vote_share" not in judge(once, config)["roi"]


def test_a_patch_is_called_tumor_above_the_threshold_at_which_it_votes(scored: Scored) -> None:
    labels, patches = np.repeat(scored.labels, 9), scored.patch_scores.ravel()
    config = EvaluateConfig(n_bootstrap=100)
    for threshold in (0.5, 0.7):
        found = judge(scored, config, threshold)["patch"]["recall"]["value"]
        assert found == pytest.approx(recall_score(labels, patches > threshold))
