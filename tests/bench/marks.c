/* Loaded into a program that callgrind runs: two signals say what is to be counted.
 *
 * The first (SIGRTMIN + 5) starts counting, the second (SIGRTMIN + 6) writes what was
 * counted since the last one to callgrind's next file and counts anew. So the program
 * need know nothing of it, and nobody needs to trace a process that waits. Callgrind
 * does not bear that in a signal handler: it is done before the next wait for events,
 * which the signal itself ends.
 *
 * How much is done for each event depends on how many come together, and that on who
 * else uses the machine; and what is done every second counts the more, the longer it
 * takes. So that each run counts the same, whoever wants something from us gets PAUSE to
 * ask before we look who it is, and the clock nearly stands still meanwhile.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <valgrind/callgrind.h>

enum { PAUSE = 3000 /* microseconds */, TICK = 100 /* nanoseconds a look at the clock */ };

static volatile sig_atomic_t start_wanted, mark_wanted;
static int counting;
static struct timespec now; /* of the monotonic clock, while we count */

static void note(int number)
{
    if (number == SIGRTMIN + 5)
        start_wanted = 1;
    else
        mark_wanted = 1;
}

static void look(void)
{
    if (start_wanted) {
        start_wanted = 0;
        syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
        counting = 1;
        CALLGRIND_START_INSTRUMENTATION;
    }
    if (mark_wanted) {
        mark_wanted = 0;
        CALLGRIND_DUMP_STATS;
    }
}

/* Timers and durations go by the monotonic clock; it only must not run backwards. */
int clock_gettime(clockid_t clock, struct timespec *told)
{
    if (!counting || (clock != CLOCK_MONOTONIC && clock != CLOCK_MONOTONIC_COARSE))
        return syscall(SYS_clock_gettime, clock, told);
    now.tv_nsec += TICK;
    if (now.tv_nsec >= 1000000000) {
        now.tv_nsec -= 1000000000;
        now.tv_sec++;
    }
    *told = now;
    return 0;
}

/* libuv waits with this one. */
int epoll_pwait(int set, struct epoll_event *events, int most, int timeout,
                const sigset_t *mask)
{
    static int (*original)(int, struct epoll_event *, int, int, const sigset_t *);
    if (original == NULL)
        *(void **)&original = dlsym(RTLD_NEXT, "epoll_pwait");
    look();
    return original(set, events, most, timeout, mask);
}

/* The relay's poller looks with this one, once there is something to see. */
int epoll_wait(int set, struct epoll_event *events, int most, int timeout)
{
    static int (*original)(int, struct epoll_event *, int, int);
    if (original == NULL)
        *(void **)&original = dlsym(RTLD_NEXT, "epoll_wait");
    look();
    if (counting)
        usleep(PAUSE);
    return original(set, events, most, timeout);
}

__attribute__((constructor)) static void watch(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = note;
    sigaction(SIGRTMIN + 5, &action, NULL);
    sigaction(SIGRTMIN + 6, &action, NULL);
}
