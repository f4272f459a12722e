"""Networks, and the mathematics that training and inference share; plain torch."""
