"""Settings of where a finished run is reported, beside its page."""

from dataclasses import dataclass

from conf.ranges import Settings


@dataclass(frozen=True)
class TrackingSettings(Settings):
    """Where a finished run is reported, beside ``OUT``."""

    mlflow: bool = False
    """The stage ``report`` makes an MLflow run: settings, figures, scores, the report as an artifact."""
    experiment: str = "ubp"
    """MLflow's; on Databricks a path, such as ``/Shared/ubp``."""
