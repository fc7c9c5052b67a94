"""Benchmarks: ``python -m bench.report`` measures everything, ``pytest bench`` is what CI runs.

Absolute times depend on the machine's mood. Compared figures were measured in turn, in the same run.
"""
