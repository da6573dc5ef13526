"""``horovod.run`` 0.28.1 passes on settings that nobody made as the text "(None,)".

Upstream: two stray commas in ``horovod/runner/__init__.py`` (``self.cycle_time_ms = None,``), not reported.
Ends with: no release yet; 0.28.1 is the last one.
"""

import os

import torch

CPU_CYCLE_MS = 10
"""Between two rounds in which Horovod asks all ranks for work; its own 1 ms takes processor time from training."""


def fix_horovod_environment() -> None:
    """Remove settings that are no numbers, and let ranks on CPUs meet less often unless the user says how often.

    Horovod reads "(None,)" as 0: its thread would look for work without a pause, a whole core's worth, and cache
    nothing.
    """
    for name in ("HOROVOD_CYCLE_TIME", "HOROVOD_CACHE_CAPACITY"):
        if not os.environ.get(name, "0").replace(".", "", 1).isdigit():
            del os.environ[name]
    if not torch.cuda.is_available():
        os.environ.setdefault("HOROVOD_CYCLE_TIME", str(CPU_CYCLE_MS))
