"""Where else the numbers of a run are drawn: TensorBoard, Weights & Biases, trackio. `train.loggers` names them.

They are copies: log.jsonl and evaluations.jsonl are what a run goes by.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from packaging.version import Version

from mutua.folders import errors_naming, replace_file
from mutua.training.recipe import Recipe
from mutua.training.run_folder import RunFolder

_PROJECT = "mutua"
_SECONDS_TO_UPLOAD = 300.0  # with no connection W&B would wait for ever at the end of a run


class Logger(Protocol):
    """One of them. Making one checks that it has what it needs; opened, it takes numbers.

    Attributes:
        place: where to look, once it is open.
    """

    place: str

    def open(self, folder: RunFolder, recipe: Recipe, step: int) -> None:
        """Begins the run, or goes on with it after `step`: what was drawn past that must not stand twice."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Draws a point of each of the named curves."""

    def close(self, failed: bool) -> None:
        """Writes what is left. `failed`: an error ends the run."""


def expect_loggers(names: Sequence[str]) -> None:
    """Tells before any work is spent what a logger lacks: its package (ImportError) or a login (OSError)."""
    for name in names:
        LOGGERS[name]()


def open_loggers(folder: RunFolder, recipe: Recipe, step: int) -> list[Logger]:
    """All that the recipe names, or none: where one cannot be opened, those before it are closed."""
    loggers: list[Logger] = []
    with ExitStack() as opened:
        for name in recipe.train.loggers:
            logger = LOGGERS[name]()
            logger.open(folder, recipe, step)
            opened.callback(logger.close, failed=True)
            loggers.append(logger)
        opened.pop_all()
    return loggers


class TensorBoard:
    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError('train.loggers: tensorboard is not installed: pip install "mutua[train]"') from error
        self._make: Callable[..., Any] = SummaryWriter

    def open(self, folder: RunFolder, recipe: Recipe, step: int) -> None:
        self._folder, self.place = folder.tensorboard, str(folder.tensorboard)
        with errors_naming(self._folder):
            # Whatever a killed process wrote past its last checkpoint is hidden.
            self._writer = self._make(self.place, purge_step=step + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        with errors_naming(self._folder):
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def close(self, failed: bool) -> None:
        with errors_naming(self._folder):
            self._writer.close()


class WeightsAndBiases:
    """In offline mode, unless its environment variables ask for the network."""

    OLDEST = "0.31"

    def __init__(self) -> None:
        self._wandb = _package("wandb", self.OLDEST)
        online = "online" if os.environ.get("WANDB_API_KEY") else "offline"
        self._mode = os.environ.get("WANDB_MODE") or online
        with _errors_as_ours("wandb", "WANDB_MODE=offline needs no login"):
            self._wandb.Settings(mode=self._mode)  # knows the modes
            asks = self._mode in ("online", "run", "shared") and self._wandb.run is None
            if asks and not self._wandb.login(verify=True, prompt=False):
                raise ValueError("it is to be online (WANDB_MODE or WANDB_API_KEY), but is not logged in")

    def open(self, folder: RunFolder, recipe: Recipe, step: int) -> None:
        self._sent = _Sent(folder.loggers / "wandb.json", step)
        patience = {} if "WANDB_FINISH_TIMEOUT" in os.environ else {"finish_timeout": _SECONDS_TO_UPLOAD}
        with _errors_as_ours("wandb", f"mend it, or move {self._sent.path} away to begin a new run there"):
            self._run = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT") or _PROJECT,
                id=self._sent.id,
                name=recipe.name,
                dir=str(folder.loggers),
                config=recipe.model_dump(mode="json"),
                allow_val_change=True,  # of what may change between two halves of a run
                mode=self._mode,
                resume="allow",
                reinit="create_new",  # beside a run that the caller of `train` may have open
                settings=patience,
            )
            # Its own step takes no second look back, as an evaluation needs that is done when a run resumes.
            self._run.define_metric("*", step_metric="step")
            self.place = str(folder.loggers / "wandb") if self._run.offline else self._run.url or "wandb: disabled"

    def scalars(self, step: int, values: dict[str, float]) -> None:
        if new := self._sent.without_sent(step, values):
            with _errors_as_ours("wandb", _GO_ON):
                self._run.log({**new, "step": step})
            self._sent.note(step, new)

    def close(self, failed: bool) -> None:
        with _errors_as_ours("wandb", _GO_ON):
            self._run.finish(exit_code=int(failed))


class Trackio:
    """Where trackio keeps its own files, unless its environment variables name a server."""

    OLDEST = "0.43"

    def __init__(self) -> None:
        self._trackio = _package("trackio", self.OLDEST)

    def open(self, folder: RunFolder, recipe: Recipe, step: int) -> None:
        self._sent = _Sent(folder.loggers / "trackio.json", step)
        with _errors_as_ours("trackio", f"mend it, or move {self._sent.path} away to begin a new run there"):
            self._run = self._trackio.init(
                project=_PROJECT,
                name=f"{recipe.name}-{self._sent.id}",  # it knows runs by their names
                config=recipe.model_dump(mode="json"),
                resume="allow",
            )
        self.place = f"trackio show --project {_PROJECT}"

    def scalars(self, step: int, values: dict[str, float]) -> None:
        if new := self._sent.without_sent(step, values):
            with _errors_as_ours("trackio", _GO_ON):
                self._run.log(new, step=step)
            self._sent.note(step, new)

    def close(self, failed: bool) -> None:
        with _errors_as_ours("trackio", _GO_ON):
            self._trackio.finish()


LOGGERS: dict[str, Callable[[], Logger]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "trackio": Trackio}

_GO_ON = "the same command goes on from the last checkpoint, with this logger or without it"


class _Sent:
    """What a run is called elsewhere, and the last point of each of its curves there: a file in the run's folder.

    Neither W&B nor trackio takes back what it has been sent, and a resumed run computes the same once more.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.id = uuid4().hex[:12]
        self._last: dict[str, int] = {}
        if step > 0 and path.is_file():  # a run that starts over, perhaps under another recipe, is a new one
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                self.id, self._last = str(content["id"]), {name: int(at) for name, at in content["last"].items()}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{path} is damaged ({error!r}): move it away, and the run becomes a new one for this logger"
                ) from error
        self._write()

    def without_sent(self, step: int, values: dict[str, float]) -> dict[str, float]:
        return {name: value for name, value in values.items() if step > self._last.get(name, 0)}

    def note(self, step: int, values: dict[str, float]) -> None:
        self._last.update(dict.fromkeys(values, step))
        self._write()

    def _write(self) -> None:
        with errors_naming(self.path):
            self.path.parent.mkdir(exist_ok=True)
            replace_file(self.path, json.dumps({"id": self.id, "last": self._last}))


def _package(name: str, oldest: str) -> Any:
    """The package of an extra of the same name."""
    try:
        package = import_module(name)
        version = package.__version__  # a folder ./wandb, as W&B leaves one, can be imported, too
    except (ImportError, AttributeError) as error:
        raise ImportError(f'train.loggers: {name} is not installed: pip install "mutua[{name}]"') from error
    if Version(version) < Version(oldest):
        raise ImportError(
            f"train.loggers: {name} {version} is installed, and {oldest} is the oldest that will do: "
            f'pip install --upgrade "mutua[{name}]"'
        )
    return package


@contextmanager
def _errors_as_ours(name: str, remedy: str) -> Iterator[None]:
    """Whatever another package raises, in one sentence that names it and what to do."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split()) or repr(error)
        raise OSError(f"train.loggers: {name}: {said}; {remedy}") from error
