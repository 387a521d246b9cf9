"""Importing the package: without heavy dependencies, with complete registration, in any order with transformers."""

import importlib
import multiprocessing
import os
import pickle
import statistics
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from modeling_lavis import import_utils
from modeling_lavis.registration import PostImportFinder, Step
from tests.pipelines.tiny_models import save_model

ROOT = Path(__file__).resolve().parent.parent

# Asserts that everything is registered, whatever was imported before.
CHECK = """
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers import AutoTokenizer
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY
config = AutoConfig.for_model("lavis_blip")
kind = type(config)
assert kind.__name__ == "LavisBlipConfig", kind
assert type(AutoConfig.for_model("lavis_vit")).__name__ == "LavisViTConfig"
assert type(AutoConfig.for_model("lavis_bert")).__name__ == "LavisBertConfig"
heads = [head.__name__ for head in AutoModel._model_mapping[kind]]
assert heads[0] == "LavisBlipModel" and len(heads) == 7, heads
assert AutoModelForImageTextToText._model_mapping[kind].__name__ == "LavisBlipForConditionalGeneration"
assert PROCESSOR_MAPPING[kind].__name__ == "LavisBlipProcessor"
assert IMAGE_PROCESSOR_MAPPING[kind]["pil"].__name__ == "LavisImageProcessor"
assert "BertTokenizer" in str(TOKENIZER_MAPPING[kind])
assert "image-captioning" in PIPELINE_REGISTRY.get_supported_tasks()
from modeling_lavis import AutoModelForImageTextRetrieval
assert AutoModelForImageTextRetrieval._model_mapping[kind].__name__ == "LavisBlipForImageTextRetrieval"
"""

ORDERS = {
    "package first": "import modeling_lavis",
    "transformers first": "import transformers\nimport modeling_lavis",
    "auto classes first": "from transformers import AutoModel, AutoProcessor, pipeline\nimport modeling_lavis",
    "package between": "from transformers import AutoConfig\nimport modeling_lavis\nfrom transformers import AutoModel",
    "one class only": "from modeling_lavis import LavisBlipForQuestionAnswering",
    "own auto class only": "from modeling_lavis import AutoModelForImageTextRetrieval",
    "model file only": "import modeling_lavis.models.modeling_lavis_blip",
    "generation first": "import modeling_lavis\nfrom transformers import GenerationMixin, Trainer",
    "processor only": "from modeling_lavis.models.processing_lavis_blip import LavisBlipProcessor",
    "pipeline only": "import modeling_lavis\nfrom transformers import pipeline",
    "submodule of pipelines": "import modeling_lavis\nimport transformers.pipelines.base",
    "twice": "from modeling_lavis import models, registration\nregistration.install()\nmodels.register()",
}


def python(code: str, *, timeout: float = 300) -> str:
    """Run code in a fresh interpreter that sees this checkout; returns what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_import_loads_no_heavy_packages() -> None:
    loaded = python("import sys, modeling_lavis; print(*sorted({name.split('.')[0] for name in sys.modules}))").split()
    assert "modeling_lavis" in loaded
    assert not {"torch", "transformers", "numpy", "PIL", "torchvision", "timm"} & set(loaded)


def test_verbs_import_themselves_alone_and_no_heavy_packages() -> None:
    """Building the parser of a verb imports its module only; arguments of `convert` and `train` need torch. So does
    running verbs, except `zoo` and `recipes`."""
    code = """
import sys
from modeling_lavis.cli import main
all_verbs = {name.replace("-", "_") for name in main.VERBS}
def imported():
    return {verb for verb in all_verbs if f"modeling_lavis.cli.{verb}" in sys.modules}
main.build_parser("caption")
assert imported() == {"caption"}, imported()
assert main.main(["--help"]) == 0
for verb in main.VERBS:
    assert verb in ("convert", "train") or main.main([verb, "--help"]) == 0, verb
assert imported() == all_verbs
assert main.main(["zoo"]) == main.main(["zoo", "blip_caption/base_coco"]) == 0
assert main.main(["recipes"]) == main.main(["recipes", "blip-caption-coco"]) == 0
print()
print(*sorted({"torch", "transformers", "numpy", "PIL"} & set(sys.modules)))
"""
    assert python(code).splitlines()[-1] == ""


def test_a_block_without_collections() -> None:
    """What is created in the block is exempt from collections, unless torch was imported before."""
    code = """
import gc, sys, types
from modeling_lavis.import_utils import without_collections
kept = []
try:
    with without_collections():
        assert not gc.isenabled()
        kept.extend([] for _ in range(1000))
        raise ValueError
except ValueError:
    pass
assert gc.isenabled() and gc.get_freeze_count() > 1000
gc.unfreeze()
gc.disable()
with without_collections():  # the caller's choice
    pass
assert not gc.isenabled() and gc.get_freeze_count() == 0
gc.enable()
sys.modules["torch"] = types.ModuleType("torch")
with without_collections():
    assert gc.isenabled()
assert gc.get_freeze_count() == 0
print("passed")
"""
    assert python(code) == "passed\n"


def seconds_to_import(modules: str) -> float:
    code = f"import time; t = time.perf_counter(); import {modules}; print(time.perf_counter() - t)"
    return float(python(code))


@pytest.mark.parametrize(
    "modules", ["modeling_lavis", pytest.param("modeling_lavis, transformers", marks=pytest.mark.slow)]
)
def test_import_time(modules: str) -> None:
    """At most 1.15 times `import transformers`, for the package alone and followed by transformers.

    Medians of alternating runs, so that the load of the machine affects both; a longer second round decides.
    """
    ratios = []
    for rounds in (5, 11):
        pairs = [(seconds_to_import(modules), seconds_to_import("transformers")) for _ in range(rounds)]
        ours, theirs = (statistics.median(column) for column in zip(*pairs))
        ratios.append(ours / theirs)
        if ratios[-1] <= 1.15:
            return
    raise AssertionError(f"import {modules} takes {ratios} times import transformers; the limit is 1.15")


# These orders trigger the registration in different ways; the others are slow tests.
FAST_ORDERS = ("package first", "auto classes first")


@pytest.mark.parametrize(
    "order", [order if order in FAST_ORDERS else pytest.param(order, marks=pytest.mark.slow) for order in ORDERS]
)
def test_registration_in_every_import_order(order: str) -> None:
    python(ORDERS[order] + "\n" + CHECK)


USES = {
    "pipeline": """
from transformers import pipeline
captions = pipeline("image-captioning", model=FOLDER, device="cpu")(IMAGE, max_new_tokens=3)
assert isinstance(captions[0]["generated_text"], str)
""",
    "auto classes": """
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor
from PIL import Image
model = AutoModel.from_pretrained(FOLDER)
assert type(model).__name__ == "LavisBlipForConditionalGeneration", type(model)
assert type(AutoModelForImageTextToText.from_pretrained(FOLDER)) is type(model)
processor = AutoProcessor.from_pretrained(FOLDER)
assert type(processor).__name__ == "LavisBlipProcessor", type(processor)
assert model.generate(**processor(images=Image.open(IMAGE), return_tensors="pt"), max_new_tokens=2).ndim == 2
""",
    "parts of a processor": """
from transformers import AutoImageProcessor, AutoTokenizer
assert type(AutoImageProcessor.from_pretrained(FOLDER)).__name__ == "LavisImageProcessor"
assert AutoTokenizer.from_pretrained(FOLDER)("a")["input_ids"]
""",
}


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> Path:
    """Folder of a tiny captioning model with its processor."""
    return save_model(tmp_path_factory.mktemp("captioner"), "ForConditionalGeneration", goldens / "tokenizer")


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("package_first", [True, False], ids=["package first", "transformers first"])
def test_load_in_a_new_process(use: str, package_first: bool, captioner: Path, photos: dict[str, Path]) -> None:
    names = f"FOLDER, IMAGE = {str(captioner)!r}, {str(next(iter(photos.values())))!r}\n"
    parts = ["import modeling_lavis\n", "from transformers import AutoModel, AutoProcessor, pipeline\n"]
    python(names + "".join(parts if package_first else reversed(parts)) + USES[use])


@pytest.mark.slow
def test_finder_is_removed_after_registration() -> None:
    python(
        "import sys, modeling_lavis\n"
        "from modeling_lavis.registration import PostImportFinder\n"
        "assert any(isinstance(finder, PostImportFinder) for finder in sys.meta_path)\n" + CHECK + "\n"
        "assert not any(isinstance(finder, PostImportFinder) for finder in sys.meta_path)\n"
        "import transformers.models.bert.modeling_bert as bert\n"
        "assert 'exec_module' not in vars(bert.__loader__)\n"
    )


@pytest.mark.slow
def test_registration_with_threads() -> None:
    """Threads that import different Auto classes at the same time neither deadlock nor miss registrations."""
    python(
        # transformers is imported first, because importing it in two threads at once fails
        "import threading, modeling_lavis, transformers\n"
        "def one():\n    from transformers import AutoProcessor\n"
        "def two():\n    from transformers import AutoModel\n"
        "threads = [threading.Thread(target=work) for work in (one, two, one, two)]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\n" + CHECK
    )


def _config_in_child(payload: bytes) -> str:
    config = pickle.loads(payload)
    from transformers import AutoModel

    return f"{type(config).__module__}:{AutoModel._model_mapping[type(config)][0].__name__}"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_registration_in_child_processes(method: str) -> None:
    import modeling_lavis

    payload = pickle.dumps(modeling_lavis.LavisBlipConfig())
    with multiprocessing.get_context(method).Pool(1) as pool:
        found = pool.apply(_config_in_child, (payload,))
    assert found == "modeling_lavis.models.configuration_lavis_blip:LavisBlipModel"


def test_pickled_auto_mapping() -> None:
    import transformers
    from transformers import AutoModel, AutoModelForImageClassification

    import modeling_lavis

    try:
        pickle.loads(pickle.dumps(AutoModelForImageClassification._model_mapping))  # has no class of this package
    except TypeError as error:
        pytest.skip(f"transformers {transformers.__version__} reads back no mapping of its own: {error}")
    mapping = pickle.loads(pickle.dumps(AutoModel._model_mapping))
    assert mapping[modeling_lavis.LavisBlipConfig][0] is modeling_lavis.LavisBlipModel


class TestPostImportFinder:
    """`PostImportFinder` with a package of its own."""

    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        name = "lazy_toy_package"
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
        (tmp_path / name / "outer.py").write_text(f"import {name}.table\nfinished = True\n")
        (tmp_path / name / "table.py").write_text("names = []\n")
        (tmp_path / name / "broken.py").write_text("raise RuntimeError('broken on purpose')\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        yield name
        for module in [module for module in sys.modules if module.split(".")[0] == name]:
            del sys.modules[module]

    @pytest.fixture
    def calls(self, package: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Install a finder with one step, which records whether it ran during the import of `outer` or later."""
        log: list[str] = []
        helper = types.ModuleType("lazy_toy_steps")

        def step() -> None:
            outer = sys.modules.get(f"{package}.outer")
            log.append("late" if outer is None or hasattr(outer, "finished") else "early")
            if helper.failures:
                raise helper.failures.pop()

        helper.step, helper.failures = step, []  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "lazy_toy_steps", helper)
        finder = PostImportFinder([Step((f"{package}.table",), "lazy_toy_steps", "step")], packages=(package,))
        monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
        return log

    def test_step_runs_once_after_the_outermost_import(self, package: str, calls: list[str]) -> None:
        importlib.import_module(package)
        assert calls == []
        importlib.import_module(f"{package}.outer")
        assert calls == ["late"]
        importlib.reload(sys.modules[f"{package}.table"])
        assert calls == ["late"]

    def test_step_runs_after_a_direct_import_of_the_trigger(self, package: str, calls: list[str]) -> None:
        importlib.import_module(f"{package}.table")
        assert calls == ["late"]

    def test_step_runs_after_an_earlier_failed_import(self, package: str, calls: list[str]) -> None:
        with pytest.raises(RuntimeError, match="on purpose"):
            importlib.import_module(f"{package}.broken")
        importlib.import_module(f"{package}.outer")
        assert calls == ["late"]

    def test_failed_step_raises_and_is_retried(self, package: str, calls: list[str]) -> None:
        sys.modules["lazy_toy_steps"].failures.append(RuntimeError("step failed"))  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match="step failed"):
            importlib.import_module(f"{package}.table")
        importlib.import_module(f"{package}.outer")
        assert len(calls) == 2

    def test_other_packages_are_ignored(self, package: str, calls: list[str]) -> None:
        finder = sys.meta_path[0]
        assert isinstance(finder, PostImportFinder)
        assert finder.find_spec("json.tool") is None
        with pytest.raises(ModuleNotFoundError, match="missing"):
            importlib.import_module(f"{package}.missing")


class TestRequire:
    def test_returns_the_module(self) -> None:
        assert import_utils.require("json.decoder", extra="train") is importlib.import_module("json.decoder")

    def test_missing_package_error(self) -> None:
        with pytest.raises(
            ImportError, match=r"no_such_package.*needed for training.*modeling-lavis\[train\]"
        ) as caught:
            import_utils.require("no_such_package.part", extra="train", purpose="training")
        assert caught.value.name == "no_such_package"

    def test_import_error_of_an_installed_package_is_not_replaced(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "half_broken_toy.py").write_text("import surely_missing_toy\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        with pytest.raises(ModuleNotFoundError, match="surely_missing_toy"):
            import_utils.require("half_broken_toy", extra="train")

    @pytest.mark.parametrize(("name", "expected"), [("json", True), ("no_such", False), ("no_such.part", False)])
    def test_is_available(self, name: str, expected: bool) -> None:
        assert import_utils.is_available(name) is expected
