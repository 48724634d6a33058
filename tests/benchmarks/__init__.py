"""The daemon beside what one would take instead of it, measured in one run on one machine.

`python -m tests.benchmarks` runs all of it, starts every peer itself, and prints one table. BENCHMARKS.md has the
figures, the machine, and what was tried and did not help.
"""
