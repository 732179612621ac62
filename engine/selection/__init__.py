"""Which backend and precision run a network on this machine: what each gives, how fast, and how far from fp32."""
