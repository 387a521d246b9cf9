"""The contract of every BLIP-2 class. Heads of one stage cannot load checkpoints of the other."""

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
from tests.models.lavis_blip_2_cases import CASES, FIRST_STAGE, SECOND_STAGE  # noqa: E402


class TestLavisBlip2FirstStageSaving(SavingContract):
    cases = FIRST_STAGE


class TestLavisBlip2SecondStageSaving(SavingContract):
    cases = SECOND_STAGE


class TestLavisBlip2Forward(ForwardContract):
    cases = CASES


class TestLavisBlip2Training(TrainingContract):
    cases = CASES


class TestLavisBlip2Auto(AutoContract):
    cases = CASES
