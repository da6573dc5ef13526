"""All figures of a GPU in one call of some minutes: training steps, inference, and loss curves, as Markdown.

    python -m benchmarks.gpu_steps            # on a machine with a GPU, torch and numpy
    python -m benchmarks.gpu_steps --smoke    # the same calls, tiny, on any machine

Each line of the table is one process of ``python -m ml.bench``; what it prints besides goes to standard error. It fails
where a process does, or where losses lie farther apart than they may.
"""

import argparse
import subprocess
import sys

import numpy as np
from numpy.typing import NDArray

from ml.bench import build_learner, build_parser, draw_batches

HALF = "--precision bfloat16"
OWN_ROWS = "--packed-width 0 --compile no"
LARGE = f"{HALF} --hidden-size 1024 --layers 20 --heads 16 --feed-forward-size 4096 --attention causal --max-length 256"
CALLS = {
    "own rows, 4,096 positions": f"{HALF} {OWN_ROWS} --tokens-per-batch 4096 --steps 200",
    "packed, compiled, 4,096 positions": f"{HALF} --tokens-per-batch 4096 --steps 400",
    "own rows, 65,536 positions": f"{HALF} {OWN_ROWS} --tokens-per-batch 65536 --steps 40",
    "packed, 65,536 positions": f"{HALF} --compile no --tokens-per-batch 65536 --steps 60",
    "packed, compiled, 65,536 positions": f"{HALF} --tokens-per-batch 65536 --steps 100 --profile",
    "the same with 1.3 million items": f"{HALF} --tokens-per-batch 65536 --steps 100 --items 1.3e6",
    "1,024 wide, 20 layers, causal, rows of 256": f"{LARGE} --tokens-per-batch 32768 --steps 30",
    "inference, 65,536 positions a call": f"{HALF} --inference --compile yes --tokens-per-batch 65536 --steps 200",
}
SMOKE = (
    " --steps 9 --tokens-per-batch 512 --items 300 --loss sampled --hidden-size 16 --layers 1 --heads 2"
    " --feed-forward-size 16 --compile no"
)
SHOWN = ("ms per step", "tokens/s", "% of a large matrix product's rate", "memory/gpu_peak_gib")
CURVE = "--tokens-per-batch 16384 --items 200 --loss sampled --negatives 64 --learning-rate 1e-3"
CURVE_STEPS, FIRST_STEPS = 500, 20
SMOKE_STEPS = 12
APART, ONE_STEP = "difference between these", "standard deviation of one step"
LARGEST_DIFFERENCE = 1e-4
"""Of a loss of some ten, in float32: what another order of its sums makes of it."""


def bench(flags: str) -> dict[str, str]:
    """The figures that ``ml.bench`` prints, by key; none where it failed."""
    done = subprocess.run(
        [sys.executable, "-m", "ml.bench", *flags.split()], capture_output=True, text=True, check=False
    )
    sys.stderr.write(done.stdout + done.stderr)
    lines = (line.split(maxsplit=1) for line in done.stdout.splitlines())
    return {parts[1]: parts[0] for parts in lines if len(parts) == 2} if done.returncode == 0 else {}


def losses(flags: str, n_steps: int) -> NDArray[np.float64]:
    """The loss per target of each step, float64 [steps]."""
    arguments = build_parser().parse_args(flags.split())
    arguments.steps = n_steps
    learner = build_learner(arguments)
    sums = [learner.step([batch]) for batch in draw_batches(arguments)]
    return np.array([float(of_step.loss) / float(of_step.n_targets) for of_step in sums])


def loss_curves(flags: str, n_steps: int) -> dict[str, float]:
    """How far losses of packed, compiled steps lie from those of rows of their own, of the same seed.

    The two see different batches of the same sequences: their means over the last fifth of the steps are compared.
    """
    curves = {layout: losses(f"{flags} {more}", n_steps) for layout, more in (("own rows", OWN_ROWS), ("packed", ""))}
    last = -(n_steps // 5)
    ends = {layout: float(curve[last:].mean()) for layout, curve in curves.items()}
    return {
        **{f"loss of {layout}, first step": float(curve[0]) for layout, curve in curves.items()},
        **{f"loss of {layout}, last {-last} steps": end for layout, end in ends.items()},
        APART: abs(ends["packed"] - ends["own rows"]),
        ONE_STEP: float(curves["own rows"][last:].std()),
    }


def compiled_against_eager(flags: str, n_steps: int) -> float:
    """The largest difference of the losses of packed steps that are compiled from the same ones that are not.

    Without dropout: a compiler draws other numbers.
    """
    eager, compiled = (
        losses(f"{flags} --attention causal --dropout 0 --compile {choice}", n_steps) for choice in ("no", "auto")
    )
    return float(np.abs(eager - compiled).max())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny, to see that all calls work")
    is_smoke = parser.parse_args().smoke
    print("| | " + " | ".join(SHOWN) + " |\n|---" + "|---" * len(SHOWN) + "|")
    tiny, failed = (SMOKE if is_smoke else ""), []
    for name, flags in CALLS.items():
        figures = bench(flags + tiny)
        failed += [] if figures else [name]
        print(f"| {name} | " + " | ".join(figures.get(key, "") for key in SHOWN) + " |", flush=True)
    curves = loss_curves(f"{HALF} {CURVE}{tiny}", SMOKE_STEPS if is_smoke else CURVE_STEPS)
    for key, value in curves.items():
        print(f"{key}: {value:.4f}")
    # of a few steps each layout has seen other sequences: they say nothing
    if not is_smoke and not curves[APART] <= curves[ONE_STEP]:
        failed.append(f"losses of the two layouts, at most {ONE_STEP} apart")
    difference = compiled_against_eager(f"--packed-width 128 {CURVE}{tiny}", SMOKE_STEPS if is_smoke else FIRST_STEPS)
    print(f"float32, compiled against not, largest difference of a loss: {difference:.1e}")
    if not difference <= LARGEST_DIFFERENCE:
        failed.append(f"losses of compiled steps, at most {LARGEST_DIFFERENCE} apart from others")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; messages and figures are above")


if __name__ == "__main__":
    main()
