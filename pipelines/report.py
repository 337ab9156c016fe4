"""Stage `report`: the page and the model card of the champion, its slices and its provenance."""

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace
from mammo.report.page import gather, write_model_card, write_page


def main() -> None:
    """Run the stage in the current folder."""
    workspace = Workspace()
    inputs = gather(workspace, Config.load(workspace.params))
    write_model_card(inputs)
    write_page(inputs)


if __name__ == "__main__":
    guarded(main)
