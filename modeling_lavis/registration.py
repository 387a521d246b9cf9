# SPDX-License-Identifier: Apache-2.0
"""Registration with transformers' Auto classes at the moment they are imported, and not before.

transformers has no plugin mechanism: a class is known to an Auto class once somebody calls its `register`, and that
needs the Auto class (and torch) to be imported. Doing it on `import modeling_lavis` would make that import several
times as slow as `import transformers`. So `install` puts a finder on `sys.meta_path` which finds nothing by itself. It
lets the ordinary finders do their work and counts how deep this thread is inside imports of transformers and of this
package. When the outermost of them is done, every step of `STEPS` whose trigger has been imported is run, once.

Why the outermost: the Auto classes are imported in the middle of other modules of transformers, and our models import
those modules in turn. Run earlier, a step would see them half made.

When nothing is left to do, the finder removes itself.
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
    """One piece of registration: call `module.function` once any of `triggers` has been imported."""

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
    """A `sys.meta_path` finder that runs `steps` after the modules they wait for have been imported.

    Args:
        steps: what to run, in order.
        packages: top-level packages whose imports are counted; the triggers must lie in them.
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
        """Have the loader of `spec` report the start and the end of the module's execution."""
        loader: Any = spec.loader
        # A loader that is a class (built-in and frozen modules) is shared by many modules and must not be changed.
        if loader is None or isinstance(loader, type) or not hasattr(loader, "exec_module"):
            return
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            # The loader stays on the module for good; it is given back as it was before the module can look at it.
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
        """Run each pending step that has a trigger which is imported to its end.

        Args:
            finished: module that has just been executed, though the import system still marks it as under way.
        """
        while (step := self._take_ready(finished)) is not None:
            try:
                with self._counted():  # what a step imports must not start the next step inside this one
                    step.run()
            except BaseException:
                with self._claim:
                    self._pending.insert(0, step)
                raise
        if not self._pending and self in sys.meta_path:
            sys.meta_path.remove(self)  # type: ignore[arg-type]

    def _take_ready(self, finished: str | None) -> Step | None:
        # Only the choice is locked, never the run: a step imports modules, and another thread may hold their locks.
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
    """Start waiting for the Auto classes; those that are imported already are filled in at once. Safe to repeat."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)  # type: ignore[arg-type]
    _finder.run_ready()
