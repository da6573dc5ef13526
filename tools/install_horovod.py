"""Build and install Horovod from its PyPI source package, with two fixes.

Horovod 0.28.1 pins C++14 in its CMake files, while the headers of torch >= 2.1 need C++17; upstream's unreleased fix
changes the same two lines. And it uses the network interface that it is told for the control messages only: gradients
go over the one that the host's own name belongs to. Does nothing where the fixed version already imports against
this torch.

Run as ``python tools/install_horovod.py`` inside the environment that already holds requirements.lock.
"""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

VERSION = "0.28.1"
LOCK = Path(__file__).parents[1] / "requirements-horovod.lock"
"""Names the version and its SHA-256, for pip and for ``make audit``."""
FIXED_VERSION = f"{VERSION}+ubp"
CXX17 = (r"(set\(CMAKE_CXX_STANDARD) 14\)", r"\1 17)")
FIXES = {
    "CMakeLists.txt": CXX17,
    "horovod/torch/CMakeLists.txt": CXX17,
    "horovod/common/gloo/gloo_context.cc": (
        r"(assert\(global_context\.IsEnabled\(\)\);)",
        r"\1\n  gloo_iface_ = global_context.gloo_iface_;",
    ),
}
"""File -> what stands there once, and what is to stand there."""
BUILD_FLAGS = {
    "HOROVOD_LOCAL_VERSION": FIXED_VERSION.split("+")[1],
    "HOROVOD_WITH_PYTORCH": "1",
    "HOROVOD_WITH_GLOO": "1",
    "HOROVOD_CPU_OPERATIONS": "GLOO",
    "HOROVOD_WITHOUT_MPI": "1",
    "HOROVOD_WITHOUT_TENSORFLOW": "1",
    "HOROVOD_WITHOUT_MXNET": "1",
}


def main() -> None:
    if is_installed():
        return
    print(f"Building Horovod {VERSION} from source: about three minutes on two cores ...", flush=True)
    with tempfile.TemporaryDirectory(prefix="horovod-build-") as folder:
        source = unpack(download(Path(folder)), Path(folder))
        for name, (pattern, replacement) in FIXES.items():
            fix(source / name, pattern, replacement)
        build(source, Path(folder) / "build.log")
    if not is_installed():
        sys.exit(
            f"Horovod {VERSION} was built but does not import: run `python -c 'import horovod.torch'` for the reason."
        )


def is_installed() -> bool:
    """Whether the fixed version is installed and its extension loads against the installed torch."""
    try:
        if metadata.version("horovod") != FIXED_VERSION:
            return False
    except metadata.PackageNotFoundError:
        return False
    return subprocess.run([sys.executable, "-c", "import horovod.torch"], capture_output=True).returncode == 0


def download(folder: Path) -> Path:
    """Fetch the source package through pip's own index settings.

    pip compares its hash before it runs the package's ``setup.py``, which it asks for the name and version.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--no-binary", ":all:", "--require-hashes", "--requirement", str(LOCK), "--dest", str(folder)]
    if subprocess.run(command).returncode:
        sys.exit(
            f"horovod {VERSION} was not fetched with the sha256 of {LOCK.name} (pip says why above); not building it."
        )
    return next(folder.glob("horovod-*.tar.gz"))


def unpack(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / f"horovod-{VERSION}"


def fix(path: Path, pattern: str, replacement: str) -> None:
    text, n_changed = re.subn(pattern, replacement, path.read_text())
    if n_changed != 1:
        sys.exit(f"{path.name}: expected one {pattern}, found {n_changed}; is this {VERSION}?")
    path.write_text(text)


def build(source: Path, log: Path) -> None:
    environment = {**os.environ, **BUILD_FLAGS, "MAKEFLAGS": f"-j{os.cpu_count()}"}
    # the environment's own cmake (3.31) comes first: CMake 4 refuses Horovod's files
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--verbose", str(source)]
    with log.open("w") as stream:
        result = subprocess.run(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    if result.returncode:
        print("\n".join(log.read_text().splitlines()[-60:]))
        sys.exit(f"Horovod {VERSION} did not build (last lines above). Is a C++17 compiler installed (g++ or clang++)?")


if __name__ == "__main__":
    main()
