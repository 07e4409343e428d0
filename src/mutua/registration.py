"""Transformers' Auto classes know Mutua's models after `import mutua`, which itself imports neither of the two.

Everything that asks for a model by its type (Auto classes, processors, pipelines) lies in, or imports, the package
`transformers.models.auto`. So `mutua.models`, which registers itself, is imported as soon as that package is: at once
where it is there already, else by a finder that watches imports and changes nothing about them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from threading import get_ident
from types import ModuleType
from typing import Any

_AUTO, _OURS = "transformers.models.auto", "mutua.models"


def register_models() -> None:
    """Registers the models with Transformers, now if its Auto classes are loaded, else once they are."""
    if _OURS not in sys.modules and not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        watch = _Watch()
        sys.meta_path.insert(0, watch)
        watch.register_if_due()


def registered() -> None:
    """`mutua.models` says so when it has registered itself: there is nothing to watch for any more."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Watch)]


class _Watch(MetaPathFinder):
    """Finds nothing by itself: has the loaders that others find tell when an import is done.

    Only outermost imports count, those that begin while their thread imports nothing else of Transformers or Mutua:
    when such a one is done, nothing is half imported, and `mutua.models` can come with no circular import in the way.
    """

    def __init__(self) -> None:
        self._threads: set[int] = set()  # those inside an outermost import

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in ("transformers", "mutua") or get_ident() in self._threads:
            return None
        for finder in list(sys.meta_path):
            spec = None if isinstance(finder, _Watch) else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Outermost(spec.loader, self)
                return spec
        return None

    def execute(self, loader: Loader, module: ModuleType) -> None:
        """Runs a module's code, and registers the models if it is time."""
        self._threads.add(get_ident())
        try:
            loader.exec_module(module)
            if module.__spec__ is not None:
                # It is whole from here on. Another thread that waited for its lock, with a module of ours half
                # imported, would wait for this thread, and this one for it.
                module.__spec__._initializing = False  # type: ignore[attr-defined]
            self.register_if_due()
        finally:
            self._threads.discard(get_ident())

    def register_if_due(self) -> None:
        if _AUTO not in sys.modules:
            return
        others = self._threads - {get_ident()}
        try:
            import mutua.models  # noqa: F401 (registers itself)
        except (ImportError, RuntimeError):
            if not others:
                raise
            # A thread that waited already does wait for this one: it registers them when its own import is done.


class _Outermost(Loader):
    """The loader of one module, under watch. The module keeps its own loader and no trace of this one."""

    def __init__(self, loader: Loader, watch: _Watch) -> None:
        self._loader, self._watch = loader, watch

    def __getattr__(self, name: str) -> Any:
        """Whatever else the loader can do, for those who look at a spec and import nothing."""
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._loader
        self._watch.execute(self._loader, module)
