"""Datasets that the benchmarks make themselves."""
