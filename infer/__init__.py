"""Everything that makes sound from a trained model, and measures it."""
