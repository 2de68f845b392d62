"""Experiments of many runs: populations, sweeps, comparison and verification."""
