"""What the service answered: a line of JSON for each ROI, without its picture."""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from mammo.core.errors import DataError
from mammo.data.decode import GreyImage

log = logging.getLogger("mammo.serve")
KEPT: Final = (
    "prediction_id",
    "model_version",
    "label",
    "vote_share",
    "score",
    "probability",
    "referral",
    "in_domain",
)
SHADOWED: Final = ("prediction_id", "model_version", "label", "vote_share", "score", "probability")


def statistics_of(image: GreyImage) -> dict[str, float]:
    """What drift is looked for in: mean, standard deviation and percentiles of a ROI's grey levels."""
    low, middle, high = np.percentile(image, (5, 50, 95))
    values = {"mean": image.mean(), "std": image.std(), "p05": low, "p50": middle, "p95": high}
    return {name: round(float(value), 3) for name, value in values.items()}


class PredictionLog:
    """A file of one service process, `HOST-PID.jsonl`; lines are written whole."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._failing = False
        self._file = (folder / f"{socket.gethostname()}-{os.getpid()}.jsonl").open("a", buffering=1)

    def write(
        self,
        row: Mapping[str, Any],
        image: GreyImage,
        road: str,
        started: float,
        challenger: Mapping[str, Any] | None,
    ) -> None:
        """Add the line of an answer, asked at `started` on `time.perf_counter`, and what the challenger said."""
        line: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "road": road}
        line |= {name: row[name] for name in KEPT} | {"inputs": statistics_of(image)}
        line["seconds"] = round(time.perf_counter() - started, 4)
        line["challenger"] = challenger and {name: challenger[name] for name in SHADOWED}
        try:
            self._file.write(json.dumps(line) + "\n")
            self._failing = False
        except OSError as error:  # a full disk: the answer is worth more than its line
            if not self._failing:
                log.error("the log of predictions cannot be written: %s", error)
            self._failing = True

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_log(folder: Path, since: datetime | None = None) -> Iterator[dict[str, Any]]:
    """The lines of every process of the service, from a time on; a last line that is still being written is left out.

    `DataError` where another is damaged.
    """
    for path in sorted(folder.glob("*.jsonl")):
        with path.open() as file:
            for number, text in enumerate(file, start=1):
                try:
                    line = json.loads(text) if text.endswith("\n") else None
                    if line and (since is None or datetime.fromisoformat(line["time"]) >= since):
                        yield line
                except (ValueError, LookupError) as error:
                    raise DataError(
                        f"{path}: line {number} must be an answer as JSON ({error}); delete that line"
                    ) from error
