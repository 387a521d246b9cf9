"""The comparison of transformers' common tests with the list of differences, and the stand-ins; offline and quick."""

import re
import subprocess
import sys
import unittest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers

import modeling_lavis
from tests.common import differences, run_common_tests, transformers_source
from tests.common.differences import DIFFERENCES, PENDING, Difference
from tests.common.model_testers import SUBJECTS, ModelTester
from tests.common.run_common_tests import Results, compare

LISTED = (Difference("test_a*", ("Model*",), "a reason"), Difference("test_b", ("Other",), "another"))


@pytest.mark.parametrize(
    ("outcomes", "problems"),
    [
        ({("Model", "test_a"): "failed", ("Other", "test_b"): "failed", ("Model", "test_c"): "passed"}, []),
        (
            {("Model", "test_a_1"): "failed", ("Other", "test_b"): "failed", ("Model", "test_b"): "failed"},
            ["fails and"],
        ),
        (
            {("Model", "test_a"): "failed", ("Model_2", "test_a"): "passed", ("Other", "test_b"): "failed"},
            ["passes but"],
        ),
        ({("Model", "test_a"): "failed", ("Model_2", "test_a"): "skipped"}, ["is listed, but no such test fails"]),
        ({("Model", "test_a"): "failed"}, ["is listed, but no such test fails"]),
    ],
)
def test_unlisted_failures_and_listed_passes(outcomes: dict[tuple[str, str], str], problems: list[str]) -> None:
    found = [problem for _, _, problem in compare(outcomes, LISTED)]
    assert len(found) == len(problems)
    assert all(text in problem for problem, text in zip(found, problems, strict=True))


def test_a_part_of_the_tests_says_nothing_about_other_entries() -> None:
    assert compare({("Model", "test_a"): "failed"}, LISTED, complete=False) == []
    assert compare({("Model", "test_a"): "passed"}, LISTED, complete=False) != []


def report(outcome: str, when: str = "call", text: str = "") -> Any:
    """A report of pytest."""
    return SimpleNamespace(
        nodeid="tests/common/collected.py::Model::test_a",
        when=when,
        outcome=outcome,
        failed=outcome == "failed",
        skipped=outcome == "skipped",
        longreprtext=text,
    )


def test_the_worst_outcome_counts() -> None:
    key = ("Model", "test_a")
    for reports, expected in (
        ([report("passed", "setup"), report("passed"), report("passed", "teardown")], "passed"),
        ([report("passed"), report("failed", text="E   a < b\nE   more"), report("passed")], "failed"),
        ([report("passed", "setup"), report("failed"), report("passed", "teardown")], "failed"),
        ([report("skipped", "setup")], "skipped"),
        ([report("failed", "setup")], "failed"),
    ):
        results = Results()
        for made in reports:
            results.pytest_runtest_logreport(made)
        assert results.outcomes == {key: expected}
    assert results.messages == {key: "no message"}


def test_every_class_is_tested() -> None:
    public = {
        name
        for name in modeling_lavis.__all__
        if isinstance(getattr(modeling_lavis, name), type)
        and issubclass(getattr(modeling_lavis, name), transformers.PreTrainedModel)
    }
    assert {subject.model_class.__name__ for subject in SUBJECTS} == public
    configs = {type(subject.config()).__name__ for subject in SUBJECTS}
    # that of a submodel, which has no public model of its own
    assert {name for name in modeling_lavis.__all__ if name.endswith("Config")} - configs == {"LavisBertConfig"}


@pytest.mark.parametrize("subject", SUBJECTS, ids=[subject.name for subject in SUBJECTS])
def test_subjects_run(subject: Any) -> None:
    tester = ModelTester(subject, None)
    config, inputs = tester.prepare_config_and_inputs_for_common()
    assert subject.model_class.main_input_name in inputs
    model = subject.model_class(config)
    assert len(model(**inputs, output_hidden_states=True)) > 0
    if tester.is_training:
        assert model(**inputs, **subject.training()).loss.requires_grad


def test_every_difference_has_a_reason_and_names_classes() -> None:
    names = [subject.name for subject in SUBJECTS]
    processors = ["AlbefProcessor", "LavisBlipProcessor", "LavisBlip2Processor", "LavisImageProcessor"]
    for entry in (*DIFFERENCES, *PENDING):
        assert len(entry.reason) > 10 and entry.test.startswith("test_")
        example = re.sub(r"\[(.).*\]", r"\1", entry.test).replace("*", "")
        for pattern in entry.classes:
            known = [*names, *processors, "LavisVideoProcessor"]
            alone = Difference(entry.test, (pattern,), entry.reason)
            assert any(alone.matches(name, example) for name in known), pattern


def test_without_the_source_distribution_the_script_says_what_to_do(tmp_path: Path) -> None:
    environment = {"PATH": "", "HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, run_common_tests.__file__], capture_output=True, text=True, env=environment, check=False
    )
    assert run.returncode == 2
    assert "TRANSFORMERS_SOURCE is not set" in run.stderr and "pip download" in run.stderr


def test_other_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(transformers_source.VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match="has no tests/test_configuration_common.py"):
        transformers_source.source_folder()
    for name in transformers_source.COMMON_TESTS:
        (tmp_path / "tests").mkdir(exist_ok=True)
        (tmp_path / "tests" / f"{name}.py").write_text("")
    package = tmp_path / "src" / "transformers"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "1.0.0"\n')
    with pytest.raises(ValueError, match=r"is transformers 1\.0\.0; expected"):
        transformers_source.source_folder()
    (package / "__init__.py").write_text(f'__version__ = "{transformers.__version__}"\n')
    assert transformers_source.source_folder() == tmp_path


def test_parameterized_tests() -> None:
    class Test(unittest.TestCase):
        seen: list[Any] = []

        @transformers_source._Parameterized.expand([("one", 1), ("two", 2)])
        def test_tuples(self, name: str, number: int) -> None:
            self.seen.append((name, number))

        @transformers_source._Parameterized.expand([True, None])
        def test_values(self, value: Any) -> None:
            self.seen.append(value)

    names = unittest.TestLoader().getTestCaseNames(Test)
    assert names == ["test_tuples_0_one", "test_tuples_1_two", "test_values_0", "test_values_1"]
    for name in names:
        assert Test(name).run().wasSuccessful()
    assert Test.seen == [("one", 1), ("two", 2), True, None]


def test_nothing_of_transformers_is_in_the_repository() -> None:
    own = {path.name for path in Path(differences.__file__).parent.glob("*.py")}
    assert not own & {f"{name}.py" for name in transformers_source.COMMON_TESTS}
