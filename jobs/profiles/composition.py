"""Blocks in entry form: entries that lie in the order of one another, and the entry composed of them."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conf.profile import EnsembleSettings
from jobs.storage.entry_files import BATCH_ROWS, EntryWriter
from jobs.storage.entry_rules import CLIENT_IDS, EMBEDDINGS, validate_entry
from jobs.storage.locations import mounted_path
from jobs.storage.workspace import Workspace
from ml.profiles.composition import Block, Composition, fit_composition
from ml.profiles.moments import Moments
from schemas.errors import EntryError

log = logging.getLogger(__name__)

ENSEMBLE, BASELINE = "ensemble", "baseline"
IMPORTED = "imported_from.txt"
"""In the folder of an entry that is a copy: where the original lies."""


@dataclass(frozen=True)
class StoredBlock:
    """An entry of this run that profiles are composed of; it holds paths, and opens its files where it is used.

    Attributes
    ----------
    name : of the block
    folder : the entry; a client without events has zeros there
    is_logarithmic : as in ``Block.of_entry``
    """

    name: str
    folder: Path
    is_logarithmic: bool = False

    @property
    def rows(self) -> NDArray[np.float16]:
        """The vectors, memory-mapped, [N, d]."""
        return np.load(self.folder / EMBEDDINGS, mmap_mode="r", allow_pickle=False)

    @property
    def client_ids(self) -> NDArray[np.int64]:
        """The clients, memory-mapped, [N]."""
        return np.load(self.folder / CLIENT_IDS, mmap_mode="r", allow_pickle=False)

    def stream(self, part: slice) -> Iterator[Block]:
        """Some of the rows, ``BATCH_ROWS`` at a time."""
        for start in range(part.start, part.stop, BATCH_ROWS):
            rows = self.rows[start : min(start + BATCH_ROWS, part.stop)]  # mapped anew: what was read is let go
            yield Block.of_entry(self.name, rows, self.is_logarithmic)


def require_blocks(settings: EnsembleSettings, workspace: Workspace | None = None) -> None:
    """Look for the entries that ``settings.blocks`` names, before hours are spent on others.

    Parameters
    ----------
    workspace : look for the run's own entries too, those without a folder of their own

    Raises
    ------
    EntryError
        If one is not there.
    ConfigError
        If a folder is on an object store.
    """
    for name, folder in settings.named_blocks.items():
        place = mounted_path(folder) if folder else workspace and workspace.entry(name)
        if place and not all((place / file).is_file() for file in (CLIENT_IDS, EMBEDDINGS)):
            raise EntryError(
                f"block {name!r}: expected {CLIENT_IDS} and {EMBEDDINGS} in {place}, found none; run the stage that "
                "writes them first, name another folder by --block NAME=DIR, or take the name out of ensemble.blocks"
            )


def open_blocks(workspace: Workspace, behaviours: Sequence[str], settings: EnsembleSettings) -> list[StoredBlock]:
    """The behaviours' entries and those that ``settings.blocks`` names, all of the same clients in the same order.

    An entry from outside (``NAME=DIR``) is copied to this run's entries first, in their order, as float16.

    Raises
    ------
    EntryError
        If an entry is missing, breaks a rule of the format, has a behaviour's name, or is of other clients.
    """
    require_blocks(settings, workspace)
    blocks = [StoredBlock(name, workspace.entry(name)) for name in behaviours]
    for name, folder in settings.named_blocks.items():
        if name in (*behaviours, ENSEMBLE, *([BASELINE] if folder else [])):
            raise EntryError(
                f"block {name!r}: another entry of the run has this name; give the block a name of its own"
            )
        if folder:
            import_entry(mounted_path(folder), workspace.entry(name), blocks[0])
        blocks.append(StoredBlock(name, workspace.entry(name), settings.log_blocks))
    for block in blocks:
        _require_same_clients(block, blocks[0])
    return blocks


def import_entry(source: Path, folder: Path, reference: StoredBlock) -> None:
    """Copy an entry, its rows in the order of ``reference``, and note that it is a copy.

    Raises
    ------
    EntryError
        If it breaks a rule or has other clients.
    """
    if source.resolve() == folder.resolve():
        return
    width = validate_entry(source, reference.client_ids).width
    foreign, own_ids = StoredBlock(folder.name, source), reference.client_ids
    rows, ids, by_id = foreign.rows, foreign.client_ids, np.argsort(own_ids)
    with EntryWriter(folder, len(ids), width) as writer:
        (writer.staging / IMPORTED).write_text(f"{source}\n")
        for start in range(0, len(ids), BATCH_ROWS):
            batch = slice(start, start + BATCH_ROWS)
            positions = by_id[np.searchsorted(own_ids, ids[batch], sorter=by_id)]
            writer.write(positions, ids[batch], rows[batch].astype(np.float32))


def imported_entries(workspace: Workspace) -> set[str]:
    """Names of the entries that are copies of others, made by this run or an earlier one."""
    return {note.parent.name for note in workspace.entry("").glob(f"*/{IMPORTED}")}


def write_profiles(
    blocks: Sequence[StoredBlock], moments: Mapping[str, Moments], folder: Path, settings: EnsembleSettings
) -> int:
    """Compose one entry of some blocks; its width.

    Parameters
    ----------
    moments : of each of the blocks, and maybe of others
    """
    composition = fit_composition({block.name: moments[block.name] for block in blocks}, settings)
    client_ids = blocks[0].client_ids
    n_clients = len(client_ids)
    with EntryWriter(folder, n_clients, composition.width) as writer:
        batches = zip(*(block.stream(slice(0, n_clients)) for block in blocks), strict=True)
        for start, batch in zip(range(0, n_clients, BATCH_ROWS), batches, strict=True):
            positions = np.arange(start, min(start + BATCH_ROWS, n_clients))
            writer.write(positions, client_ids[positions], composition.compose(batch))
    log.info("  entry %s: %s clients x %d%s", folder.name, f"{n_clients:,}", composition.width, _axes(composition))
    return composition.width


def _axes(composition: Composition) -> str:
    reduced = {name: of_block for name, of_block in composition.transforms.items() if of_block.axes is not None}
    kept = [f"{name} {of_block.width}" for name, of_block in reduced.items()]
    return f", principal axes of {', '.join(kept)}" if kept else ""


def _require_same_clients(block: StoredBlock, reference: StoredBlock) -> None:
    if np.array_equal(block.client_ids, reference.client_ids):
        return
    n_foreign = len(np.setdiff1d(block.client_ids, reference.client_ids))
    n_missing = len(np.setdiff1d(reference.client_ids, block.client_ids))
    raise EntryError(
        f"block {block.name!r}: expected the clients of {reference.name!r} in the same order, found {n_missing:,} of "
        f"{len(reference.client_ids):,} missing and {n_foreign:,} others in {block.folder}; run the stage that writes "
        "it again"
    )
