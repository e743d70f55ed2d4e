/* The least that anything between a client and a server can cost: every connection has
 * a server of its own, bytes are passed on and nothing is looked at.
 *
 *     floor PORT TARGET_PORT
 *
 * One thread, one epoll set. A send that does not take everything waits for it: for
 * short queries that does not happen.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 1 << 16, EVENTS = 256 };

struct end {
    int fd;
    struct end *other;
    int closed;
};

static char buffer[BUFFER];

static struct sockaddr_in loopback(const char *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static int send_all(int fd, const char *bytes, ssize_t count)
{
    while (count > 0) {
        ssize_t sent = send(fd, bytes, count, MSG_NOSIGNAL);
        if (sent <= 0)
            return 0;
        bytes += sent;
        count -= sent;
    }
    return 1;
}

static struct end *new_end(int set, int fd)
{
    int on = 1;
    struct end *end = calloc(1, sizeof *end);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = end};
    end->fd = fd;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
    return end;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    struct sockaddr_in here = loopback(argv[1]), target = loopback(argv[2]);
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN};
    int on = 1, set = epoll_create1(0), listener = socket(AF_INET, SOCK_STREAM, 0);

    signal(SIGPIPE, SIG_IGN);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (void *)&here, sizeof here) || listen(listener, 1024)) {
        perror("floor");
        return 1;
    }
    epoll_ctl(set, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(set, events, EVENTS, -1);
        for (int n = 0; n < count; n++) {
            struct end *end = events[n].data.ptr;
            if (end == NULL) {
                int near = accept(listener, NULL, NULL);
                int far = socket(AF_INET, SOCK_STREAM, 0);
                if (near < 0 || connect(far, (void *)&target, sizeof target)) {
                    close(near);
                    close(far);
                    continue;
                }
                struct end *a = new_end(set, near), *b = new_end(set, far);
                a->other = b;
                b->other = a;
                continue;
            }
            if (end->closed)
                continue;
            ssize_t got = recv(end->fd, buffer, BUFFER, 0);
            if (got <= 0 || !send_all(end->other->fd, buffer, got)) {
                /* the structs stay: this round may still name them */
                end->closed = end->other->closed = 1;
                close(end->fd);
                close(end->other->fd);
            }
        }
    }
}
