/* A PostgreSQL that always answers the same, as cheaply as can be: what is behind a
 * pooler when the pooler itself is to be the bottleneck.
 *
 *     canned PORT
 *
 * Takes any login without a password. Answers Query with one row, and the extended
 * protocol message by message. One thread, one epoll set, level-triggered. Single
 * messages are assumed to fit the buffer; it is a tool for measuring, not a server.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 1 << 16, EVENTS = 256, SSL_REQUEST = 80877103, GSS_REQUEST = 80877104 };

struct connection {
    int fd;
    int started; /* the startup packet has been answered */
    size_t used;
    unsigned char in[BUFFER];
};

static unsigned char out[BUFFER * 4];
static size_t out_used;

static void put(const void *bytes, size_t count)
{
    if (out_used + count <= sizeof out) {
        memcpy(out + out_used, bytes, count);
        out_used += count;
    }
}

static void message(char code, const void *body, uint32_t length)
{
    uint32_t wire = htonl(length + 4);
    put(&code, 1);
    put(&wire, 4);
    put(body, length);
}

static void parameter(const char *name, const char *value)
{
    char body[256];
    size_t a = strlen(name) + 1, b = strlen(value) + 1;
    memcpy(body, name, a);
    memcpy(body + a, value, b);
    message('S', body, a + b);
}

static void welcome(int number)
{
    uint32_t key[2] = {htonl(number), htonl(7)};
    message('R', "\0\0\0\0", 4);
    parameter("server_version", "15.0");
    parameter("server_encoding", "UTF8");
    parameter("client_encoding", "UTF8");
    parameter("DateStyle", "ISO, MDY");
    parameter("TimeZone", "UTC");
    parameter("integer_datetimes", "on");
    parameter("standard_conforming_strings", "on");
    message('K', key, 8);
    message('Z', "I", 1);
}

static void row_description(void)
{
    /* one column named ?column?, type int4 */
    static const unsigned char body[] = "\0\1?column?\0\0\0\0\0\0\0\0\0\0\27\0\4\377\377\377\377\0";
    message('T', body, sizeof body);
}

static void row(void)
{
    message('D', "\0\1\0\0\0\1" "1", 7);
    message('C', "SELECT 1", 9);
}

/* Answer one message; 0 when the connection is to be closed. */
static int answer(char code, const unsigned char *body)
{
    switch (code) {
    case 'Q':
        row_description();
        row();
        message('Z', "I", 1);
        return 1;
    case 'P': message('1', "", 0); return 1;
    case 'B': message('2', "", 0); return 1;
    case 'C': message('3', "", 0); return 1;
    case 'D':
        if (body[0] == 'S')
            message('t', "\0\0", 2);
        row_description();
        return 1;
    case 'E': row(); return 1;
    case 'S': message('Z', "I", 1); return 1;
    case 'X': return 0;
    default: return 1;
    }
}

static uint32_t number_at(const unsigned char *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, 4);
    return ntohl(value);
}

/* Take whole messages from the buffer; 0 when the connection is to be closed. */
static int serve(struct connection *c)
{
    size_t at = 0;
    out_used = 0;
    for (;;) {
        size_t head = c->started ? 5 : 4, left = c->used - at;
        if (left < head + (c->started ? 0 : 4))
            break;
        size_t whole = number_at(c->in + at + head - 4) + (c->started ? 1 : 0);
        if (whole > BUFFER || whole < head)
            return 0;
        if (left < whole)
            break;
        if (c->started) {
            if (!answer(c->in[at], c->in + at + 5))
                return 0;
        } else {
            uint32_t code = number_at(c->in + at + 4);
            if (code == SSL_REQUEST || code == GSS_REQUEST) {
                put("N", 1);
            } else if (code >> 16 == 3) {
                welcome(c->fd);
                c->started = 1;
            } else {
                return 0;
            }
        }
        at += whole;
    }
    memmove(c->in, c->in + at, c->used - at);
    c->used -= at;
    return out_used == 0 || send(c->fd, out, out_used, MSG_NOSIGNAL) == (ssize_t)out_used;
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN};
    int on = 1, set = epoll_create1(0), listener = socket(AF_INET, SOCK_STREAM, 0);

    signal(SIGPIPE, SIG_IGN);
    address.sin_port = htons(argc > 1 ? atoi(argv[1]) : 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 1024)) {
        perror("canned");
        return 1;
    }
    epoll_ctl(set, EPOLL_CTL_ADD, listener, &event); /* data.ptr stays NULL */
    for (;;) {
        int count = epoll_wait(set, events, EVENTS, -1);
        for (int n = 0; n < count; n++) {
            struct connection *c = events[n].data.ptr;
            if (c == NULL) {
                int fd = accept(listener, NULL, NULL);
                if (fd < 0)
                    continue;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                c = calloc(1, sizeof *c);
                c->fd = fd;
                event.data.ptr = c;
                epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
                continue;
            }
            ssize_t got = recv(c->fd, c->in + c->used, BUFFER - c->used, 0);
            if (got > 0)
                c->used += got;
            if (got <= 0 || !serve(c)) {
                close(c->fd);
                free(c);
            }
        }
    }
}
