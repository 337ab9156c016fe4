"""Which system is the best, by validation alone."""

from collections.abc import Mapping
from typing import Any

from mammo.core.config import Config
from mammo.core.files import Workspace, read_json


def best_system(results: Mapping[str, Mapping[str, Any]], by: str) -> str:
    """The system with the lowest `val_loss` or the highest `val_auc` on validation; the earlier one wins a tie."""
    sign = 1 if by == "val_loss" else -1
    return min(results, key=lambda system: sign * float(results[system][by]))


def chosen(workspace: Workspace, config: Config) -> dict[str, Any]:
    """The system with the best validation result, for `reports/champion.json`: the same in every clone."""
    results = {system: read_json(workspace.reports / "train" / f"{system}.json") for system in config.systems}
    by = config.register_.select_by
    system = best_system(results, by)
    return {
        "model_name": config.register_.model_name,
        "system": system,
        "chosen_by": by,
        "value": results[system][by],
        "weights_sha256": read_json(workspace.description(system))["weights_sha256"],
    }
