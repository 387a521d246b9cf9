# SPDX-License-Identifier: Apache-2.0
"""Registration with transformers' Auto classes when they are imported, and not before.

transformers has no plugin mechanism: a class is known to an Auto class after a call of its `register`, which needs the
Auto class, and with it torch, to be imported. On `import modeling_lavis` that would take four times as long as `import
transformers`. So `install` adds a finder to `sys.meta_path` that finds nothing itself. It delegates to the other
finders and counts how deep the current thread is inside imports of transformers and of this package. When the outermost
of them has finished, every step of `STEPS` whose trigger has been imported runs, once. When no step is left, the finder
removes itself.

Steps wait for the outermost import because the Auto classes are imported in the middle of other modules of
transformers, which the models import in turn; an earlier step would see them partially initialized.

A plainer way was looked for and not found. The lazy mappings behind the Auto classes hold names instead of classes, but
they resolve a name only inside `transformers.models`, so this package would have to pose as submodules of transformers;
the tables of names have no public interface and differ from Auto class to Auto class; and they are reached only by
importing the modules that import torch, so that a hook on imports would be needed all the same.
"""

import contextlib
import importlib
import importlib.machinery
import sys
import threading
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

_AUTO = "transformers.models.auto"


class Step(NamedTuple):
    """A registration step: call `module.function` after one of `triggers` has been imported."""

    triggers: tuple[str, ...]
    module: str
    function: str

    def run(self) -> None:
        getattr(importlib.import_module(self.module), self.function)()


STEPS: tuple[Step, ...] = (
    Step((f"{_AUTO}.configuration_auto",), "modeling_lavis.models", "register_configurations"),
    Step((f"{_AUTO}.modeling_auto", "modeling_lavis.models.auto_lavis"), "modeling_lavis.models", "register_models"),
    Step((f"{_AUTO}.tokenization_auto",), "modeling_lavis.models", "register_tokenizers"),
    Step((f"{_AUTO}.image_processing_auto",), "modeling_lavis.models", "register_image_processors"),
    Step((f"{_AUTO}.video_processing_auto",), "modeling_lavis.models", "register_video_processors"),
    Step((f"{_AUTO}.processing_auto",), "modeling_lavis.models", "register_processors"),
    Step(("transformers.pipelines",), "modeling_lavis.pipelines", "register"),
)


class PostImportFinder:
    """
    A `sys.meta_path` finder that runs steps after the modules that they wait for have been imported.

    Args:
        steps (sequence of [`Step`]): steps, in the order in which they run.
        packages (sequence of `str`): top-level packages whose imports are counted; they contain the triggers.
    """

    def __init__(self, steps: Sequence[Step], packages: Sequence[str]) -> None:
        self._packages = frozenset(packages)
        self._pending = list(steps)
        self._claim = threading.Lock()
        self._thread = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in self._packages:
            return None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            spec = find(fullname, path, target)
            if spec is not None:
                self._watch(spec)
                return spec
        return None

    def _watch(self, spec: importlib.machinery.ModuleSpec) -> None:
        """Wrap the loader of `spec` so that the execution of the module is counted."""
        loader: Any = spec.loader
        # a loader that is a class (built-in and frozen modules) is shared by many modules and must not be changed
        if loader is None or isinstance(loader, type) or not hasattr(loader, "exec_module"):
            return
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            # the module keeps its loader, so it is restored before the module can see it
            vars(loader).pop("exec_module", None)
            with self._counted():
                execute(module)
            if self._depth() == 0:
                self.run_ready(finished=spec.name)

        loader.exec_module = exec_module

    def _depth(self) -> int:
        return getattr(self._thread, "depth", 0)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._thread.depth = self._depth() + 1
        try:
            yield
        finally:
            self._thread.depth -= 1

    def run_ready(self, finished: str | None = None) -> None:
        """
        Run each pending step with a trigger that is completely imported.

        Args:
            finished (`str`, *optional*): module that was just executed, though the import system still marks it as
                being initialized.
        """
        while (step := self._take_ready(finished)) is not None:
            try:
                with self._counted():  # imports of a step must not start the next step inside it
                    step.run()
            except BaseException:
                with self._claim:
                    self._pending.insert(0, step)
                raise
        if not self._pending and self in sys.meta_path:
            sys.meta_path.remove(self)  # type: ignore[arg-type]

    def _take_ready(self, finished: str | None) -> Step | None:
        # Only the choice is locked, not the run: a step imports modules, whose locks another thread may hold.
        with self._claim:
            for index, step in enumerate(self._pending):
                if any(name == finished or _is_imported(name) for name in step.triggers):
                    return self._pending.pop(index)
        return None


def _is_imported(name: str) -> bool:
    module = sys.modules.get(name)
    if module is None:
        return False
    return not getattr(getattr(module, "__spec__", None), "_initializing", False)


_finder = PostImportFinder(STEPS, packages=("transformers", "modeling_lavis"))


def install() -> None:
    """Wait for the Auto classes to be imported; register at once with those that are. May be called repeatedly."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)  # type: ignore[arg-type]
    _finder.run_ready()
