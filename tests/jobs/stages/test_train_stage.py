"""The train stage on small tables: the pinned snapshot, Horovod's ranks, and the models it leaves."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from optional import HAS_HOROVOD
from pyspark.sql import SparkSession
from training_tables import N_ITEMS, config, write_tables

from conf.training import TrainingSettings
from jobs.blocks.encoders import PlannedModel
from jobs.runtime.rank_launcher import run_ranks
from jobs.stages import train
from jobs.storage.delta_tables import read_table
from jobs.storage.provenance import Record, changed_records, read_records
from jobs.storage.workspace import Workspace
from ml.data.sequence_batch import Feed
from ml.files.notes import FolderNotes
from ml.training.checkpoint import load_model
from ml.training.distributed import Ranks
from schemas.errors import ConfigError, TrainingError
from schemas.tables import SEQUENCES
from schemas.tokens import FIRST_ITEM

Weights = dict[str, np.ndarray]


def test_training_reads_exactly_the_newest_versions_files_and_tensorboard_has_the_figures(
    spark: SparkSession, workspace: Workspace
) -> None:
    """The folder still holds the older version's files; a reader that lists it would train on them."""
    write_tables(spark, workspace, 400, ["page_visit"])
    write_tables(spark, workspace, 40, ["page_visit"])
    told = config("training.tensorboard=true")
    (plan,) = train.plan_training(spark, told, workspace)
    n_rows = sum(file.n_rows for file in (*plan.training_files, *plan.validation_files))
    # of 40 clients, every eighth has a single event and is not trained on
    assert n_rows == 35
    in_folder = list(Path(workspace.table("sequences")).rglob("*.parquet"))
    used = {urlsplit(file.url).path for file in (*plan.training_files, *plan.validation_files)}
    assert len(in_folder) > len(used)
    assert plan.job.card.sequences_version == 1

    train.run(spark, told, workspace)
    lines = [json.loads(line) for line in workspace.metrics.read_text().splitlines()]
    (users,) = [line["validation/users"] for line in lines if "validation/users" in line]
    assert users == read_table(spark, workspace, SEQUENCES).filter("is_held_out and width > 1").count()
    assert load_model(workspace.model("page_visit"))[1] == plan.job.card
    (events,) = (workspace.out / "tensorboard").rglob("events.*")
    assert b"train/tokens_per_second" in events.read_bytes()
    assert b"validation/ndcg_10" in events.read_bytes()


def test_some_encoders_are_trained_and_other_models_stay_until_they_are_pruned(
    spark: SparkSession, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    write_tables(spark, workspace, 40, ["product_buy", "page_visit"])
    models = workspace.model("")
    for name in ("former", "recorded", "foreign", "of_another_tool"):
        (models / name).mkdir(parents=True)
    (models / "of_another_tool" / "config.json").write_text('{"sequences_version": 1}')
    for name in ("product_buy", "page_visit", "dropped"):
        (workspace.checkpoints(name) / "best").mkdir(parents=True)
    # what a kill while the result is written leaves
    (workspace.checkpoints("dropped") / ".result.json.0a1b2c3d.partial").touch()
    (workspace.checkpoints("foreign") / "kept").mkdir(parents=True)
    with changed_records(workspace) as records:
        records |= {f"models/{name}": Record("train") for name in ("former", "recorded")}

    stacking = "ensemble.stacking.product_buy={weight: 2}"  # of an encoder that is left alone
    train.run(spark, config(stacking), workspace, only=["page_visit"])
    train.clean_up(config(), workspace, only=["page_visit"])
    assert {path.name for path in models.iterdir()} == {
        "page_visit", "former", "recorded", "foreign", "of_another_tool",
    }  # fmt: skip
    assert {path.name for path in workspace.checkpoints("").iterdir()} == {"product_buy", "dropped", "foreign"}
    kept = [record.getMessage() for record in caplog.records if "is kept" in record.getMessage()]
    assert [line.split()[1] for line in kept] == ["former", "recorded"]

    train.run(spark, config(), workspace, only=["page_visit"], prune=True)
    assert {path.name for path in models.iterdir()} == {"page_visit", "foreign", "of_another_tool"}
    assert "model former is removed: no encoder has its name" in caplog.text
    assert f"{models / 'of_another_tool'} is left alone" in caplog.text
    assert read_records(workspace) == {}
    train.clean_up(config(), workspace)
    assert {path.name for path in workspace.checkpoints("").iterdir()} == {"foreign"}


def test_an_encoder_that_cannot_be_trained_does_not_keep_the_model_of_an_earlier_run(
    spark: SparkSession, workspace: Workspace
) -> None:
    write_tables(spark, workspace, 40, ["page_visit"])
    workspace.model("product_buy").mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"encoder product_buy: expected clients .* remove that folder, or leave"):
        train.run(spark, config(), workspace)
    assert workspace.model("product_buy").is_dir()
    assert not workspace.model("page_visit").exists()


def test_nothing_to_learn_from_is_told(spark: SparkSession, workspace: Workspace) -> None:
    write_tables(spark, workspace, 1, ["page_visit"])
    with pytest.raises(TrainingError, match="no behaviour has a client with two items"):
        train.run(spark, config(), workspace)


def test_more_ranks_than_cores_are_refused_at_once(spark: SparkSession, workspace: Workspace) -> None:
    with pytest.raises(ConfigError, match=r"training\.n_ranks=99 needs as many cores at once, found 2"):
        train.run(spark, config("training.n_ranks=99"), workspace)


def test_a_training_that_diverges_is_told_with_what_to_lower(spark: SparkSession, workspace: Workspace) -> None:
    """In this process; that an error of a rank is raised as itself, the launcher's tests show."""
    write_tables(spark, workspace, 80, ["page_visit"])
    told = config("training.learning_rate=1e30", "training.epochs=3")
    with pytest.raises(TrainingError, match=r"lower training\.learning_rate"):
        train.run(spark, told, workspace)


def test_a_stage_that_died_between_two_models_trains_only_the_rest(
    spark: SparkSession, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tables(spark, workspace, 40, ["product_buy", "page_visit"])

    with monkeypatch.context() as patch:
        patch.setattr(PlannedModel, "open_feed", fails_on("page_visit"))
        with pytest.raises(KeyboardInterrupt):
            train.run(spark, config(), workspace)
    weights = workspace.model("product_buy") / "weights.safetensors"
    before = weights.stat().st_mtime_ns
    train.run(spark, config("feed.reader=arrow", "feed.batches_ahead=1"), workspace)  # neither changes a weight
    assert weights.stat().st_mtime_ns == before
    assert workspace.model("page_visit").is_dir()
    train.clean_up(config(), workspace)
    assert not workspace.checkpoints("").exists()
    train.run(spark, config(), workspace)
    assert weights.stat().st_mtime_ns != before, "a stage that ended well trains anew when it is asked again"


def fails_on(behaviour: str) -> Callable[[PlannedModel, Ranks], Feed]:
    open_feed = PlannedModel.open_feed

    def opened(plan: PlannedModel, ranks: Ranks) -> Feed:
        if plan.job.card.encoder == behaviour:
            raise KeyboardInterrupt
        return open_feed(plan, ranks)

    return opened


@pytest.mark.slow
def test_two_ranks_of_each_launcher_and_one_process_agree_and_ranks_go_on_after_a_kill(
    spark: SparkSession, workspace: Workspace
) -> None:
    write_tables(spark, workspace, 40, ["page_visit"])
    overrides = ["model.embedding_dropout=0", "model.encoder_dropout=0", "training.clip_norm=0.1"]
    plans = {
        loss: train.plan_training(spark, config(*overrides, f"loss.name={loss}"), workspace)[0]
        for loss in ("full", "sampled")
    }
    after_steps, after_training = steps_on_one_global_batch(plans), training_of(plans["sampled"])

    def on_rank(ranks: Ranks, *_: object) -> tuple[dict[str, Weights], Weights, Weights]:
        return after_steps(ranks), after_training("whole", ranks), after_training("killed", ranks)

    alone, trained = after_steps(Ranks()), []
    for launcher in ("horovod", "torch") if HAS_HOROVOD else ("torch",):
        settings = TrainingSettings(n_ranks=2, launcher=launcher)
        shutil.rmtree(workspace.checkpoints(""), ignore_errors=True)
        notes, ranks_log = FolderNotes(workspace.logs.resolve()), workspace.logs / "ranks.log"
        together, whole, killed = run_ranks(spark, settings, on_rank, (), notes, ranks_log, "train")
        for loss, weights in alone.items():
            for name, weight in weights.items():
                told = f"{launcher} {loss} {name}"
                np.testing.assert_allclose(together[loss][name], weight, rtol=1e-4, atol=1e-5, err_msg=told)
        for name, weight in whole.items():
            np.testing.assert_allclose(killed[name], weight, rtol=1e-4, atol=1e-6, err_msg=f"{launcher} {name}")
        trained.append(whole)
    if len(trained) > 1:  # by both launchers
        for name, weight in trained[0].items():
            np.testing.assert_array_equal(weight, trained[1][name], err_msg=name)


def steps_on_one_global_batch(plans: dict[str, PlannedModel]) -> Callable[[Ranks], dict[str, Weights]]:
    """Weights after five steps, each loss; ranks are sent functions by value, so these are no module's."""
    tokens = torch.randint(FIRST_ITEM, FIRST_ITEM + N_ITEMS, (5, 6, 8), generator=torch.Generator().manual_seed(0))

    def weights_after_steps(ranks: Ranks) -> dict[str, Weights]:
        from ml.data.sequence_batch import SequenceBatch
        from ml.objectives.cloze import mask_tokens
        from ml.objectives.item_prediction import predict_tokens
        from ml.training.step import Learner

        weights = {}
        for loss, plan in plans.items():
            settings, vocabulary = plan.job.settings, plan.job.card.vocabulary
            learner = Learner(settings, vocabulary, plan.job.seed, ranks)
            for step, batch in enumerate(tokens):
                generator = torch.Generator().manual_seed(step)
                inputs, is_masked = mask_tokens(batch, vocabulary.n_tokens, settings.masking, generator)
                # unequal shares: rank 0 has four rows of six, so an average of averages would differ
                mine = slice(None) if ranks.world_size == 1 else [slice(4), slice(4, None)][ranks.rank]
                # every item is a candidate on every rank, so that the sampled losses are comparable
                is_sampled = learner.objective.is_sampled
                candidates = torch.arange(FIRST_ITEM, vocabulary.n_tokens) if is_sampled else None
                own = predict_tokens(SequenceBatch(inputs[mine]), batch[mine], is_masked[mine])
                learner.update([own], candidates)
            weights[loss] = {name: weight.detach().numpy() for name, weight in learner.encoder.state_dict().items()}
        return weights

    return weights_after_steps


def training_of(plan: PlannedModel) -> Callable[[str, Ranks], Weights]:
    """Weights after two epochs with a checkpoint every third step; ``killed`` died after the fifth batch."""

    def weights_after_training(name: str, ranks: Ranks) -> Weights:
        from dataclasses import replace

        from ml.training.loop import Trainer

        settings = plan.job.settings
        often = replace(settings.training, epochs=2, checkpoint_every_steps=3, tokens_per_batch=16)
        card = replace(plan.job.card, settings=replace(settings, training=often))
        job = replace(plan.job, card=card, checkpoints=plan.job.checkpoints.with_name(name))
        own = replace(plan, job=job)
        if name == "killed":
            feed = own.open_feed(ranks)
            epoch = feed.training(1)
            feed.training = lambda *_, **__: (next(epoch) for _ in range(5))
            Trainer(job, feed, ranks, lambda _: None).train_epoch()
        trainer = Trainer(job, own.open_feed(ranks), ranks, lambda _: None)
        assert trainer.learner.n_steps == (3 if name == "killed" else 0)
        for _ in range(2):
            trainer.train_epoch()
            trainer.end_epoch(None)
        return {name: weight.detach().numpy() for name, weight in trainer.learner.encoder.state_dict().items()}

    return weights_after_training
