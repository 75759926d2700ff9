"""What a Linux kernel keeps in its memory, turned into arrays: one module a structure."""
