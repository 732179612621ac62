"""How right counts, classes and pointers are: the paper's tables and curves, failures, what settings are worth."""
