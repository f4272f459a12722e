"""Evaluation: what a model's sound is, measured. `python -m infer.evaluate` lists the commands."""
