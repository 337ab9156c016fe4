"""One registered version at its work: grey levels in, rows out. Every road answers with it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mammo.core.files import DESCRIPTION_FILE, read_json
from mammo.data.decode import PHANTOM_ROI, GreyImage, read_roi
from mammo.models.bundle import load_bundle
from mammo.systems.devices import choose_device
from mammo.systems.score import RoiScorer


@dataclass(frozen=True)
class RoiVoter:
    """A bundle, under the name and version that it is registered as."""

    scorer: RoiScorer
    model_name: str
    model_version: str
    weights_sha256: str

    @classmethod
    def load(cls, bundle: Path, model_name: str, model_version: str) -> "RoiVoter":
        """Load a bundle's folder onto the GPU where there is one.

        Raises:
            DataError, WeightsError: the bundle is damaged.
        """
        scorer = RoiScorer.on(load_bundle(bundle), choose_device("auto"))
        weights = str(read_json(bundle / DESCRIPTION_FILE)["weights_sha256"])
        return cls(scorer, model_name, model_version, weights)

    def rows(self, images: npt.NDArray[np.uint8]) -> list[dict[str, Any]]:
        """uint8 ROIs `(n, 120, 120)` → the answer about each, with its patch scores."""
        return [
            vote.row(self.model_name, self.model_version)
            | {"prediction_id": self._name(image), "patch_scores": list(vote.patch_scores)}
            for image, vote in zip(images, self.scorer.votes(images), strict=True)
        ]

    def _name(self, image: GreyImage) -> str:
        """The same for the same pixels and the same version, wherever it votes: `mammo trace` takes it apart."""
        pixels = hashlib.sha256(image.tobytes()).hexdigest()
        return f"v{self.model_version}.{self.weights_sha256[:8]}.{pixels[:16]}"

    def reference(self) -> dict[str, Any]:
        """The answer about the reference ROI."""
        return self.rows(read_roi(PHANTOM_ROI)[None])[0]
