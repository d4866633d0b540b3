"""Benchmarks: each is a module to run from the repository, as its docstring says."""
