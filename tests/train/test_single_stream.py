"""The encoder of words and cells, and the head for words, against transformers' own BERT."""

import dataclasses
import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
from jaxtyping import Float
from refused import refuses
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BertModel

from clipfeat.base.errors import UsageError
from clipfeat.train.models.bert import find_bert, load_bert
from clipfeat.train.models.settings import SingleStreamSettings
from clipfeat.train.models.single_stream import (
    GridEmbedding,
    SingleStreamEncoder,
    grid_positions,
)
from clipfeat.train.normalize import ChannelStatistics, FeatureNorm
from clipfeat.train.tasks.pretraining.examples import PretrainBatch
from clipfeat.train.tasks.pretraining.model import Pretrainer, PretrainOutputs
from clipfeat.train.tasks.settings import ObjectiveSettings, PretrainSettings

DIM, TOKENS, ANSWERS = 6, 20, 4
SIZES = SingleStreamSettings(hidden=16, layers=3, heads=2, max_grid_side=4, dropout=0.0)
SETTINGS = PretrainSettings(model=SIZES, objectives=ObjectiveSettings(answers=1.0, cells=1.0))
CONFIG = BertConfig(
    vocab_size=TOKENS, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
    intermediate_size=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip


def lively(module: nn.Module) -> None:
    """Give a model weights that make attention sharp and biases count."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=1.5)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a BertForMaskedLM."""
    folder = tmp_path_factory.mktemp("bert")
    model = BertForMaskedLM(CONFIG)
    lively(model)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("[PAD]\n")
    return folder


def encoder_of(bert: Path) -> SingleStreamEncoder:
    encoder = SingleStreamEncoder(SIZES, dim=DIM, tokens=TOKENS)
    lively(encoder.grid)
    load_bert(encoder.bert, find_bert(str(bert)))
    return encoder.eval()


def eager(bert: Path) -> BertModel:
    return BertModel.from_pretrained(bert, attn_implementation="eager", add_pooling_layer=False)


TEXTS = torch.tensor([[2, 9, 8, 7, 3], [2, 5, 3, 0, 0], [2, 6, 11, 3, 0]])


def test_a_text_without_cells_is_read_as_by_bert(bert: Path) -> None:
    states, _ = encoder_of(bert)(
        torch.randn(1, 4, DIM),
        torch.zeros(1, 4, dtype=torch.bool),
        grid_positions(torch.tensor([[2, 2]]), 4),
        torch.zeros(3, dtype=torch.int64),
        TEXTS,
    )
    real = TEXTS > 0
    expected = eager(bert)(input_ids=TEXTS, attention_mask=real.long()).last_hidden_state
    torch.testing.assert_close(states[:, :5][real], expected[real], rtol=1e-4, atol=1e-5)


class MorePieces(nn.Module):
    """Cells that are pieces, further on in the text: a BERT can then read the whole sequence."""

    def __init__(self, embeddings: nn.Module, pieces: Tensor) -> None:
        super().__init__()
        self.embeddings, self.pieces = embeddings, pieces

    def forward(self, features: Tensor, positions: Tensor) -> Float[Tensor, "image cell channel"]:
        ids = 5 + torch.arange(self.pieces.shape[1])
        return self.embeddings(self.pieces, position_ids=ids.expand_as(self.pieces))


def test_states_and_attention_are_those_of_berts_eager_layers(bert: Path) -> None:
    """The attention is that of the last layer from [CLS], among the cells alone, mean over heads."""
    encoder = encoder_of(bert)
    cells = torch.tensor([[4, 12, 13, 19], [14, 17, 0, 0]])
    seen = torch.tensor([[True, True, False, True], [True, True, False, False]])
    encoder.add_module("grid", MorePieces(encoder.bert.embeddings, cells))
    image_of_text = torch.tensor([1, 0, 0])
    positions = torch.zeros(2, 4, 2, dtype=torch.int64)
    states, attention = encoder(torch.zeros(2, 4, DIM), seen, positions, image_of_text, TEXTS)

    whole = torch.cat((TEXTS, cells[image_of_text]), dim=1)
    real = torch.cat((TEXTS > 0, seen[image_of_text]), dim=1)
    theirs = eager(bert)(input_ids=whole, attention_mask=real.long(), output_attentions=True)
    torch.testing.assert_close(states[real], theirs.last_hidden_state[real], rtol=1e-4, atol=1e-5)
    to_cells = theirs.attentions[-1][:, :, 0, 5:]  # text head cell
    expected = (to_cells / to_cells.sum(dim=-1, keepdim=True)).mean(dim=1)
    torch.testing.assert_close(attention, expected, rtol=1e-4, atol=1e-6)
    assert attention[~seen[image_of_text]].tolist() == [0, 0, 0, 0]
    assert attention.max() > 0.6  # the weights make it choose


def test_a_cell_is_its_features_row_and_column() -> None:
    encoder = SingleStreamEncoder(SIZES, dim=DIM, tokens=TOKENS)
    grid = encoder.grid
    assert isinstance(grid, GridEmbedding)
    lively(grid)
    features = torch.randn(1, 6, DIM)
    found = grid(features, grid_positions(torch.tensor([[2, 3]]), 6))[0]
    for cell, (row, col) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]):
        sums = grid.project.weight @ features[0, cell] + grid.project.bias
        sums = sums + grid.rows.weight[row] + grid.cols.weight[col]
        normal = (sums - sums.mean()) / sums.std(correction=0)
        expected = normal * grid.layer_norm.weight + grid.layer_norm.bias
        torch.testing.assert_close(found[cell], expected, rtol=1e-4, atol=1e-5)


def batch_of() -> PretrainBatch:
    """Return three texts about two images, the second with two cells fewer."""
    torch.manual_seed(1)
    return PretrainBatch(
        features=torch.randn(2, 5, DIM).half(),
        mask=torch.tensor([[True] * 5, [True, False, True, True, False]]),
        places=torch.randint(4, (2, 5, 2)),
        hidden=torch.tensor(
            [[True, False, False, True, False], [False, False, True, False, False]]
        ),
        image_of_text=torch.tensor([1, 0, 0]),
        tokens=TEXTS,
        masked=torch.tensor([1, 3, 6, 11]),
        pieces=torch.tensor([9, 4, 8, 6]),
        matched=torch.tensor([1.0, 0.0, 1.0]),
        answers=torch.tensor([-1, -1, 2]),
    )


def pretrainer() -> Pretrainer:
    norm = FeatureNorm(ChannelStatistics(torch.full((DIM,), 0.3), torch.ones(DIM)), blind=False)
    model = Pretrainer(SETTINGS, norm, tokens=TOKENS, answers=ANSWERS)
    lively(model)
    return model.eval()


def said(outputs: PretrainOutputs, batch: PretrainBatch) -> list[Tensor]:
    """Return what the heads say, of real cells."""
    assert outputs.answers is not None
    assert outputs.cells is not None
    real = batch.mask[batch.image_of_text]
    return [outputs.words, outputs.matching, outputs.answers, outputs.cells[real]]


def widened(batch: PretrainBatch, garbage: float) -> PretrainBatch:
    """Return the batch with garbage in padding, with more padding pieces and more such cells."""
    more = torch.full((2, 3, DIM), garbage, dtype=torch.float16)
    features = torch.where(batch.mask[:, :, None], batch.features, garbage)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    width = batch.tokens.shape[1]
    return batch._replace(
        features=torch.cat((features, more), dim=1),
        mask=torch.cat((batch.mask, nothing), dim=1),
        hidden=torch.cat((batch.hidden, nothing), dim=1),
        places=torch.cat((batch.places, torch.full((2, 3, 2), 99)), dim=1),
        tokens=nn.functional.pad(batch.tokens, (0, 2)),
        masked=batch.masked // width * (width + 2) + batch.masked % width,
    )


@pytest.mark.parametrize("garbage", [0.0, 6e4, torch.inf, torch.nan])
def test_what_padding_holds_never_changes_what_a_head_says(garbage: float) -> None:
    model, batch = pretrainer(), batch_of()
    dirty = widened(batch, garbage)
    for found, expected in zip(said(model(dirty), dirty), said(model(batch), batch), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_hidden_cell_shows_none_of_its_features() -> None:
    model, batch = pretrainer(), batch_of()
    other = torch.where(batch.hidden[:, :, None], torch.randn(2, 5, DIM).half(), batch.features)
    found, expected = model(batch._replace(features=other)), model(batch)
    for one, two in zip(said(found, batch), said(expected, batch), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(found.target, expected.target)


def test_a_blind_model_has_the_features_as_target() -> None:
    model, batch = pretrainer(), batch_of()
    model.norm.blind = True
    found = model(batch)
    expected = (batch.features.float() - 0.3) * batch.mask[:, :, None]
    torch.testing.assert_close(found.target, expected)
    other = model(batch._replace(features=torch.randn(2, 5, DIM).half()))
    assert all(
        torch.equal(one, two)
        for one, two in zip(said(found, batch), said(other, batch), strict=True)
    )


def test_the_head_for_words_is_that_of_bert(bert: Path) -> None:
    model, batch = pretrainer(), batch_of()
    model.word.start_from(load_bert(model.encoder.bert, find_bert(str(bert))))
    batch = batch._replace(mask=torch.zeros(2, 5, dtype=torch.bool))
    theirs = BertForMaskedLM.from_pretrained(bert).eval()
    logits = theirs(input_ids=TEXTS, attention_mask=(TEXTS > 0).long()).logits
    expected = logits.flatten(0, 1)[batch.masked]
    torch.testing.assert_close(model(batch).words, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", [{"heads": 4}, {"layers": 2}, {"layers": 4}, {"hidden": 32}])
def test_a_bert_of_other_sizes_is_refused(bert: Path, change: dict[str, int]) -> None:
    """Heads, and layers left over, are in no tensor's shape."""
    encoder = SingleStreamEncoder(dataclasses.replace(SIZES, **change), dim=DIM, tokens=TOKENS)
    ((name, ours),) = change.items()
    theirs = getattr(SIZES, name)
    with refuses(
        "E-BERT-FIT", f"model.{name} is {ours}", f"--set model.{name}={theirs}", kind=UsageError
    ):
        load_bert(encoder.bert, bert)


def test_a_bert_of_other_pieces_is_refused(bert: Path) -> None:
    encoder = SingleStreamEncoder(SIZES, dim=DIM, tokens=TOKENS + 1)
    with refuses("E-BERT-FIT", "vocab_size is 20, and must be 21", kind=UsageError):
        load_bert(encoder.bert, bert)


def test_other_files_are_refused_in_one_line(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> str:
        raise OSError("no network\nand more")

    monkeypatch.setattr("huggingface_hub.get_session", offline)
    with refuses("E-BERT-FILE", str(tmp_path / "nowhere"), "(no network)", kind=UsageError):
        find_bert(str(tmp_path / "nowhere"))
    for name in ("config.json", "vocab.txt", "model.safetensors"):
        with refuses("E-BERT-FILE", f"has no {name}", kind=UsageError):
            find_bert(str(tmp_path))
        (tmp_path / name).write_bytes((bert / name).read_bytes())
    assert find_bert(str(tmp_path)) == tmp_path
    encoder = SingleStreamEncoder(SIZES, dim=DIM, tokens=TOKENS)
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes(b'{"model_type": 5')
        with refuses("E-BERT-READ", str(tmp_path), kind=UsageError) as refused:
            load_bert(encoder.bert, tmp_path)
        assert "\n" not in str(refused.value)


def in_cache(bert: Path, cache: Path, name: str) -> Path:
    """Copy a BERT to where the hub's client keeps it."""
    repository = cache / f"models--{name}"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(bert, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return snapshot


def test_a_bert_in_the_cache_needs_no_network(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    snapshot = in_cache(bert, tmp_path, "test-cached")
    assert find_bert("test-cached") == snapshot
    # Without the hub, a cache that lacks a file does not help; both other ways are named.
    (in_cache(bert, tmp_path, "test-lacking") / "model.safetensors").unlink()
    with refuses(
        "E-BERT-FILE", "model.bert test-lacking", "a folder with", '--set model.bert=""',
        kind=UsageError,
    ):  # fmt: skip
        find_bert("test-lacking")


def test_a_hub_that_never_answers_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("clipfeat.train.models.bert.HUB_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
        with refuses("E-BERT-FILE", "timed out", '--set model.bert=""', kind=UsageError):
            find_bert("test-silent")


def test_norms_may_have_the_names_of_the_first_published_berts(bert: Path, tmp_path: Path) -> None:
    """bert-base-uncased calls their weights gamma and beta, and has more heads."""
    copied(bert, tmp_path)
    new = load_file(bert / "model.safetensors")
    old = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): tensor
        for name, tensor in new.items()
    }
    assert old.keys() != new.keys()
    old |= {
        "bert.pooler.dense.weight": torch.ones(16, 16),
        "bert.pooler.dense.bias": torch.ones(16),
    }
    save_file(old, tmp_path / "model.safetensors", {"format": "pt"})
    encoder = SingleStreamEncoder(SIZES, dim=DIM, tokens=TOKENS)
    masked_lm = load_bert(encoder.bert, tmp_path)
    for name, tensor in encoder.bert.state_dict().items():
        if f"bert.{name}" in new:
            assert torch.equal(tensor, new[f"bert.{name}"]), name
    norm = "cls.predictions.transform.LayerNorm.weight"
    assert torch.equal(masked_lm.get_parameter(norm), new[norm])


def copied(bert: Path, folder: Path, **changes: object) -> Path:
    """Copy a BERT into a folder and change its config."""
    shutil.copytree(bert, folder, dirs_exist_ok=True)
    config = json.loads((bert / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize(
    "change",
    [
        {"vocab_size": 10**9},  # which the library would make a table for
        {"intermediate_size": 10**9},
        {"hidden_act": "relu"},
        {"layer_norm_eps": 1e-5},
        {"is_decoder": True},
        {"model_type": "roberta"},
    ],
)
def test_a_bert_that_computes_otherwise_is_refused(
    bert: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    encoder = SingleStreamEncoder(SIZES, dim=DIM, tokens=TOKENS)
    with refuses("E-BERT-FIT", *change, kind=UsageError):
        load_bert(encoder.bert, copied(bert, tmp_path, **change))


def test_other_keys_of_a_config_have_no_effect(bert: Path, tmp_path: Path) -> None:
    """For example code from the hub for attention."""
    strange = {"_attn_implementation": "somebody/kernel", "auto_map": {"AutoModel": "x--y.Z"}}
    encoder = SingleStreamEncoder(SIZES, dim=DIM, tokens=TOKENS)
    load_bert(encoder.bert, copied(bert, tmp_path, **strange))
    expected = load_file(bert / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    assert torch.equal(encoder.bert.embeddings.word_embeddings.weight, expected)


def test_a_bert_without_all_tensors_is_refused(bert: Path, tmp_path: Path) -> None:
    """The library would fill in random numbers."""
    copied(bert, tmp_path)
    tensors = load_file(bert / "model.safetensors")
    del tensors["bert.encoder.layer.1.output.dense.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    encoder = SingleStreamEncoder(SIZES, dim=DIM, tokens=TOKENS)
    with refuses("E-BERT-FIT", kind=UsageError):
        load_bert(encoder.bert, tmp_path)


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "model.safetensors"])
def test_a_bert_of_a_hundred_gigabytes_is_refused(bert: Path, tmp_path: Path, name: str) -> None:
    os.truncate(copied(bert, tmp_path) / name, 100 << 30)
    with refuses("E-BERT-SIZE", name, kind=UsageError):
        find_bert(str(tmp_path))
