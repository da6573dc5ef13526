import numpy as np

from jobs.synthetic.benchmark_log.files import codes_to_text


def test_codes_are_written_in_columns():
    codes = np.array([[12, 255, 0, *range(13)], [7] * 16], dtype=np.uint8)
    expected = ["[ 12 255   0   0   1   2   3   4   5   6   7   8   9  10  11  12]", "[" + " ".join(["  7"] * 16) + "]"]
    assert codes_to_text(codes).to_pylist() == expected
