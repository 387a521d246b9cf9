"""The contract of every ALBEF class."""

import pytest

pytest.register_assert_rewrite(
    "tests.models.contract",
    "tests.models.contract_auto",
    "tests.models.contract_forward",
    "tests.models.contract_saving",
    "tests.models.contract_training",
)

from tests.models.albef_cases import CASES  # noqa: E402
from tests.models.contract_auto import AutoContract  # noqa: E402
from tests.models.contract_forward import ForwardContract  # noqa: E402
from tests.models.contract_saving import SavingContract  # noqa: E402
from tests.models.contract_training import TrainingContract  # noqa: E402


class TestAlbefSaving(SavingContract):
    cases = CASES


class TestAlbefForward(ForwardContract):
    cases = CASES


class TestAlbefTraining(TrainingContract):
    cases = CASES


class TestAlbefAuto(AutoContract):
    cases = CASES
