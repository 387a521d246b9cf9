"""The contract of every ALPRO class."""

import pytest

pytest.register_assert_rewrite(
    "tests.models.contract",
    "tests.models.contract_auto",
    "tests.models.contract_forward",
    "tests.models.contract_saving",
    "tests.models.contract_training",
)

from tests.models.alpro_cases import CASES  # noqa: E402
from tests.models.contract_auto import AutoContract  # noqa: E402
from tests.models.contract_forward import ForwardContract  # noqa: E402
from tests.models.contract_saving import SavingContract  # noqa: E402
from tests.models.contract_training import TrainingContract  # noqa: E402


class TestAlproSaving(SavingContract):
    cases = CASES


class TestAlproForward(ForwardContract):
    cases = CASES


class TestAlproTraining(TrainingContract):
    cases = CASES


class TestAlproAuto(AutoContract):
    cases = CASES
