"""Names of blocks and profiles that the pipeline gives itself: no encoder and no imported block may have one."""

BASELINE = "baseline"
"""The organisers' aggregated features."""
ACTIVITY = "activity"
"""How much each client did, and how recently."""
COUNTERS = "counters"
"""What each client did, how often, when, at what prices: docs/counters.md."""
ALS_CATEGORY = "als_category"
"""Factors of clients by the categories that they bought and added."""
ALS_URL = "als_url"
"""Factors of clients by the pages that they visited."""
GRAPH = "graph"
"""Vectors of clients in the graph of who bought and added what."""
INTERACTIONS = "interactions"
"""What a network of crosses makes of the counters, trained on what clients bought after earlier cutoffs."""
ENSEMBLE = "ensemble"
"""The profile of the encoders' blocks, and of ``activity`` where it is asked for."""

ORACLE = "oracle"
"""The entry that ``ubp generate`` writes beside a simulated shop: what the shop knows of its clients at the cutoff."""

ON_REQUEST = (COUNTERS, ALS_CATEGORY, ALS_URL, GRAPH, INTERACTIONS)
"""Made where ``ensemble.blocks`` names them."""
# apart from the others: the JVM needs its optimising compiler for them (jobs/inputs/data_files.py, is_small)
FACTORISED = (ALS_CATEGORY, ALS_URL)
"""Found by Spark MLlib: arithmetic in the JVM."""
ALL = "all"
"""All behaviours, and all days, in the names of the block ``counters``' columns; no behaviour may have it."""
RESERVED = (BASELINE, ACTIVITY, *ON_REQUEST, ENSEMBLE, ORACLE)
