// One block in each kind of hold that a person hunts for; prints "ready", and of each block
//   held|lost NAME ADDRESS
// Pointers are kept masked until the place is written, so that nothing else holds a block.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))
#define MASK 0x5a5a5a5a5a5a5a5aUL

struct node { long value; struct node *next; };

void *cache_head;
struct { long before[4]; void *slot; } table = {{1, 2, 3, 4}, 0};
static struct node *list;
static void **unit;
__thread void *of_thread;
static uint64_t masked_register;
void library_keep(void *);

NOINLINE static uint64_t block(const char *state, const char *name)
{
    void *p = malloc(72);
    memset(p, 0x21, 72);
    printf("%s %s %lx\n", state, name, (unsigned long)p);
    return (uint64_t)p ^ MASK;
}

NOINLINE static void scrub(void)
{
    volatile char waste[16384];
    memset((void *)waste, 0, sizeof waste);
}

NOINLINE static void globals(void)
{
    cache_head = (void *)(block("held", "global") ^ MASK);
    table.slot = (void *)(block("held", "member") ^ MASK);
    of_thread = (void *)(block("held", "thread-local") ^ MASK);
    library_keep((void *)(block("held", "library") ^ MASK));
    unit = (void **)(block("held", "unit") ^ MASK);
    unit[3] = (void *)(block("held", "by-unit") ^ MASK);
    struct node **end = &list;
    for (int i = 0; i < 3; i++) {
        const char *names[] = {"list-0", "list-1", "list-2"};
        *end = (struct node *)(block("held", names[i]) ^ MASK);
        (*end)->value = i;
        (*end)->next = 0;
        end = &(*end)->next;
    }
}

NOINLINE static void losses(void)
{
    struct node *first = (struct node *)(block("lost", "head") ^ MASK);
    first->next = (struct node *)(block("lost", "behind-head") ^ MASK);
    void *volatile *freed = malloc(4096);
    memset((void *)freed, 0, 4096);
    freed[400] = (void *)(block("lost", "by-freed") ^ MASK);
    free((void *)freed);
}

// The pointer is left deep below the stack pointer of whoever calls this, and of what that calls.
NOINLINE static void leave_on_stack(uint64_t masked)
{
    volatile uint64_t room[4096];
    room[64] = masked ^ MASK;
    __asm__ volatile("" : : "r"(room) : "memory");
}

static pthread_barrier_t barrier;

static void *with_register(void *unused)
{
    (void)unused;
    masked_register = block("held", "register");
    scrub();
    pthread_barrier_wait(&barrier);
    __asm__ volatile(
        "mov %0, %%r12; xor %1, %%r12; xor %1, %1\n"
        "1: mov $34, %%eax; syscall; jmp 1b\n"
        :
        : "r"(masked_register), "b"(MASK)
        : "r12", "rax", "rcx", "r11", "memory");
    return NULL;
}

NOINLINE void wait_with(void *volatile *slot)
{
    pthread_barrier_wait(&barrier);
    for (;;) {
        pause();
        *slot = *slot;
    }
}

NOINLINE static void *worker_with_local(void *unused)
{
    (void)unused;
    void *volatile slot;
    slot = (void *)(block("held", "local") ^ MASK);
    scrub();
    wait_with(&slot);
    return slot;
}

int main(void)
{
    pthread_t thread;
    setvbuf(stdout, malloc(4096), _IOFBF, 4096);
    pthread_barrier_init(&barrier, 0, 3);
    puts("ready");
    globals();
    losses();
    uint64_t stale = block("lost", "stale-stack");
    scrub();
    pthread_create(&thread, 0, with_register, 0);
    pthread_create(&thread, 0, worker_with_local, 0);
    pthread_barrier_wait(&barrier);
    scrub();
    fflush(stdout);
    leave_on_stack(stale);
    for (;;)
        pause();
}
