"""Jobs and what is done with them."""
