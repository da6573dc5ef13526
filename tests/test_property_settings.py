"""What all tests of properties (Hypothesis) have in common."""

import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@settings(max_examples=1)
@given(st.just(0.3))
def test_an_example_may_take_longer_than_hypothesis_allows_by_itself(seconds: float) -> None:
    time.sleep(seconds)


def test_examples_may_be_made_slowly() -> None:
    assert HealthCheck.too_slow in settings.default.suppress_health_check
