"""Other people's test suites, drivers and tools, through us and without us.

The one hard idea: nobody here says what is right. A suite is played directly on
PostgreSQL, then through a pooler of ours; what passes directly must pass through us.
What may differ stands in a table beside each part, with the reason, and the table can
only shrink: an entry that is not needed any more is a failure too.
"""
