"""A trained classifier on disk: safetensors weights and one JSON that says how to use them.

The bundle carries its architecture, preprocessing, patch grid, vote rule with its threshold, calibrator, conformal
limits, domain, validation results and provenance, so that nothing has to be remembered beside it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mammo.core.config import PatchesConfig, Precision, VoteConfig
from mammo.core.errors import ConfigError, DataError, WeightsError
from mammo.core.files import atomic_path, read_json, sha256_of, write_json
from mammo.data.patches import grid_corners
from mammo.evaluation.calibration import NO_CALIBRATION, Calibrator
from mammo.evaluation.conformal import REFER_ALL, Conformal
from mammo.evaluation.domain import ANY_DOMAIN, Domain
from mammo.models.build import Architecture, Classifier

WEIGHTS_FILE: Final = "model.safetensors"
DESCRIPTION_FILE: Final = "model.json"

FORMAT: Final = 3
"""Format of the description. 2 had no domain; 1 had no calibrator, no conformal limits and named no format."""


@dataclass(frozen=True)
class Bundle:
    """A classifier in evaluation mode and everything that its decisions rest on.

    Attributes:
        classifier: the network.
        size_px: side of a patch.
        stride_px: step of the voting grid.
        vote: the decision rule; its `share_threshold` decides, wherever it came from.
        calibrator: mean patch score → probability of Tumor, fitted on the validation part.
        conformal: limits of the prediction sets, fitted on the validation part.
        domain: which pictures are like the ROIs of the training part.
        results: validation results of the chosen epoch.
        provenance: data, commit, seeds and versions that made the weights.
        synthetic: the training data were phantoms.
        corner_patches: the outer ring of the grid votes too.
        precision: at which patches are scored, as in `devices.autocast`: that of threshold and calibrator, on any
            device, however slow it is there without the hardware.
    """

    classifier: Classifier
    size_px: int
    stride_px: int
    vote: VoteConfig
    calibrator: Calibrator = NO_CALIBRATION
    conformal: Conformal = REFER_ALL
    domain: Domain = ANY_DOMAIN
    results: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    synthetic: bool = False
    corner_patches: bool = True
    precision: str = "auto"

    @property
    def corners(self) -> npt.NDArray[np.int64]:
        """The (top, left) corners of the patches that vote, row by row: `(n_patches, 2)`, pixels."""
        return grid_corners(self.size_px, self.stride_px, corner_patches=self.corner_patches)

    @property
    def system(self) -> str:
        """The system's name, such as `compact-model2`."""
        return self.classifier.architecture.system


def save_bundle(bundle: Bundle, folder: Path) -> None:
    """Write the weights and their description into `folder`."""
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        state = {
            name: value.detach().cpu().contiguous() for name, value in bundle.classifier.state_dict().items()
        }
        save_file(state, temporary, metadata={"format": "pt"})
    write_json(
        folder / DESCRIPTION_FILE,
        {
            "bundle_format": FORMAT,
            "architecture": bundle.classifier.architecture.model_dump(),
            "size_px": bundle.size_px,
            "stride_px": bundle.stride_px,
            "corner_patches": bundle.corner_patches,
            "precision": bundle.precision,
            "vote": bundle.vote.model_dump(),
            "calibrator": bundle.calibrator.to_dict(),
            "conformal": bundle.conformal.to_dict(),
            "domain": bundle.domain.to_dict(),
            "results": bundle.results,
            "synthetic": bundle.synthetic,
            "weights_sha256": sha256_of(folder / WEIGHTS_FILE),
            "provenance": bundle.provenance,
        },
    )


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle; the classifier is in evaluation mode on the CPU.

    Raises:
        DataError: a file is missing or unreadable, or the description lacks or breaks a value.
        WeightsError: the weights are damaged or do not fit the description.
    """
    description = read_json(folder / DESCRIPTION_FILE)
    found = description.get("bundle_format", 1) if isinstance(description, dict) else None
    if found != FORMAT:
        raise DataError(
            f"{folder / DESCRIPTION_FILE}: must be a bundle of format {FORMAT}, got {found}: another release wrote it; "
            "train again with `dvc repro`, and make the new version champion with `mammo promote VERSION`"
        )
    try:
        bundle, digest = _described(description), description["weights_sha256"]
    except (ConfigError, DataError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder / DESCRIPTION_FILE}: does not describe a bundle ({error!r}); restore it with `dvc checkout` or "
            "train again with `dvc repro`"
        ) from error
    path = folder / WEIGHTS_FILE
    if not path.is_file() or sha256_of(path) != digest:
        raise WeightsError(
            f"{path}: must be the file that {DESCRIPTION_FILE} describes (SHA-256 {digest}); "
            "restore it with `dvc checkout` or train again with `dvc repro`"
        )
    try:
        bundle.classifier.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: the weights do not fit {DESCRIPTION_FILE} ({error}); train again"
        ) from error
    return bundle


def _described(description: dict[str, Any]) -> Bundle:
    """The bundle of a description, with untrained weights."""
    grid = PatchesConfig(
        size_px=description["size_px"],
        stride_px=description["stride_px"],
        corner_patches=description.get("corner_patches", True),
        # The rest tells of training patches, which no bundle holds.
        tumor_draws=1,
        normal_draws=1,
        whole_roi=False,
        last_offset=True,
        seed=0,
    )
    return Bundle(
        classifier=Classifier(Architecture(**description["architecture"])).eval(),
        size_px=grid.size_px,
        stride_px=grid.stride_px,
        vote=VoteConfig(**description["vote"]),
        calibrator=Calibrator.from_dict(description["calibrator"]),
        conformal=Conformal.from_dict(description["conformal"]),
        domain=Domain.from_dict(description["domain"]),
        results=description["results"],
        provenance=description["provenance"],
        synthetic=description["synthetic"],
        corner_patches=grid.corner_patches,
        precision=TypeAdapter(Precision).validate_python(description.get("precision", "auto")),
    )
