"""What the debug build looks at; in the release build the compiler drops it."""

cdef extern from *:
    """
    #ifdef BOUNCER_DEBUG
    #define BOUNCER_CHECKED 1
    #else
    #define BOUNCER_CHECKED 0
    #endif
    """
    const bint CHECKED "BOUNCER_CHECKED"

cdef int failed(str what) except -1
cdef int check_client_move(object client, bint closed, int before,
                           int after) except -1
cdef int check_server_move(object server, bint closed, int before,
                           int after) except -1
