/* A process with a thread forks: the child has the blocks, and only the one thread. */
#include "known.h"
#include <sys/prctl.h>
#include <signal.h>

static void *volatile handed;
static void *volatile in_bss;
static pthread_barrier_t barrier;

static NOINLINE void take(void *volatile *place)
{
    *place = handed;
    handed = NULL;
}

static void *worker(void *unused)
{
    (void)unused;
    void *volatile place;
    take(&place);
    scrub();
    pthread_barrier_wait(&barrier);
    scrub();
    for (;;)
        pause();
    return place;
}

static NOINLINE void before(void)
{
    in_bss = known("held", "from-the-parent", 88);
    lose("by-the-parent", 88);
    /* Only the parent's thread knows it: nobody does in the child. */
    handed = known("lost", "of-the-parents-thread", 88);
}

static NOINLINE void in_child(void)
{
    static void *volatile own;
    own = known("held", "from-the-child", 104);
    lose("by-the-child", 104);
}

int main(void)
{
    pthread_t thread;
    pthread_barrier_init(&barrier, NULL, 2);
    before();
    scrub();
    pthread_create(&thread, NULL, worker, NULL);
    pthread_barrier_wait(&barrier);
    scrub();
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        in_child();
        ready();
    }
    for (;;)
        pause();
}
