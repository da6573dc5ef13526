"""What holds for every encoder: each architecture, in the configurations that docs/models.md names."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_encoders import settings_of
from thread_ranks import two_ranks
from torch import nn

from conf.encoders import (
    AllActionSettings,
    EncoderSettings,
    EventEmbeddingSettings,
    LossSettings,
    MaskingSettings,
    NextEventSettings,
)
from conf.training import TrainingSettings
from ml.data.array_feed import ArrayFeed
from ml.data.item_attributes import ItemAttributes
from ml.data.sequence_batch import Batches, SequenceBatch, Sequences
from ml.data.vocabulary import VocabularyDescription
from ml.models.protocol import SequenceEncoder
from ml.models.registry import ENCODERS, build_encoder
from ml.objectives.registry import build_objective, require_encoder
from ml.training.checkpoint import ModelCard, load_model
from ml.training.distributed import Ranks
from ml.training.loop import TrainingJob, train_model
from ml.training.step import Learner
from schemas.tokens import FIRST_ITEM

N_TOKENS = FIRST_ITEM + 20
SMALL = {"hidden_size": 8, "n_layers": 2, "n_heads": 2, "feed_forward_size": 16, "max_length": 8}
CAUSAL = {"attention": "causal", "objective": "next_item"}
PLAIN = {"head": "none", "item_bias": False}
COSINE = {"similarity": "cosine", "head": "none"}


def loss(name: Any, **values: Any) -> dict[str, LossSettings]:
    return {"loss": LossSettings(name=name, n_negatives=6, **values)}


def vocabulary_of(n_tokens: int) -> VocabularyDescription:
    """A vocabulary whose items are skus and urls in turn, with all that is known of them."""
    attributes, number = ItemAttributes.unknown(n_tokens), np.arange(n_tokens - FIRST_ITEM)
    attributes.item_kind[FIRST_ITEM:] = 1 + number % 2
    attributes.category[FIRST_ITEM:] = attributes.price[FIRST_ITEM:] = 1 + number % 3
    attributes.codes[FIRST_ITEM:] = 1 + number[:, None] % 4
    attributes.n_events[FIRST_ITEM:] = 1 + number
    return VocabularyDescription.of_attributes(attributes, ("sku", "url"))


VOCABULARY = vocabulary_of(N_TOKENS)
MIXED = {
    "behaviours": ("product_buy", "add_to_cart", "remove_from_cart", "page_visit", "search_query"),
    "objective": "next_event",
    "event_embedding": EventEmbeddingSettings(width=4),
    "next_event": NextEventSettings(uniform_negatives=3),
    "similarity": "cosine",
}
CASES: dict[str, dict[str, Any]] = {
    "bert4rec": loss("full"),
    "sasrec": {**CAUSAL, **PLAIN, "block": "sasrec", "embedding": "scaled", **loss("bce")},
    "gsasrec": {**CAUSAL, **PLAIN, "block": "sasrec", "output_table": "separate", **loss("gbce")},
    "sasrec-sampled": {**CAUSAL, "norm": "pre", "final_norm": True, **loss("sampled")},
    "esasrec": {**CAUSAL, "block": "ligr", "embedding": "sum", "head": "none", **loss("sampled")},
    "pinnerformer": {
        **CAUSAL,
        "objective": "all_action",
        "all_action": AllActionSettings(positions=3, events=2),
        "similarity": "cosine",
        "learn_temperature": True,
        **loss("sampled"),
    },
    "gru4rec": {"architecture": "gru", "objective": "next_item", "head": "none", **loss("bpr_max")},
    "lstm": {"architecture": "lstm", "objective": "next_item", **loss("sampled")},
    "hstu": {"architecture": "hstu", "objective": "next_item", "embedding": "scaled", **COSINE, **loss("sampled")},
}
CASES["baskets"] = {
    **loss("full"),
    "event_columns": True,
    "positions": "basket",
    "masking": MaskingSettings(unit="basket", mask_prob=0.4),
}
CASES["mixed"] = {**MIXED, "attention": "causal"}
CASES["mixed-mean"] = {**CASES["mixed"], "event_embedding": EventEmbeddingSettings(width=4, ids="mean")}
CASES["mixed-items"] = {**CASES["mixed"], "table": "full", "similarity": "dot"}
CASES["mixed-semantic"] = {**CASES["mixed"], "table": "semantic"}
CASES["mixed-lstm"] = {**MIXED, "architecture": "lstm"}
CASES["mixed-hstu"] = {**MIXED, "architecture": "hstu"}
UNDROPPED = {"embedding_dropout": 0.0, "encoder_dropout": 0.0}
TOKENS = torch.tensor([[0, 0, 5, 6, 7], [3, 4, 5, 6, 7], [0, 0, 0, 8, 9]])
BATCH = SequenceBatch(TOKENS, (TOKENS > 0).long(), torch.arange(1, 6) ** 4 * (TOKENS > 0))
IS_TOKEN = TOKENS != 0


@pytest.fixture(params=CASES)
def settings(request: pytest.FixtureRequest) -> EncoderSettings:
    return settings_of(**SMALL, **CASES[request.param])


@pytest.fixture
def encoder(settings: EncoderSettings) -> SequenceEncoder:
    torch.manual_seed(7)
    encoder = build_encoder(settings, VOCABULARY).eval()
    for parameter in encoder.parameters():  # larger than new ones, so that what matters is seen
        nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        for module in encoder.modules():
            if hasattr(module, "bias") and module.__class__.__name__ == "FullTable":
                module.weight[0].zero_()
    return encoder


def test_every_architecture_is_here() -> None:
    missing = set(ENCODERS) - {settings_of(**case).architecture for case in CASES.values()}
    assert not missing, "add a case for it"
    for name, case in CASES.items():
        require_encoder(name, settings_of(**SMALL, **case))


@torch.no_grad()
def test_padding_and_batch_mates_change_no_vector(encoder: SequenceEncoder) -> None:
    vectors = encoder.encode(BATCH)
    wide = encoder.encode(BATCH.map(lambda column: F.pad(column, (3, 0))))
    alone = encoder.encode(BATCH[2:].map(lambda column: column[:, 3:]))
    assert vectors.isfinite().all()
    torch.testing.assert_close(wide[:, 3:][IS_TOKEN], vectors[IS_TOKEN], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone[0], vectors[2, 3:], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_later_event_changes_an_earlier_vector_only_where_an_encoder_is_not_causal(encoder: SequenceEncoder) -> None:
    later = BATCH.map(lambda column: torch.cat([column[:, :4], column[:, 4:] + 3], dim=1))
    one, other = encoder.encode(BATCH), encoder.encode(later)
    is_same = torch.allclose(one[:, :4][IS_TOKEN[:, :4]], other[:, :4][IS_TOKEN[:, :4]], atol=1e-6)
    assert is_same is encoder.is_causal
    assert not torch.allclose(one[:, 4], other[:, 4], atol=1e-3)


@torch.no_grad()
def test_in_rows_that_clients_share_each_keeps_its_vectors(encoder: SequenceEncoder) -> None:
    packed = SequenceBatch(
        torch.tensor([[5, 6, 7, 8, 9, 0]]),
        torch.tensor([[1, 1, 1, 1, 1, 0]]),
        torch.tensor([[27, 64, 125, 64, 125, 0]]) - 1,
        torch.tensor([[1, 1, 1, 2, 2, 0]]),
    )
    if not encoder.reads_segments:
        with pytest.raises(ValueError, match="rows that several clients share"):
            encoder.encode(packed)
        return
    shared, positions = encoder.encode(packed)[0], torch.tensor([1, 2, 4])
    first = SequenceBatch(*(column[:, :3] for column in (packed.token_ids, packed.event_types, packed.timestamps)))
    second = SequenceBatch(*(column[:, 3:5] for column in (packed.token_ids, packed.event_types, packed.timestamps)))
    for part, own in ((shared[:3], first), (shared[3:5], second)):
        torch.testing.assert_close(part, encoder.encode(own)[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoder.encode_at(packed, positions), shared[positions], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_vectors_at_positions_are_those_of_the_whole(encoder: SequenceEncoder) -> None:
    positions = torch.tensor([2, 5, 6, 14])
    whole = encoder.encode(BATCH).flatten(0, 1)[positions]
    torch.testing.assert_close(encoder.encode_at(BATCH, positions), whole, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_logits_are_of_the_items_vectors(encoder: SequenceEncoder, settings: EncoderSettings) -> None:
    vectors, items = encoder.output_vectors(torch.randn(3, 8)), torch.tensor([5, 22, 3])
    logits = encoder.logits(vectors, items)
    torch.testing.assert_close(encoder.logits_between(vectors, 3, 6)[:, [2, 0]], logits[:, [0, 2]])
    torch.testing.assert_close(encoder.logits(vectors, items.expand(3, -1)), logits)
    rows = encoder.item_vectors(items)
    if settings.similarity == "cosine":
        assert (logits.abs() <= 1.001 / min(0.05, float(getattr(encoder, "temperature", None) or 0.05))).all()
        rows = F.normalize(rows, dim=-1)
    products = vectors @ rows.T
    # but for an item's bias, and a temperature, they are products
    torch.testing.assert_close(
        *((each - each.mean(0)) / (each - each.mean(0)).norm() for each in (logits, products)), atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_is_finite_in_both_precisions_and_touches_few_rows_of_a_sparse_table(
    settings: EncoderSettings, precision: Any
) -> None:
    settings = replace(settings, training=TrainingSettings(n_ranks=1, precision=precision, device="cpu"))
    learner = Learner(settings, vocabulary_of(500))
    before = {name: parameter.detach().clone() for name, parameter in learner.encoder.named_parameters()}
    assert learner.step([BATCH.map(lambda column: column.int().numpy())]).loss.isfinite()
    moved = {name: parameter != before[name] for name, parameter in learner.encoder.named_parameters()}
    assert all(parameter.isfinite().all() for parameter in learner.encoder.parameters())
    assert learner.encoder.has_sparse_tables is (learner.objective.is_sampled and settings.table != "semantic")
    untouched = [name for name, is_moved in moved.items() if not is_moved.any()]
    # a table of biases of time has nothing to learn where there are no times
    assert all("time_bias" in name for name in untouched)
    rows = {id(parameter) for parameter in learner.encoder.row_parameters()}
    for name, parameter in learner.encoder.named_parameters():
        if id(parameter) in rows and learner.encoder.has_sparse_tables:
            assert moved[name].any(dim=1).sum() < 30


def test_two_ranks_learn_what_one_does(settings: EncoderSettings) -> None:
    settings = replace(settings, **UNDROPPED, training=TrainingSettings(n_ranks=2, device="cpu"))
    objective = build_objective(settings, VOCABULARY)
    generator = torch.Generator().manual_seed(7)
    parts = [objective.prepare(BATCH[rows], generator) for rows in (slice(0, 2), slice(2, 3))]
    candidates = objective.draw_candidates(generator)
    alone = Learner(settings, VOCABULARY)
    ranks = [Learner(settings, VOCABULARY, ranks=each) for each in two_ranks()]
    alone.update(parts, candidates)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda rank: ranks[rank].update([parts[rank]], candidates), range(2)))
    for (name, one), *others in zip(
        alone.encoder.named_parameters(), *(learner.encoder.parameters() for learner in ranks), strict=True
    ):
        assert torch.equal(*others), name
        torch.testing.assert_close(one, others[0], atol=1e-5, rtol=1e-3, msg=name)


class KilledError(Exception):
    pass


class DyingFeed(ArrayFeed):
    """Ends its process when it has given so many batches."""

    n_left = 1000

    def training(self, epoch: int, skip: int = 0) -> Batches:
        for batch in super().training(epoch, skip):
            if self.n_left == 0:
                raise KilledError
            self.n_left -= 1
            yield batch


def feed() -> DyingFeed:
    rows = np.random.default_rng(7).integers(FIRST_ITEM, N_TOKENS, (24, 8), dtype=np.int32)
    parts = [row[: 3 + number % 6] for number, row in enumerate(rows)]
    # nobody is held out: the last epoch's weights are kept, not those of an epoch before the end of the process
    training, held_out = (with_events(Sequences.from_rows(part)) for part in (parts, rows[:0]))
    return DyingFeed(training, held_out, (4, 8), tokens_per_batch=64, seed=1)


def with_events(rows: Sequences) -> Sequences:
    number = np.arange(len(rows.tokens))
    return replace(rows, event_types=(1 + number % 5).astype(np.int8), timestamps=10_000 * number)


def test_a_killed_training_ends_with_the_same_weights_and_the_folder_gives_the_same_vectors(
    settings: EncoderSettings, tmp_path: Path
) -> None:
    training = TrainingSettings(n_ranks=1, epochs=2, checkpoint_every_steps=1, device="cpu", learning_rate=0.01)
    card = ModelCard("some", replace(settings, training=training), VOCABULARY, "a-fingerprint", 0)
    whole, killed = (TrainingJob(card, tmp_path / name, tmp_path / f"{name}-checkpoints", 1) for name in ("a", "b"))
    train_model(whole, feed(), Ranks(), [].append)
    with contextlib.suppress(KilledError):
        dying = feed()
        dying.n_left = 3
        train_model(killed, dying, Ranks(), [].append)
    assert not killed.folder.exists()
    train_model(killed, feed(), Ranks(), [].append)
    encoder, other = (load_model(job.folder, "a-fingerprint")[0] for job in (whole, killed))
    for name, weight in encoder.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name
    trained = build_encoder(settings, VOCABULARY).eval()
    trained.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        assert torch.equal(trained.encode(BATCH), encoder.encode(BATCH))
