"""Benchmarks: ratios of Switchboard against bare programs, measured in one run.

`python -m bench [NAME …] [--seconds N]` writes `bench/RESULTS.md`; names: `bench/__main__.py`.

Servers under test run in processes of their own, all on the first core; load generator, brokers and
stand-ins share the last one. Rounds of the compared programs take turns (A B A B …), so that what
else the machine does hits both; what counts is the ratio, not the figure.
"""
