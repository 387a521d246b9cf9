"""
Failures of transformers' common tests that are deliberate, each with its reason.

An entry names a test and classes; both are patterns of `fnmatch`. Each test that it matches has to fail.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Difference:
    """
    A difference from what the common tests expect.

    Args:
        test: name of a test.
        classes: names of test classes.
        reason: why the difference is deliberate.
    """

    test: str
    classes: tuple[str, ...]
    reason: str

    def matches(self, name: str, test: str) -> bool:
        """Whether the entry is about a test of a class."""
        return fnmatchcase(test, self.test) and any(fnmatchcase(name, pattern) for pattern in self.classes)


_WITH_QUEUE = ("AlbefFor*Retrieval_*", "AlbefForPreTraining_*", "LavisBlipFor*Retrieval_*", "LavisBlipForPreTraining_*")
_GENERATIVE = (
    "*ForQuestionAnswering",
    "*ForConditionalGeneration*",
    "LavisBlipForPreTraining_*",
    "LavisBlip2ForPreTraining_*",
)
_DECODERS = ("*ForQuestionAnswering", "*ForConditionalGeneration*", "*ForPreTraining_decoder")
#: BLIP without the pretraining head
_BLIP = ("LavisBlipModel_*", "LavisBlipForImage*", "LavisBlipForConditionalGeneration", "LavisBlipForQuestionAnswering")
_BLIP_2_FIRST_STAGE = ("LavisBlip2Model_*", "LavisBlip2ForImageTextRetrieval_*", "LavisBlip2ForPreTraining_*")
_DECODER_FIELDS = (
    "hidden states and attention of a decoder are decoder_hidden_states and decoder_attentions in every head, those of "
    "the image encoder vision_hidden_states and vision_attentions, as in heads without a decoder"
)

DIFFERENCES: tuple[Difference, ...] = (
    # ---- outputs ----
    Difference("test_attention_outputs", _DECODERS, _DECODER_FIELDS),
    Difference("test_hidden_states_output", _DECODERS, _DECODER_FIELDS),
    Difference("test_retain_grad_hidden_states_attentions", _DECODERS, _DECODER_FIELDS),
    Difference(
        "test_hidden_states_output",
        ("LavisTimesformerModel",),
        "hidden states of a video have a dimension of frames, (B, N, F, D)",
    ),
    Difference(
        "test_retain_grad_hidden_states_attentions",
        ("*Model_both",),
        "the first output is of the image or the video, while hidden_states and attentions are of the text",
    ),
    Difference(
        "test_retain_grad_hidden_states_attentions",
        ("LavisTimesformerModel",),
        "attention maps of a video are views with a dimension of frames, made after the attention is computed",
    ),
    Difference(
        "test_multimodal_outputs_are_returned",
        ("LavisBlip*ForConditionalGeneration", "LavisBlip*ForPreTraining_it[cm]", "LavisBlip*ForPreTraining_both"),
        "outputs of the image encoder are image_embeds, vision_hidden_states and vision_attentions in all heads",
    ),
    Difference(
        "test_model_outputs_equivalence",
        ("AlbefForPreTraining_*",),
        "masked tokens are drawn in each forward pass with a loss",
    ),
    Difference(
        "test_get_text_features_output_[02]",  # those with return_dict
        _BLIP_2_FIRST_STAGE,
        "text_config is that of a language model, which the first stage has not: the Q-Former encodes texts",
    ),
    # ---- weights ----
    Difference(
        "test_init_weights_can_init_buffers",
        _WITH_QUEUE,
        "feature queues start with random unit vectors, as in the original",
    ),
    Difference(
        "test_reverse_loading_mapping",
        ("Al*Model_*", "Al*Retrieval_*", "Al*Classification", "Al*Answering", "LavisBlip2*", *_BLIP),
        "the key mapping reads transformers' own formats and other shapes of the temperature; files are written with "
        "this package's keys, and in the other format only by save_original_format=True",
    ),
    Difference(
        "test_reverse_loading_mapping",
        ("LavisViTModel", "LavisEvaModel", "LavisQFormerModel"),
        "as for the heads",
    ),
    Difference(
        "test_model_weights_reload_no_missing_tied_weights",
        ("LavisBlip2*",),
        "BLIP-2 never starts from random query tokens or a random image encoder in silence; a file without them raises",
    ),
    Difference(
        "test_model_base_model_prefix",
        _GENERATIVE,
        "heads have the modules of the original side by side, not a base model inside",
    ),
    Difference(
        "test_model_get_set_embeddings",
        ("LavisViTModel", "LavisEvaModel", "LavisClipVisionModel", "LavisTimesformerModel"),
        "the input embedding of images is a convolution, as in transformers' ViT",
    ),
    # ---- configurations ----
    Difference(
        "test_config",
        ("AlbefForQuestionAnswering",),
        "text_config and answer_config have the same class, which reads text_config from the file of the whole",
    ),
    Difference(
        "test_model_forward_default_config_values",
        ("Albef*", "Alpro*", "LavisBlipModel_*", "LavisBlipFor*", *_BLIP_2_FIRST_STAGE),
        "default token ids are those of the published vocabularies, and a smaller vocabulary refuses them",
    ),
    # ---- processors ----
    Difference(
        "test_processor_text_has_no_visual",
        ("AlbefProcessor", "LavisBlipProcessor", "LavisBlip2Processor*"),
        "heads take one image per text, so a batch cannot have texts without one",
    ),
    Difference(
        "test_save_load_backends",
        ("LavisImageProcessor",),
        "the file names the class of the backend, so that loading restores it",
    ),
    Difference("test_valid_kwargs_set", ("LavisImageProcessor",), "both backends have one class of options"),
    Difference(
        "test_call_sample_frames",
        ("LavisVideoProcessor",),
        "frames are sampled by number, as in the original, not by frame rate, and short videos repeat frames",
    ),
    Difference(
        "test_video_processor_from_dict_with_kwargs",
        ("LavisVideoProcessor",),
        "a size of one number is a square: the aspect ratio is not kept, and nothing is cropped",
    ),
)

#: Failures that a change under way removes, with the item of the tracker instead of a reason.
PENDING: tuple[Difference, ...] = ()
