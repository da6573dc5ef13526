"""What is computed from predictions: the ranking metrics and the scores of the challenge."""
