"""What the acceptance on a machine with a GPU measures, a module for each of its parts."""
