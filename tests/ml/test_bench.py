"""The trainer's own measure, and what it may need: torch and numpy."""

import re
import subprocess
import sys

import pytest
import torch
from packaging.version import Version

WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({names}))  # None: whoever imports it is told that there is no such module
sys.argv = ["ml.bench", *{arguments}]
import ml.bench
ml.bench.main()
"""
ABSENT = ["pyspark", "delta", "petastorm", "horovod", "pyarrow", "pandas", "pydantic", "omegaconf", "safetensors",
          "torchmetrics", "tqdm", "psutil"]  # fmt: skip
TINY = "--steps 3 --items 500 --tokens-per-batch 256 --hidden-size 16 --layers 1 --heads 2 --device cpu --threads 1"


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.8"), reason="older torch cannot count operations that are given an output"
)
@pytest.mark.parametrize(
    ("more", "profiled"),
    [("", None), ("--packed-width 128 --profile", "aten::mm"), ("--inference --profile", "aten::addmm")],
)
def test_the_bench_runs_with_torch_and_numpy_alone(more: str, profiled: str | None) -> None:
    program = WITHOUT.format(names=ABSENT, arguments=[*TINY.split(), *more.split()])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^ *([0-9,]+\.[0-9]{2}) (\D.*)$", done.stdout, re.MULTILINE)
    figures = {name: float(value.replace(",", "")) for value, name in found}
    assert profiled is None or f" {profiled} " in done.stdout
    assert {"tokens/s", "sequences/s", "TFLOP/s", "memory/peak_gib"} <= set(figures)
    assert 0 < figures["sequences/s"] < figures["tokens/s"]
    assert 0 < figures["% of a large matrix product's rate"] < 100
