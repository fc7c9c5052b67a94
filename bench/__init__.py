"""Benchmarks: ``python -m bench.report`` measures everything, ``pytest bench`` is what CI runs.

Absolute times are the machine's mood. Whatever is compared was measured in turn, in the same run.
"""
