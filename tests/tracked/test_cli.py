"""The command line: what it prints."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import tomllib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
import yaml
from PIL import Image
from rich.console import Console

from mammo.core.config import Config
from mammo.core.files import Workspace
from mammo.data.rois import read_rois
from mammo.report.terminal import runs_table
from mammo.track.registry import versions as registered_versions
from tests.tracked.conftest import Mammo
from tests.tracked.registered import NAME

PROJECT: Final = Path(__file__).parents[2]


def test_help_comes_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from mammo import cli; "
        "print([m for m in ('torch', 'mlflow', 'pandas', 'great_expectations', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_version_is_the_package_s(mammo: Mammo) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert mammo("--version") == (0, f"mammo {project['version']}\n", "")


def test_predict_prints_one_object_or_one_line_for_each_file_and_why_one_is_unlike_the_rois_of_training(
    mammo: Mammo, space: Workspace, picture: Path, tmp_path: Path
) -> None:
    flat = tmp_path / "flat.png"
    Image.new("L", (120, 120), 128).save(flat)
    call = ("predict", "--workspace", str(space.root), str(picture), str(flat))
    code, lines, _ = mammo(*call, "--json")
    row, strange = [json.loads(line) for line in lines.splitlines()]
    assert (code, row["file"], strange["file"]) == (0, str(picture), str(flat))
    assert tuple(row) == (
        *("file", "label", "vote_share", "votes", "score", "model_name", "model_version"),
        *("probability", "threshold", "decided_by", "prediction_set", "referral"),
        *("in_domain", "domain_reason", "prediction_id"),
    )
    assert (row["in_domain"], row["domain_reason"]) == (True, None)
    assert (strange["in_domain"], strange["referral"]) == (False, True)
    assert strange["domain_reason"] == "shows one grey value, 128; check the file"

    code, out, _ = mammo(*call)
    shown = " ".join(out.split())
    assert code == 0
    title = f"{row['model_name']} v{row['model_version']}, threshold {row['threshold']:.2f}"
    assert title in [line.strip() for line in out.splitlines()]
    votes = f"{sum(row['votes'])} of {len(row['votes'])}"
    (answer,) = [line for line in out.splitlines() if votes in line and picture.name in line]
    assert row["label"] in answer
    assert f"{row['probability']:.2f}" in answer.split()
    assert ("refer to reader" in answer) == row["referral"]
    assert "refer to a reader" in shown  # the caption
    assert shown.endswith(f"{flat}: refer to a reader, it {strange['domain_reason']}")
    assert f"{picture}: refer" not in shown


@pytest.mark.slow
def test_folders_are_predicted_as_csv_by_the_champion_or_by_a_trained_system(
    mammo: Mammo, space: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "below").mkdir()
    for number, image in enumerate(read_rois(space.rois).images[:2]):
        Image.fromarray(image).save(tmp_path / "below" / f"{number}.png")
    call = ("predict", str(tmp_path), "--csv", "--workspace", str(space.root))
    answers = [mammo(*call)]
    system = registered_versions(space, NAME)[0].system
    answers += [mammo(*call, "--model", str(space.bundle(system)))]
    by_champion, by_system = (list(csv.DictReader(io.StringIO(out))) for _, out, _ in answers)
    assert [code for code, _, _ in answers] == [0, 0]
    assert [row["file"] for row in by_champion] == [str(tmp_path / "below" / f"{n}.png") for n in (0, 1)]
    assert {row["model_version"] for row in by_system} == {"unregistered"}
    for one, other in zip(by_champion, by_system, strict=True):
        assert set(json.loads(one["votes"])) <= {0, 1}
        assert (one["label"], one["score"], one["votes"]) == (other["label"], other["score"], other["votes"])


def test_runs_shows_when_every_system_was_trained_how_good_it_is_and_where_to_compare(
    mammo: Mammo, space: Workspace, config: Config
) -> None:
    code, out, _ = mammo("runs", "--workspace", str(space.root))
    assert code == 0
    results = json.loads((space.reports / "evaluate" / "results.json").read_text())["systems"]
    for system in config.systems:
        line = next(line for line in out.splitlines() if system in line)
        assert re.match(r" \d\d-\d\d \d\d:\d\d ", line)
        assert f"AUC {results[system]['roi']['auc_score']['value']:.3f}" in line
        accuracy = results[system]["roi"]["accuracy"]
        assert f"{accuracy['value']:.3f} ({accuracy['ci_low']:.3f} to {accuracy['ci_high']:.3f})" in line
    assert re.search(r"compare .*http://127\.0\.0\.1:5000/#/compare-runs\?runs=", out)


def test_runs_as_json_say_the_same_to_programs(mammo: Mammo, finished: tuple[Workspace, Config]) -> None:
    space, config = finished
    code, out, _ = mammo("runs", "--json", "--workspace", str(space.root))
    rows = {row["system"]: row for row in map(json.loads, out.splitlines())}
    assert (code, sorted(rows)) == (0, sorted(config.systems))
    results = json.loads((space.reports / "evaluate" / "results.json").read_text())["systems"]
    for system, row in rows.items():
        auc = results[system]["roi"]["auc_score"]["value"]
        assert row["metrics"]["test/auc"] == pytest.approx(auc, abs=1e-4)
        assert (row["status"], row["params"]["patches.size_px"]) == ("FINISHED", "48")
        assert datetime.fromisoformat(row["started"]).utcoffset() == timedelta(0)


def test_a_run_says_what_the_run_before_of_its_system_did_not_have() -> None:
    runs: list[tuple[str, str, dict[str, str]]] = [
        ("a", "FINISHED", {"seed": "1", "stride": "12"}),
        ("b", "FAILED", {"seed": "0"}),
        ("a", "FINISHED", {"seed": "0", "stride": "12"}),
    ]
    common = {"experiment": "e", "started": datetime(2026, 11, 28, 14, 5), "result": "AUC 0.9"}
    rows = [common | {"system": name, "status": state, "params": given} for name, state, given in runs]
    with (console := Console(width=80)).capture() as shown:
        console.print(runs_table(rows))
    lines = [line.split() for line in shown.get().splitlines() if "11-28 14:05" in line]
    assert lines == [
        ["11-28", "14:05", "a", "AUC", "0.9", "seed=1"],
        ["11-28", "14:05", "failed", "b", "AUC", "0.9", "first"],
        ["11-28", "14:05", "a", "AUC", "0.9", "first"],
    ]


def test_doctor_says_what_is_missing_and_how_to_get_it(
    mammo: Mammo, space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    code, out, _ = mammo("doctor", "--workspace", str(tmp_path))
    assert (code, "mammo fetch" in out, "torch" in out) == (0, True, True)

    shutil.copy(space.params, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{space.mlruns / 'mlflow.db'}")
    code, out, _ = mammo("doctor", "--workspace", str(tmp_path))
    assert (code, "champion: version 1" in out) == (0, True)

    archive = tmp_path / "data" / "raw" / "mias_rois"
    archive.mkdir(parents=True)
    (archive / "MIAS_ROIs.zip").write_bytes(b"half a file")
    values = yaml.safe_load((PROJECT / "params.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    code, out, _ = mammo("doctor", "--json", "--workspace", str(tmp_path))
    found = {row["what"]: row for row in map(json.loads, out.splitlines())}
    assert (code, found["data of mias_rois"]["level"]) == (2, "error")
    assert "mammo fetch" in found["data of mias_rois"]["remedy"]

    code, out, _ = mammo("doctor", "--workspace", str(tmp_path / ("a" * 250) / "nowhere"))
    assert (code, "no such folder" in out) == (2, True)
    assert "…" not in out, "a path is broken over lines, never cut"


def test_in_a_terminal_of_eighty_columns_no_name_and_no_number_is_cut(
    mammo: Mammo, space: Workspace, tmp_path: Path
) -> None:
    picture = tmp_path / f"{'long ' * 20}.png"
    Image.fromarray(read_rois(space.rois).images[0]).save(picture)
    for command in (("predict", str(picture)), ("runs",), ("doctor",)):
        code, out, _ = mammo(*command, "--workspace", str(space.root), columns=80)
        assert code == 0
        assert "…" not in out
        assert max(len(line) for line in out.splitlines() if "http://" not in line) <= 80
    _, out, _ = mammo("predict", str(picture), "--workspace", str(space.root), columns=40)
    for heading in ("file", "label", "votes", "score", "probability", "open classes"):
        assert f"\n{heading}: " in out
