/* A server that grows, for docs/hunt.md: it answers 3,000 requests, prints "ready" and waits.
 *
 * It grows in two ways. What it notes of a failure is lost when the next one comes, with the answer
 * that hangs on it. And no session ever ends: nothing is lost there, all of it is in the table.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct session {
    char user[24];
    struct session *next;
    char *history;
};

struct failure {
    char what[40];
    char *answer;
};

static struct {
    long requests;
    struct bucket {
        long length;
        struct session *first;
    } buckets[64];
} sessions;

static struct failure *last_failure;

static struct session *session_of(int user) {
    struct bucket *bucket = &sessions.buckets[user % 64];
    struct session *session = malloc(sizeof *session);
    memset(session, 0, sizeof *session);
    snprintf(session->user, sizeof session->user, "user-%05d", user);
    session->history = malloc(1000);
    memset(session->history, 0, 1000);
    session->next = bucket->first;
    bucket->first = session;
    bucket->length++;
    return session;
}

static void fail(struct session *session) {
    struct failure *failure = malloc(sizeof *failure);
    memset(failure, 0, sizeof *failure);
    snprintf(failure->what, sizeof failure->what, "no such page, %s", session->user);
    failure->answer = malloc(600);
    memset(failure->answer, 0, 600);
    snprintf(failure->answer, 600, "HTTP/1.1 404 Not Found");
    last_failure = failure; /* the one before is lost */
}

__attribute__((noinline)) static void serve(int request) {
    struct session *session = session_of(request);
    sessions.requests++;
    snprintf(session->history, 1000, "GET /account/%05d HTTP/1.1", request);
    if (request % 10 == 7)
        fail(session);
}

__attribute__((noinline)) static void scrub(void) {
    /* Nothing that serve() left on the stack holds anything: the figures are exact. */
    volatile char frames[8192];
    memset((void *)frames, 0, sizeof frames);
}

__attribute__((noinline)) static void wait_for_request(struct session *volatile session) {
    puts("ready");
    fflush(stdout);
    for (;;) {
        pause();
        puts(session->user);
    }
}

int main(void) {
    for (int request = 0; request < 3000; request++)
        serve(request);
    scrub();
    wait_for_request(session_of(3000));
    puts(last_failure->what);
}
