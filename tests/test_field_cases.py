"""The cases from the field: what users and their tools ran into, and where it is held.

Each case stands for a kind of fault; a test named here holds the right value, and was
red before it was mended. Its docstring, or its file's, says what went wrong.
"""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
DIFFERENTIAL = "differential/test_cases.py: test_case_is_answered_as_by_postgresql"

CASES: dict[str, tuple[str, ...]] = {
    # How far an error reaches in a pipeline
    "1a Query behind a failed extended message": (
        DIFFERENTIAL,
        "relay/test_errors.py: test_error_reaches_as_far_as_in_postgresql",
        "relay/test_ledger.py: test_what_comes_next_is_skipped",
    ),
    "1b Parse of a known text behind a failure": (
        DIFFERENTIAL,
        "relay/test_errors.py: test_name_of_a_skipped_parse_is_free",
    ),
    "1c named statement that is taken or unknown": (
        DIFFERENTIAL,
        "relay/test_names.py: test_names_are_as_with_postgresql",
        "relay/test_deallocate.py: test_deallocate_of_a_name_is_as_with_postgresql",
    ),
    "1d the stray answer": (
        DIFFERENTIAL,
        "relay/test_ledger.py: test_whose_a_message_is",
    ),
    "1e Parse of a known text in a block that fails": (
        DIFFERENTIAL,
        "relay/test_failed_blocks.py: test_describe_without_rows_in_a_failed_block",
        "relay/test_failed_blocks.py: test_wrong_number_of_values_in_a_failed_block",
    ),
    # What is a client's own between two units
    "2a unnamed statement behind its own Sync": (
        DIFFERENTIAL,
        "relay/test_statements.py: test_unnamed_statement_is_the_clients_own",
    ),
    "2b Terminate glued to the last request": (
        "relay/test_goodbye.py: test_goodbye_behind_a_request_lets_it_be_answered",
    ),
    "2c RESET and what the startup packet said": (
        DIFFERENTIAL,
        "relay/test_resets.py: test_reset_goes_back_to_the_startup_packet",
    ),
    "2d pipeline behind DEALLOCATE ALL": (
        DIFFERENTIAL,
        "relay/test_names.py: test_text_that_may_forget_statements_is_known",
    ),
    "2e Query in an open unit, PostgreSQL 18": (
        "differential/test_cases.py: "
        "test_postgresql_18_is_usable_behind_a_query_without_sync",
        "relay/test_errors.py: test_server_is_probed_behind_a_query_in_an_open_unit",
        "relay/test_parameters.py: "
        "test_error_that_is_not_about_a_value_speaks_of_the_server",
    ),
    # What stays on a server for the next client
    "3a SET SESSION AUTHORIZATION and its like": (
        "live/test_tracked_parameters.py: "
        "test_session_authorization_stays_with_who_has_set_it",
        "live/test_tracked_parameters.py: test_read_only_stays_with_who_has_set_it",
        "live/test_tracked_parameters.py: "
        "test_scram_iterations_stay_with_who_has_set_them",
    ),
    "3b parameters that are tracked and not reported": (
        "live/test_tracked_parameters.py: "
        "test_unreported_parameter_is_set_for_who_gave_it_and_reset_for_others",
        "live/test_tracked_parameters.py: "
        "test_reset_of_an_unreported_parameter_goes_back_to_the_startup_value",
        "live/test_tracked_parameters.py: "
        "test_unreported_parameter_follows_what_its_client_sets",
        "live/test_tracked_parameters.py: "
        "test_refused_value_of_an_unreported_parameter_is_its_clients_error_only",
    ),
    "3c tracked without being asked": (
        "live/test_tracked_parameters.py: "
        "test_tracked_parameters_are_taken_from_startup_and_options_in_any_case",
        "live/test_tracked_parameters.py: "
        "test_ignore_startup_parameters_wins_over_tracking",
    ),
    "3d search_path of a startup packet": (
        "live/test_tracked_parameters.py: "
        "test_search_path_of_a_startup_packet_may_be_any_list",
        "live/test_tracked_parameters.py: "
        "test_search_path_that_is_no_list_is_refused_or_harmless",
        "live/test_tracked_parameters.py: test_no_value_of_a_tracked_parameter_is_run",
    ),
    "3e what tools leave behind": (
        "live/test_session_leftovers.py: "
        "test_dump_through_a_session_entry_is_whole_and_hurts_nobody",
    ),
    "3f reset query of several statements": (
        "live/test_own_queries.py: test_reset_query_of_several_statements_works",
        "live/test_own_queries.py: "
        "test_reset_query_that_is_refused_is_told_with_its_reason",
        "unit/config/test_queries.py: test_query_that_cannot_work_is_told",
    ),
    "3g error of more than 64 kB": (
        "relay/test_long_messages.py: test_long_message_costs_no_server",
    ),
    "3h what transaction pooling does not keep apart": (
        "live/test_session_leftovers.py: "
        "test_what_the_docs_call_kept_reaches_the_next_client",
        "live/test_session_leftovers.py: "
        "test_server_reset_query_always_keeps_it_from_the_next_client",
    ),
    # Whose failure is it, and of which target
    "4a renewal during a login": (
        "live/test_targets.py: test_renewal_during_a_login_makes_nobody_wait",
        "live/test_targets.py: test_renewal_during_a_login_refuses_nobody_who_is_in",
    ),
    "4b failover away from a silent host": (
        "live/test_targets.py: test_reload_to_another_host_leaves_a_silent_one_at_once",
    ),
    "4c one dead host of a list or a name": (
        "live/test_targets.py: test_dead_target_of_a_list_keeps_nobody_waiting",
        "live/test_targets.py: test_pause_begins_when_every_target_has_failed_once",
        "live/test_targets.py: test_dead_address_of_a_name_is_met_once_by_each_pool",
    ),
    "4d one attempt that hangs": (
        "live/test_targets.py: test_attempt_older_than_the_last_success_refuses_nobody",
        "live/test_targets.py: test_nobody_is_refused_while_a_login_is_under_way",
    ),
    "4e cancels in a pause": (
        "live/test_cancels_in_a_pause.py: test_every_cancel_arrives_in_a_pause",
    ),
    "4f names that do not exist, kept warm": (
        "live/test_names_made_up.py: test_name_that_does_not_exist_is_not_kept_warm",
    ),
    "4g changed host list": (
        "live/test_targets.py: test_changed_host_list_renews_only_what_is_gone",
    ),
    "4h changed server_tls settings": (
        "live/test_server_tls_renewal.py: "
        "test_switching_tls_on_leaves_no_plain_connection",
        "live/test_server_tls_renewal.py: test_changed_tls_file_or_word_renews_servers",
    ),
    "4i query_timeout and the first server": (
        "live/test_waiting_for_a_first_server.py: "
        "test_query_timeout_counts_while_a_first_server_logs_in",
    ),
    "4j the log before the error": (
        "live/test_log_first.py: "
        "test_line_about_a_failed_login_is_in_the_file_when_the_client_knows",
        "relay/test_log_first.py: "
        "test_client_that_is_told_an_error_finds_it_in_the_log",
    ),
    "4k who has gone while it waited": (
        "relay/test_goodbye.py: test_goodbye_of_a_client_that_waits_for_a_server",
        "live/test_departed.py: "
        "test_who_leaves_is_served_in_turn_and_leaves_room_for_others",
        "live/test_departed.py: "
        "test_of_those_who_left_ten_wait_for_each_server_of_the_pool",
        "live/test_departed.py: test_query_wait_timeout_ends_those_who_left",
    ),
    "4m dropped database": (
        "live/test_targets.py: test_dropped_database_lets_nobody_in",
        "unit/pool/test_keeper.py: "
        "test_welcome_goes_with_the_last_server_that_postgresql_ended",
    ),
    "4n database that is asked for before it exists": (
        "live/test_targets.py: test_database_made_after_it_was_asked_for_is_there",
        "live/test_targets.py: test_role_that_may_log_in_again_may_do_so_at_once",
    ),
    "4o sessions that hold all servers": (
        "unit/pool/test_keeper.py: test_log_says_that_sessions_hold_all_servers",
    ),
    # Socket options
    "5a tcp_socket_buffer": (
        "live/test_socket_options.py: test_tcp_socket_buffer_is_known_"
        "when_the_window_is_announced_to_a_server",
        "live/test_socket_options.py: test_options_are_set_before_connect",
    ),
    "5b Terminate in clear": (
        "live/test_goodbyes.py: "
        "test_a_server_that_owes_the_answer_about_tls_is_just_closed",
    ),
    # The console is a PostgreSQL for tools
    "6a drivers on the console": (
        "live/test_console_postgres.py: test_jdbc_works_in_each_query_mode",
        "unit/admin/test_postgres.py: test_set_that_drivers_send_is_ignored",
        "unit/admin/test_postgres.py: test_probes_are_answered",
    ),
    "6b comments and empty queries": (
        "unit/admin/test_postgres.py: "
        "test_nothing_is_answered_by_an_empty_query_response",
        "unit/admin/test_postgres.py: test_comments_are_no_words",
    ),
    "6c psql's own questions": (
        "live/test_console_postgres.py: test_psql_stays_connected_whatever_it_asks",
    ),
    "6d a PAUSE that is cancelled": (
        "live/test_console_debts.py: test_each_debt_of_a_console_ends_by_its_cancel",
        "live/test_console_debts.py: "
        "test_resume_from_elsewhere_answers_a_pause_that_waits",
    ),
    "6e RESUME in a shutdown": (
        "live/test_console_debts.py: "
        "test_pause_can_be_lifted_while_a_shutdown_waits_for_clients",
    ),
    "6f user whose auth_query fails": (
        "live/test_auth_query_names.py: "
        "test_failed_auth_query_names_a_user_who_is_known",
    ),
    # LDAP and HBA
    "7a words and quotes of LDAP options": (
        "unit/auth/test_ldap_options.py: "
        "test_options_mean_what_they_mean_to_postgresql",
    ),
    "7b ldapurl": (
        "unit/auth/test_ldap_options.py: test_url_without_a_base_goes_with_a_prefix",
        "unit/auth/test_ldap_options.py: "
        "test_options_mean_what_they_mean_to_postgresql",
    ),
    "7c HBA line that is not understood": (
        "unit/config/test_check_fallen.py: test_fate_of_those_whose_line_is_skipped",
    ),
    # Health that does not lie
    "health 1 success of a probe after an outage": (
        "ha/test_health_evidence.py: test_newest_evidence_of_pools_and_probes_decides",
        "ha/test_health_truth_live.py: "
        "test_outage_ends_with_the_first_probe_that_gets_through",
    ),
    "health 2 stale password of one user": (
        "ha/test_health_truth_live.py: test_stale_password_of_one_user_is_no_outage",
        "ha/test_health_truth_live.py: test_haproxy_cuts_nobody_for_a_stale_password",
    ),
    "health 3 connection limit of a role": (
        "ha/test_health_truth_live.py: test_connection_limit_of_a_role_is_no_outage",
    ),
    "health 4 health user that cannot log in": (
        "ha/test_health_truth_live.py: "
        "test_health_user_that_cannot_log_in_is_told_and_mended_by_reload",
        "unit/config/test_check_health.py: "
        "test_secret_that_cannot_log_in_is_told_before",
    ),
    "health 5 age of what is known": (
        "ha/test_health_truth_live.py: "
        "test_frozen_server_is_no_primary_after_three_probes",
        "ha/test_health_evidence.py: test_role_is_known_for_three_probes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_case_is_held_by_tests_that_exist(case: str) -> None:
    for told in CASES[case]:
        path, _, name = told.partition(": ")
        text = (TESTS / path).read_text()
        assert re.search(rf"^(?:async )?def {name}\(", text, re.MULTILINE), told
