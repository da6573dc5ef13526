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
