"""A run on disk: rows and what they were made with, how far it came, its photos, and what people corrected in it."""
