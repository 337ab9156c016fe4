"""Parts of the ROIs: the published split, grouped folds, and the folds of the studies."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import pandas as pd

from mammo.core.config import SplitConfig
from mammo.core.errors import DataError
from mammo.core.files import Workspace, read_table
from mammo.core.records import SPLIT_SCHEMA, SPLITS, Label, conform
from mammo.core.tune_config import GridConfig
from mammo.data.rois import Rois, read_rois


def make_split(table: pd.DataFrame, groups: Sequence[str], config: SplitConfig) -> pd.DataFrame:
    """Assign each ROI to train, val or test (`SPLIT_SCHEMA`, in the order of the table).

    `grouped_cv`: fold `config.fold` of repeat `config.repeat` tests, the next fold validates, the rest
    trains. The assignment of a ROI does not depend on the order of the rows. `config.keep_groups: false` moves
    the second ROI of each group one fold on, the third two; the others stay, and the table still names the groups.

    Args:
        table: ROI table; `roi_id`, `label` and, for `published`, `published_split` are read.
        groups: the group id of each row, see `audit.group_ids`.
        config: protocol, folds, repeats, seed.

    Raises:
        DataError: a ROI has no published folder; there are fewer groups of a class than folds; the
            groups are so unequal that a part would lack a class.
    """
    parts = _published(table) if config.protocol == "published" else _grouped(table, groups, config)
    return _in_parts(table, groups, parts)


def _in_parts(table: pd.DataFrame, groups: Sequence[str], parts: npt.NDArray[np.object_]) -> pd.DataFrame:
    rows = table[["roi_id", "patient_id"]].assign(group_id=list(groups), split=parts)
    return conform(rows, SPLIT_SCHEMA, "split")


def _published(table: pd.DataFrame) -> npt.NDArray[np.object_]:
    published = table["published_split"]
    wrong = table.loc[~published.isin(SPLITS), "roi_id"]
    if len(wrong):
        raise DataError(
            f"split: protocol published needs a published folder ({', '.join(SPLITS)}) for every ROI, but "
            f"{len(wrong)} have none, for example {wrong.iloc[0]!r}; use split.protocol grouped_cv"
        )
    return published.to_numpy(dtype=object)


def require_groups(labels: npt.NDArray[np.int64], groups: npt.NDArray[np.str_], n_folds: int) -> None:
    """Refuse `(n,)` labels and groups of which a fold would get no group (a patient, or a ROI alone) of a class.

    Raises:
        DataError: a class has fewer groups than folds.
    """
    for label in Label:
        n_groups = len(set(groups[labels == label]))
        if n_groups < n_folds:
            raise DataError(
                f"split: every fold needs a group (a patient, or a ROI alone) of each class, but {label.title} has "
                f"{n_groups} for split.n_folds {n_folds}; lower n_folds or add data"
            )


def _grouped(table: pd.DataFrame, groups: Sequence[str], config: SplitConfig) -> npt.NDArray[np.object_]:
    from sklearn.model_selection import StratifiedGroupKFold

    order = np.argsort(table["roi_id"].to_numpy(dtype=str), kind="stable")
    labels = table["label"].to_numpy(dtype=np.int64)[order]
    group_ids = np.asarray(groups, dtype=str)[order]
    require_groups(labels, group_ids, config.n_folds)
    seed = int(np.random.SeedSequence([config.seed, config.repeat]).generate_state(1)[0])
    splitter = StratifiedGroupKFold(config.n_folds, shuffle=True, random_state=seed)
    folds = np.empty(len(labels), dtype=np.int64)
    for fold, (_, tested) in enumerate(splitter.split(labels, labels, group_ids)):
        folds[tested] = fold
    if not config.keep_groups:
        folds = (folds + pd.Series(group_ids).groupby(group_ids).cumcount().to_numpy()) % config.n_folds
    in_order = np.full(len(folds), "train", dtype=object)
    in_order[folds == (config.fold + 1) % config.n_folds] = "val"
    in_order[folds == config.fold] = "test"
    for part in SPLITS:
        missing = [label.title for label in Label if label not in labels[in_order == part]]
        if missing:
            raise DataError(
                f"split: {part} of repeat {config.repeat}, fold {config.fold} would hold no {missing[0]} ROI, "
                f"because groups are too unequal for {config.n_folds} folds; lower split.n_folds or change split.seed"
            )
    parts = np.empty_like(in_order)
    parts[order] = in_order
    return parts


@dataclass(frozen=True)
class Fold:
    """ROIs in parts: the test part is held out, the validation part chooses."""

    repeat: int
    fold: int
    rois: Rois


def read_parts(workspace: Workspace) -> Rois:
    """All ROIs of a workspace, in the groups and parts of the stage `split`; `DataError` where it has not run."""
    rois = read_rois(workspace.rois)
    return rois.with_split(conform(read_table(workspace.split), SPLIT_SCHEMA, str(workspace.split)))


def development_rois(workspace: Workspace) -> Rois:
    """The ROIs of train and val alone, by which settings may be chosen; `DataError` as `read_parts`."""
    rois = read_parts(workspace)
    return rois.only((rois.table["split"] != "test").to_numpy(dtype=bool))


def has_published(rois: Rois) -> bool:
    """Whether every ROI has a published folder."""
    return bool(rois.table["published_split"].isin(SPLITS).all())


def published_folds(rois: Rois) -> list[Fold]:
    """The published folders as a single fold; `DataError` where a ROI has none."""
    parts = _in_parts(rois.table, list(rois.groups), _published(rois.table))
    return [Fold(0, 0, rois.with_split(parts))]


def grouped_folds(rois: Rois, grid: GridConfig, keep_groups: bool = True) -> list[Fold]:
    """Every fold of every repeat: each ROI is held out once a repeat.

    Raises:
        DataError: there are fewer groups of a class than folds.
    """
    shared = grid.model_dump(include={"n_folds", "n_repeats", "seed"}) | {"keep_groups": keep_groups}
    folds = []
    for repeat, fold in product(range(grid.n_repeats), range(grid.n_folds)):
        config = SplitConfig(protocol="grouped_cv", repeat=repeat, fold=fold, **shared)
        folds.append(Fold(repeat, fold, rois.with_split(make_split(rois.table, list(rois.groups), config))))
    return folds


def rois_of_known_groups(folds: Sequence[Fold]) -> list[str]:
    """Held-out ROIs of whose group some ROIs train or validate: their tissue is known to the system."""
    flagged: set[str] = set()
    for fold in folds:
        held_out, rest = (fold.rois.table.query(f"split {test} 'test'") for test in ("==", "!="))
        flagged |= set(held_out.loc[held_out["group_id"].isin(rest["group_id"]), "roi_id"])
    return sorted(flagged)
