"""The torch side: model, feed, training, probe. Never imports pyspark."""
