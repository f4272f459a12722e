"""Trainings on Lightning, and what they need."""
