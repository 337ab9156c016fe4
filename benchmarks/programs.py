"""Scoring more and more ROIs, an interval, and how long a person waits for the programs."""

import json
import multiprocessing
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np
import torch

from benchmarks.measure import Plan, Row, Way, free_port, program, rates, running
from benchmarks.roads import config_of, noise
from mammo.core.errors import MammoError
from mammo.evaluation.intervals import bootstrap
from mammo.evaluation.metrics import weighted_auc
from mammo.models.build import build_classifier
from mammo.models.bundle import Bundle
from mammo.systems.score import RoiScorer
from mammo.track.check import place_of_champion

AT_ONCE: Final = 256
"""ROIs that are in memory together, as in `mammo score`."""
ALWAYS_RUN: Final = {"register"}
"""Stages that DVC calls changed in every status."""


def scaling(plan: Plan, device: torch.device) -> Iterator[Row]:
    """Seconds and peak memory of the votes on more and more ROIs, once, each number in a process of its own."""
    group, first_s = "scaling, compact-model2, exact road", 0.0
    for n_rois in plan.n_rois:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, peak_mib = pool.apply(_vote, (n_rois, device.type))
        of_one = seconds / n_rois
        first_s = first_s or of_one
        against = f"{plan.n_rois[0]:,} ROIs, each"
        yield Row(group, f"{n_rois:,} ROIs", "s", (seconds,), against, first_s / of_one)
        peaks, skipped = ((peak_mib,), "") if peak_mib else ((), "only Linux tells a process's peak in /proc")
        yield Row(group, f"{n_rois:,} ROIs, peak memory", "MiB", peaks, skipped=skipped)


def _vote(n_rois: int, device: str) -> tuple[float, float | None]:
    """Seconds, and the process's peak of resident memory in MiB (None where the system does not tell)."""
    config = config_of("compact-model2")
    classifier = build_classifier("compact-model2", config.model, 0)
    bundle = Bundle(classifier, config.patches.size_px, config.patches.stride_px, config.vote)
    scorer, seconds = RoiScorer.on(bundle, torch.device(device)), 0.0
    scorer.votes(noise(10))
    for start in range(0, n_rois, AT_ONCE):
        images = noise(min(AT_ONCE, n_rois - start), start)
        started = perf_counter()
        scorer.votes(images)
        seconds += perf_counter() - started
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text() if status.is_file() else "")
    return seconds, int(peak[1]) / 1024 if peak else None


def intervals(plan: Plan) -> list[Row]:
    """BCa intervals of an AUC; each is promised in less than a second."""
    rng = np.random.default_rng(7)
    labels = (rng.random(400) < 0.36).astype(np.int64)
    scores, each = rng.beta(1 + 2 * labels, 3 - 2 * labels), np.arange(len(labels))

    def interval() -> float:
        bootstrap(
            lambda weights: weighted_auc(labels, scores, weights),
            each,
            n_bootstrap=2000,
            seed=0,
            confidence=0.95,
        )
        return 1

    way = Way("AUC of 400 ROIs, 2,000 resamples", interval)
    return rates("bootstrap", "intervals/s", [way], plan)


def programs(plan: Plan) -> Iterator[Row]:
    """Seconds until a program has answered: help, a pipeline with nothing to do, the service's first answer."""
    workspace = Path(place_of_champion(".", "demo"))

    def row(name: str, seconds: Callable[[], float]) -> Row:
        try:
            return Row("programs", name, "s", tuple(seconds() for _ in range(plan.short().rounds)))
        except MammoError as error:
            return Row("programs", name, "s", skipped=str(error))

    yield row("mammo --help", lambda: _seconds("mammo", "--help"))
    yield row("dvc repro without a change", lambda: _seconds_to_repro(workspace))
    yield row("mammo serve, first answer", lambda: _seconds_to_serve(workspace))


def _seconds(name: str, *arguments: str, folder: Path = Path()) -> float:
    started = perf_counter()
    done = subprocess.run([program(name), *arguments], cwd=folder, capture_output=True, check=False)
    if done.returncode:
        raise MammoError(f"`{name} {' '.join(arguments)}` ended with exit code {done.returncode}; run it by hand")
    return perf_counter() - started


def _seconds_to_repro(workspace: Path) -> float:
    asked = [program("dvc"), "status", "dvc.yaml", "--json"]
    answer = subprocess.run(asked, cwd=workspace, capture_output=True, text=True, check=False).stdout
    if not answer or json.loads(answer).keys() - ALWAYS_RUN:
        raise MammoError("the pipeline has something to do here; run `dvc repro` or `mammo demo` first")
    return _seconds("dvc", "repro", folder=workspace)


def _seconds_to_serve(workspace: Path) -> float:
    port = free_port()
    command = [program("mammo"), "serve", "--workspace", str(workspace), "--port", str(port)]
    started = perf_counter()
    with running(command, Path(), f"http://127.0.0.1:{port}/healthz"):
        return perf_counter() - started
