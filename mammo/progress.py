"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

StepObserver = Callable[[int, int, int], None]


class _Speed(ProgressColumn):
    """Patches a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} patches/s" if task.speed else "– patches/s", style="cyan")


@contextmanager
def training_progress(title: str, n_epochs: int, console: Console | None = None) -> Iterator[StepObserver]:
    """Yield an observer of (epoch, patches done, patches in the epoch).

    Without a terminal nothing is drawn here; the lines of the epochs come from `epoch_line`.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield lambda epoch, done, total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        _Speed(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None)

        def observe(epoch: int, done: int, total: int) -> None:
            progress.update(
                task,
                description=f"{title} epoch {epoch + 1}/{n_epochs}",
                total=n_epochs * total,
                completed=epoch * total + done,
            )

        yield observe


@contextmanager
def steps_progress(title: str, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Yield an observer of (steps done, steps in all); without a terminal nothing is drawn."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
