"""Benchmarks. Absolute times are this machine's mood: compare within one run."""
