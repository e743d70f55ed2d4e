"""What a configuration needs of this machine: libldap, libpam, and md5 allowed.

The one hard idea: it is said at the start and at a RELOAD, not to the first client who
cannot log in. A library that is missing refuses the configuration, since everybody
whom it concerns would be refused; md5 forbidden (FIPS) is told only, since with
auth_type = md5 whoever has a SCRAM secret logs in by SCRAM.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bouncer import log
from bouncer.auth import ldap, md5, pam
from bouncer.config.hba import HbaRules
from bouncer.config.ident import IdentMaps
from bouncer.config.settings import Settings
from bouncer.errors import LibraryMissing


class Library(NamedTuple):
    """A library of the system: its file, and which package has it."""

    file: str
    packages: str


LDAP = Library("libldap.so.2", "libldap-2.5-0 on Debian 12, libldap2 on Debian 13")
PAM = Library("libpam.so.0", "libpam0g on Debian")


def lacking(settings: Settings, rules: HbaRules | None) -> Iterator[tuple[int, str]]:
    """Yield what is missing, with the first HBA line that needs it (0: auth_type)."""
    method = settings.auth_type
    if method == "pam" and pam.libraries() is None:
        yield 0, missing("auth_type = pam", PAM)
    elif method == "ldap" and ldap.library() is None:
        yield 0, missing("auth_type = ldap", LDAP)
    elif method == "hba" and lines_with(rules, "ldap") and ldap.library() is None:
        yield lines_with(rules, "ldap")[0], missing(where(rules, "ldap"), LDAP)


def missing(who: str, library: Library) -> str:
    """Say that *library* is not here."""
    return f"{who} needs {library.file} (package {library.packages}), not found here"


def forbidden(settings: Settings, rules: HbaRules | None) -> str:
    """Say whom a machine that forbids md5 keeps out; "" for nobody."""
    if md5.is_allowed():
        return ""
    if settings.auth_type == "md5":
        who, instead = "auth_type = md5", "auth_type = scram-sha-256"
    elif settings.auth_type == "hba" and lines_with(rules, "md5"):
        who, instead = where(rules, "md5"), "scram-sha-256"
    else:
        return ""
    return (
        f"md5 is forbidden on this machine (FIPS): {who} lets in only users with a "
        f"SCRAM secret, use {instead}"
    )


def lines_with(rules: HbaRules | None, method: str) -> list[int]:
    """Return the numbers of the lines of *rules* that ask for *method*."""
    if rules is None:
        return []
    return [line.line for line in rules.lines if line.method == method]


def where(rules: HbaRules | None, method: str) -> str:
    """Name the first line that asks for *method*."""
    path = "" if rules is None else rules.path
    return f"{method} in line {lines_with(rules, method)[0]} of {path}"


def require(settings: Settings, rules: HbaRules | None) -> None:
    """Raise `LibraryMissing` when this machine lacks a library."""
    for _, text in lacking(settings, rules):
        raise LibraryMissing(text)


def rules_for(settings: Settings) -> HbaRules | None:
    """Read the HBA file if it counts, and look whether this machine can do it all.

    Raises `LibraryMissing`.
    """
    rules = None
    if settings.auth_type == "hba":
        ident = IdentMaps.read(settings.auth_ident_file)
        rules = HbaRules.read(settings.auth_hba_file, ident)
    require(settings, rules)
    text = forbidden(settings, rules)
    if text:
        log.error(text)
    return rules
