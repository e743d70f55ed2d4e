"""What a check says about this machine: libraries that logins need, and md5.

It speaks of the machine on which it runs; where the pooler will run that may differ.
"""

from collections.abc import Iterator

from bouncer.auth import needed
from bouncer.check.advice import about
from bouncer.check.findings import ERROR, WARNING, Finding
from bouncer.check.reading import Reading, source_of


def machine(reading: Reading) -> Iterator[Finding]:
    """Libraries that are not here, and md5 where it is forbidden."""
    settings, rules = reading.config.settings, reading.hba
    for line, text in needed.lacking(settings, rules):
        if line and rules is not None:
            yield Finding(ERROR, text, rules.path, line)
        else:
            place = source_of(reading.config, "auth_type")
            yield Finding(ERROR, text, *place, "auth_type")
    text = needed.forbidden(settings, rules)
    if text and rules is not None and settings.auth_type == "hba":
        line = needed.lines_with(rules, "md5")[0]
        yield Finding(WARNING, text, rules.path, line)
    elif text:
        yield about(reading, "auth_type", text)
