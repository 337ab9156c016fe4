"""The same version as a Spark UDF, as docs/serving.md says: the rows of `mammo score`."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq
import pytest
from PIL import Image

from mammo.core.files import Workspace
from mammo.serve.score import score
from mammo.track.check import tracking_uri
from tests.disc_rois import disc_rois

BESIDE: Final = Path(__file__).parents[2] / ".spark"
INSTALLED: Final = importlib.util.find_spec("pyspark")
SPARK: Final = BESIDE if BESIDE.is_dir() else INSTALLED and Path(str(INSTALLED.origin)).parents[1]
"""Folder of the package, which may lie beside the environment."""
DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "serving.md"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SPARK is None, reason="needs pyspark: `make .spark`"),
    pytest.mark.skipif(shutil.which("java") is None, reason="needs Java: apt install default-jre-headless"),
]


def documented(store: str, pictures: Path, out: Path) -> str:
    """The document's program, in other places; at its end it must not have imported mammo."""
    (program,) = (part for part in DOCUMENT.read_text().split("```python\n")[1:] if "spark_udf" in part)
    program = program.partition("```")[0]
    for there, here in (
        ("sqlite:///mlruns/mlflow.db", store),
        ("/data/rois", str(pictures)),
        ("votes", str(out)),
    ):
        assert f'"{there}"' in program
        program = program.replace(f'"{there}"', repr(here))
    return program + "\nimport sys\nassert 'mammo' not in sys.modules\n"


def test_spark_gives_the_rows_of_score_by_the_version_s_own_code(space: Workspace, tmp_path: Path) -> None:
    (tmp_path / "rois" / "below").mkdir(parents=True)
    for number, image in enumerate(disc_rois(6, 6, seed=2).images):
        folder = tmp_path / "rois" / ("below" if number % 2 else "")
        Image.fromarray(image).save(folder / f"{number}.png")
    Image.new("L", (120, 120), 90).save(tmp_path / "rois" / "flat.png")  # out of domain, beside others that are not
    score(space, [tmp_path / "rois"], tmp_path / "scored.parquet")
    program = documented(tracking_uri(space), tmp_path / "rois", tmp_path / "of_spark")
    # The checkout is on no path.
    environment = os.environ | {
        "PYTHONPATH": str(SPARK),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
    }

    subprocess.run([sys.executable, "-P", "-c", program], env=environment, cwd=tmp_path, check=True, timeout=500)

    of_spark = {row.pop("path").removeprefix("file:"): row for row in pq.read_table(tmp_path / "of_spark").to_pylist()}
    scored = {row["input"]: row for row in pq.read_table(tmp_path / "scored.parquet").to_pylist()}
    assert of_spark.keys() == scored.keys()
    assert {row["in_domain"] for row in scored.values()} == {True, False}
    for path, row in of_spark.items():
        assert row.keys() == scored[path].keys() - {"input", "sha256", "patch_scores", "error"}
        for name, value in row.items():
            expected = scored[path][name]
            # Spark votes on other ROIs together, which may move the last bits.
            assert value == (pytest.approx(expected, abs=1e-6) if isinstance(value, float) else expected)
