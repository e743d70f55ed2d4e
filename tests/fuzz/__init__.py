"""Bytes that nobody sends on purpose; `make fuzz` goes on for as long as you like."""
