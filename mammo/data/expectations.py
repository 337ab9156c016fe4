"""Data expectations, checked with Great Expectations; the only importer of that library.

A check writes its Data Docs (pages that a person can read) first and raises afterwards, so that a
failure can be looked at. Nothing here touches the network.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy.typing as npt
import pandas as pd

from mammo.core.errors import ExpectationError
from mammo.core.files import atomic_folder
from mammo.data.audit import Audit
from mammo.data.leakage_rules import YES_NO, leak_facts, leakage_rules, pair_facts
from mammo.data.rules import (
    IMAGE_RULES,
    PATCH_RULES,
    ROI_RULES,
    SPLIT_RULES,
    Rule,
    Severity,
    image_facts,
    patch_facts,
    roi_facts,
    split_facts,
)

N_EXAMPLES: Final = 3


@dataclass(frozen=True)
class _Suite:
    """Rules and the facts they are about."""

    name: str
    rules: tuple[Rule, ...]
    facts: pd.DataFrame


@dataclass(frozen=True)
class _Finding:
    """What became of one rule."""

    rule: Rule
    kept: bool
    observed: str
    examples: list[str]


def check_rois(table: pd.DataFrame, images: npt.NDArray[Any], docs_dir: Path) -> dict[str, Any]:
    """Check the ROI table and its images.

    Args:
        table: the ROI table (`ROI_SCHEMA`).
        images: `(n, h, w)` in its order.
        docs_dir: folder for the Data Docs; replaced as a whole.

    Returns:
        The summary, ready for JSON: `n_expectations`, `n_warnings` and `expectations` by name.

    Raises:
        ExpectationError: a critical expectation failed; the Data Docs have been written.
        DataError: the images do not fit the table, or `docs_dir` cannot be written.
    """
    suites = [
        _Suite("rois", ROI_RULES, roi_facts(table, images)),
        _Suite("images", IMAGE_RULES, image_facts(table, images)),
    ]
    return _check(suites, docs_dir)


def check_patches(
    patches: Mapping[str, pd.DataFrame], rois: pd.DataFrame, split: pd.DataFrame, docs_dir: Path
) -> dict[str, Any]:
    """Check the patch sets of all parts against the ROIs and the split.

    Args:
        patches: part → patch set (`PATCH_SCHEMA`).
        rois: the ROI table (`ROI_SCHEMA`).
        split: the split (`SPLIT_SCHEMA`).
        docs_dir: folder for the Data Docs; replaced as a whole.

    Returns:
        As `check_rois`.

    Raises:
        ExpectationError: a critical expectation failed; the Data Docs have been written.
        DataError: `docs_dir` cannot be written.
    """
    suites = [
        _Suite("patches", PATCH_RULES, patch_facts(patches, rois, split)),
        _Suite("split", SPLIT_RULES, split_facts(patches, rois, split)),
    ]
    return _check(suites, docs_dir)


def check_leakage(audit: Audit, protocol: str, docs_dir: Path) -> dict[str, Any]:
    """Check what the parts of a split share.

    Args:
        audit: pairs, ROIs and split.
        protocol: `split.protocol`; what the published split is known to break is a warning there.
        docs_dir: folder for the Data Docs; replaced as a whole.

    Returns:
        As `check_rois`.

    Raises:
        ExpectationError: a critical expectation failed; the Data Docs have been written.
        DataError: `docs_dir` cannot be written.
    """
    of_pairs, of_rois = leakage_rules(protocol)
    suites = [_Suite("pairs", of_pairs, pair_facts(audit)), _Suite("leaks", of_rois, leak_facts(audit))]
    return _check(suites, docs_dir)


def _check(suites: list[_Suite], docs_dir: Path) -> dict[str, Any]:
    with _quiet(), atomic_folder(docs_dir) as folder:
        findings = _validate(suites, folder)
    broken = [finding for finding in findings if not finding.kept]
    critical = [finding for finding in broken if finding.rule.severity == "critical"]
    if critical:
        raise ExpectationError(_message(critical, docs_dir))
    return {
        "n_expectations": len(findings),
        "n_warnings": len(broken),
        "expectations": {finding.rule.name: _entry(finding) for finding in findings},
    }


def _entry(finding: _Finding) -> dict[str, Any]:
    severity: Severity = finding.rule.severity
    return {
        "rule": finding.rule.text,
        "severity": severity,
        "kept": finding.kept,
        "observed": finding.observed,
        "examples": finding.examples,
    }


def _message(findings: Iterable[_Finding], docs_dir: Path) -> str:
    lines = []
    for finding in findings:
        examples = f", for example {'; '.join(finding.examples)}" if finding.examples else ""
        rule = finding.rule
        lines.append(
            f"expectation {rule.name} failed: {rule.text}, got {finding.observed}{examples}; {rule.remedy}"
        )
    return "\n".join([*lines, f"Data Docs: {docs_dir / 'index.html'}"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Great Expectations warns about its own code away from our users, and let a full disk stop it."""
    logger = logging.getLogger("great_expectations.render.renderer.site_builder")
    logger.addFilter(_raise_write_error)
    with warnings.catch_warnings():
        # It imports modules of the standard library that are going away.
        warnings.filterwarnings(
            "ignore",
            message="module 'sre_(constants|parse|compile)' is deprecated",
            category=DeprecationWarning,
        )
        try:
            yield
        finally:
            logger.removeFilter(_raise_write_error)


def _raise_write_error(_record: logging.LogRecord) -> bool:
    """Raise the error of a page that could not be written, where the library would log it and go on."""
    error = sys.exc_info()[1]
    if isinstance(error, OSError):
        raise error
    return True


def _library() -> ModuleType:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # Read when the library is imported.
    import great_expectations

    module: ModuleType = great_expectations
    return module


def _validate(suites: list[_Suite], folder: Path) -> list[_Finding]:
    """Run each suite on its facts and write the Data Docs into `folder`."""
    library = _library()
    context = _context(library, folder)
    tables = context.data_sources.add_pandas("tables")
    findings = []
    for suite in suites:
        expected = library.ExpectationSuite(
            suite.name, expectations=[_expectation(library, rule) for rule in suite.rules]
        )
        batch = tables.add_dataframe_asset(suite.name).add_batch_definition_whole_dataframe("all")
        definition = library.ValidationDefinition(
            name=suite.name, data=batch, suite=context.suites.add(expected)
        )
        checkpoint = library.Checkpoint(
            name=suite.name,
            validation_definitions=[context.validation_definitions.add(definition)],
            result_format={"result_format": "SUMMARY", "unexpected_index_column_names": ["roi_id"]},
        )
        run = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": suite.facts})
        (validation,) = run.run_results.values()
        results = {result.expectation_config.meta["name"]: result for result in validation.results}
        findings += [_finding(rule, results[rule.name]) for rule in suite.rules]
    context.build_data_docs(site_names=["docs"])
    return findings


def _context(library: ModuleType, folder: Path) -> Any:
    """A context that leaves nothing behind but the pages in `folder`."""
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = library.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    context.add_data_docs_site(
        "docs",
        {
            "class_name": "SiteBuilder",
            "store_backend": {
                "class_name": "TupleFilesystemStoreBackend",
                "base_directory": str(folder.resolve()),
            },
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        },
    )
    return context


def _expectation(library: ModuleType, rule: Rule) -> Any:
    kind = getattr(library.expectations, rule.expectation)
    return kind(
        **rule.arguments,
        severity=rule.severity,
        description=rule.text,
        notes=rule.remedy,
        meta={"name": rule.name},
    )


def _finding(rule: Rule, result: Any) -> _Finding:
    details = result.result
    if "unexpected_count" in details:
        observed = f"{details['unexpected_count']} of {details['element_count']} rows that break it"
        rows = details.get("partial_unexpected_index_list") or []
        column = rule.arguments["column"]
        examples = [_example(row, column) for row in rows[:N_EXAMPLES]]
        return _Finding(rule, bool(result.success), observed, examples)
    observed = (
        str(details["observed_value"]) if "observed_value" in details else "facts that cannot be checked"
    )
    return _Finding(rule, bool(result.success), observed, [])


def _example(row: Mapping[str, Any], column: str) -> str:
    roi_id = str(row["roi_id"])
    return roi_id if column in ("roi_id", *_YES_NO) else f"{roi_id} ({column} {row[column]})"


_YES_NO: Final = YES_NO | frozenset(
    rule.name
    for rules in (ROI_RULES, IMAGE_RULES, PATCH_RULES, SPLIT_RULES)
    for rule in rules
    if rule.arguments.get("value_set") == [True]
)
