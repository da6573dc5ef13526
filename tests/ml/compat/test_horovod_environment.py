import os

import pytest
import torch

from ml.compat.horovod_environment import CPU_CYCLE_MS, fix_horovod_environment


@pytest.mark.parametrize(("given", "used"), [("(None,)", None), (None, None), ("5", "5"), ("0.5", "0.5"), ("", None)])
@pytest.mark.parametrize("has_gpu", [False, True])
def test_horovod_reads_the_users_cycle_time_or_a_sound_one(
    monkeypatch: pytest.MonkeyPatch, given: str | None, used: str | None, has_gpu: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setenv("HOROVOD_CYCLE_TIME", given or "")
    if given is None:
        monkeypatch.delenv("HOROVOD_CYCLE_TIME")
    monkeypatch.delenv("HOROVOD_CACHE_CAPACITY", raising=False)
    fix_horovod_environment()
    assert os.environ.get("HOROVOD_CYCLE_TIME") == (used or (None if has_gpu else str(CPU_CYCLE_MS)))
    assert "HOROVOD_CACHE_CAPACITY" not in os.environ
