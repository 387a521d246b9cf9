"""The retrieval engine against a loop over all pairs; budgets, batches, processes and interruptions change nothing.

Shapes: I images, S texts, k candidates per row.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from modeling_lavis.evaluation import candidates
from modeling_lavis.evaluation.engine import RetrievalEngine, RetrievalResult
from modeling_lavis.evaluation.retrieval import NOT_RANKED
from tests.evaluation import engine_worker
from tests.evaluation.collections_of_pairs import ALBEF, ALPRO, BLIP, BLIP_2, HEADS, all_pairs, images_of
from tests.evaluation.collections_of_pairs import varied_texts as make_texts
from tests.evaluation.engine_worker import NUM_IMAGES, NUM_TEXTS, RUNS, as_tensors, run
from tests.evaluation.row_counter import RowCounter

TOP = Path(__file__).parents[2]
SLOW = pytest.mark.slow
#: one head in the fast suite, which also fuses hidden states of texts
ONE_HEAD = pytest.mark.parametrize(
    "case", [ALBEF, *(pytest.param(case, marks=SLOW) for case in (ALPRO, BLIP, BLIP_2))], ids=lambda case: case.name
)


def assert_equal(actual: RetrievalResult, expected: RetrievalResult) -> None:
    """Bit by bit."""
    for name, values in as_tensors(expected).items():
        assert torch.equal(as_tensors(actual)[name], values), name


def assert_close(actual: RetrievalResult, expected: RetrievalResult) -> None:
    """Scores to 1e-5, and the same order."""
    for name, values in as_tensors(expected).items():
        if name.endswith("indices"):
            assert torch.equal(as_tensors(actual)[name], values), name
        else:
            torch.testing.assert_close(as_tensors(actual)[name], values, atol=1e-5, rtol=1e-5)


def best_columns(row: Tensor, k: int) -> list[int]:
    return sorted(range(len(row)), key=lambda column: -float(row[column]))[:k]


@ONE_HEAD
def test_equals_a_loop_over_all_pairs(case: Any) -> None:
    model, texts = case.model(), make_texts(NUM_TEXTS - 1)  # without the text that is there twice
    images = images_of(case, NUM_IMAGES)
    result = RetrievalEngine(model, k=3, batch_size=2, text_batch_size=4).run(
        images, {name: values[:-1] for name, values in texts.items()}
    )
    cosine, logits = all_pairs(case, model, images, {name: values[:-1] for name, values in texts.items()})
    pairs = set()
    for ranked, similarity, match in (
        (result.image_to_text, cosine, logits),
        (result.text_to_image, cosine.T, logits.T),
    ):
        for row, columns in enumerate(ranked.indices.tolist()):
            found = best_columns(similarity[row], 3)
            assert columns == sorted(found, key=lambda column: -float(similarity[row, column] + match[row, column]))
            pairs |= {(row, column) if similarity is cosine else (column, row) for column in columns}
            torch.testing.assert_close(ranked.similarities[row], similarity[row, columns], atol=1e-5, rtol=1e-4)
            expected = similarity[row, columns] + match[row, columns]
            torch.testing.assert_close(ranked.scores[row], expected, atol=1e-4, rtol=1e-4)
    assert result.num_pairs == len(pairs) < cosine.numel()


def test_dense_matrices() -> None:
    result = run(ALBEF.name)
    for ranked, dense in zip((result.image_to_text, result.text_to_image), result.matrices(), strict=True):
        assert torch.equal(dense.gather(1, ranked.indices), ranked.scores)
        assert int((dense > NOT_RANKED).sum()) == ranked.indices.numel() == 3 * len(dense)
    assert [tuple(dense.shape) for dense in result.matrices()] == [(NUM_IMAGES, NUM_TEXTS), (NUM_TEXTS, NUM_IMAGES)]


@ONE_HEAD
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batch_sizes_do_not_change_the_ranking(case: Any, batch_size: int) -> None:
    assert_close(run(case.name, batch_size=batch_size, text_batch_size=2 * batch_size), run(case.name))


# ---- where hidden states wait ----


def state_sizes(case: Any) -> tuple[int, int]:
    """Bytes of the hidden states of all texts, if they are fused, and of two images."""
    model = case.model()
    with torch.no_grad():
        states = model.encode_images(images_of(case, 2))
    tokens = int(make_texts(NUM_TEXTS)["attention_mask"].sum())
    return 4 * tokens * 16 if model.fuses_text_states else 0, states.numel() * 4


@HEADS
def test_budgets_do_not_change_the_result(case: Any) -> None:
    """Images of the first group in memory, the second on disk, the others again; then all on disk; then none."""
    expected = run(case.name)
    assert expected.states == {"memory": NUM_IMAGES, "disk": 0, "recomputed": 0}
    texts, group = state_sizes(case)
    mixed = run(case.name, memory_budget=texts + group, disk_budget=group)
    assert mixed.states == {"memory": 2, "disk": 2, "recomputed": NUM_IMAGES - 4}
    on_disk = run(case.name, memory_budget=texts, disk_budget=100 * group)
    assert on_disk.states == {"memory": 0, "disk": NUM_IMAGES, "recomputed": 0}
    again = run(case.name, memory_budget=texts)
    assert again.states == {"memory": 0, "disk": 0, "recomputed": NUM_IMAGES}
    for result in (mixed, on_disk, again):
        assert_equal(result, expected)


@pytest.mark.parametrize("case", [ALBEF, pytest.param(ALPRO, marks=SLOW)], ids=lambda case: case.name)
def test_texts_on_disk_and_encoded_again(case: Any) -> None:
    expected = run(case.name)
    assert_equal(run(case.name, memory_budget=0, disk_budget=2**20), expected)
    assert_close(run(case.name, memory_budget=0), expected)  # other batches of texts


@pytest.mark.parametrize(("memory_budget", "images"), [(2**20, NUM_IMAGES), (None, 2 * NUM_IMAGES)])
def test_everything_is_computed_once(memory_budget: int | None, images: int) -> None:
    """Images twice, if the budget is only enough for the texts."""
    model = ALBEF.model()
    rows = RowCounter(model)
    budget = state_sizes(ALBEF)[0] if memory_budget is None else memory_budget
    result = run(ALBEF.name, model, memory_budget=budget)
    assert rows.pop_counts() == {"images": images, "texts": NUM_TEXTS, "pairs": result.num_pairs}


def test_temporary_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run(ALBEF.name, memory_budget=0, disk_budget=2**20)
    assert list(tmp_path.iterdir()) == []


def test_without_reranking_no_states_are_kept() -> None:
    result = run(ALBEF.name, rerank=False)
    assert result.num_pairs == 0 and set(result.states.values()) == {0}
    assert torch.equal(result.image_to_text.scores, result.image_to_text.similarities)
    matched = run(ALBEF.name)
    assert torch.equal(result.image_to_text.indices.sort().values, matched.image_to_text.indices.sort().values)


def test_the_mode_of_the_model_stays() -> None:
    model = ALBEF.model().train()
    before = torch.random.get_rng_state()
    assert_equal(run(ALBEF.name, model), run(ALBEF.name))
    assert model.training and not any(p.grad is not None for p in model.parameters())
    model = ALBEF.model()
    torch.random.set_rng_state(before)
    run(ALBEF.name, model)
    assert torch.equal(torch.random.get_rng_state(), before)


# ---- search ----


@pytest.mark.parametrize("several", [False, True], ids=["one feature", "several features"])
@pytest.mark.parametrize("k", [1, 4, 100])
def test_blocks_do_not_change_the_candidates(several: bool, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features of few values, so that many similarities are equal, and larger blocks than the collection."""
    images, texts = features(several)
    compare = compare_several if several else compare_one
    expected = candidates.exact_candidates(compare, images, texts, k)
    similarity = compare(images, texts)
    order = similarity.argsort(dim=1, descending=True, stable=True)
    assert torch.equal(expected.i2t.indices, order[:, :k])
    assert torch.equal(expected.t2i.indices, similarity.T.argsort(dim=1, descending=True, stable=True)[:, :k])
    monkeypatch.setattr(candidates, "IMAGE_ROWS", 5)
    monkeypatch.setattr(candidates, "TEXT_ROWS", 7)
    monkeypatch.setattr(candidates, "_MAX_COMPARED", 64)
    for found, wanted in zip(candidates.exact_candidates(compare, images, texts, k), expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def features(several: bool, levels: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (13, 3, 4) if several else (13, 4)
    return (
        torch.randint(-levels, levels + 1, shape, generator=generator).float(),
        torch.randint(-levels, levels + 1, (31, 4), generator=generator).float(),
    )


def compare_one(images: Tensor, texts: Tensor) -> Tensor:
    return images @ texts.T


def compare_several(images: Tensor, texts: Tensor) -> Tensor:
    return torch.einsum("bqp,rp->bqr", images, texts).amax(dim=1)


@pytest.mark.parametrize("several", [False, True], ids=["one feature", "several features"])
@pytest.mark.parametrize("k", [1, 4, 100])
def test_faiss_finds_the_candidates_of_the_exact_search(several: bool, k: int) -> None:
    pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(1)
    images = torch.randn((13, 3, 4) if several else (13, 4), generator=generator)
    texts = torch.randn(31, 4, generator=generator)
    expected = candidates.exact_candidates(compare_several if several else compare_one, images, texts, k)
    for factory in ("Flat", "HNSW32"):
        for found, wanted in zip(candidates.faiss_candidates(images, texts, k, factory), expected, strict=True):
            assert torch.equal(found.indices, wanted.indices)
            torch.testing.assert_close(found.similarities, wanted.similarities)


def test_faiss_finds_fewer_than_wanted() -> None:
    """One cell of the index is searched, and k columns are returned nevertheless."""
    pytest.importorskip("faiss")
    images, texts = (torch.randn(count, 4, generator=torch.Generator().manual_seed(count)) for count in (40, 400))
    found = candidates.faiss_candidates(images, texts, 150, "IVF4,Flat").i2t
    assert found.indices.shape == (40, 150)
    assert all(len(set(row)) == 150 for row in found.indices.tolist())
    expected = (images @ texts.T).gather(1, found.indices)
    torch.testing.assert_close(found.similarities, expected)
    assert bool((found.similarities.diff(dim=1) <= 0).all())


@ONE_HEAD
def test_engine_with_faiss(case: Any) -> None:
    pytest.importorskip("faiss")
    assert_close(run(case.name, index="faiss"), run(case.name))


def test_faiss_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modeling_lavis.import_utils.is_available", lambda module: False)
    with pytest.raises(ImportError, match=r"modeling-lavis\[retrieval\]"):
        run(ALBEF.name, index="faiss")


# ---- models of transformers ----


def clip(vocabulary: int = 60) -> CLIPModel:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    text = {**sizes, "vocab_size": vocabulary, "max_position_embeddings": 10, "eos_token_id": 3, "bos_token_id": 2}
    vision = {**sizes, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()


def siglip(vocabulary: int = 60) -> SiglipModel:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    text = {**sizes, "vocab_size": vocabulary, "max_position_embeddings": 10, "eos_token_id": 3, "bos_token_id": 2}
    torch.manual_seed(0)
    return SiglipModel(
        SiglipConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 16})
    ).eval()


@pytest.mark.parametrize("make", [clip, siglip])
def test_models_of_transformers(make: Any) -> None:
    model, texts = make(), make_texts(NUM_TEXTS)
    if make is siglip:
        texts.pop("attention_mask")
    images = images_of(ALBEF, NUM_IMAGES)
    result = RetrievalEngine(model, k=4, batch_size=3, text_batch_size=5).run(images, texts)
    with torch.no_grad():
        output = model(pixel_values=images, **texts)
    cosine = output.image_embeds @ output.text_embeds.T
    assert result.num_pairs == 0
    for ranked, similarity in ((result.image_to_text, cosine), (result.text_to_image, cosine.T)):
        torch.testing.assert_close(ranked.scores, similarity.gather(1, ranked.indices), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ranked.scores, similarity.topk(4, dim=1).values, atol=1e-5, rtol=1e-4)


class OwnHead(torch.nn.Module):
    """A head of a user: the three methods, and nothing else of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = clip()
        self.device = torch.device("cpu")

    def get_image_features(self, pixel_values: Tensor) -> Any:
        return self.clip.get_image_features(pixel_values)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return self.clip.get_text_features(input_ids, attention_mask)

    def score_pairs(self, images: Tensor, texts: Any, pairs: Tensor) -> Any:
        logits = images[pairs[:, 0]].mean(dim=(1, 2)) * texts["input_ids"][pairs[:, 1]].float().mean(dim=1)
        return type("Scores", (), {"logits": torch.stack([-logits, logits], dim=1)})


def test_heads_of_users() -> None:
    model, texts, images = OwnHead().eval(), make_texts(NUM_TEXTS), images_of(ALBEF, NUM_IMAGES)
    result = RetrievalEngine(model, k=4, batch_size=3, memory_budget=1500).run(images, texts)
    assert result.states["memory"] and result.states["recomputed"]
    with torch.no_grad():
        states = model.get_image_features(images).last_hidden_state
        every = torch.cartesian_prod(torch.arange(NUM_IMAGES), torch.arange(NUM_TEXTS))
        logits = model.score_pairs(states, texts, every).logits[:, 1].view(NUM_IMAGES, NUM_TEXTS)
    ranked = result.image_to_text
    expected = ranked.similarities + logits.gather(1, ranked.indices)
    torch.testing.assert_close(ranked.scores, expected)
    assert bool((ranked.scores.diff(dim=1) <= 0).all())


# ---- work folders ----


class Interruption(Exception):
    pass


def interrupted(case: Any, work_dir: Path, method: str, after: int, **options: Any) -> Any:
    """Run until a method was called some times, and return the counter of its calls."""
    model = case.model()
    original, calls = getattr(model, method), []

    def call(*args: Any, **kwargs: Any) -> Any:
        if len(calls) == after:
            raise Interruption
        calls.append(1)
        return original(*args, **kwargs)

    setattr(model, method, call)
    with pytest.raises(Interruption):
        run(case.name, model, work_dir=work_dir, **options)
    return model


@ONE_HEAD
@pytest.mark.parametrize(("method", "after"), [("encode_images", 2), ("score_pairs", 1)])
@pytest.mark.parametrize("disk_budget", [0, 2**20])
def test_interrupted_runs_continue(case: Any, method: str, after: int, disk_budget: int, tmp_path: Path) -> None:
    expected = run(case.name)
    options = {"work_dir": tmp_path / "work", "memory_budget": 0, "disk_budget": disk_budget}
    if not disk_budget:
        options["memory_budget"] = 2**20
    interrupted(case, method=method, after=after, **options)
    model = case.model()
    calls: list[int] = []
    original = getattr(model, method)
    setattr(model, method, lambda first, *rest: calls.append(len(first)) or original(first, *rest))
    assert_equal(run(case.name, model, **options), expected)
    groups = -(-NUM_IMAGES // 2)
    if method == "score_pairs":
        assert len(calls) == groups - after
    elif disk_budget:
        assert len(calls) == groups - after  # what was encoded is not encoded again
    # A finished run is read from its files alone, but for the hidden states of texts.
    model = case.model()
    model.score_pairs = None
    assert_equal(run(case.name, model, **options), expected)
    left = {path.name.split("-")[0] for path in (tmp_path / "work").iterdir()}
    assert left == {"run.json", "candidates.safetensors", "images", "logits"} and not list(tmp_path.glob("*/*states*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 4}, "its k was 3, now it is 4"),
        ({"batch_size": 3}, "its batch_size was 2, now it is 3"),
        ({"rerank": False}, "its rerank was True, now it is False"),
        ({"index": "faiss"}, "its index was 'exact', now it is 'faiss'"),
    ],
)
def test_other_options_do_not_continue(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    run(ALBEF.name, work_dir=tmp_path)
    with pytest.raises(ValueError, match=f"belongs to another run: {message}"):
        run(ALBEF.name, work_dir=tmp_path, **change)


def test_other_models_and_data_do_not_continue(tmp_path: Path) -> None:
    images, texts = images_of(ALBEF, NUM_IMAGES), make_texts(NUM_TEXTS)
    work = tmp_path / "work"

    def again(model: Any, images: Tensor, texts: Any, identity: Any = None) -> None:
        RetrievalEngine(model, k=3, batch_size=2, work_dir=work).run(images, texts, identity)

    again(ALBEF.model(), images, texts, {"captions": "a"})
    other = ALBEF.model()
    with torch.no_grad():
        other.itm_head.bias += 1
    changed = {name: values.clone() for name, values in texts.items()}
    changed["input_ids"][2, 1] += 1
    brighter = images.clone()
    brighter[1] += 1
    for arguments, message in (
        ((other, images, texts, {"captions": "a"}), "its model weights was"),
        ((BLIP.model(), images, texts, {"captions": "a"}), "its model class was 'AlbefForImageTextRetrieval'"),
        ((ALBEF.model(), images[:-1], texts, {"captions": "a"}), "its number of images was 7, now it is 6"),
        ((ALBEF.model(), images, changed, {"captions": "a"}), "its texts was"),
        ((ALBEF.model(), images, texts, {"captions": "b"}), "its captions was 'a', now it is 'b'"),
        ((ALBEF.model(), brighter, texts, {"captions": "a"}), "the images 0 to 1 were others"),
    ):
        with pytest.raises(ValueError, match=message):
            again(*arguments)
    again(ALBEF.model(), images, texts, {"captions": "a"})


def test_images_that_are_loaded_again_are_checked(tmp_path: Path) -> None:
    images = images_of(ALBEF, NUM_IMAGES)
    interrupted(ALBEF, tmp_path, "score_pairs", 2)
    images[-1] += 1
    with pytest.raises(ValueError, match="the images 6 to 6 were others"):
        RetrievalEngine(ALBEF.model(), **engine_worker.OPTIONS, work_dir=tmp_path).run(images, make_texts(NUM_TEXTS))


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(ValueError, match=r"has files but no run\.json, for example thesis\.tex"):
        run(ALBEF.name, work_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_damaged_parts_are_named(tmp_path: Path) -> None:
    run(ALBEF.name, work_dir=tmp_path)
    (tmp_path / "logits-000001.safetensors").write_bytes(b"short")
    with pytest.raises(OSError, match=r"logits-000001\.safetensors is damaged.*Remove it"):
        run(ALBEF.name, work_dir=tmp_path)
    (tmp_path / "logits-000001.safetensors").unlink()
    assert_equal(run(ALBEF.name, work_dir=tmp_path), run(ALBEF.name))


@SLOW
@pytest.mark.parametrize("case", [ALBEF, BLIP_2], ids=lambda case: case.name)
def test_killed_runs_continue(case: Any, tmp_path: Path) -> None:
    """Runs are killed at many moments, also while they write, until one ends."""
    command = [sys.executable, "-m", "tests.evaluation.engine_worker", "killed", case.name, str(tmp_path)]
    subprocess.run(command, cwd=TOP, check=True, timeout=300)
    assert int((tmp_path / "kills").read_text()) >= 4
    found, expected = torch.load(tmp_path / "result.pt"), as_tensors(run(case.name, **engine_worker.SMALL_BUDGETS))
    assert all(torch.equal(found[name], values) for name, values in expected.items())
    assert not list((tmp_path / "work").glob("tmp-*")) and not list((tmp_path / "work").glob("*states*"))


# ---- several processes ----


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What each of several processes found, by their number; they run once."""
    known: dict[int, Any] = {}

    def start(number: int) -> Any:
        if number not in known:
            folder = tmp_path_factory.mktemp(f"processes-{number}")
            command = [sys.executable, "-m", "tests.evaluation.engine_worker", "distributed", str(number), str(folder)]
            subprocess.run(command, cwd=TOP, check=True, timeout=300, capture_output=True, text=True)
            known[number] = ([torch.load(folder / f"{rank}.pt") for rank in range(number)], folder)
        return known[number]

    return start


@SLOW
@pytest.mark.parametrize("number", [2, 5])
def test_processes_share_the_work(processes: Any, number: int) -> None:
    """With five processes, some have no images at all in a stage."""
    found, folder = processes(number)
    for rank in range(number):
        for name in engine_worker.CASES:
            expected = as_tensors(run(name))
            for label in RUNS:
                if f"{name}, {label}" not in found[rank]:
                    continue
                for key, values in found[rank][f"{name}, {label}"].items():
                    if key.endswith("indices") or (label == "memory" or (label == "disk")):
                        assert torch.equal(values, expected[key]), (name, label, key)
                    else:
                        torch.testing.assert_close(values, expected[key], atol=1e-5, rtol=1e-5)
        assert "its k was 3, now it is 4" in found[rank]["refused"]
    # one process continues what several have begun
    (folder / "work" / "logits-000002.safetensors").unlink(missing_ok=True)
    continued = run(ALBEF.name, work_dir=folder / "work")
    assert_equal(continued, run(ALBEF.name))
    assert all(torch.equal(found[0]["work folder"][key], values) for key, values in as_tensors(continued).items())


# ---- wrong inputs ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0; expected at least one candidate"),
        ({"batch_size": 0}, "'batch_size': 0"),
        ({"memory_budget": -1}, "'memory_budget': -1"),
        ({"index": "annoy"}, "index is 'annoy'; expected 'exact', 'faiss'"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(ALBEF.name, **options)


def test_wrong_models_and_collections() -> None:
    with pytest.raises(TypeError, match="Linear, which has no get_image_features and get_text_features"):
        RetrievalEngine(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="CLIPModel has no score_pairs"):
        RetrievalEngine(clip(), rerank=True)
    engine, texts = RetrievalEngine(ALBEF.model()), make_texts(3)
    with pytest.raises(ValueError, match="Got 0 images and 3 texts"):
        engine.run(images_of(ALBEF, 0), texts)
    pytest.importorskip("faiss")
    with pytest.raises(ValueError, match="FAISS refuses the index 'Tree9'"):
        run(ALBEF.name, index="faiss:Tree9")


def test_collections_that_return_other_numbers_of_rows() -> None:
    class Wrong:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, rows: list[int]) -> Tensor:
            return images_of(ALBEF, 1)

    with pytest.raises(ValueError, match="2 images gave 1 rows of features"):
        RetrievalEngine(ALBEF.model(), batch_size=2).run(Wrong(), make_texts(3))


def test_alpro_names_clips() -> None:
    assert RetrievalEngine(ALPRO.model()).encoder.modality == "video"
