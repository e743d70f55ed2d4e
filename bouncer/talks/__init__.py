"""Conversations, each written top to bottom as one generator (design D3)."""
