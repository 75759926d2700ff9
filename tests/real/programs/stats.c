/* Preloaded into a program, so that gdb can ask, while it is stopped, what glibc and the
 * program's own calls say of its heap.
 *
 * Every malloc, free, … of the program and its libraries passes through here on its way to
 * glibc, and is written into a ledger of live blocks. km_stats() takes no argument and
 * allocates nothing; it writes
 *   $KM_STATS.PID         mallinfo2() and malloc_info(), as text
 *   $KM_STATS.PID.blocks  the ledger: u64 address, u64 requested size, of every live block
 * The ledger keeps addresses masked, in memory that is in no core file. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MASK 0xa5a5a5a5a5a5a5a5ULL
#define SLOTS (1UL << 21)
#define GONE 1 /* a slot whose block was freed */

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void *__libc_valloc(size_t);
extern void *__libc_pvalloc(size_t);
extern void __libc_free(void *);

static struct { uint64_t masked, size; } *ledger;
static char lock;
static int full;
static unsigned long filled;

static void enter(void)
{
    while (__atomic_test_and_set(&lock, __ATOMIC_ACQUIRE))
        usleep(1);
    if (ledger == NULL) {
        size_t size = SLOTS * sizeof *ledger;
        ledger = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (ledger == MAP_FAILED)
            _exit(99);
        madvise(ledger, size, MADV_DONTDUMP);
    }
}

static void leave(void) { __atomic_clear(&lock, __ATOMIC_RELEASE); }

static uint64_t slot_of(uint64_t masked)
{
    return (masked * 0x9E3779B97F4A7C15ULL) >> (64 - 21);
}

static void *add(void *block, size_t size)
{
    if (block == NULL)
        return NULL;
    uint64_t masked = (uint64_t)block ^ MASK;
    enter();
    uint64_t i = slot_of(masked);
    while (ledger[i].masked > GONE)
        i = (i + 1) % SLOTS;
    if (ledger[i].masked == 0 && ++filled > SLOTS / 8 * 7)
        full = 1, filled--;
    else {
        ledger[i].masked = masked;
        ledger[i].size = size;
    }
    leave();
    return block;
}

static void take(void *block)
{
    uint64_t masked = (uint64_t)block ^ MASK;
    enter();
    for (uint64_t i = slot_of(masked); ledger[i].masked; i = (i + 1) % SLOTS)
        if (ledger[i].masked == masked) {
            ledger[i].masked = GONE;
            break;
        }
    leave();
}

#define API __attribute__((visibility("default")))
API void *malloc(size_t n) { return add(__libc_malloc(n), n); }
API void *calloc(size_t k, size_t n) { return add(__libc_calloc(k, n), k * n); }
API void *memalign(size_t a, size_t n) { return add(__libc_memalign(a, n), n); }
API void *aligned_alloc(size_t a, size_t n) { return add(__libc_memalign(a, n), n); }
API void *valloc(size_t n) { return add(__libc_valloc(n), n); }
API void *pvalloc(size_t n) { return add(__libc_pvalloc(n), n); }

API int posix_memalign(void **place, size_t a, size_t n)
{
    if (a % sizeof(void *) || a & (a - 1) || a == 0)
        return EINVAL;
    void *block = add(__libc_memalign(a, n), n);
    if (block == NULL)
        return ENOMEM;
    *place = block;
    return 0;
}

API void free(void *block)
{
    if (block != NULL)
        take(block);
    __libc_free(block);
}

API void *realloc(void *block, size_t n)
{
    /* Out of the ledger first: another thread may be given the old address at once. */
    if (block != NULL)
        take(block);
    void *moved = __libc_realloc(block, n);
    if (moved == NULL && block != NULL && n != 0)
        add(block, 0);
    return add(moved, n);
}

static char text[1 << 20];
static char buffer[1 << 16];
static size_t used;
static char prefix[300];
static FILE *out;

static ssize_t keep(void *cookie, const char *data, size_t size)
{
    (void)cookie;
    if (size > sizeof text - used)
        return 0;
    memcpy(text + used, data, size);
    used += size;
    return (ssize_t)size;
}

__attribute__((constructor)) static void open_before_the_program_runs(void)
{
    const char *name = getenv("KM_STATS");
    if (name == NULL || strlen(name) >= sizeof prefix)
        return;
    strcpy(prefix, name);
    out = fopencookie(NULL, "w", (cookie_io_functions_t){.write = keep});
    if (out != NULL)
        setvbuf(out, buffer, _IOFBF, sizeof buffer);
}

static int save(const char *suffix, const void *data, size_t size)
{
    char path[340];
    snprintf(path, sizeof path, "%s.%d%s", prefix, (int)getpid(), suffix);
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file < 0)
        return 1;
    ssize_t written = write(file, data, size);
    close(file);
    return written != (ssize_t)size;
}

API int km_stats(void)
{
    struct mallinfo2 m = mallinfo2();
    if (out == NULL)
        return 1;
    if (full)
        return 2;
    used = 0;
    fprintf(out,
            "arena %zu\nordblks %zu\nsmblks %zu\nhblks %zu\nhblkhd %zu\nfsmblks %zu\n"
            "uordblks %zu\nfordblks %zu\nkeepcost %zu\n",
            m.arena, m.ordblks, m.smblks, m.hblks, m.hblkhd, m.fsmblks, m.uordblks, m.fordblks,
            m.keepcost);
    if (malloc_info(0, out) || fflush(out) || save("", text, used))
        return 3;
    /* Live blocks to the front, in `text` by pieces, is more than it is worth: write it whole. */
    return save(".blocks", ledger, SLOTS * sizeof *ledger) ? 4 : 0;
}
