"""Turns dumps of whole machines into Dumps of their kernels: one module a step."""
