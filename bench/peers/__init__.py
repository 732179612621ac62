"""pc-engine beside what one would use instead."""
