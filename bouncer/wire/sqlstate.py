"""The SQLSTATEs this program writes or looks at, by their names in PostgreSQL."""

from __future__ import annotations

SUCCESSFUL_COMPLETION = "00000"
PROTOCOL_VIOLATION = "08P01"
INVALID_PARAMETER_VALUE = "22023"
CANNOT_CONNECT_NOW = "57P03"
CONFIG_FILE_ERROR = "F0000"
