"""Collages of labelled objects, whose number, size and spacing are known."""
