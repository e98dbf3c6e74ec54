"""Benchmarks: one runner (`run.py`), JSON results, one report (`report.py`)."""
