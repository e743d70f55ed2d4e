"""Bugs that poolers have really had: one test per scenario, by its number."""
