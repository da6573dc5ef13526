"""What ``jobs/report.py`` puts on its page: score tables, figures, aggregates of the run's tables."""
