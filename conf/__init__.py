"""Typed settings and the files that fill them.

Values marked *paper* are those of "Ensemble BERT4Rec for the RecSys 2025 Challenge"; values marked *challenge* are the
organisers' and change the meaning of a score.
"""
