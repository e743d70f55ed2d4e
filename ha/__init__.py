"""The HA front: HAProxy templates, HAProxy state, health."""
