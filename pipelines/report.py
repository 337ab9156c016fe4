"""Stage `report`: the model card of the champion."""

from mammo.entry import guarded
from mammo.layout import Workspace
from mammo.reporting.model_card import write_model_card


def main() -> None:
    """Run the stage in the current folder."""
    write_model_card(Workspace())


if __name__ == "__main__":
    guarded(main)
