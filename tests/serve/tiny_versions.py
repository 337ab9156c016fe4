"""A workspace whose registry holds two versions that see discs, and a film to try them on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from mlflow import MlflowClient

from mammo.core.config import VoteConfig
from mammo.core.files import Workspace
from mammo.data.decode import GreyImage
from mammo.evaluation.conformal import Conformal
from mammo.models.bundle import Bundle, save_bundle
from mammo.systems.fit import fit
from mammo.track.registry import register
from mammo.track.store import connect
from tests.settings import params, section
from tests.tiny_fits import SETTINGS, TRAIN, VAL, new_classifier, recipe

NAME: Final = "mammo-roi"
AUC: Final = {"value": 0.916, "ci_low": 0.838, "ci_high": 0.973, "n": 64}
ACCURACY: Final = {"value": 0.844, "ci_low": 0.75, "ci_high": 0.922, "n": 64}


def registered_versions(root: Path, store_of: Callable[[Workspace], None]) -> tuple[Workspace, MlflowClient]:
    """Two versions of 25 patches: the champion wants few votes; the challenger has learned less and was judged less."""
    space = Workspace(root)
    store_of(space)
    space.params.write_text(yaml.safe_dump(params(serve={"poll_s": 0.1, "voters": 1})))
    client = connect(space)
    experiment = client.create_experiment("discs")
    for seed, epochs, vote, judged in (
        (1, 8, {"share_threshold": 0.26}, {"auc_score": AUC, "accuracy": ACCURACY}),
        (2, 2, {"threshold": "fixed"}, {"auc_score": AUC}),
    ):
        classifier = new_classifier(seed=seed)
        fit(classifier, TRAIN, VAL, recipe(epochs=epochs, patches_per_epoch=192), SETTINGS)
        conformal = Conformal(0.1, 0.62, 0.62, class_conditional=True, n_calibration=40)
        bundle = Bundle(classifier, 40, 20, section(VoteConfig, **vote), conformal=conformal, synthetic=True)
        save_bundle(bundle, root / f"bundle{seed}")
        run_id = client.create_run(experiment).info.run_id
        results: dict[str, Any] = {
            "data": {"note": "discs in noise"},
            "systems": {bundle.system: {"roi": judged}},
        }
        client.log_dict(run_id, results, "evaluate/results.json")
        register(space, NAME, run_id, root / f"bundle{seed}")
    return space, client


def film_of_discs() -> GreyImage:
    """A film of 500 × 620 pixels: dark ground, tissue, and one bright disc at row 380, column 200, from 0."""
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[:620, :500]
    grey = rng.normal(90, 12, (620, 500)) - np.hypot(columns, rows - 310) / 12
    grey[np.hypot(columns, rows - 310) > 420] = 4
    grey[np.hypot(rows - 380, columns - 200) < 28] += 70
    film: GreyImage = grey.clip(0, 255).astype(np.uint8)
    return film
