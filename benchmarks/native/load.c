// A load generator that takes little of the machine from what it measures.
//
//     load HOST:PORT PATH BODIES closed CONNECTIONS SECONDS   next request when the last has ended
//     load HOST:PORT PATH BODIES open RATE SECONDS            so many requests a second
//     load HOST:PORT PATH BODIES stuck CONNECTIONS SECONDS    ask, and never read
//
// BODIES: a file of request bodies, each preceded by its length in decimal and a newline; they are
// sent in turn. Prints one JSON object: requests, errors, events, seconds, and microseconds to the
// first byte of a body and to the end of an answer (median, 99 %).

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 4096, BUFFER = 1 << 16, SAMPLES = 1 << 22 };

typedef struct {
    int fd, busy, sent_all;
    size_t sent;
    int body;
    char head[8192];
    size_t got;     // bytes of the head, while it is not whole
    int in_body, chunked, failed;
    long left;      // bytes of a body of known length
    char tail[8];   // the last bytes: a chunked body ends with \r\n0\r\n\r\n
    double began, first;
} Connection;

static struct sockaddr_in address = {.sin_family = AF_INET};
static char **requests;
static size_t *lengths;
static int bodies, poller, next_body;
static Connection connections[MOST];
static float *to_first, *to_end;
static long done, errors, events, samples;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void read_bodies(const char *file, const char *host, const char *path) {
    FILE *in = fopen(file, "r");
    size_t length;
    if (!in) fail(file);
    while (fscanf(in, "%zu", &length) == 1) {
        fgetc(in);
        char *request = malloc(length + 512);
        int head = sprintf(request, "POST %s HTTP/1.1\r\nhost: %s\r\ncontent-type: application/json\r\n"
            "content-length: %zu\r\n\r\n", path, host, length);
        if (fread(request + head, 1, length, in) != length) fail("short body");
        requests = realloc(requests, (bodies + 1) * sizeof *requests);
        lengths = realloc(lengths, (bodies + 1) * sizeof *lengths);
        requests[bodies] = request;
        lengths[bodies++] = head + length;
    }
    fclose(in);
    if (!bodies) { fprintf(stderr, "%s: no bodies\n", file); exit(1); }
}

static void open_connection(Connection *c, int small_buffer) {
    int yes = 1, size = 4096;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (small_buffer) setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (connect(c->fd, (void *)&address, sizeof address)) fail("connect");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

static void ask(Connection *c) {
    if (!c->fd) open_connection(c, 0);
    int body = next_body++ % bodies;
    c->busy = 1;
    c->got = c->in_body = c->failed = 0;
    c->first = 0;
    memset(c->tail, 0, sizeof c->tail);
    c->began = now();
    for (size_t sent = 0; sent < lengths[body];) {  // blocking: bodies are small
        ssize_t n = send(c->fd, requests[body] + sent, lengths[body] - sent, MSG_NOSIGNAL);
        if (n <= 0) { c->failed = 1; return; }
        sent += n;
    }
}

static void end(Connection *c, int good) {
    double at = now();
    c->busy = 0;
    done++;
    errors += !good || c->failed;
    if (good && samples < SAMPLES) {
        to_first[samples] = (c->first - c->began) * 1e6;
        to_end[samples++] = (at - c->began) * 1e6;
    }
    if (!good) { close(c->fd); c->fd = 0; }
}

static void head(Connection *c) {
    char *length = strcasestr(c->head, "\r\ncontent-length:");
    c->failed |= strncmp(c->head, "HTTP/1.1 200", 12) != 0;
    c->chunked = !length;
    c->left = length ? atol(length + 17) : 0;
    c->in_body = 1;
}

// Take bytes of a body; returns whether it is whole.
static int body(Connection *c, const char *data, size_t size) {
    if (!size) return !c->chunked && c->left == 0;
    if (!c->first) c->first = now();
    for (const char *at = data; (at = memmem(at, data + size - at, "data: ", 6)); at += 6) events++;
    if (!c->chunked) return (c->left -= size) <= 0;
    if (size >= 7) memcpy(c->tail, data + size - 7, 7);
    else {
        memmove(c->tail, c->tail + size, 7 - size);
        memcpy(c->tail + 7 - size, data, size);
    }
    return !memcmp(c->tail, "\r\n0\r\n\r\n", 7);
}

static void receive(Connection *c) {
    static char buffer[BUFFER];
    ssize_t n = recv(c->fd, buffer, BUFFER, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0 || !c->busy) {
        if (c->busy) end(c, 0);
        else { close(c->fd); c->fd = 0; }
        return;
    }
    const char *rest = buffer;
    size_t size = n;
    if (!c->in_body) {
        size_t keep = size < sizeof c->head - 1 - c->got ? size : sizeof c->head - 1 - c->got;
        memcpy(c->head + c->got, buffer, keep);
        c->head[c->got + keep] = 0;
        char *stop = strstr(c->head, "\r\n\r\n");
        if (!stop) { c->got += keep; return; }
        size_t used = stop + 4 - c->head - c->got;
        stop[2] = 0;
        head(c);
        rest += used;
        size -= used;
    }
    if (body(c, rest, size)) end(c, 1);
}

static void pump(int timeout) {
    struct epoll_event ready[256];
    int n = epoll_wait(poller, ready, 256, timeout);
    for (int i = 0; i < n; i++) receive(ready[i].data.ptr);
}

static int compare(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double quantile(float *found, double q) {
    return samples ? found[(long)(q * (samples - 1))] : 0;
}

static void run_closed(int count, double seconds, double start) {
    for (int i = 0; i < count; i++) ask(&connections[i]);
    while (now() < start + seconds) {
        pump(10);
        for (int i = 0; i < count; i++) if (!connections[i].busy) ask(&connections[i]);
    }
}

static void run_open(double rate, double seconds, double start) {
    for (long sent = 0; sent < rate * seconds;) {
        double due = start + sent / rate, wait = due - now();
        if (wait > 0.0005) { pump((int)(wait * 1000)); continue; }
        if (wait > 0) { pump(0); continue; }
        int i = 0;
        while (i < MOST - 1 && connections[i].busy) i++;
        ask(&connections[i]);
        sent++;
    }
    for (double last = now() + 10; now() < last;) {
        int busy = 0;
        for (int i = 0; i < MOST; i++) busy += connections[i].busy;
        if (!busy) break;
        pump(10);
    }
}

static void run_stuck(int count, double seconds) {
    for (int i = 0; i < count; i++) {
        open_connection(&connections[i], 1);
        ask(&connections[i]);
    }
    usleep(seconds * 1e6);
}

int main(int count, char **a) {
    if (count != 7) { fprintf(stderr, "load HOST:PORT PATH BODIES closed|open|stuck N SECONDS\n"); return 2; }
    char host[64];
    snprintf(host, sizeof host, "%s", a[1]);
    char *colon = strchr(host, ':');
    signal(SIGPIPE, SIG_IGN);
    read_bodies(a[3], a[1], a[2]);
    *colon = 0;
    inet_pton(AF_INET, host, &address.sin_addr);
    address.sin_port = htons(atoi(colon + 1));
    poller = epoll_create1(0);
    to_first = malloc(SAMPLES * sizeof *to_first);
    to_end = malloc(SAMPLES * sizeof *to_end);
    double start = now(), number = atof(a[5]), seconds = atof(a[6]);
    if (!strcmp(a[4], "closed")) run_closed(number, seconds, start);
    else if (!strcmp(a[4], "open")) run_open(number, seconds, start);
    else run_stuck(number, seconds);
    double took = now() - start;
    qsort(to_first, samples, sizeof *to_first, compare);
    qsort(to_end, samples, sizeof *to_end, compare);
    printf("{\"requests\":%ld,\"errors\":%ld,\"events\":%ld,\"seconds\":%.4f,\"first_p50\":%.1f,"
        "\"first_p99\":%.1f,\"end_p50\":%.1f,\"end_p99\":%.1f}\n", done, errors, events, took,
        quantile(to_first, 0.5), quantile(to_first, 0.99), quantile(to_end, 0.5), quantile(to_end, 0.99));
}
