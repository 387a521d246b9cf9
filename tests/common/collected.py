"""
transformers' common tests over the classes of this project, for pytest. `run_common_tests` runs this file; its name
keeps it out of the ordinary test suite, because it needs transformers' source distribution.
"""

import copy
import unittest
from typing import Any

import torch

import modeling_lavis  # noqa: F401  (registers)
from tests.common import processing_testers, transformers_source
from tests.common.model_testers import SUBJECTS, ModelTester, Subject

COMMON = transformers_source.load()
ModelTesterMixin: Any = COMMON["test_modeling_common"].ModelTesterMixin
GenerationTesterMixin: Any = COMMON["generation.test_utils"].GenerationTesterMixin
ConfigTester: Any = COMMON["test_configuration_common"].ConfigTester


class ModelTest(ModelTesterMixin):
    """The common tests of a model class."""

    __test__ = False
    subject: Subject
    _is_composite = False

    def setUp(self) -> None:
        self.model_tester = ModelTester(self.subject, self)

    def _prepare_for_class(self, inputs_dict: dict[str, Any], model_class: Any, return_labels: bool = False) -> Any:
        inputs = copy.deepcopy(inputs_dict)
        if return_labels and self.subject.training is not None:
            inputs.update(self.subject.training())
        return inputs

    def test_config(self) -> None:
        """The common tests of configurations."""
        config = self.subject.config()
        values = config.to_diff_dict()
        # a test sets another number of labels; files have the keys of `id2label` as strings
        for name in ("transformers_version", "model_type", "id2label", "label2id"):
            values.pop(name, None)
        tester = ConfigTester(self, config_class=type(config), has_text_modality=False, **values)
        tester.run_common_tests()


def _model_test(subject: Subject) -> type[unittest.TestCase]:
    config = subject.config()
    mixins = (ModelTest, GenerationTesterMixin) if subject.model_class.can_generate() else (ModelTest,)
    return type(
        subject.name,
        (*mixins, unittest.TestCase),
        {
            "__test__": True,
            "__module__": __name__,
            "subject": subject,
            "all_model_classes": (subject.model_class,),
            "is_encoder_decoder": subject.is_encoder_decoder,
            "test_resize_embeddings": subject.of_text,
            # the comparison of attention implementations passes the main input and these
            "additional_model_inputs": [name for name, value in subject.inputs().items() if torch.is_tensor(value)],
            "_is_composite": bool(config.sub_configs),
            # initialization of missing weights is tested, though the models are of 2021 to 2023
            "test_can_init_all_missing_weights_before_2023": True,
        },
    )


torch.set_num_threads(1)
globals().update({subject.name: _model_test(subject) for subject in SUBJECTS})
globals().update(processing_testers.test_classes(COMMON))
