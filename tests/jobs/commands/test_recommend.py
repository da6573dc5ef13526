"""Which encoders recommend; what they write is of ``tests/jobs/inputs/test_own_ids.py``."""

import pytest

from conf.load import load_config
from jobs.commands.recommend import require_recommender
from schemas.errors import ConfigError


def test_an_encoder_that_ranks_no_items_of_one_behaviour_is_refused_by_name() -> None:
    config = load_config("demo", ["encoders.page_visit.objective=contrastive"])
    require_recommender(config, "product_buy")
    with pytest.raises(ConfigError, match=r"--encoder mixed: expected an encoder of one behaviour, .* of several be"):
        require_recommender(config, "mixed")
    with pytest.raises(ConfigError, match=r"--encoder page_visit: expected .* one of the objective contrastive; name"):
        require_recommender(config, "page_visit")


def test_an_encoder_of_one_event_which_leaves_none_before_the_next_is_refused() -> None:
    config = load_config("demo", ["encoders.page_visit.max_length=1"])
    with pytest.raises(ConfigError, match=r"--encoder page_visit: expected .* one of max_length 1; name another"):
        require_recommender(config, "page_visit")
