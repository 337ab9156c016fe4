"""Data expectations (`rules`), checked by Great Expectations.

A check writes its Data Docs (pages that a person can read) first and raises afterwards, so that a failure can be
looked at. Nothing here touches the network.
"""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import great_expectations as gx
import pandas as pd
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations import Expectation

from mammo.core.errors import ExpectationError
from mammo.core.files import atomic_folder
from mammo.data import rules

N_EXAMPLES: Final = 3


def check(suites: rules.Suites, docs_dir: Path) -> dict[str, Any]:
    """Check the rules of each suite on its facts.

    Returns:
        The summary, ready for JSON: `n_expectations`, `n_warnings` and `expectations` by name.

    Raises:
        ExpectationError: a critical expectation failed; the Data Docs have been written to `docs_dir`, which
            they replace as a whole.
        DataError: `docs_dir` cannot be written.
    """
    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    entries: dict[str, dict[str, Any]] = {}
    failures: list[str] = []
    for title, (facts, expected) in suites.items():
        results = _results(context, title, facts, expected)
        for expectation in expected:
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
                rule = f"expectation {name} failed: {expectation.description}"
                failures.append(f"{rule}, got {got}; {expectation.notes}")
    with atomic_folder(docs_dir) as folder:
        _write_data_docs(context, folder)
    if failures:
        raise ExpectationError("\n".join([*failures, f"Data Docs: {docs_dir / 'index.html'}"]))
    n_warnings = sum(not entry["kept"] for entry in entries.values())
    return {"n_expectations": len(entries), "n_warnings": n_warnings, "expectations": entries}


def _results(context: Any, title: str, facts: pd.DataFrame, expected: list[Expectation]) -> dict[str, Any]:
    """Run a suite and return the results by the names of its expectations."""
    asset = context.data_sources.add_or_update_pandas(title).add_dataframe_asset(title)
    data = asset.add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(gx.ExpectationSuite(title, expectations=expected))
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=title, data=data, suite=suite))
    named = {"result_format": "SUMMARY", "unexpected_index_column_names": ["roi_id"]}
    checkpoint = gx.Checkpoint(name=title, validation_definitions=[definition], result_format=named)
    run = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": facts})
    (validation,) = run.run_results.values()
    return {result.expectation_config.meta["name"]: result for result in validation.results}


def _write_data_docs(context: Any, folder: Path) -> None:
    """Write the pages of all that the context has checked; it leaves nothing else behind."""
    store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder.resolve())}
    index = {"class_name": "DefaultSiteIndexBuilder"}
    site = {"class_name": "SiteBuilder", "store_backend": store, "site_index_builder": index}
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
    says_nothing = column == "roi_id" or getattr(expectation, "value_set", None) == [True]
    rows = (details.get("partial_unexpected_index_list") or [])[:N_EXAMPLES]
    examples = [f"{row['roi_id']}{'' if says_nothing else f' ({column} {row[column]})'}" for row in rows]
    return f"{details['unexpected_count']} of {details['element_count']} rows that break it", examples
