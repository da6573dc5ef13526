"""One file per stage of the pipeline, each a file for spark-submit with one `run(spark, config, workspace)`."""
