"""What stands for wandb and trackio: the calls that are made, with the signatures of the packages (0.31 and 0.43)."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

Point = tuple[str, str, int, float]  # run, name, step, value


class FakeWandb(ModuleType):
    __version__ = "0.31.0"

    def __init__(self) -> None:
        super().__init__("wandb")
        self.run = None
        self.logged_in = False
        self.opened: list[dict[str, Any]] = []
        self.points: list[Point] = []
        self.exit_codes: list[int | None] = []
        self.axes: dict[str, str] = {}

    @staticmethod
    def Settings(mode: str) -> None:
        if mode not in ("online", "offline", "shared", "disabled", "dryrun", "run"):
            raise ValueError(f"1 validation error for Settings\nmode\n  got {mode}")

    def login(
        self,
        key: str | None = None,
        relogin: bool | None = None,
        host: str | None = None,
        force: bool | None = None,
        timeout: int | None = None,
        verify: bool = True,
        referrer: str | None = None,
        prompt: bool = True,
    ) -> bool:
        assert not prompt, "would wait for somebody at the keyboard"
        return self.logged_in

    def init(
        self,
        entity: str | None = None,
        project: str | None = None,
        dir: str | None = None,
        id: str | None = None,
        name: str | None = None,
        config: dict[str, Any] | None = None,
        allow_val_change: bool | None = None,
        mode: str | None = None,
        reinit: str | None = None,
        resume: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> FakeWandbRun:
        self.opened.append({"project": project, "id": id, "name": name, "dir": dir, "mode": mode, "resume": resume})
        return FakeWandbRun(self, str(id), str(mode))


class FakeWandbRun:
    def __init__(self, package: FakeWandb, run: str, mode: str) -> None:
        self._package, self._run, self.offline = package, run, mode == "offline"
        self.url = "https://wandb.example/run" if mode == "online" else None

    def define_metric(self, name: str, step_metric: str | None = None, step_sync: bool | None = None) -> None:
        self._package.axes[name] = str(step_metric)

    def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        assert step is None, "W&B's own step never goes back"
        at = data["step"]
        self._package.points += [(self._run, name, at, value) for name, value in data.items() if name != "step"]

    def finish(self, exit_code: int | None = None) -> None:
        self._package.exit_codes.append(exit_code)


class FakeTrackio(ModuleType):
    __version__ = "0.43.0"

    def __init__(self) -> None:
        super().__init__("trackio")
        self.points: list[Point] = []
        self.open = 0

    def init(
        self,
        project: str,
        name: str | None = None,
        group: str | None = None,
        space_id: str | None = None,
        server_url: str | None = None,
        config: dict[str, Any] | None = None,
        resume: str = "never",
    ) -> FakeTrackioRun:
        assert resume == "allow"
        assert not any(key.startswith("_") for key in config or {})
        self.open += 1
        return FakeTrackioRun(self, str(name))

    def finish(self) -> None:
        self.open -= 1


class FakeTrackioRun:
    def __init__(self, package: FakeTrackio, name: str) -> None:
        self._package, self._name = package, name

    def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
        assert step is not None
        self._package.points += [(self._name, name, step, value) for name, value in metrics.items()]


def install(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeWandb, FakeTrackio]:
    """Both in the place of the packages, and no word of the environment about them."""
    wandb, trackio = FakeWandb(), FakeTrackio()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return wandb, trackio
