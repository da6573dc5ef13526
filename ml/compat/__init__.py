"""Patches of torch, Petastorm and Horovod: each names its upstream issue and the version that ends it."""
