"""Tests; a package of its own, so that no other package named tests comes before it."""
