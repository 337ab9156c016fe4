"""Who trains, who validates, who tests.

`published` repeats the folders of Yu et al. 2020; `grouped_cv` is repeated, stratified K-fold
cross-validation in which no group (patient, or ROIs that share tissue) is in two parts.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from mammo.config import SplitConfig
from mammo.errors import DataError
from mammo.records import SPLIT_SCHEMA, SPLITS, Label, conform


def make_split(table: pd.DataFrame, groups: Sequence[str], config: SplitConfig) -> pd.DataFrame:
    """Assign each ROI to train, val or test (`SPLIT_SCHEMA`, in the order of the table).

    `grouped_cv`: fold `config.fold` of repeat `config.repeat` tests, the next fold validates, the rest
    trains. The assignment of a ROI does not depend on the order of the rows. `config.keep_groups: false` moves
    the second ROI of each group one fold on, the third two; the others stay, and the table still names the groups.

    Args:
        table: ROI table; `roi_id`, `label` and, for `published`, `published_split` are read.
        groups: the group id of each row, see `audit.groups_from_overlaps`.
        config: protocol, folds, repeats, seed.

    Raises:
        DataError: a ROI has no published folder; there are fewer groups of a class than folds; the
            groups are so unequal that a part would lack a class.
    """
    if len(groups) != len(table):
        raise DataError(
            f"split: each ROI needs a group, got {len(groups)} groups for {len(table)} ROIs; audit again"
        )
    parts = _published(table) if config.protocol == "published" else _grouped(table, groups, config)
    rows = pd.DataFrame({"roi_id": table["roi_id"].to_numpy(), "group_id": list(groups), "split": parts})
    return conform(rows, SPLIT_SCHEMA, "split")


def all_splits(
    table: pd.DataFrame, groups: Sequence[str], config: SplitConfig
) -> Iterator[tuple[int, int, pd.DataFrame]]:
    """Yield repeat, fold and split for each fold of each repeat; `published` has one split, (0, 0)."""
    if config.protocol == "published":
        yield 0, 0, make_split(table, groups, config)
        return
    for repeat in range(config.n_repeats):
        for fold in range(config.n_folds):
            chosen = config.model_copy(update={"repeat": repeat, "fold": fold})
            yield repeat, fold, make_split(table, groups, chosen)


def _published(table: pd.DataFrame) -> npt.NDArray[np.object_]:
    published = table["published_split"]
    wrong = table.loc[~published.isin(SPLITS), "roi_id"]
    if len(wrong):
        raise DataError(
            f"split: protocol published needs a published folder ({', '.join(SPLITS)}) for every ROI, but "
            f"{len(wrong)} have none, for example {wrong.iloc[0]!r}; use split.protocol grouped_cv"
        )
    return published.to_numpy(dtype=object)


def _grouped(table: pd.DataFrame, groups: Sequence[str], config: SplitConfig) -> npt.NDArray[np.object_]:
    order = np.argsort(table["roi_id"].to_numpy(dtype=str), kind="stable")
    labels = table["label"].to_numpy(dtype=np.int64)[order]
    group_ids = np.asarray(groups, dtype=str)[order]
    for label in Label:
        n_groups = len(set(group_ids[labels == label]))
        if n_groups < config.n_folds:
            raise DataError(
                f"split: every fold needs a group of each class, but {label.title} has {n_groups} groups for "
                f"split.n_folds {config.n_folds}; lower n_folds or add data"
            )
    folds = _folds(labels, group_ids, config)
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


def _folds(
    labels: npt.NDArray[np.int64], group_ids: npt.NDArray[np.str_], config: SplitConfig
) -> npt.NDArray[np.int64]:
    """The fold of each ROI, shuffled by seed and repeat."""
    from sklearn.model_selection import StratifiedGroupKFold

    seed = int(np.random.SeedSequence([config.seed, config.repeat]).generate_state(1)[0])
    splitter = StratifiedGroupKFold(config.n_folds, shuffle=True, random_state=seed)
    folds = np.empty(len(labels), dtype=np.int64)
    for fold, (_, tested) in enumerate(splitter.split(labels, labels, group_ids)):
        folds[tested] = fold
    return folds
