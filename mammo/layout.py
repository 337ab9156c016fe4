"""Where things lie in a workspace: the project's root, or any folder with a `params.yaml` of its own."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    """The folders and files of one workspace."""

    root: Path = Path()

    @property
    def params(self) -> Path:
        """The settings."""
        return self.root / "params.yaml"

    @property
    def rois(self) -> Path:
        """Folder of the ROI table and images."""
        return self.root / "data" / "rois"

    @property
    def overlaps(self) -> Path:
        """Pairs of ROIs that share tissue."""
        return self.root / "data" / "audit" / "overlaps.parquet"

    @property
    def located(self) -> Path:
        """Where the archive's ROIs were found in the films; only there after `mammo locate`."""
        return self.root / "data" / "located" / "located.parquet"

    @property
    def split(self) -> Path:
        """Which part each ROI belongs to."""
        return self.root / "data" / "splits" / "split.parquet"

    def patches(self, part: str) -> Path:
        """The patch set of a part."""
        return self.root / "data" / "patches" / f"{part}.parquet"

    def bundle(self, system: str) -> Path:
        """Folder of a trained system."""
        return self.root / "models" / system

    def run_note(self, system: str) -> Path:
        """Which MLflow run made the bundle; beside the bundle, not versioned with it."""
        return self.root / "models" / f"{system}.run.json"

    def checkpoint(self, system: str) -> Path:
        """State of an unfinished fit. Outside the bundle: DVC empties a stage's outputs before it runs."""
        return self.root / "models" / ".unfinished" / f"{system}.safetensors"

    @property
    def fits(self) -> Path:
        """Cache of the fits of seeds, ledger, ablation and studies."""
        return self.root / ".cache" / "fits"

    @property
    def reports(self) -> Path:
        """What people read."""
        return self.root / "reports"

    @property
    def mlruns(self) -> Path:
        """MLflow's database and artifacts."""
        return self.root / "mlruns"
