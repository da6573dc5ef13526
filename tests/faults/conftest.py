"""One shop and one undisturbed run of it for all cases."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_runs import SETTINGS, Shop


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("faults")
    made = ["generate", "--out", str(folder / "shop"), "--clients", "150", "--days", "70", "--seed", "3"]
    subprocess.run([sys.executable, "-m", "jobs.cli", *made], check=True, capture_output=True)
    settings = folder / "tiny.yaml"
    settings.write_text(SETTINGS)
    return Shop(folder / "shop", settings)


@pytest.fixture(scope="session")
def undisturbed(shop: Shop) -> Path:
    """The output of a run that nothing happened to; not to be written to."""
    out = shop.data.parent / "undisturbed"
    shop.finish(out)
    return out


@pytest.fixture
def finished(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of it that may be harmed."""
    return Path(shutil.copytree(undisturbed, tmp_path / "out"))


@pytest.fixture
def mounted(tmp_path: Path) -> "Callable[[str], Path]":
    """Mounts a small file system in memory with the options given; skips where that is not allowed."""
    places: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / "mounted"
        place.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
