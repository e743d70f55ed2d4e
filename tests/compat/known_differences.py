"""Recordings that we differ from on purpose, each with its reason.

Every entry names a word that stands in docs/compatibility.md, so that no difference
is kept from the reader. A case that starts to match must leave this list.
"""

from typing import NamedTuple


class Difference(NamedTuple):
    """Why a recorded case does not match, and where the docs say so.

    *only* is all in which it may differ, and need not: how soon it is done, what is
    drawn by chance.
    """

    reason: str
    word: str
    only: tuple[str, ...] = ()


# "suite id" -> Difference
KNOWN: dict[str, Difference] = {
    "ini 180-reload-syntax-error": Difference(
        "a RELOAD that fails changes nothing", "a RELOAD that fails"
    ),
    "ini 181-reload-file-gone": Difference(
        "a RELOAD that fails keeps the peers", "a RELOAD that fails"
    ),
    "ini 183-reload-no-reload-keys": Difference(
        "a RELOAD that fails keeps all settings", "a RELOAD that fails"
    ),
    "ini 184-reload-auth-file": Difference(
        "who left auth_file is unknown, and the log says so",
        "users taken out of `auth_file`",
    ),
    "ini 185-reload-auth-file-trust": Difference(
        "who left auth_file does not get in", "users taken out of `auth_file`"
    ),
    "ini 186-reload-forced-user": Difference(
        "a new forced user is a user", "another forced user"
    ),
    # A fifth of its users have a SCRAM secret, so a fifth of all names would.
    "ini 146-userlist-secrets": Difference(
        "who does not exist is asked like one of those who do",
        "asked like some user of `auth_file`",
        ("step 7 login nobody to d", "step 7 login: log"),
    ),
    "ini 190-reload-twice-same-error": Difference(
        "a RELOAD that fails adds no databases", "a RELOAD that fails"
    ),
}

KNOWN |= {
    "wire auth_scram_md5_secret": Difference(
        "the exchange goes on to its end, as for nobody", "an md5 secret with SCRAM"
    ),
}

NAMES = Difference(
    "PostgreSQL refuses a name, and the session goes on",
    "a Bind or Describe of a name that is not prepared",
)
KNOWN |= {
    f"wire {case}": NAMES
    for case in (
        "ps_dup_name",
        "ps_bind_missing",
        "ps_describe_missing",
        "ps_discard_all",
        "ps_pipeline_error",
        "ps_failed_tx",
    )
}
KNOWN |= {
    "wire ps_sql_deallocate": Difference(
        "a name of the protocol can be deallocated by SQL",
        "`DEALLOCATE name` of a statement",
    ),
    "wire pool_client_leaves_mid_query": Difference(
        "what it has asked for is run to the end", "Terminate, or half a connection"
    ),
}

KNOWN |= {
    "wire to_connect_timeout": Difference(
        "another login begins when one is silent", "says nothing for a second"
    ),
    "wire srv_login_error": Difference(
        "who asks next need not wait", "a login that the server refuses", ("time",)
    ),
    "wire srv_host_failover": Difference(
        "the next host is tried at once", "one dead host of a list", ("time",)
    ),
}

KNOWN |= {
    "wire srv_terminate_backend": Difference(
        "PostgreSQL's FATAL is the only one", "FATAL of a server that ends"
    ),
}

KNOWN |= {
    "wire ps_parse_error": Difference(
        "the name of a refused statement may be taken again",
        "a name whose Parse was refused",
    ),
    "wire more_fake_parse_flush": Difference(
        "what is not behind an answer is answered at once",
        "Parse and Flush of a known text",
    ),
    "wire srv_long_error": Difference(
        "the server's text reaches the client whole", "error texts that are too long"
    ),
    "wire more_cached_error": Difference(
        "nothing is logged about a cut text", "error texts that are too long"
    ),
}

KNOWN |= {
    "wire auth_userlist_reload": Difference(
        "who left auth_file is unknown, and the log says so",
        "users taken out of `auth_file`",
    ),
    "wire auth_userlist_removed_trust": Difference(
        "who left auth_file does not get in", "users taken out of `auth_file`"
    ),
    "console scenario.pause_db_first_login": Difference(
        "no connection is opened, so none is closed", "the first login of a pool"
    ),
}

KNOWN |= {
    "wire more_reset_error": Difference(
        "what was not reset is not handed on", "that ends in an error"
    ),
    "wire cancel_waiting_client": Difference(
        "the wait ends with an error", "for a client that waits for a server"
    ),
}

# The console speaks the extended protocol.
_EXTENDED = Difference(
    "the extended protocol is answered", "the extended protocol on the console"
)
KNOWN |= {
    f"console {name}": _EXTENDED
    for name in (
        "protocol.parse",
        "protocol.parse_bind_describe_execute_sync",
        "protocol.parse_named_sync",
        "protocol.bind",
        "protocol.describe_portal",
        "protocol.describe_statement",
        "protocol.execute",
        "protocol.sync",
        "protocol.flush",
        "protocol.close_unnamed",
        "protocol.parse_describe_flush",
        "driver.psycopg.params",
        "driver.psycopg.prepare",
        "driver.psycopg.repeat",
        "driver.psycopg.pipeline",
        "driver.psycopg.binary",
        "driver.asyncpg.fetch",
        "driver.asyncpg.fetch_nocache",
        "driver.asyncpg.execute_args",
    )
}
KNOWN["wire admin_login"] = _EXTENDED
_TAGS = Difference("each command waits for what it says", "mis-tagged replies")
KNOWN |= {
    "console protocol.split_body": Difference(
        "a cut Query is put together", "cut by the network"
    ),
    "console scenario.kill_client_self": Difference(
        "only the console ends", "the console that asks"
    ),
    "console scenario.wait_close_sticky": _TAGS,
    "console scenario.wait_close_vs_paused_db": _TAGS,
    "console scenario.reload_missing": Difference(
        "a RELOAD that fails keeps the peers", "a RELOAD that fails"
    ),
}
_EMPTY = Difference("comments are no words", "comments, empty statements")
KNOWN["ini 191-set"] = _EMPTY
_SAID = Difference(
    "what drivers say to any PostgreSQL is answered", "what drivers say to PostgreSQL"
)
_QUOTED = Difference("what is quoted is shortened", "a text that is too long")
_ENDED = Difference("each debt ends once", "a PAUSE that waits")
KNOWN |= {
    f"console {name}": _EMPTY
    for name in (
        "grammar.empty",
        "grammar.semicolon",
        "grammar.blank",
        "grammar.two_semicolons",
        "grammar.line_comment",
        "grammar.lead_comment",
        "grammar.block_comment",
        "driver.psql.stdin_block_comment",
    )
}
KNOWN |= {
    f"console {name}": _SAID
    for name in (
        "grammar.multi",
        "grammar.multi_trailing",
        "grammar.select_1",
        "grammar.select_fn",
        "grammar.begin",
        "grammar.commit",
        "grammar.rollback",
        "grammar.start_tx",
        "grammar.discard_all",
        "grammar.deallocate",
        "grammar.reset_all",
        "set.admin.local",
        "set.admin.time_zone",
        "set.admin.names",
        "set.admin.search_path",
        "set.admin.appname",
        "set.admin.stmt_timeout",
        "set.stats.appname",
        "show.notfaked.server_version",
        "show.notfaked.transaction_isolation",
        "show.notfaked.application_name",
        "efd.forms",
        "show.notfaked.is_superuser",
        "driver.psql.c_multi",
        "driver.psql.stdin_multi",
        "driver.psql.single_transaction",
        "driver.psql.interactive_admin",
        "driver.psycopg.default_transaction",
        "driver.psycopg.transaction_block",
        "driver.asyncpg.transaction",
        "driver.asyncpg.pool",
    )
}
KNOWN |= {
    f"console {name}": _QUOTED
    for name in (
        "grammar.len451",
        "protocol.big_query_4091",
        "driver.psql.describe_d",
    )
}
KNOWN |= {
    f"console {name}": _ENDED
    for name in (
        "scenario.pause_resume_other_console",
        "scenario.pause_resume_same_console",
        "scenario.pause_cancel",
        "scenario.pause_db_cancel",
        "scenario.pause_db_resume_other",
        "driver.psql.interactive_pause_ctrl_c",
    )
}
_WAIT = Difference("who logs in waits, too", "counts from the moment it is queued")
_SHOWN = Difference("the log shows what was sent", "control characters")
KNOWN |= {f"console grammar.{name}": _SHOWN for name in ("formfeed", "vtab")}
KNOWN |= {
    "console show.states.login": _WAIT,
    "console scenario.reconnect_login": _WAIT,
}

_LISTS = Difference(
    "search_path is a list of identifiers", "put into `SET search_path=`"
)
_BOUNDS = Difference(
    "what is too long for a login is refused by its header", "messages before a login"
)
KNOWN |= {
    "wire track_injection": _LISTS,
    "wire track_lists_18": _LISTS,
    "wire opt_cve_2026_107349": _LISTS,
    "wire track_reset_18": Difference(
        "a reset goes back to the startup packet", "RESET, RESET ALL, DISCARD ALL"
    ),
    "wire scram_first_forms": Difference(
        "a client-first without a name is refused", "client-first without `n=`"
    ),
    "wire scram_empty_message": Difference(
        "an empty message is answered", "empty SASL message"
    ),
    "wire len_cve_2026_6668": _BOUNDS,
    "wire len_cve_2026_107348": _BOUNDS,
    "wire again_auth_query": Difference(
        "the server finishes its query and goes back", "while `auth_query` runs"
    ),
    "wire mend_copy_late": Difference(
        "late data takes no server", "CopyData behind a COPY that has failed"
    ),
    "wire idle_pool_gone": Difference(
        "what a dropped pool has counted stays, so that no sum falls",
        "stays in SHOW STATS",
    ),
}

# The same of other people's configurations, which stand outside of this tree.
KNOWN_OUTSIDE = {
    "corpus 29-ldap": Difference(
        "SHOW CONFIG shows no password", "passwords in `auth_ldap_options`"
    ),
}
