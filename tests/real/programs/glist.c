/* Lists of GLib's, and some that look nearly like them. */
#include "known.h"

#include <glib.h>

struct ring {
    void *data;
    struct ring *next, *prev;
};

static GList *held;
static struct ring *held_ring;

static NOINLINE void lists(const char *verdict, int keep)
{
    GList *list = NULL;
    for (int i = 0; i < 100; i++) {
        void *data = fill(g_malloc(24), 24);
        say(verdict, "data", data, 24);
        list = g_list_prepend(list, data);
        say(verdict, "node", list, sizeof *list);
    }
    if (keep)
        held = list;
}

static NOINLINE void rings(void)
{
    struct ring *last = NULL, *first = NULL;
    for (int i = 0; i < 50; i++) {
        struct ring *one = known("held", "ring", sizeof *one);
        one->data = NULL;
        one->next = first;
        one->prev = last;
        if (first == NULL)
            first = one->next = one->prev = one;
        one->prev = first->prev;
        one->next = first;
        first->prev->next = one;
        first->prev = one;
        last = one;
    }
    held_ring = first;
}

int main(void)
{
    lists("held", 1);
    lists("lost", 0);
    rings();
    ready();
}
