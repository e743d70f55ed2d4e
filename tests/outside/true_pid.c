/* Preloaded into programs that look for their own sessions in PostgreSQL by process id.
 *
 * Through a pooler PQbackendPID gives what the pooler told the client, for the pooler
 * routes cancel requests by it. In a session pool the true one stays the same from login
 * to end, so it is asked for once, right after the login. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

#define MOST 64                      /* connections that one program has had, in all */

typedef struct pg_conn PGconn;
typedef struct pg_result PGresult;

extern int PQstatus(const PGconn *);
extern PGresult *PQexec(PGconn *, const char *);
extern char *PQgetvalue(const PGresult *, int, int);
extern int PQntuples(const PGresult *);
extern void PQclear(PGresult *);

static struct { const PGconn *conn; int pid; } known[MOST];
static int next;

static PGconn *asked(PGconn *conn)
{
    PGresult *result;
    int place = next++ % MOST;

    for (int i = 0; i < MOST; i++)   /* the memory of an ended connection comes again */
        if (known[i].conn == conn)
            place = i;
    known[place].conn = NULL;
    if (conn == NULL || PQstatus(conn) != 0)
        return conn;
    result = PQexec(conn, "SELECT pg_catalog.pg_backend_pid()");
    if (PQntuples(result) == 1) {
        known[place].conn = conn;
        known[place].pid = atoi(PQgetvalue(result, 0, 0));
    }
    PQclear(result);
    return conn;
}

PGconn *PQconnectdb(const char *conninfo)
{
    PGconn *(*real)(const char *) = dlsym(RTLD_NEXT, "PQconnectdb");

    return asked(real(conninfo));
}

PGconn *PQconnectdbParams(const char *const *names, const char *const *values, int expand)
{
    PGconn *(*real)(const char *const *, const char *const *, int) =
        dlsym(RTLD_NEXT, "PQconnectdbParams");

    return asked(real(names, values, expand));
}

int PQbackendPID(const PGconn *conn)
{
    int (*real)(const PGconn *) = dlsym(RTLD_NEXT, "PQbackendPID");

    for (int i = 0; i < MOST; i++)
        if (conn != NULL && known[i].conn == conn)
            return known[i].pid;
    return real(conn);
}
