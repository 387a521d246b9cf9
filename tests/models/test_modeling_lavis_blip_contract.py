"""The contract of every BLIP class."""

import pytest

pytest.register_assert_rewrite(
    "tests.models.contract",
    "tests.models.contract_auto",
    "tests.models.contract_forward",
    "tests.models.contract_saving",
    "tests.models.contract_training",
)

from tests.models.contract_auto import AutoContract  # noqa: E402
from tests.models.contract_forward import ForwardContract  # noqa: E402
from tests.models.contract_saving import SavingContract  # noqa: E402
from tests.models.contract_training import TrainingContract  # noqa: E402
from tests.models.lavis_blip_cases import CASES  # noqa: E402


class TestLavisBlipSaving(SavingContract):
    cases = CASES


class TestLavisBlipForward(ForwardContract):
    cases = CASES


class TestLavisBlipTraining(TrainingContract):
    cases = CASES


class TestLavisBlipAuto(AutoContract):
    cases = CASES
