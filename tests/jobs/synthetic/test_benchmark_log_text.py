from datetime import date, datetime, timedelta

import numpy as np

from jobs.synthetic.benchmark_log.text import codes_to_text, timestamps_to_text


def test_timestamps_are_written_as_the_challenge_does():
    seconds = np.random.default_rng(0).integers(0, 140 * 86_400, 500)
    expected = [str(datetime(2022, 6, 23) + timedelta(seconds=second)) for second in seconds.tolist()]
    assert timestamps_to_text(date(2022, 6, 23), seconds).to_pylist() == expected
    assert timestamps_to_text(date(2022, 6, 23), seconds[:0]).to_pylist() == []


def test_codes_are_written_in_columns():
    codes = np.array([[12, 255, 0, *range(13)], [7] * 16], dtype=np.uint8)
    expected = ["[ 12 255   0   0   1   2   3   4   5   6   7   8   9  10  11  12]", "[" + " ".join(["  7"] * 16) + "]"]
    assert codes_to_text(codes).to_pylist() == expected
