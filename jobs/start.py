"""The console script ``ubp``: the command line, without what the working directory would add to Python's path."""

# ruff: noqa: PTH100, PTH117, PTH120 -- until the path is clean, even a pathlib may be one of the working directory
import os
import sys
import warnings


def main() -> int:
    """As ``jobs.cli.main``, here and in children without the relative and empty entries of PYTHONPATH."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # a daemon may have closed it: the next file that is opened would get its number
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 -- until the process ends
    if sys.flags.optimize > 1:
        sys.stderr.write("expected docstrings, which PySpark reads, found PYTHONOPTIMIZE=2 (python -OO); unset it\n")
        return 2
    os.environ.pop("MPLBACKEND", None)  # a notebook's kernel names its own, which need not be installed here
    if "error" in os.environ.get("PYTHONWARNINGS", ""):
        # as errors, the warnings of libraries would end the run; children get the variable too
        del os.environ["PYTHONWARNINGS"]
        warnings.simplefilter("ignore")
    if given := os.environ.get("PYTHONPATH", ""):
        entries = given.split(os.pathsep)
        kept = [entry for entry in entries if os.path.isabs(entry)]
        own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # may be a checkout that is named so
        left_out = {os.path.abspath(entry) for entry in entries if entry not in kept}.difference([own, *kept])
        sys.path[:] = [entry for entry in sys.path if entry and os.path.abspath(entry) not in left_out]
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)

    from jobs.cli import main as run

    return run()
