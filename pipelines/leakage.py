"""Stage `leakage`: the audit's pairs under the split in use → tables, counts, pictures, and its expectations."""

from mammo.config import Config
from mammo.data.expectations import check_leakage
from mammo.data.leakage import read_audit
from mammo.entry import guarded
from mammo.layout import Workspace
from mammo.reporting.audit import write_audit
from mammo.storage import write_json


def main() -> None:
    """Run the stage in the current folder."""
    space = Workspace()
    protocol = Config.load(space.params).split.protocol
    audit = read_audit(space)
    write_audit(space, audit, protocol)
    folder = space.reports / "expectations"
    write_json(folder / "leakage.json", check_leakage(audit, protocol, folder / "leakage"))


if __name__ == "__main__":
    guarded(main)
