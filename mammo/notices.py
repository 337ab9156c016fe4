"""What stands wherever results are shown."""

from typing import Final

NOTICE: Final = "Research software, no medical device."
PHANTOM: Final = "PHANTOM (synthetic)"


def data_name(synthetic: bool) -> str:
    """What people call the films that ROIs were cut from."""
    return PHANTOM if synthetic else "MIAS"
