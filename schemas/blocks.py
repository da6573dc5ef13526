"""Names of blocks and profiles that the pipeline gives itself: no encoder and no imported block may have one."""

BASELINE = "baseline"
"""The organisers' aggregated features."""
ACTIVITY = "activity"
"""How much each client did, and how recently."""
ENSEMBLE = "ensemble"
"""The profile of the encoders' blocks, and of ``activity`` where it is asked for."""

ORACLE = "oracle"
"""The entry that ``ubp generate`` writes beside a simulated shop: what the shop knows of its clients at the cutoff."""

RESERVED = (BASELINE, ACTIVITY, ENSEMBLE, ORACLE)
