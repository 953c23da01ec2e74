// A worker that answers at once: keeps the engine out of measurements of what stands before it.
//
//     stub_worker PORT...
//
// POST: a chat completion, or, where the body says "stream":true, "max_completion_tokens" server-sent
// events, one every "seed" microseconds (0: as fast as the reader takes them), each written alone: the
// parameters are in fields that every router passes on.
// With the header x-penstock-journal each event has the comment lines of Penstock's resume journal.
// GET: 200. One thread, epoll.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 4096, REQUEST = 1 << 20, PENDING = 1 << 14 };

typedef struct {
    int fd, listening;
    char *request;
    size_t got;
    long events, sent, interval;
    double due;
    int journal, streaming, blocked;
    char pending[PENDING];
    size_t begin, end;
} Connection;

static Connection *connections[MOST];
static int poller;

static const char ANSWER[] =
    "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1763700000,\"model\":\"m\","
    "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Twelve of them, and "
    "every one was painted by hand.\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":20,"
    "\"completion_tokens\":12,\"total_tokens\":32,\"prompt_tokens_details\":{\"cached_tokens\":0}}}";

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void watch(Connection *c, int op, unsigned events) {
    struct epoll_event event = {.events = events, .data.fd = c->fd};
    if (epoll_ctl(poller, op, c->fd, &event)) fail("epoll_ctl");
}

static Connection *add(int fd, int listening) {
    if (fd >= MOST) { close(fd); return NULL; }
    Connection *c = calloc(1, sizeof *c);
    c->fd = fd;
    c->listening = listening;
    if (!listening) c->request = malloc(REQUEST);
    connections[fd] = c;
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
    return c;
}

static void drop(Connection *c) {
    connections[c->fd] = NULL;
    close(c->fd);
    free(c->request);
    free(c);
}

// Write what is pending; 0 when the connection is gone.
static int flush(Connection *c) {
    while (c->begin < c->end) {
        ssize_t n = send(c->fd, c->pending + c->begin, c->end - c->begin, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            if (!c->blocked) watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return c->blocked = 1;
        }
        if (n <= 0) return 0;
        c->begin += n;
    }
    c->begin = c->end = 0;
    if (c->blocked) watch(c, EPOLL_CTL_MOD, EPOLLIN);
    c->blocked = 0;
    return 1;
}

static int chunk(Connection *c, const char *text) {
    c->end += snprintf(c->pending + c->end, PENDING - c->end, "%zx\r\n%s\r\n", strlen(text), text);
    return flush(c);
}

static int event(Connection *c) {
    char text[1024] = "", *at = text;
    long n = c->sent++;
    if (n == c->events) {
        c->streaming = 0;
        if (!chunk(c, "data: [DONE]\n\n")) return 0;
        c->end += sprintf(c->pending + c->end, "0\r\n\r\n");
        return flush(c);
    }
    if (c->journal && n == 0) at += sprintf(at, ": resume id=chatcmpl-1 created=1763700000 seed=7\n");
    if (c->journal) at += sprintf(at, ": tokens 0 %ld%s\n", 100 + n, n + 1 == c->events ? " finish=stop" : "");
    sprintf(at, "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1763700000,"
        "\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{%s\"content\":\" word%ld\"},"
        "\"finish_reason\":%s}]}\n\n", n ? "" : "\"role\":\"assistant\",", n,
        n + 1 == c->events ? "\"stop\"" : "null");
    return chunk(c, text);
}

static long number(const char *body, const char *name, long otherwise) {
    const char *found = strstr(body, name);
    if (!found) return otherwise;
    found += strlen(name);
    while (*found == '"' || *found == ':' || *found == ' ') found++;
    return atol(found);
}

static int answer(Connection *c, const char *head, const char *body) {
    if (strstr(body, "\"stream\":true") || strstr(body, "\"stream\": true")) {
        c->events = number(body, "\"max_completion_tokens", 16);
        c->interval = number(body, "\"seed", 0);
        c->journal = strcasestr(head, "x-penstock-journal:") != NULL;
        c->sent = 0;
        c->streaming = 1;
        c->due = now() + c->interval * 1e-6;
        c->end += sprintf(c->pending + c->end, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; "
            "charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n");
        return flush(c) && (c->interval || event(c));
    }
    const char *text = strncmp(head, "GET", 3) ? ANSWER : "{\"status\":\"ok\",\"data\":[{\"id\":\"m\"}]}";
    c->end += snprintf(c->pending + c->end, PENDING - c->end, "HTTP/1.1 200 OK\r\ncontent-type: "
        "application/json\r\ncontent-length: %zu\r\n\r\n%s", strlen(text), text);
    return flush(c);
}

// Answer the request that has come; 0 when the connection is gone.
static int take(Connection *c) {
    ssize_t n = recv(c->fd, c->request + c->got, REQUEST - 1 - c->got, 0);
    if (n < 0 && errno == EAGAIN) return 1;
    if (n <= 0) return 0;
    c->got += n;
    c->request[c->got] = 0;
    char *end = strstr(c->request, "\r\n\r\n");
    if (!end) return c->got < REQUEST - 1;
    *end = 0;
    char *length = strcasestr(c->request, "\r\ncontent-length:");
    size_t whole = end + 4 - c->request + (length ? strtoul(length + 17, NULL, 10) : 0);
    if (c->got < whole) {
        *end = '\r';
        return whole < REQUEST;
    }
    c->got = 0;
    return answer(c, c->request, end + 4);
}

static void take_in(Connection *listener) {
    int fd, yes = 1;
    while ((fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        add(fd, 0);
    }
}

static void tick(void) {
    double at = now();
    for (int fd = 0; fd < MOST; fd++) {
        Connection *c = connections[fd];
        if (!c || !c->streaming || c->blocked) continue;
        for (int burst = 0; burst < 64 && c->streaming && !c->blocked && c->due <= at; burst++) {
            c->due += c->interval * 1e-6;
            if (!event(c)) { drop(c); break; }
        }
    }
}

static void listen_on(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, (void *)&address, sizeof address) || listen(fd, 1024)) fail("bind");
    add(fd, 1);
}

int main(int count, char **arguments) {
    signal(SIGPIPE, SIG_IGN);
    poller = epoll_create1(0);
    for (int i = 1; i < count; i++) listen_on(atoi(arguments[i]));
    struct epoll_event ready[256];
    double ticked = 0;
    for (;;) {
        int streaming = 0;
        for (int fd = 0; fd < MOST && !streaming; fd++)
            streaming = connections[fd] && connections[fd]->streaming && !connections[fd]->blocked;
        int n = epoll_wait(poller, ready, 256, streaming ? 1 : -1);
        for (int i = 0; i < n; i++) {
            Connection *c = connections[ready[i].data.fd];
            if (!c) continue;
            if (c->listening) take_in(c);
            else if ((ready[i].events & EPOLLOUT && !flush(c)) || (ready[i].events & ~EPOLLOUT && !take(c))) drop(c);
        }
        if (now() - ticked > 0.0005) { tick(); ticked = now(); }
    }
}
