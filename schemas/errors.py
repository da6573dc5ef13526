"""The errors that the pipeline raises on purpose; anything else is a defect of ours."""


class PipelineError(Exception):
    """Base of all errors a user can act on.

    The message says what was expected, what was found, where, and what to do. The command line prints it
    without a stack trace and exits with 2.
    """


class ConfigError(PipelineError):
    """An unknown configuration key, or a value out of its range."""


class InputError(PipelineError):
    """A file, folder, column or value of the input directory that breaks the challenge's contract."""


class TableError(PipelineError):
    """A table of ``--out`` that is missing or whose schema is not the one in ``schemas/tables.py``."""


class OutdatedError(PipelineError):
    """Outputs that disagree: with one another, with the configuration, or with what the call names."""


class EntryError(PipelineError):
    """An entry (``client_ids.npy``, ``embeddings.npy``) that breaks a rule of the competition's format."""


class ModelError(PipelineError):
    """A model folder that is missing, damaged, or does not belong to the vocabulary at hand."""


class OutputError(PipelineError):
    """An ``--out`` folder that cannot be written."""


class TrainingError(PipelineError):
    """Training that cannot go on: no usable sequence, or a loss that is not a number."""
