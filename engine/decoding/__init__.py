"""From the bytes of a photo to pixels of the network's size: on threads, in processes that may die, or on a GPU."""
