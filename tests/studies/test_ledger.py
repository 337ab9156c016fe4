"""The ledger as people call it: one command, stopped and resumed, and its cells computed again by scikit-learn."""

import io
import json
import shutil
import signal
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import yaml
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score

from mammo import cli
from mammo.core.config import Config
from mammo.core.files import Workspace, read_json
from mammo.data.splits import Fold, grouped_folds, published_folds, read_parts, rois_of_known_groups
from mammo.evaluation.conformal import fit_conformal
from mammo.report.blocks import SourceFile, markdown
from mammo.report.studies import ledger_blocks, ledger_rows
from mammo.studies.fits import Fit, fit_key, fit_path, load_fit
from mammo.studies.ledger import Row, tabulate
from mammo.studies.runs import plan
from tests.evaluation.made_scores import made
from tests.studies.tiny_studies import mammo_command, tiny_config, tiny_rois, tiny_space

pytestmark = pytest.mark.slow

N_FITS = 8
"""Two seeds, each on the published folders and three honest folds."""


def mammo(workspace: Workspace, *arguments: str) -> str:
    """What the command says, run in this process."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as said:
        patch.setattr(sys, "argv", ["mammo", *arguments, "--workspace", str(workspace.root)])
        with pytest.raises(SystemExit) as left:
            cli.main()
    assert not left.value.code
    return said.getvalue()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace after one `mammo ledger` with two jobs."""
    workspace = tiny_space(tmp_path_factory.mktemp("ledger") / "undisturbed")
    assert f"fit {N_FITS}/{N_FITS} done" in mammo(workspace, "ledger", "--jobs", "2")
    return workspace


def table_of(workspace: Workspace) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (workspace.reports / "ledger").iterdir()}


def finished_fits(workspace: Workspace) -> list[Path]:
    return list(workspace.fits.glob("[!.]*.npz"))


def test_killed_in_mid_run_and_called_again_it_gives_the_same_bytes(undisturbed: Workspace, tmp_path: Path) -> None:
    workspace = tiny_space(tmp_path / "killed")
    command = mammo_command(workspace, "ledger", "--jobs", "1")
    while not finished_fits(workspace):
        assert command.poll() is None, command.communicate()[0]
        time.sleep(0.01)
    command.send_signal(signal.SIGKILL)
    command.communicate()
    n_kept = len(finished_fits(workspace))
    assert 0 < n_kept < N_FITS
    assert not (workspace.reports / "ledger").exists()
    mammo(workspace, "ledger", "--jobs", "1")
    assert table_of(workspace) == table_of(undisturbed)
    assert sorted(p.name for p in finished_fits(workspace)) == sorted(p.name for p in finished_fits(undisturbed))
    assert not list(workspace.fits.rglob("unfinished/*"))


def fits_of(workspace: Workspace, folds: list[Fold]) -> list[Fit]:
    config = Config.load(workspace.params)
    tasks = plan("compact-baseline", config, folds, config.ledger.n_seeds)
    fits = [load_fit(fit_path(workspace.fits, fit_key(task))) for task in tasks]
    assert all(fits)
    return [fit for fit in fits if fit is not None]


def cells_of(workspace: Workspace, protocol: str, name: str = "compact-baseline") -> dict[str, Any]:
    rows = read_json(workspace.reports / "ledger" / "ledger.json")["rows"]
    (row,) = [row for row in rows if (row["protocol"], row["name"]) == (protocol, name)]
    cells: dict[str, Any] = row["cells"]
    return cells


def by_majority(fit: Fit) -> np.ndarray:
    decided: np.ndarray = ((fit.test.patch_scores > 0.5).mean(axis=1) >= 0.5).astype(int)
    return decided


def test_the_cells_are_scikit_learns_over_seeds_and_held_out_rois(undisturbed: Workspace) -> None:
    rois, config = read_parts(undisturbed), Config.load(undisturbed.params)
    fits, cells = fits_of(undisturbed, published_folds(rois)), cells_of(undisturbed, "published")
    expected = {
        "accuracy": [accuracy_score(fit.test.labels, by_majority(fit)) for fit in fits],
        "recall": [recall_score(fit.test.labels, by_majority(fit)) for fit in fits],
        "auc_score": [roc_auc_score(fit.test.labels, fit.test.patch_scores.mean(axis=1)) for fit in fits],
    }
    for metric, values in expected.items():
        assert cells[metric]["value"] == pytest.approx(np.mean(values))
        assert cells[metric]["n_runs"] == 2
    assert cells["accuracy"]["n"] == 12

    mean = ((fits[0].test.patch_scores + fits[1].test.patch_scores) / 2).mean(axis=1)
    cells = cells_of(undisturbed, "published", "compact-baseline, ensemble of 2 seeds")
    assert cells["auc_score"]["value"] == pytest.approx(roc_auc_score(fits[0].test.labels, mean))

    honest = fits_of(undisturbed, grouped_folds(rois, config.ledger))
    right = np.concatenate([by_majority(fit) == fit.test.labels for fit in honest])
    cells = cells_of(undisturbed, "honest")
    assert len(right) == 2 * 48
    assert cells["accuracy"]["value"] == pytest.approx(right.mean())
    assert (cells["accuracy"]["n"], cells["recall"]["n"]) == (48, 20)


def test_flagged_rois_are_left_out_of_their_own_rows(undisturbed: Workspace) -> None:
    flagged = rois_of_known_groups(published_folds(read_parts(undisturbed)))
    ledger = read_json(undisturbed.reports / "ledger" / "ledger.json")
    assert ledger["flagged_rois"] == flagged != []
    assert cells_of(undisturbed, "published, without the flagged ROIs")["accuracy"]["n"] == 12 - len(flagged)


def test_gaps_and_what_a_system_adds_to_the_floor_are_differences_of_cells(undisturbed: Workspace) -> None:
    ledger = read_json(undisturbed.reports / "ledger" / "ledger.json")

    def value(protocol: str, name: str, metric: str) -> float:
        found: float = cells_of(undisturbed, protocol, name)[metric]["value"]
        return found

    for name in ("compact-baseline", "floor"):
        (gap,) = [gap["cells"] for gap in ledger["gaps"] if gap["name"] == name]
        expected = value("published", name, "accuracy") - value("honest", name, "accuracy")
        assert gap["accuracy"]["value"] == pytest.approx(expected)
    for protocol in ("published", "honest"):
        name = "compact-baseline"
        (entry,) = [e for e in ledger["minus_floor"] if (e["protocol"], e["name"]) == (protocol, name)]
        for metric in ("accuracy", "auc_score"):
            expected = value(protocol, name, metric) - value(protocol, "floor", metric)
            assert entry["cells"][metric]["value"] == pytest.approx(expected)
    # The floor, which votes once, has no AUC of its vote share.
    assert "auc_vote_share" not in cells_of(undisturbed, "honest", "floor")
    assert "auc_vote_share" in cells_of(undisturbed, "honest")
    assert not any("auc_vote_share" in entry["cells"] for entry in ledger["minus_floor"])


def test_systems_are_compared_pair_by_pair_over_their_runs() -> None:
    rois, rng = tiny_rois(), np.random.default_rng(0)
    labels = rois.table["label"].to_numpy()
    runs = {name: made(labels, rng.integers(0, 2, (3, len(labels)))) for name in ("a", "b", "c")}
    rows = [Row(name, "system", "honest", of_system) for name, of_system in runs.items()]
    ledger = tabulate([*rows, Row("floor", "floor", "honest", runs["a"])], rois, [], tiny_config())
    pairs = {entry["name"]: entry["cells"]["accuracy"] for entry in ledger["between_systems"]}
    assert list(pairs) == ["a minus b", "a minus c", "b minus c"]
    right = {name: (of.decisions == of.labels).mean(axis=1) for name, of in runs.items()}
    assert pairs["b minus c"]["value"] == pytest.approx((right["b"] - right["c"]).mean())
    assert pairs["b minus c"]["sd_runs"] == pytest.approx((right["b"] - right["c"]).std(ddof=1))
    assert "| honest | b minus c |" in markdown(ledger_blocks(SourceFile("", ledger)), synthetic=True)
    assert "honest, between the systems" in set(ledger_rows(ledger)["protocol"])


def holds_true_class(fit: Fit) -> npt.NDArray[np.bool_]:
    """Whether each held-out ROI's served set holds its class."""
    limits = fit_conformal(fit.val.labels, fit.val.patch_scores.mean(axis=1), coverage=0.9)
    sets = limits.sets(fit.test.patch_scores.mean(axis=1))[np.arange(len(fit.test.labels)), fit.test.labels]
    held: npt.NDArray[np.bool_] = sets | (by_majority(fit) == fit.test.labels)
    return held


def test_each_fold_reports_the_coverage_of_its_prediction_sets(undisturbed: Workspace) -> None:
    config = Config.load(undisturbed.params)
    fits = fits_of(undisturbed, grouped_folds(read_parts(undisturbed), config.ledger))
    ledger = read_json(undisturbed.reports / "ledger" / "ledger.json")
    reported, over_runs = ledger["referral"], ledger["referral_over_runs"]
    held = [holds_true_class(fit) for fit in fits]
    assert sorted(fold["coverage"]["value"] for fold in reported) == pytest.approx(sorted(map(np.mean, held)))
    assert {fold["promise"] for fold in reported} == {0.9}
    tumor = np.concatenate([fit.test.labels for fit in fits]) == 1
    whole = np.concatenate(held)
    assert over_runs["coverage"]["value"] == pytest.approx(whole.mean())
    assert over_runs["coverage_tumor"]["value"] == pytest.approx(whole[tumor].mean())
    assert over_runs["referral_rate"]["value"] == pytest.approx(
        np.mean([fold["referral_rate"]["value"] for fold in reported])  # folds of 16 ROIs each
    )
    assert over_runs["coverage"]["n_runs"] == 2


def test_the_honest_folds_are_sliced_by_what_the_films_say(undisturbed: Workspace) -> None:
    table = read_parts(undisturbed).table
    axes = read_json(undisturbed.reports / "ledger" / "ledger.json")["slices"]["axes"]
    for system in ("chosen on validation", "floor"):
        for one in axes["tissue"]["systems"][system]:
            inside = table[table["tissue"] == one["value"]]
            assert (one["n_rois"], one["n_tumor"]) == (len(inside), inside["label"].sum())
    text = (undisturbed.reports / "ledger" / "ledger.md").read_text()
    assert "| G: chosen on validation |" in text.partition("## Slices of the honest folds")[2]


def test_every_file_says_that_it_rests_on_phantoms_and_every_cell_has_its_n(undisturbed: Workspace) -> None:
    folder = undisturbed.reports / "ledger"
    assert sorted(path.name for path in folder.iterdir()) == [
        *(f"ledger.{end}" for end in ("csv", "json", "md", "png")),
        "referral.png",
    ]
    for name in ("ledger.csv", "ledger.json", "ledger.md"):
        assert "PHANTOM" in (folder / name).read_text()
    rows = pd.read_csv(folder / "ledger.csv")
    assert "paper" not in set(rows["kind"])
    assert rows["n"].notna().all()
    assert set(rows["protocol"]) >= {"published", "honest", "published minus honest"}
    text = (folder / "ledger.md").read_text().splitlines()
    lines = [line for line in text if line.startswith("| compact-baseline |")]
    assert len(lines) == 5  # three protocols and two gaps
    # Precision alone can be undefined on so few ROIs.
    assert all(line.count(", n ") >= 6 for line in lines[:3])


def test_ablation_study_and_seeds_are_commands_that_share_the_fits(undisturbed: Workspace, tmp_path: Path) -> None:
    workspace = Workspace(shutil.copytree(undisturbed.root, tmp_path / "own"))
    values = yaml.safe_load(workspace.params.read_text())
    values["ingest"]["source"] = "mias_rois"  # no films to cut again
    workspace.params.write_text(yaml.safe_dump(values))
    file = tmp_path / "pick.yaml"
    file.write_text("variants: {mean score: {vote.rule: mean_score}, larger: {patches.size_px: 60}}")
    for arguments in (("ablate",), ("study", str(file)), ("seeds", "2")):
        said = mammo(workspace, *arguments, "--jobs", "1")
        assert "PHANTOM" in said
        assert "kept from before" in said or arguments[0] == "seeds"
    ablated = read_json(workspace.reports / "ablate" / "ablate.json")
    effects = {entry["name"]: entry["effect"] for entry in ablated["defects"]}
    assert effects["AUC from hard labels"]["cells"]["auc_score"]["value"] is not None
    assert effects["corner patches"]["n_rois"] == 48
    assert effects["published split"]["n_rois"] == 12
    assert effects["distortion by the bounding box"] is None
    studied = json.loads((workspace.reports / "study" / "pick.json").read_text())
    assert studied["data"]["n_rois"] < 48
    assert [entry["name"] for entry in studied["variants"]] == ["mean score", "larger"]
    seeds = read_json(workspace.reports / "seeds" / "seeds.json")["systems"]["compact-baseline"]
    assert seeds["test"]["accuracy"]["mean"] == pytest.approx(
        np.mean([one["test"]["accuracy"] for one in seeds["seeds"]])
    )
    assert seeds["ensemble"]["roi"]["accuracy"]["ci_low"] is not None
