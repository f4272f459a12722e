"""Sound and text on their way to the models."""
