"""Tasks on BLIP models: pipelines return what the model returns, and batches equal single inputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_lavis.evaluation.retrieval import similarity_matrices
from modeling_lavis.pipelines.retrieval import RetrievalIndex
from tests.pipelines.comparison import approximate, texts_of

Pipe = Callable[..., Any]
QUESTIONS = ["what is this", "who is the man in the red house on the hill?", "is it a dog", "why"]
TEXTS = ["a dog", "the red house on a hill by the water", "a man", "a woman in a car with a food"]


class TestCaptioning:
    def test_equals_generate(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("image-captioning")
        inputs = run.processor(images=files[0], return_tensors="pt")
        ids = run.model.generate(**inputs, num_beams=3, max_length=8)
        expected = run.processor.post_process_captions(ids)
        assert texts_of(run(files[0], num_beams=3, max_length=8)) == expected

    def test_batches_equal_single_inputs(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("image-captioning", prompt="a picture of ")
        single = [run(file, max_new_tokens=6) for file in files]
        assert run(files, max_new_tokens=6, batch_size=3) == approximate(single)
        assert len({str(texts_of(result)) for result in single}) > 1, (
            "the captions of the random model must differ between images"
        )

    def test_prompts_of_different_lengths_in_a_batch(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("image-captioning")
        prompts = ["", "a picture of", "the man", "a dog and a man in a red"]
        batched = run(files, prompt=prompts, batch_size=4, max_new_tokens=5)
        assert batched == approximate([run(file, prompt=p, max_new_tokens=5) for file, p in zip(files, prompts)])

    def test_return_full_text(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("image-captioning")
        short = run(files[0], prompt="A dog", max_new_tokens=3)[0]["generated_text"]
        full = run(files[0], prompt="A dog", max_new_tokens=3, return_full_text=True)[0]["generated_text"]
        assert full == f"a dog {short}"

    def test_several_returned_sequences(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("image-captioning")
        results = run(files[:3], batch_size=3, num_beams=3, num_return_sequences=2, max_new_tokens=5)
        assert [len(result) for result in results] == [2, 2, 2]
        single = [run(f, num_beams=3, num_return_sequences=2, max_new_tokens=5) for f in files[:3]]
        assert results == approximate(single)

    def test_max_new_tokens_excludes_the_prompt(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("image-captioning")
        ids = []
        generate = run.model.generate
        try:
            run.model.generate = lambda **kwargs: ids.append(generate(**kwargs)) or ids[-1]
            run(files[0], prompt="a dog in a", max_new_tokens=3, min_new_tokens=3)
        finally:
            del run.model.generate
        assert ids[0].sequences.shape[1] == 5 + 3

    def test_constructor_options_are_defaults(self, repository: Pipe, files: list[str]) -> None:
        from transformers import pipeline

        folder = repository("ForConditionalGeneration")
        run = pipeline("image-captioning", model=folder, device="cpu", prompt="a dog", max_new_tokens=3, batch_size=2)
        without = pipeline("image-captioning", model=folder, device="cpu")
        assert run(files) == approximate(without(files, prompt="a dog", max_new_tokens=3))
        assert run(files[0], prompt="a man") == without(files[0], prompt="a man", max_new_tokens=3)

    def test_pretraining_head(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("image-captioning", "ForPreTraining")
        results = run(files[:3], max_new_tokens=3, num_beams=2)
        for file, result in zip(files[:3], results, strict=True):
            pixel_values = run.processor(images=file, return_tensors="pt")["pixel_values"]
            ids = run.model.generate(pixel_values, max_length=4, num_beams=2)
            assert texts_of(result) == run.processor.post_process_captions(ids)
            assert ids.shape == (1, 4) and result[0]["generated_text"]


class TestQuestionAnswering:
    def test_generated_answers_of_batches_equal_single_inputs(self, pipe: Pipe, files: list[str]) -> None:
        """Even if the model's `generate` attends to the padding of shorter questions."""
        run = pipe("image-question-answering")
        assert run.model.config.attend_question_padding
        batched = run(files, question=QUESTIONS, batch_size=4, max_new_tokens=4)
        assert batched == approximate([run(f, question=q, max_new_tokens=4) for f, q in zip(files, QUESTIONS)])

    def test_generated_answers_equal_generate(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("image-question-answering")
        inputs = run.processor(images=files[0], text=QUESTIONS[1], cleaning="question", return_tensors="pt")
        ids = run.model.generate(**inputs, num_beams=3, max_length=6)
        expected = run.processor.post_process_answers(ids)
        assert texts_of(run(files[0], question=QUESTIONS[1], num_beams=3, max_length=6)) == expected

    def test_ranked_answers(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("image-question-answering")
        answers = ["dog", "a red house", "man", "yes", "no"]
        inputs = run.processor(
            images=files[0], text=QUESTIONS[1], answers=answers, cleaning="question", return_tensors="pt"
        )
        expected = run.model.rank_answers(**inputs)
        result = run(files[0], question=QUESTIONS[1], answers=answers, top_k=3)
        assert [row["answer"] for row in result] == [answers[i] for i in expected.candidates[0, :3].tolist()]
        assert [row["score"] for row in result] == pytest.approx(expected.scores[0, :3].tolist(), abs=1e-4)

    def test_ranked_answers_of_batches_equal_single_inputs(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("image-question-answering")
        options: dict[str, Any] = {"answers": ["dog", "a red house", "man"], "num_candidates": 2}
        batched = run(files, question=QUESTIONS, batch_size=3, **options)
        single = [run(f, question=q, **options) for f, q in zip(files, QUESTIONS)]
        assert [len(row) for row in batched] == [2] * 4
        assert approximate(batched) == approximate(single)

    def test_several_questions_for_one_image(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("image-question-answering")
        results = run(files[0], question=QUESTIONS[:2], max_new_tokens=3)
        assert results == [run(files[0], question=q, max_new_tokens=3) for q in QUESTIONS[:2]]

    @pytest.mark.parametrize("answers", [[], "yes,no", ["yes", 3]])
    def test_invalid_answers(self, pipe: Pipe, files: list[str], answers: Any) -> None:
        with pytest.raises(ValueError, match="answers is .*; expected a list of at least one string"):
            pipe("image-question-answering")(files[0], question="what?", answers=answers)


class TestMatching:
    def test_equals_the_model(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("image-text-matching")
        result = run(files, text=TEXTS, batch_size=2)
        inputs = run.processor(images=files, text=TEXTS, return_tensors="pt")
        assert [len(row) for row in result] == [len(TEXTS)] * len(files)
        with torch.no_grad():
            for image, row in enumerate(result):
                for text_index, entry in enumerate(row):
                    text = {name: inputs[name][text_index : text_index + 1] for name in ("input_ids", "attention_mask")}
                    output = run.model(pixel_values=inputs["pixel_values"][image, None], **text, match_head="both")
                    cosine = output.image_features @ output.text_features.T
                    assert entry["text"] == TEXTS[text_index]
                    assert entry["score"] == pytest.approx(output.logits.softmax(-1)[0, 1].item(), abs=1e-4)
                    assert entry["similarity"] == pytest.approx(cosine.item(), abs=1e-4)

    def test_rows_with_their_own_texts(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("image-text-matching")
        rows = [
            {"image": files[0], "text": TEXTS},
            {"image": files[1], "text": "a dog"},
            {"image": files[2], "text": TEXTS[:2]},
        ]
        result = run(rows, batch_size=3)
        assert [len(row) for row in result] == [4, 1, 2]
        assert approximate(result) == approximate(
            [run(row) if isinstance(row["text"], list) else run(row) for row in rows]
        )

    def test_pretraining_head(self, pipe: Pipe, files: list[str]) -> None:
        result = pipe("image-text-matching", "ForPreTraining")(files[0], text="a dog")
        assert 0 <= result[0]["score"] <= 1 and -1 <= result[0]["similarity"] <= 1


class TestRetrieval:
    @pytest.fixture
    def matrices(self, pipe: Pipe, files: list[str]) -> Any:
        """Scores of all pairs from `similarity_matrices`."""
        run = pipe("image-text-retrieval")
        inputs = run.processor(images=files, text=TEXTS, return_tensors="pt")
        return similarity_matrices(run.model, inputs["pixel_values"], inputs, k=4)

    @pytest.mark.parametrize("keep_states", [True, False])
    def test_images_by_text(self, pipe: Pipe, files: list[str], matrices: Any, keep_states: bool) -> None:
        run = pipe("image-text-retrieval")
        index = run.index(images=files, batch_size=3, keep_states=keep_states)
        for batch_size in (1, 3):
            results = run(TEXTS, index=index, top_k=4, batch_size=batch_size)
            assert len(results) == len(TEXTS)
            for text, result in enumerate(results):
                order = matrices.t2i[text].argsort(descending=True).tolist()
                assert [row["index"] for row in result] == order
                assert [row["image"] for row in result] == [files[i] for i in order]
                assert [row["score"] for row in result] == pytest.approx(matrices.t2i[text, order].tolist(), abs=1e-4)
                cosine = matrices.cosine[order, text].tolist()
                assert [row["similarity"] for row in result] == pytest.approx(cosine, abs=1e-4)

    def test_texts_by_image(self, pipe: Pipe, files: list[str], matrices: Any) -> None:
        results = pipe("image-text-retrieval")(files, texts=TEXTS, top_k=3, batch_size=2)
        assert len(results) == len(files)
        for image, result in enumerate(results):
            order = matrices.i2t[image].argsort(descending=True)[:3].tolist()
            assert [(row["index"], row["text"]) for row in result] == [(i, TEXTS[i]) for i in order]
            assert [row["score"] for row in result] == pytest.approx(matrices.i2t[image, order].tolist(), abs=1e-4)

    def test_only_candidates_are_ranked(self, pipe: Pipe, files: list[str], matrices: Any) -> None:
        result = pipe("image-text-retrieval")(TEXTS[0], images=files, top_k=2, num_candidates=2)
        best = matrices.cosine[:, 0].topk(2).indices.tolist()
        assert sorted(row["index"] for row in result) == sorted(best)

    def test_score_without_re_ranking_is_the_cosine_similarity(
        self, pipe: Pipe, files: list[str], matrices: Any
    ) -> None:
        result = pipe("image-text-retrieval")(TEXTS[0], images=files, rerank=False)
        order = matrices.cosine[:, 0].argsort(descending=True).tolist()
        assert [row["index"] for row in result] == order
        assert all(row["score"] == row["similarity"] for row in result)

    def test_queries_of_the_kind_of_the_collection(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("image-text-retrieval")
        found = run(files[2], images=files, query_type="image", top_k=1)
        assert found[0]["index"] == 2 and found[0]["similarity"] == pytest.approx(1, abs=1e-4)
        assert run("a man", texts=TEXTS, query_type="text", top_k=1)[0]["text"] == "a man"

    def test_index_from_stored_features(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("image-text-retrieval")
        index = run.index(images=files)
        stored = RetrievalIndex("image", files, index.features.numpy())
        assert approximate(run("a dog", index=stored)) == approximate(run("a dog", index=index))

    def test_index_of_a_generator_with_corrupt_images(self, pipe: Pipe, files: list[str], tmp_path: Path) -> None:
        corrupt = tmp_path / "corrupt.png"
        corrupt.write_text("not an image")
        run = pipe("image-text-retrieval")
        index = run.index(images=(f for f in [files[0], str(corrupt), files[1]]), batch_size=3, on_error="return")
        assert index.items == files[:2] and len(index) == 2
        assert [item for item, _ in index.failures] == [str(corrupt)] and "corrupt.png" in index.failures[0][1]
        with pytest.raises(OSError, match="corrupt.png"):
            run.index(images=[str(corrupt)])
        with pytest.raises(ValueError, match="no image that can be loaded"):
            run.index(images=[str(corrupt)], on_error="return")

    def test_index_of_rows(self, pipe: Pipe, files: list[str], tmp_path: Path) -> None:
        run = pipe("image-text-retrieval")
        missing = str(tmp_path / "missing.png")
        rows = [{"image": files[0]}, {"image": missing}, {"image": files[1]}, {"caption": "a dog"}]
        index = run.index(images=rows, batch_size=2, on_error="return")
        assert index.items == files[:2]
        torch.testing.assert_close(index.features, run.index(images=files[:2], batch_size=2).features)
        assert [item for item, _ in index.failures] == [missing, {"caption": "a dog"}]

    def test_items_are_returned_as_they_were_passed(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("image-text-retrieval")
        images = [Image.open(file).convert("RGB") for file in files]
        results = run("a dog", images=images, top_k=4)
        assert all(row["image"] is images[row["index"]] for row in results)

    @pytest.mark.parametrize("option", ["top_k", "num_candidates"])
    def test_options_must_be_positive(self, pipe: Pipe, files: list[str], option: str) -> None:
        with pytest.raises(ValueError, match=f"{option} is 0.*expected positive integers"):
            pipe("image-text-retrieval")("a dog", images=files, **{option: 0})

    @pytest.mark.parametrize("collection", [{}, {"images": ["a.png"], "texts": ["a"]}])
    def test_number_of_collections(self, pipe: Pipe, collection: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="one collection"):
            pipe("image-text-retrieval")("a dog", **collection)

    def test_invalid_index(self) -> None:
        with pytest.raises(ValueError, match="3 items got features of shape"):
            RetrievalIndex("image", ["a", "b", "c"], torch.rand(2, 4))
        with pytest.raises(ValueError, match="'image', 'video' or 'text'"):
            RetrievalIndex("sound", ["a"], torch.rand(1, 4))  # type: ignore[arg-type]


class TestClassification:
    def test_equals_the_model(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("image-text-classification")
        results = run(files, text=TEXTS, batch_size=3)
        inputs = run.processor(images=files, text=TEXTS, return_tensors="pt")
        with torch.no_grad():
            probabilities = run.model(**inputs).logits.softmax(-1)
        for result, row in zip(results, probabilities, strict=True):
            assert [entry["label"] for entry in result] == [f"LABEL_{i}" for i in row.argsort(descending=True).tolist()]
            assert [entry["score"] for entry in result] == pytest.approx(
                row.sort(descending=True).values.tolist(), abs=1e-4
            )

    def test_top_k(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("image-text-classification")
        assert run(files[0], text="a dog", top_k=2) == run(files[0], text="a dog")[:2]
        with pytest.raises(ValueError, match="top_k is 0"):
            run(files[0], text="a dog", top_k=0)

    def test_image_pairs_equal_the_model(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("image-pair-classification")
        pairs = [[files[0], files[1]], [files[2], files[3]], [files[1], files[0]]]
        results = run(pairs, text=TEXTS[:3], batch_size=2)
        inputs = run.processor(images=pairs, text=TEXTS[:3], return_tensors="pt")
        with torch.no_grad():
            probabilities = run.model(**inputs).logits.softmax(-1)
        for result, row in zip(results, probabilities, strict=True):
            scores = {entry["label"]: entry["score"] for entry in result}
            assert [scores["LABEL_0"], scores["LABEL_1"]] == pytest.approx(row.tolist(), abs=1e-4)

    def test_types_of_pairs(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("image-pair-classification")
        arrays = np.stack([np.array(Image.open(f).convert("RGB").resize((40, 40))) for f in files[:2]])
        expected = approximate(run(files[:2], text="a dog"))
        assert approximate(run(tuple(files[:2]), text="a dog")) == expected
        assert approximate(run({"images": files[:2], "text": "a dog"})) == expected
        assert approximate(run([{"images": files[:2]}], text="a dog")) == [expected]
        assert approximate(run(files[:2], text=["a dog", "a man"])[0]) == expected
        assert approximate(run(arrays, text="a dog")) == approximate(run([arrays], text="a dog")[0])

    @pytest.mark.parametrize("count", [1, 3])
    def test_pairs_of_other_sizes(self, pipe: Pipe, files: list[str], count: int) -> None:
        with pytest.raises(ValueError, match=f"pairs of images.*got a list of {count}"):
            pipe("image-pair-classification")([files[:count]], text="a dog")


class TestFeatures:
    def test_features_by_name(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("multimodal-feature-extraction")
        names = ["image_features", "text_features", "image_embeds", "text_embeds", "multimodal_embeds"]
        inputs = run.processor(images=files, text=TEXTS, return_tensors="pt")
        with torch.no_grad():
            expected = run.model(**inputs)
        all_tokens = run(files, text=TEXTS, features=names, pool=False, return_tensors="pt", batch_size=3)
        first_token = run(files, text=TEXTS, features=names, return_tensors="np", batch_size=2)
        for row, (tokens, pooled) in enumerate(zip(all_tokens, first_token)):
            assert list(tokens) and set(tokens) == set(names)
            length = int(inputs["attention_mask"][row].sum())
            for name in names:
                unpadded = expected[name][row] if name.startswith("image") else expected[name][row, :length]
                torch.testing.assert_close(tokens[name], unpadded, atol=1e-4, rtol=1e-4)
                np.testing.assert_allclose(pooled[name], unpadded[0].numpy(), atol=1e-4)

    def test_default_features_depend_on_the_inputs(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("multimodal-feature-extraction")
        rows = [{"image": files[0]}, {"text": "a dog"}, {"image": files[0], "text": "a dog"}]
        results = run(rows, batch_size=3)
        assert [sorted(row) for row in results] == [
            ["image_features"],
            ["text_features"],
            ["image_features", "multimodal_embeds", "text_features"],
        ]
        assert approximate(results) == approximate([run(row) for row in rows])
        assert approximate(results[0]) == approximate(run(files[0])) and approximate(results[1]) == approximate(
            run(text="a dog")
        )
        assert np.linalg.norm(results[0]["image_features"]) == pytest.approx(1, abs=1e-4)

    @pytest.mark.parametrize("head", ["ForImageTextRetrieval", "ForPreTraining"])
    def test_other_heads(self, pipe: Pipe, files: list[str], head: str) -> None:
        result = pipe("multimodal-feature-extraction", head)(files[0], text="a dog")
        assert len(result["image_features"]) == 16 and len(result["multimodal_embeds"]) == 32

    def test_errors(self, pipe: Pipe, files: list[str]) -> None:
        run = pipe("multimodal-feature-extraction")
        with pytest.raises(ValueError, match="Unknown features"):
            run(files[0], features="image_feature")
        with pytest.raises(ValueError, match="needs a text"):
            run(files[0], features=["text_features"])
        with pytest.raises(ValueError, match="got no input"):
            run()
        with pytest.raises(ValueError, match="return_tensors"):
            run(files[0], return_tensors="tf")
