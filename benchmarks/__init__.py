"""What measures speed and safety. Each benchmark writes `results/NAME.json`; `python -m benchmarks` runs all of them.

python -m benchmarks.ratings     one of them alone
python -m benchmarks --stored    the table of the stored results, without running anything
"""
