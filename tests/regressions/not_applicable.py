"""Scenarios without a test, and why: only those about something we do not have."""

NOT_APPLICABLE: dict[int, str] = {
    15: "there is no cache of results",
}
