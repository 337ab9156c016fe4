"""Stage `validate`: expectations of the ROI table and the images; a critical failure stops the pipeline."""

from mammo.core.errors import guarded
from mammo.core.files import Workspace, write_json
from mammo.data.expectations import check
from mammo.data.rois import read_rois
from mammo.data.rules import of_rois


def main() -> None:
    """Run the stage in the current folder."""
    workspace = Workspace()
    rois = read_rois(workspace.rois)
    folder = workspace.reports / "expectations"
    write_json(folder / "rois.json", check(of_rois(rois.table, rois.images), folder / "rois"))


if __name__ == "__main__":
    guarded(main)
