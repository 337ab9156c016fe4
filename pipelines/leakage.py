"""Stage `leakage`: the audit's pairs under the split in use → tables, counts, pictures, and its expectations."""

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace, write_json
from mammo.data.audit import read_audit
from mammo.data.expectations import check
from mammo.data.rules import of_leakage
from mammo.report.audit import write_audit


def main() -> None:
    """Run the stage in the current folder."""
    workspace = Workspace()
    protocol = Config.load(workspace.params).split.protocol
    audit = read_audit(workspace)
    folder = workspace.reports / "expectations"
    write_json(folder / "leakage.json", check(of_leakage(audit, protocol), folder / "leakage"))
    write_audit(workspace, audit, protocol)


if __name__ == "__main__":
    guarded(main)
