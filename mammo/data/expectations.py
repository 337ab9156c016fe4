"""Data expectations, run by Great Expectations.

A check writes its Data Docs (pages that a person can read) first and raises afterwards, so that a
failure can be looked at. Nothing here touches the network.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import great_expectations as gx
import numpy.typing as npt
import pandas as pd
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations import Expectation

from mammo.core.errors import ExpectationError
from mammo.core.files import atomic_folder
from mammo.data import rules
from mammo.data.audit import Audit

N_EXAMPLES: Final = 3


def check_rois(table: pd.DataFrame, images: npt.NDArray[Any], docs_dir: Path) -> dict[str, Any]:
    """Check the ROI table (`ROI_SCHEMA`) and its images, `(n, h, w)` in its order.

    Returns:
        The summary, ready for JSON: `n_expectations`, `n_warnings` and `expectations` by name.

    Raises:
        ExpectationError: a critical expectation failed; the Data Docs have been written to `docs_dir`, which
            they replace as a whole.
        DataError: `docs_dir` cannot be written.
    """
    of_rois, of_images = rules.roi_facts(table, images), rules.image_facts(table, images)
    return _check([(rules.roi_suite(), of_rois), (rules.image_suite(), of_images)], docs_dir)


def check_patches(
    patches: Mapping[str, pd.DataFrame], rois: pd.DataFrame, split: pd.DataFrame, docs_dir: Path
) -> dict[str, Any]:
    """Check the patch sets of all parts (`PATCH_SCHEMA`) against the ROI table and the split, as `check_rois` does."""
    of_patches, of_rois = rules.patch_facts(patches, rois, split), rules.split_facts(patches, rois, split)
    return _check([(rules.patch_suite(), of_patches), (rules.split_suite(), of_rois)], docs_dir)


def check_leakage(audit: Audit, protocol: str, docs_dir: Path) -> dict[str, Any]:
    """Check what the parts of a split share, as `check_rois` does.

    `protocol` is that of the split: what `published` is known to break is a warning there.
    """
    of_pairs, of_rois = rules.leakage_suites(protocol)
    return _check([(of_pairs, rules.pair_facts(audit)), (of_rois, rules.leak_facts(audit))], docs_dir)


def check_served(
    served: pd.DataFrame, bounds: Mapping[str, tuple[float, float]], docs_dir: Path
) -> dict[str, Any]:
    """Check answers of the service (`roi_id`, `in_domain`, a column for each of the bounds), as `check_rois` does.

    Nothing of them is critical.
    """
    return _check([(rules.served_suite(bounds), served)], docs_dir)


def _check(suites: Sequence[tuple[gx.ExpectationSuite, pd.DataFrame]], docs_dir: Path) -> dict[str, Any]:
    """Run each suite on its facts; see `check_rois`."""
    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    entries: dict[str, dict[str, Any]] = {}
    failures: list[str] = []
    for suite, facts in suites:
        results = _results(context, suite, facts)
        for expectation in suite.expectations:
            name, severity = expectation.meta["name"], str(expectation.severity.value)
            observed, examples = _observed(expectation, results[name].result)
            entries[name] = {
                "rule": expectation.description,
                "severity": severity,
                "kept": bool(results[name].success),
                "observed": observed,
                "examples": examples,
            }
            if severity == "critical" and not results[name].success:
                got = f"{observed}, for example {'; '.join(examples)}" if examples else observed
                failures.append(
                    f"expectation {name} failed: {expectation.description}, got {got}; {expectation.notes}"
                )
    with atomic_folder(docs_dir) as folder:
        _write_data_docs(context, folder)
    if failures:
        raise ExpectationError("\n".join([*failures, f"Data Docs: {docs_dir / 'index.html'}"]))
    return {
        "n_expectations": len(entries),
        "n_warnings": sum(not entry["kept"] for entry in entries.values()),
        "expectations": entries,
    }


def _results(context: Any, suite: gx.ExpectationSuite, facts: pd.DataFrame) -> dict[str, Any]:
    """Run a suite and return the results by the names of its expectations."""
    asset = context.data_sources.add_or_update_pandas(suite.name).add_dataframe_asset(suite.name)
    data = asset.add_batch_definition_whole_dataframe("all")
    definition = gx.ValidationDefinition(name=suite.name, data=data, suite=context.suites.add(suite))
    checkpoint = gx.Checkpoint(
        name=suite.name,
        validation_definitions=[context.validation_definitions.add(definition)],
        result_format={"result_format": "SUMMARY", "unexpected_index_column_names": ["roi_id"]},
    )
    run = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": facts})
    (validation,) = run.run_results.values()
    return {result.expectation_config.meta["name"]: result for result in validation.results}


def _write_data_docs(context: Any, folder: Path) -> None:
    """Write the pages of all that the context has checked; it leaves nothing else behind."""
    site = {
        "class_name": "SiteBuilder",
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(folder.resolve()),
        },
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }
    context.add_data_docs_site("docs", site)
    logger = logging.getLogger("great_expectations.render.renderer.site_builder")
    logger.addFilter(_raise_write_error)
    try:
        context.build_data_docs(site_names=["docs"])
    finally:
        logger.removeFilter(_raise_write_error)


def _raise_write_error(_record: logging.LogRecord) -> bool:
    """Raise the error of a page that could not be written, as on a full disk; the library logs it and goes on."""
    error = sys.exc_info()[1]
    if isinstance(error, OSError):
        raise error
    return True


def _observed(expectation: Expectation, details: Mapping[str, Any]) -> tuple[str, list[str]]:
    """What a result says of the facts, and up to three ROIs that break the expectation."""
    if "unexpected_count" not in details:
        return str(details.get("observed_value", "facts that cannot be checked")), []
    column = expectation.column
    examples = []
    for row in (details.get("partial_unexpected_index_list") or [])[:N_EXAMPLES]:
        shown = "" if column == "roi_id" or rules.is_yes_no(expectation) else f" ({column} {row[column]})"
        examples.append(f"{row['roi_id']}{shown}")
    return f"{details['unexpected_count']} of {details['element_count']} rows that break it", examples
