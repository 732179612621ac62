"""What this machine has, and arrays and threads that work there."""
