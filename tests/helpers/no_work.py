"""Stages whose work is left out, for tests of what is noted of them."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.pipeline import registry


class NoWork:
    """A session, a progress bar and a stage's module, none of which does anything."""

    sparkContext = None  # noqa: N815

    @staticmethod
    def run(*_: object, **__: object) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def leave_out_work(
    monkeypatch: pytest.MonkeyPatch, work: Callable[..., Any] = NoWork.run, **more: Callable[..., Any]
) -> list[str]:
    """The stages that ran, filled as they do; ``work``, and ``more`` by name, stand for what each of them does."""
    ran: list[str] = []

    def load(module: str) -> SimpleNamespace:
        ran.append(next(stage.name for stage in registry.STAGES if stage.module == module))

        def run(*given: object, inputs: object = None, **options: object) -> None:  # ingest's are opened before
            work(*given, **options)

        return SimpleNamespace(run=run, **({"open_inputs": NoWork.run} | more))

    monkeypatch.setattr(registry, "importlib", SimpleNamespace(import_module=load))
    monkeypatch.setattr(registry, "spark_progress", lambda *_: NoWork())
    return ran
