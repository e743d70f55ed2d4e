"""Scenarios without a test, and why: only those about something we do not have."""

NOT_APPLICABLE: dict[int, str] = {}
