"""Stage `report`: the page and the model card of the champion, its slices and its provenance."""

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace
from mammo.report.model_card import write_model_card
from mammo.report.page import write_page
from mammo.report.report_inputs import gather


def main() -> None:
    """Run the stage in the current folder."""
    space = Workspace()
    inputs = gather(space, Config.load(space.params))
    write_model_card(inputs)
    write_page(inputs)


if __name__ == "__main__":
    guarded(main)
