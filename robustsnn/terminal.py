"""What the command line shows while it works: progress bars with an estimate, and the catalogue."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from robustsnn.evaluation.progress import Progress as Watcher

console = Console()


class Bars(Watcher):
    """One bar a stage; where the output is not a terminal, one line a stage."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[detail]}[/dim]"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        self._bars.stop()

    def start(self, stage: str, total: float) -> None:
        """A new bar; the one before it is full."""
        self._finish()
        self._task = self._bars.add_task(stage, total=total, detail="")
        if not console.is_terminal:
            console.print(f"{stage} ...")

    def advance(self, units: float, detail: str = "") -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.update(self._task, advance=units, detail=escape(detail))

    def note(self, message: str) -> None:
        """A line above the bars."""
        console.print(message, markup=False)

    def _finish(self) -> None:
        if self._task is not None:
            total = self._bars.tasks[self._task].total
            self._bars.update(self._task, completed=total, detail="")


def print_catalogue(catalogue: dict[str, dict[str, str]], console: Console) -> None:
    """A table a kind: names and one line each."""
    for kind, entries in catalogue.items():
        table = Table(title=kind, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2))
        for name, about in entries.items():
            table.add_row(f"[cyan]{name}[/cyan]", escape(about))
        console.print(table)
        console.print()
