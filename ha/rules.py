"""All lint rules: importing this module registers them."""

from __future__ import annotations

import ha.rules_checks
import ha.rules_habits
import ha.rules_poolers  # noqa: F401
from ha.lint import RULES, Rule

__all__ = ["RULES", "Rule"]
