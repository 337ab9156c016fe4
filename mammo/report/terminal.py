"""What the commands print: tables that fit a terminal of 80 columns."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from shlex import quote
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from mammo.core.errors import NOTICE
from mammo.report.blocks import Cell, SourceFile, Table, counted, plain, shown
from mammo.report.results import RESULTS_FILE, systems_table

if TYPE_CHECKING:
    from pathlib import Path

    from mammo.core.files import Workspace
    from mammo.data.own import Problem
    from mammo.doctor import Finding
    from mammo.promotion.monitoring import Agreement, Drift
    from mammo.promotion.moves import Verdict
    from mammo.promotion.trace import Compared, Trace
    from mammo.track.history import Entry
    from mammo.track.registry import Version

_WHOLE: Final = 16
"""Letters of a word that no column breaks."""
_NARROW: Final = 60
"""Columns of a terminal below which a table would lose letters."""
_STYLES: Final = {"ok": "green", "note": "yellow", "error": "red", "failed": "red"}


@dataclass(frozen=True)
class Fitting:
    """A table, or in a terminal too narrow for its columns a line for each cell."""

    table: RichTable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width >= _NARROW:
            yield self.table
            return
        if self.table.title:
            yield self.table.title
        cells = [list(column.cells) for column in self.table.columns]
        for row in zip(*cells, strict=True):
            yield ""
            for column, cell in zip(self.table.columns, row, strict=True):
                yield Text(f"{column.header}: {cell}")
        yield Text(f"\n{self.table.caption}", "dim")


def rich_table(table: Table, title: str = "") -> Fitting:
    """A table without vertical lines, whose columns keep their words whole as far as 80 columns allow."""
    caption, heading = f"{table.caption} {NOTICE}".strip(), Text(title) if title else None
    made = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=heading, caption=caption)
    for name, *cells in zip(table.headings, *table.rows, strict=True):
        longest = max((len(word) for cell in (name, *cells) for word in plain(cell).split()), default=1)
        made.add_column(name, overflow="fold", min_width=min(longest, _WHOLE))
    for row in table.rows:
        bold = ("bold" if isinstance(part, Cell) and part.strong else "" for part in row)
        made.add_row(*(Text(plain(part), _STYLES.get(plain(part), look)) for part, look in zip(row, bold, strict=True)))
    return Fitting(made)


def results_table(results: dict[str, Any]) -> Fitting:
    """The test results of one evaluation."""
    metrics = ("accuracy", "recall", "specificity", "auc_score")
    judged = systems_table(SourceFile(RESULTS_FILE, results), metrics)
    headings = ("system", "accuracy", "Tumor recall", "specificity", "AUC")
    rows = [(row[0], *row[-len(metrics) :]) for row in judged.rows]
    caption = "Bold: chosen on the validation part alone."
    return rich_table(Table(caption, headings, rows), results["data"]["note"])


def votes_table(rows: list[dict[str, Any]]) -> Group:
    """One row for each file of `mammo predict`; one model answers them all."""
    first = rows[0]
    caption = (
        "votes and score: patches that voted Tumor, mean patch score; probability: of Tumor, calibrated. Where both "
        "classes are open: refer to a reader."
    )
    lines = [
        (
            " at ".join([row["file"], *(["{:g},{:g}".format(*row["at"])] if "at" in row else [])]),
            row["label"],
            f"{sum(row['votes'])} of {len(row['votes'])} ({row['vote_share']:.2f})",
            f"{row['score']:.3f}",
            f"{row['probability']:.2f}",
            " or ".join(row["prediction_set"]) + (": refer to reader" if row["referral"] else ""),
        )
        for row in rows
    ]
    headings = ("file", "label", "votes", "score", "probability", "open classes")
    model = f"{first['model_name']} v{first['model_version']}, threshold {first['threshold']:.2f}"
    strange = [
        Text(
            f"{row['file']}: refer to a reader, it {row['domain_reason']}",
            "yellow",
            no_wrap=True,
            overflow="ignore",
        )
        for row in rows
        if not row["in_domain"]
    ]
    return Group(rich_table(Table(caption, headings, lines), model), *strange)


def runs_table(rows: list[dict[str, Any]]) -> Group:
    """The runs side by side, one table for each experiment: test results with intervals, and what was set anew."""
    if not rows:
        return Group("no runs yet: `dvc repro` makes them")
    before: dict[tuple[str, str], dict[str, str]] = {}
    lines: dict[str, list[tuple[str, ...]]] = {}
    for row in reversed(rows):
        state = "" if row["status"] == "FINISHED" else f" {row['status'].lower()}"
        older = before.get((row["experiment"], row["system"]))
        changes = () if older is None else row["params"].items() - older.items()
        anew = "first" if older is None else ", ".join(map("=".join, sorted(changes))) or "nothing"
        before[row["experiment"], row["system"]] = row["params"]
        line = (f"{row['started']:%m-%d %H:%M}{state}", row["system"], row["result"], anew)
        lines.setdefault(row["experiment"], []).insert(0, line)
    headings = ("started", "system", "test result", "changed")
    caption = "Started: UTC. Changed: settings since the run before of the same system."
    tables = {name: Table(caption, headings, runs) for name, runs in lines.items()}
    return Group(*(rich_table(table, f"Runs of {name}") for name, table in tables.items()))


def versions_table(versions: "Iterable[Version]") -> Fitting:
    """The registered versions and their aliases."""
    rows = [(one.number, one.system, ", ".join(one.aliases), one.run_id[:8]) for one in versions]
    return rich_table(Table("", ("version", "system", "aliases", "run"), rows), "Registered versions")


def agreements_table(found: "Iterable[Agreement]") -> Group:
    """How far challengers agree with champions, and the ROIs on which they do not."""
    headings = ("prediction", "champion", "challenger")
    tables: list[Fitting | str] = []
    for one in found:
        rows = [
            (listed["prediction_id"], *map("{} {:.2f}".format, listed["label"], listed["probability"]))
            for listed in one.disagreements
        ]
        agree, apart = (shown(rate.to_dict() | {"n": None}) for rate in (one.agreement, one.difference))
        caption = f"{agree} of labels agree; probabilities are {apart} apart."
        title = f"{one.champion} and challenger {one.challenger}: {counted(one.agreement.n, 'ROI')}"
        tables.append(rich_table(Table(caption, headings, rows), title))
    return Group(*tables or ["no answer has a challenger's beside it: see serve.shadow_share"])


def drifts_table(found: "Iterable[Drift]") -> Fitting:
    """What was served against the reference."""
    rows = [
        (one.name, str(one.n), str(one.n_reference), f"{one.psi:.3f}", f"{one.chance:.3f}", one.word) for one in found
    ]
    caption = "PSI: 0.1 some, 0.25 large drift, where it is above what chance gives. n: different ROIs."
    headings = ("number", "n served", "n reference", "PSI", "by chance", "drift")
    title = "Served against training (grey levels) and validation (votes)"
    return rich_table(Table(caption, headings, rows), title)


def gates_table(verdict: "Verdict") -> Fitting:
    """What a version showed at each gate, beside what is asked."""
    asked = [(gate.name, gate.value, gate.bound, "ok" if gate.passed else "failed") for gate in verdict.gates]
    title = f"Version {verdict.number} against champion {verdict.champion or 'none'}"
    caption = "AUC: candidate minus floor or champion." + " Not every gate holds." * bool(verdict.failed)
    return rich_table(Table(caption, ("gate", "found", "asked: must be", ""), asked), title)


def history_table(entries: "Iterable[Entry]", title: str) -> Fitting:
    """Every move of an alias."""

    rows = []
    for one in entries:
        moves = (f"{alias} {start or 'none'} → {to or 'none'}" for alias, (start, to) in one.moves.items())
        at = one.at.replace("T", " ")[:16]
        rows.append((str(one.number), at, one.who, one.kind, "\n".join(moves), one.reason))
    return rich_table(Table("", ("", "UTC", "who", "kind", "moves", "reason"), rows), title)


def overlaps_table(pairs: list[dict[Any, Any]], summary: dict[str, Any], protocol: str) -> Fitting:
    """The pairs (`AUDIT_SCHEMA`) of ROIs that share tissue, bold where they leak, and what the parts share."""
    patients, n_pairs = summary["shared_patients"], summary["n_pairs"]
    caption = (
        f"{protocol.replace('_', ' ')} split: {counted(summary['n_pairs_across_parts'], 'pair')} across parts, "
        f"{counted(summary['n_leaked_test_rois'], 'test ROI')} whose tissue train or val shows; "
        + ("patients unknown." if patients is None else f"{patients} patients in more than one part.")
    )
    rows = []
    for pair in pairs:
        leaks = pair["split_a"] != pair["split_b"]
        parts, shift = f"{pair['split_a']} / {pair['split_b']}", f"{pair['dx_px']}, {pair['dy_px']}"
        seen = (Cell(parts, strong=leaks), pair["kind"], shift, str(pair["overlap_px"]), f"{pair['mad']:.2f}")
        rows.append((pair["a"], pair["b"], *seen))
    title = f"{counted(n_pairs, 'pair')} of {summary['n_rois']} ROIs {'shares' if n_pairs == 1 else 'share'} tissue"
    headings = ("a", "b", "parts", "kind", "shift px", "overlap px", "MAD")
    return rich_table(Table(caption, headings, rows), title)


def problems_table(table: "Path", problems: "Sequence[Problem]") -> Fitting:
    """What `mammo check` found wrong with the rows of a CSV."""
    title = f"{table}: {len(problems)} problems; nothing was written"
    return rich_table(Table("", ("row", "problem"), [(str(row), what) for row, what in problems]), title)


def findings_table(findings: "list[Finding]") -> Fitting:
    """What `mammo doctor` found."""
    return rich_table(Table("", ("", "what", "found", "remedy"), [astuple(one) for one in findings]))


def best_in_words(workspace: "Workspace", record: dict[str, Any]) -> str:
    """What a study chose (its record, as in best.yaml), and what to do with it."""
    best, pruning, trials, own = (record[key] for key in ("best", "pruning", "trials", "settings_of_params"))
    chosen = workspace.reports / "tune" / "best.yaml"
    source = chosen.relative_to(workspace.root).as_posix()
    there = "" if workspace.root.samefile(".") else f" --workspace {quote(str(workspace.root))}"
    compared = f"the settings of params.yaml: {own}"
    if not isinstance(own, str):
        value = own["state"]
        if own["value"] is not None:
            value = f"{best['metric']} of the {own['evidence']} {own['value']:.4f}"
        compared = f"the settings of params.yaml, as trial {own['trial']} of the same budget: {value}"
    lines = [
        f"best: trial {best['trial']}, {best['metric']} of the {best['evidence']} {best['value']:.4f} ± "
        f"{best['fold_standard_error']:.4f} (standard error over {len(best['folds'])} folds)",
        *(f"  {name}: {value}" for name, value in best["params"].items()),
        compared,
        f"{trials['complete']} complete, {trials['pruned']} pruned, {trials['failed']} failed, "
        f"{trials['retried']} retried; pruning saved {pruning['saved_share']:.0%} of the training "
        f"({pruning['saved_s'] / 60:.1f} minutes)",
        f"record: {chosen}",
        f"to judge it: mammo tune nested{there} (folds that each study has never seen)",
        f"to train with it: write settings_from: {source} into {workspace.params}, see that its systems hold "
        f"{record['system']}, then dvc repro",
    ]
    return "\n".join(lines)


def trace_table(found: "Trace") -> Fitting:
    """What made a version or an answer, a line each."""
    version, rois = found.version, ", ".join(f"{n} {part}" for part, n in found.rois.items())
    aliases = ", ".join(version["aliases"]) or "no alias"
    rows = [
        ("version", f"{version['number']} ({version['system']}), {aliases}"),
        ("weights", version["weights_sha256"]),
        ("code", found.code_sha256),
        ("run", f"{found.run_id} of experiment {found.experiment}, {found.trained}"),
        ("commit", found.commit),
        *((path, digest) for path, digest in found.data_md5.items()),
        ("ROIs of the fit", rois or "not logged"),
        (
            "settings",
            f"{len(found.settings)} in the run, such as seed {found.settings.get('train.seed', '?')}",
        ),
        *([("this picture", f"IS a ROI of the fit: {found.training_roi}")] if found.training_roi else []),
        *(("answered", f"{one['time']} {one['label']}, score {one['score']:.3f}") for one in found.answers),
    ]
    return rich_table(Table("`--json` shows every setting.", ("what", "which"), rows))


def rebuilt_table(compared: "Sequence[Compared]") -> Fitting:
    """What was made again, beside what was registered."""
    rows = [(one.name, one.registered[:16], one.rebuilt[:16], shown(one.agrees)) for one in compared]
    return rich_table(Table("", ("what", "registered", "made again", "the same"), rows))
