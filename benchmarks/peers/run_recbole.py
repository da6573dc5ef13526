"""RecBole's BERT4Rec on a workload; runs in an environment of ``recbole.txt``."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import BERT4Rec
from recbole.trainer import Trainer
from recbole.utils import init_seed
from workload import Clock, Workload

NAME = "peers"


class TimedLoader:
    """A loader that tells the clock about each batch when the next one is asked for, and ends with the clock."""

    def __init__(self, loader: Any, clock: Clock) -> None:
        self.loader, self.clock = loader, clock

    def __iter__(self) -> Iterator[Any]:
        while True:
            for batch in self.loader:
                yield batch
                is_hidden = batch["MASK_INDEX"] > 0  # as its loss has it: rows are filled up with 0
                self.clock.after_batch(len(is_hidden), int(is_hidden.sum()))
                if self.clock.is_over:
                    return


def write_files(workload: Workload) -> None:
    """The sequences in RecBole's own form: from plain events it would make one sequence per prefix of each user.

    ``item_id`` is what comes after the sequence; the cloze task does not read it.
    """
    folder = workload.folder / NAME
    folder.mkdir(exist_ok=True)
    head = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    rows = [
        f"{user}\t{' '.join(map(str, sequence))}\t{sequence[-1]}\n"
        for user, sequence in enumerate(workload.sequences())
    ]
    for part, of_part in (("train", rows), ("valid", rows[:128]), ("test", rows[:128])):
        (folder / f"{NAME}.{part}.inter").write_text(head + "".join(of_part))


def main() -> None:
    """Train for the batches asked for."""
    workload = Workload.load(Path(sys.argv.pop(1)))  # RecBole reads the command line too
    write_files(workload)
    settings = {
        "data_path": str(workload.folder),
        "benchmark_filename": ["train", "valid", "test"],
        "alias_of_item_id": ["item_id_list"],
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
        "MAX_ITEM_LIST_LENGTH": workload.max_length,
        "n_layers": workload.n_layers,
        "n_heads": workload.n_heads,
        "hidden_size": workload.hidden_size,
        "inner_size": workload.feed_forward_size,
        "hidden_dropout_prob": workload.dropout,
        "attn_dropout_prob": workload.dropout,
        "mask_ratio": workload.mask_prob,
        "ft_ratio": 0.0,  # it would hide the last item only in half of the batches
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "train_batch_size": workload.batch_size,
        "learning_rate": workload.learning_rate,
        "use_gpu": False,
        "show_progress": False,
        "checkpoint_dir": str(workload.folder / NAME),
    }
    config = Config(model="BERT4Rec", dataset=NAME, config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    loader, _, _ = data_preparation(config, dataset)
    model = BERT4Rec(config, loader.dataset).to(config["device"])
    clock = Clock(workload)
    Trainer(config, model)._train_epoch(TimedLoader(loader, clock), epoch_idx=0)
    clock.save("recbole")


if __name__ == "__main__":
    main()
