"""Contract of the Auto classes: in a new process, they resolve to every class after the package is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.contract import Contract

_SCRIPT = """
import json, sys
import transformers
import modeling_lavis

found = {}
for folder, names in json.loads(sys.argv[1]).items():
    for name in names:
        auto = getattr(modeling_lavis if name in modeling_lavis.__all__ else transformers, name)
        model = auto.from_pretrained(folder)
        model_again = auto.from_config(model.config) if name != "AutoModel" else model
        found[f"{folder} {name}"] = [type(model).__name__, type(model_again).__name__, type(model.config).__name__]
    found[f"{folder} AutoConfig"] = [type(transformers.AutoConfig.from_pretrained(folder)).__name__]
print(json.dumps(found))
"""


class AutoContract(Contract):
    """One process for all classes of a family."""

    @pytest.mark.slow
    def test_auto_classes_in_a_new_process(self, tmp_path: Path) -> None:
        expected = {}
        for case in self.cases:
            folder = tmp_path / case.name
            case.model().save_pretrained(folder)
            expected[str(folder)] = ["AutoModel", *case.auto_classes]
        run = subprocess.run(
            [sys.executable, "-c", _SCRIPT, json.dumps(expected)], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        found = json.loads(run.stdout.strip().splitlines()[-1])
        for case in self.cases:
            folder, config = tmp_path / case.name, type(case.config()).__name__
            assert found[f"{folder} AutoConfig"] == [config]
            for name in ("AutoModel", *case.auto_classes):
                assert found[f"{folder} {name}"] == [case.name, case.name, config]


__all__ = ["AutoContract"]
