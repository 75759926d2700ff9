/* A small program that leaks in the ways that programs do, prints "ready" and waits.
 *
 * What it leaks: 40 sessions whose table slot was overwritten, each with the buffer that only it
 * held; a list whose head was dropped; two nodes that point at each other; one large buffer.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct session {
    long id;
    char user[16];
    char *buffer;
};

struct node {
    struct node *next;
    long value;
};

/* volatile: the compiler must not find out that nobody reads them. */
static struct session *volatile table[64];
static struct node *volatile kept;
static char *volatile large;

static struct session *open_session(int id) {
    struct session *s = calloc(1, sizeof *s);
    s->id = id;
    snprintf(s->user, sizeof s->user, "user-%05d", id);
    s->buffer = malloc(1000);
    memset(s->buffer, 0, 1000);
    snprintf(s->buffer, 1000, "GET /account/%05d HTTP/1.1", id);
    return s;
}

static struct node *make_list(int length) {
    struct node *head = NULL;
    for (int i = 0; i < length; i++) {
        struct node *n = malloc(sizeof *n);
        n->next = head;
        n->value = i;
        head = n;
    }
    return head;
}

__attribute__((noinline)) static void leak(void) {
    for (int i = 0; i < 104; i++) /* the last 40 overwrite the first 40 */
        table[i % 64] = open_session(1000 + i);
    kept = make_list(10);
    kept = make_list(10); /* the first ten are lost */
    struct node *volatile a = make_list(1), *volatile b = make_list(1);
    a->next = b;
    b->next = a;
    large = malloc(300000);
    memset(large, 'x', 300000);
    large = NULL;
}

__attribute__((noinline)) static void scrub(void) {
    /* What leak() left below the stack pointer is overwritten, so that no stale word there
     * holds anything: the figures above are exact. */
    volatile char frames[8192];
    memset((void *)frames, 0, sizeof frames);
}

int main(void) {
    leak();
    scrub();
    puts("ready");
    fflush(stdout);
    for (;;) pause();
}
