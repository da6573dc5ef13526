"""Reads ``.npy`` files, each without pickles and without more memory than its rows that are looked at."""

import math
import stat
from pathlib import Path

import numpy as np


class NpyError(Exception):
    """What was found in the place of one whole ``.npy`` array of plain values."""


def open_npy(path: Path) -> np.ndarray:
    """The array of a file, memory-mapped, for reading.

    Raises
    ------
    NpyError
        Whatever is wrong with the file. It is not opened unless it is a regular one: a pipe would wait for its writer.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise NpyError("a folder" if path.is_dir() else "no regular file")
        with path.open("rb") as file:
            # a zip file, as .npz is
            if file.read(4) == b"PK\x03\x04":
                raise NpyError("an archive of arrays")
            file.seek(0)
            version = np.lib.format.read_magic(file)
            if version == (1, 0):
                shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
            elif version == (2, 0):
                shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(file)
            else:  # its only use is for names of fields that are not latin-1
                raise NpyError(f"an array of format version {version}, which holds records")
            if dtype.hasobject:
                raise NpyError("an array of Python objects")
            n_promised, n_found = dtype.itemsize * math.prod(shape), path.stat().st_size - file.tell()
            if min(shape, default=0) < 0 or n_promised != n_found:
                raise NpyError(f"{n_found:,} bytes behind a header that promises {dtype} of shape {list(shape)}")
            return np.memmap(file, dtype, "r", file.tell(), shape, order="F" if is_fortran else "C")
    except NpyError:
        raise
    except Exception as error:  # of a damaged header numpy reports SyntaxError, TokenError, and what else it meets
        raise NpyError(f"a file that numpy cannot read ({error or type(error).__name__})") from error
