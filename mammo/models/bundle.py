"""A trained system on disk: safetensors weights and one JSON that says how to use them.

Nothing has to be remembered beside it.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mammo.core.config import Precision, VoteConfig
from mammo.core.errors import ConfigError, DataError, WeightsError
from mammo.core.files import DESCRIPTION_FILE, WEIGHTS_FILE, atomic_path, read_json, sha256_of, write_json
from mammo.core.records import MIN_PATCH_PX, ROI_SIDE_PX
from mammo.core.settings import Section
from mammo.data.patches import grid_corners
from mammo.evaluation.calibration import NO_CALIBRATION, Calibrator
from mammo.evaluation.conformal import REFER_ALL, Conformal
from mammo.evaluation.domain import ANY_DOMAIN, Domain
from mammo.evaluation.stacking import Stack
from mammo.models.build import Architecture, Network, empty_network

FORMAT: Final = 4
"""Format of the description. 3 had no road, no stack; 2 no domain; 1 no calibrator, no conformal limits, no number."""


@dataclass(frozen=True)
class Bundle:
    """A network in evaluation mode and everything that its decisions rest on.

    Attributes:
        size_px, stride_px: side of a patch, and step of the voting grid.
        vote: the decision rule; its `share_threshold` decides, wherever it came from.
        calibrator, conformal: mean patch score → probability of Tumor, prediction set; fitted on the validation part.
        stack: adds the floor's evidence to the patch scores; None in a system without it.
        domain: which pictures are like the ROIs of the training part.
        results: validation results of the chosen epoch.
        provenance: data, commit, seeds and versions that made the weights.
        synthetic: the training data were phantoms.
        corner_patches: the outer ring of the grid votes too.
        precision: at which patches are scored, as in `devices.autocast`: that of threshold and calibrator, on any
            device, however slow it is there without the hardware.
    """

    network: Network
    size_px: int
    stride_px: int
    vote: VoteConfig
    calibrator: Calibrator = NO_CALIBRATION
    conformal: Conformal = REFER_ALL
    stack: Stack | None = None
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
        return self.network.architecture.system


class _Description(Section):
    """The JSON of a bundle."""

    bundle_format: int
    architecture: Architecture
    size_px: Annotated[int, Field(ge=MIN_PATCH_PX, le=ROI_SIDE_PX)]
    stride_px: Annotated[int, Field(ge=1, le=ROI_SIDE_PX)]
    corner_patches: bool = True
    precision: Precision = "auto"
    vote: VoteConfig
    calibrator: Calibrator
    conformal: Conformal
    stack: Stack | None
    domain: Domain
    results: dict[str, Any]
    synthetic: bool
    weights_sha256: str
    provenance: dict[str, Any]


_SHARED: Final = [one.name for one in fields(Bundle) if one.name in _Description.model_fields]


def save_bundle(bundle: Bundle, folder: Path) -> None:
    """Write the weights and their description into `folder`."""
    state = bundle.network.state_dict()
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        plain = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        save_file(plain, temporary, metadata={"format": "pt"})
    description = _Description(
        bundle_format=FORMAT,
        architecture=bundle.network.architecture,
        weights_sha256=sha256_of(folder / WEIGHTS_FILE),
        **{name: getattr(bundle, name) for name in _SHARED},
    )
    write_json(folder / DESCRIPTION_FILE, description.model_dump())


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle; the network is in evaluation mode on the CPU.

    Raises:
        DataError: a file is missing or unreadable, or the description lacks or breaks a value.
        WeightsError: the weights are damaged or do not fit the description.
    """
    described = read_json(folder / DESCRIPTION_FILE)
    found = described.get("bundle_format", 1) if isinstance(described, dict) else None
    if found != FORMAT:
        raise DataError(
            f"{folder / DESCRIPTION_FILE}: must be a bundle of format {FORMAT}, got {found}: another release wrote it; "
            "train again with `dvc repro`, and make the new version champion with `mammo promote VERSION`"
        )
    try:
        description = _Description.model_validate(described)
        network = empty_network(description.architecture).eval()
    except (ConfigError, ValueError) as error:
        raise DataError(
            f"{folder / DESCRIPTION_FILE}: does not describe a bundle ({error}); restore it with `dvc checkout` or "
            "train again with `dvc repro`"
        ) from error
    path = folder / WEIGHTS_FILE
    if not path.is_file() or sha256_of(path) != description.weights_sha256:
        raise WeightsError(
            f"{path}: must be the file that {DESCRIPTION_FILE} describes (SHA-256 {description.weights_sha256}); "
            "restore it with `dvc checkout` or train again with `dvc repro`"
        )
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise WeightsError(f"{path}: the weights do not fit {DESCRIPTION_FILE} ({error}); train again") from error
    return Bundle(network, **{name: getattr(description, name) for name in _SHARED})
