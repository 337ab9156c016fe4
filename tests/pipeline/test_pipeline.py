"""The pipeline as DVC runs it, on phantoms, and what its champion does with pictures that are changed on purpose."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import yaml

from mammo.core.config import Config
from mammo.core.files import Workspace, read_array, read_json, read_table, sha256_of
from mammo.data.splits import read_parts
from mammo.models.bundle import load_bundle
from mammo.systems.devices import choose_device
from mammo.systems.score import RoiScorer
from mammo.track.store import connect, find_run
from tests.painting import paint_lesion
from tests.pipeline.clones import must
from tests.pipeline.workspaces import run
from tests.study_records import write_record

pytestmark = pytest.mark.slow

UP_TO_DATE = "Data and pipelines are up to date."


def test_a_bundle_says_that_it_rests_on_phantoms_and_no_fit_s_state_is_left(reproduced: Workspace) -> None:
    described = read_json(reproduced.bundle("compact-model1") / "model.json")
    assert (described["synthetic"], reproduced.checkpoints.exists()) == (True, False)


def test_the_metrics_are_those_of_the_predictions(reproduced: Workspace) -> None:
    """Recomputed from the predictions alone, with pandas."""
    rows = pd.read_csv(reproduced.reports / "evaluate" / "predictions.csv")
    for system, judged in rows.groupby("system"):
        metrics = json.loads((reproduced.reports / "metrics" / f"{system}.json").read_text())
        right = judged["label"] == judged["decision"]
        tumor = judged["label"] == "Tumor"
        assert metrics["accuracy"] == pytest.approx(right.mean(), abs=1e-4)
        assert metrics["recall"] == pytest.approx(right[tumor].mean(), abs=1e-4)
        curve = pd.read_csv(reproduced.reports / "plots" / "roc.csv").query("system == @system")
        area = np.trapezoid(curve["true_positive_rate"], curve["false_positive_rate"])
        assert metrics["auc"] == pytest.approx(area, abs=1e-4)
    shown = run(reproduced, "dvc", "metrics", "show").stdout.splitlines()
    assert (len(shown), max(map(len, shown)) <= 120) == (1 + rows["system"].nunique(), True)


def test_the_plots_of_dvc_show_all_systems_in_one_picture_each(reproduced: Workspace, tmp_path: Path) -> None:
    done = run(reproduced, "dvc", "plots", "show", "--out", str(tmp_path))
    assert (done.returncode, "failed" in done.stderr) == (0, False)
    page = (tmp_path / "index.html").read_text()
    for title in ("loss on validation", "ROC", "reliability", "decisions"):
        assert title in page
    assert "DVC_METRIC" not in page
    for system in ("compact-baseline", "compact-model1", "floor"):
        assert page.count(f'"{system}"') > 3


def test_a_choice_reruns_what_it_changes_once_it_is_asked_for(reproduced: Workspace, tmp_path: Path) -> None:
    clone = Workspace(tmp_path / "clone")
    shutil.copytree(reproduced.root, clone.root)
    own = Config.load(clone.params)
    draws = {"tumor_draws": 8, "normal_draws": 8}
    write_record(
        clone,
        own,
        system="compact-model1",
        recipe={"head_lr": 0.005, "epochs": 1},
        patches={"size_px": 96} | draws,
        vote={"rule": "mean_score"},
    )
    assert run(clone, "dvc", "status", "train@compact-model1").stdout.strip() == UP_TO_DATE
    values = yaml.safe_load(clone.params.read_text())
    values["train"] |= {"epochs": None, "patches_per_epoch": 128}
    values["settings_from"] = "reports/tune/best.yaml"
    clone.params.write_text(yaml.safe_dump(values, sort_keys=False))

    ran = re.findall(r"Running stage '(.*)'", must(clone, "dvc", "repro", "train@compact-model1"))
    assert sorted(ran) == ["features", "patches", "train@compact-model1"]
    draws_of_train = read_table(clone.patches("train")).groupby("roi_id").size()
    assert set(draws_of_train) == {9}  # and the whole ROI
    bundle = load_bundle(clone.bundle("compact-model1"))
    assert (bundle.size_px, bundle.vote.rule) == (96, "mean_score")
    assert bundle.provenance["recipe"]["head_lr"] == 0.005
    run_id = find_run(connect(clone), sha256_of(clone.bundle("compact-model1") / "model.json"))
    tags = connect(clone).get_run(run_id).data.tags
    assert (tags["mammo.study"], tags["mammo.best_trial"]) == ("abc", "7")
    assert run(clone, "dvc", "status", "train@compact-model1").stdout.strip() == UP_TO_DATE

    write_record(clone, own, system="compact-model1", recipe={"head_lr": 0.006})
    changed = run(clone, "dvc", "status", "train@compact-model1").stdout
    assert "reports/tune/best.yaml" in changed


def test_a_failed_expectation_stops_the_pipeline_with_its_name(reproduced: Workspace, tmp_path: Path) -> None:
    broken = Workspace(tmp_path / "broken")
    shutil.copytree(reproduced.root, broken.root, ignore=shutil.ignore_patterns("mlruns", ".dvc", "models"))
    images = read_array(broken.rois / "images.npy").copy()
    images[0] = 7
    np.save(broken.rois / "images.npy", images)
    table = read_table(broken.rois / "rois.parquet")
    table.loc[0, "sha256"] = hashlib.sha256(images[0].tobytes()).hexdigest()
    table.to_parquet(broken.rois / "rois.parquet")
    done = run(broken, "python", "pipelines/validate.py")
    assert done.returncode == 2
    assert "constant" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def scorer(reproduced: Workspace) -> RoiScorer:
    """The champion."""
    system = read_json(reproduced.reports / "champion.json")["system"]
    return RoiScorer.on(load_bundle(reproduced.bundle(system)), choose_device("cpu"))


@pytest.fixture(scope="module")
def normal(reproduced: Workspace) -> npt.NDArray[np.uint8]:
    """Normal phantom ROIs that training has not seen."""
    parts = [read_parts(reproduced).part(name) for name in ("val", "test")]
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
