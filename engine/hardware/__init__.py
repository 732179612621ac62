"""What this machine has, which of its devices a run takes, and arrays and threads that work there."""
