"""Where a run reads and writes: the challenge directory and the output directory."""

from dataclasses import dataclass
from pathlib import Path

from schemas.errors import InputError, OutputError


@dataclass(frozen=True)
class Workspace:
    """The folders of one run.

    Attributes
    ----------
    out : holds ``tables``, ``models``, ``entries`` and the reports
    challenge : the source directory, None where the stage at hand was called without ``--data``
    as_of : number of the ingest whose tables are read, None for the newest of each
    """

    out: Path
    challenge: Path | None = None
    as_of: int | None = None

    @property
    def data(self) -> Path:
        """The challenge directory; InputError where the command line did not name it."""
        if self.challenge is None:
            raise InputError("this stage reads the challenge directory: name it with --data DIR")
        return self.challenge

    def table(self, name: str) -> str:
        """Path of a Delta table."""
        return str(self.out / "tables" / name)

    def model(self, behaviour: str) -> Path:
        """Folder of one behaviour's trained model."""
        return self.out / "models" / behaviour

    def checkpoints(self, behaviour: str) -> Path:
        """Folder that a behaviour's training goes on from when it was killed; gone once all models are trained."""
        return self.out / "checkpoints" / behaviour

    def entry(self, name: str) -> Path:
        """Folder of an entry: ``client_ids.npy`` and ``embeddings.npy``."""
        return self.out / "entries" / name

    @property
    def metrics(self) -> Path:
        """Log of figures, one JSON object a line."""
        return self.out / "metrics.jsonl"

    @property
    def logs(self) -> Path:
        """What Spark, Ivy and the ranks say, where ``--verbose`` does not send it to the terminal."""
        return self.out / "logs"

    def prepare(self) -> None:
        """Make the output directory; OutputError if it cannot be written."""
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            probe = self.out / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise OutputError(
                f"--out {self.out}: expected a folder that can be made and written, found: {error.strerror}; "
                "choose another folder or mend its permissions"
            ) from error
