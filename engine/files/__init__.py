"""Files that a crash leaves whole, values read from files that others wrote, and the folders that files are kept in."""
