"""What a person sees while a model trains."""

from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from slimctr.training.checkpoint import EpochRecord


class TrainingProgress(Protocol):
    """Told about every step and every epoch of training."""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """A step of an epoch (both counted from 1) is done; `loss` is the mean of the epoch so far."""

    def epoch(self, record: EpochRecord) -> None:
        """An epoch is done and its checkpoint written."""

    def note(self, sentence: str) -> None:
        """Something was left out or could not be done as asked, and the work goes on."""


class Silent:
    """Shows nothing."""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """Show nothing."""

    def epoch(self, record: EpochRecord) -> None:
        """Show nothing."""

    def note(self, sentence: str) -> None:
        """Show nothing."""


class RichProgress:
    """A moving bar for the running epoch and one line for each finished one. Use it as a context manager."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", epoch=1, loss=float("nan"))

    def __enter__(self) -> "RichProgress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """Move the bar."""
        self._bar.update(self._task, total=steps, completed=step, epoch=epoch, loss=loss)

    def epoch(self, record: EpochRecord) -> None:
        """Print the line of a finished epoch."""
        best = "  best" if record.is_best else ""
        self._bar.console.print(
            f"epoch {record.epoch:3d}  loss {record.loss:.4f}  valid AUC {record.valid_auc:.5f}  "
            f"valid logloss {record.valid_logloss:.5f}  rate {record.learning_rate:.1e}  "
            f"{record.seconds:.1f} s{best}",
            highlight=False,
            soft_wrap=True,
        )

    def note(self, sentence: str) -> None:
        """Print it."""
        self._bar.console.print(f"note: {sentence}", style="yellow", markup=False, soft_wrap=True)
