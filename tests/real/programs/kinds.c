/* Blocks of each of Memcheck's kinds, announced as "lost definite", "lost indirect",
 * "held possible" and "held reachable"; then it ends. Arguments: what else there is.
 *
 * ends: blocks that only a pointer one past their end holds.
 * entered: a cycle whose first block lies before the one that leads to another of its blocks. */
#include "leave.h"

void *roots[64]; /* for others to see: the compiler has to write it */
static int used;

/* Let global data refer to a place. */
static NOINLINE void keep(void *place)
{
    roots[used++] = place;
}

/* Let a word of a block refer to a place. */
static NOINLINE void refer(void *block, int word, void *place)
{
    ((void **)block)[word] = place;
}

static NOINLINE char *block(const char *verdict, const char *kind)
{
    return known(verdict, kind, 72);
}

/* Memcheck's nine cases, each as often as its number. */
static NOINLINE void cases(void)
{
    char *a, *b;
    for (int i = 0; i < 1; i++)
        keep(block("held", "reachable"));
    for (int i = 0; i < 2; i++) {
        keep(a = block("held", "reachable"));
        refer(a, 0, block("held", "reachable"));
    }
    for (int i = 0; i < 3; i++)
        block("lost", "definite");
    for (int i = 0; i < 4; i++) {
        a = block("lost", "definite");
        refer(a, 1, block("lost", "indirect"));
    }
    for (int i = 0; i < 5; i++)
        keep(block("held", "possible") + 8);
    for (int i = 0; i < 6; i++) {
        keep(a = block("held", "reachable"));
        refer(a, 2, block("held", "possible") + 71);
    }
    for (int i = 0; i < 7; i++) {
        keep((a = block("held", "possible")) + 16);
        refer(a, 3, block("held", "possible"));
    }
    for (int i = 0; i < 8; i++) {
        keep((a = block("held", "possible")) + 24);
        b = block("held", "possible");
        refer(a, 4, b + 32);
    }
    for (int i = 0; i < 9; i++) {
        a = block("lost", "definite");
        refer(a, 5, block("lost", "indirect") + 40);
    }
}

/* What several pointers lead to, and what leads back to itself. */
static NOINLINE void knots(void)
{
    char *a = block("held", "possible"), *b = block("held", "reachable"), *c;
    keep(a + 8);
    keep(b);
    refer(a, 0, b); /* by the start from both: the better one counts */
    refer(b, 1, c = block("held", "reachable"));
    refer(c, 0, c + 16);
    refer(c, 1, b + 8);
    keep(c + 8);

    a = block("lost", "definite"); /* anchored by itself alone */
    refer(a, 0, a);
    refer(a, 1, a + 8);

    a = block("lost", "definite"); /* a ring of three, with a tail */
    refer(a, 0, b = block("lost", "indirect"));
    refer(b, 0, c = block("lost", "indirect"));
    refer(c, 0, a);
    refer(c, 1, block("lost", "indirect"));
    refer(b, 1, a); /* most lead to this one */

    a = block("held", "possible"); /* a ring that a pointer into its second block enters */
    refer(a, 0, b = block("held", "possible"));
    refer(b, 0, a);
    keep(b + 64);

    a = block("held", "possible"); /* a long chain behind one such pointer */
    keep(a + 8);
    for (int i = 0; i < 20; i++, a = b)
        refer(a, 0, b = block("held", "possible"));
}

static NOINLINE void ends(void)
{
    for (int i = 0; i < 5; i++)
        keep(block("held", "past-the-end") + 72);
}

static NOINLINE void entered(void)
{
    char *a = block("lost", "ring"), *b = block("lost", "ring"), *c = block("lost", "entering");
    refer(a, 0, b);
    refer(b, 0, a);
    refer(c, 0, b);
}

int main(int argc, char **argv)
{
    cases();
    knots();
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "ends"))
            ends();
        if (!strcmp(argv[i], "entered"))
            entered();
    }
    leave();
}
