"""What can be said of sound in numbers, by a formula; the networks that embed sound are in `infer.embedders`."""
