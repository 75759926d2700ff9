// One block in each kind of variable of C; prints "ready", and of each what a debugger
// would call its holder:
//   ADDRESS SYMBOL OFFSET NAME
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MASK 0x5a5a5a5a5a5a5a5aUL
// Nothing but the variable shall hold the block: it is kept masked until then.
#define KEEP(variable, offset, name) \
    do { \
        uint64_t masked = block(variable, offset, name); \
        (name) = (void *)(masked ^ MASK); \
    } while (0)
#define block(variable, offset, name) made(#variable, offset, #name)

struct bucket {
    long key;
    union {
        long number;
        void *value;
    };
};

typedef struct cache {
    int count;
    const struct bucket *first;
    struct bucket buckets[8];
    struct {
        char name[24];
        void *volatile deep[2][3];
    } nested;
} cache_t;

cache_t cache;
static void *grid[4][5];
void *const volatile *plain;
static _Thread_local struct {
    long before;
    void *items[3];
} per_thread;
struct opaque;
extern struct opaque hidden;

__attribute__((noinline)) static uint64_t made(const char *variable, size_t offset, const char *name)
{
    void *p = malloc(72);
    memset(p, 0x21, 72);
    printf("%lx %s %zx %s\n", (unsigned long)p, variable, offset, name);
    return (uint64_t)p ^ MASK;
}

__attribute__((noinline)) static void remember(void)
{
    static struct {
        int n;
        void *last;
    } memory;
    memory.n++;
    KEEP(memory, 8, memory.last);
}

__attribute__((noinline)) static void globals(void)
{
    KEEP(cache, 8 + 8 + 3 * 16 + 8, cache.buckets[3].value);
    KEEP(cache, 8 + 8 + 8 * 16 + 24 + 5 * 8, cache.nested.deep[1][2]);
    KEEP(grid, 7 * 8, grid[1][2]);
    KEEP(plain, 0, plain);
    KEEP(per_thread, 16, per_thread.items[1]);
    remember();
}

__attribute__((noinline)) static void scrub(void)
{
    volatile char waste[8192];
    memset((void *)waste, 0, sizeof waste);
}

__attribute__((noinline)) static void wait_with(void *parameter, int how)
{
    parameter = (void *)((uint64_t)parameter ^ MASK);
    scrub();
    if (how) {
        void *volatile in_block[3] = {0, 0, 0};
        KEEP(-, 0, in_block[2]);
        scrub();
        fflush(stdout);
        for (;;)
            pause();
    }
    puts(parameter);
}

__attribute__((noinline)) static void outer(void)
{
    struct {
        long before;
        void *volatile slots[2];
    } local;
    memset((void *)&local, 0, sizeof local);
    KEEP(-, 0, local.slots[1]);
    wait_with((void *)made("-", 0, "parameter"), 1);
    printf("%p", local.slots[1]);
}

int main(void)
{
    setvbuf(stdout, malloc(4096), _IOFBF, 4096);
    puts("ready");
    globals();
    outer();
    return 0;
}
