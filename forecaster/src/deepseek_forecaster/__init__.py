"""Predicts the load of the next ten minutes, with quantiles of its peak."""
