# SPDX-License-Identifier: Apache-2.0
"""A processor of your own: texts are cleaned in another way, and everything else stays.

python examples/extending/own_processor.py --output own_processor
"""

import argparse
import re
from collections.abc import Sequence

from modeling_lavis import LavisBlipProcessor, train
from modeling_lavis.embedded import embedded_images, embedded_model_path


class HashtagProcessor(LavisBlipProcessor):
    """BLIP's processor that makes words of hashtags before it cleans a text: `#EiffelTower` becomes `eiffel tower`."""

    def clean(self, text: str | Sequence[str], cleaning: str | None = "own") -> list[str]:
        texts = [text] if isinstance(text, str) else list(text)
        spaced = [re.sub(r"#(\w+)", lambda tag: re.sub(r"(?<=[a-z])(?=[A-Z])", " ", tag[1]), one) for one in texts]
        return super().clean(spaced, cleaning)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train with the processor for a step, and load it again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, help="folder of the run")
    output = parser.parse_args(arguments).output

    processor = HashtagProcessor.from_pretrained(embedded_model_path())
    print(processor.clean("Sunset at the #EiffelTower!"))
    rows = [{"image": str(image.path), "caption": f"#NoFilter {image.caption}"} for image in embedded_images()]
    train(
        "small-captioning",
        embedded_model_path(),
        train_data=rows,
        output_dir=output,
        processor=processor,
        values={"model.image_size": 72},
        num_train_epochs=1,
    )
    saved = HashtagProcessor.from_pretrained(output)
    ids = saved(text="#NoFilter")["input_ids"][0]
    print(saved.tokenizer.decode(ids))


if __name__ == "__main__":
    main()
