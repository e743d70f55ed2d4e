"""What may fail in a driver's suite through us, and why. These lists only get shorter.

(suite, mode): the mode is empty where the reason holds for every pool mode.
"""

from collections.abc import Mapping

REASONS: Mapping[tuple[str, str], Mapping[str, str]] = {}
