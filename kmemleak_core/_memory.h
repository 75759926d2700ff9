/* Memory for what is large: zeroed maps, and huge pages where they pay. */
#ifndef KMEMLEAK_MEMORY_H
#define KMEMLEAK_MEMORY_H

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#define KML_HUGE_PAGE ((uintptr_t)2 << 20)

/* Has the kernel back the whole huge pages inside a piece of memory as such: a page fault for each
 * 2 MiB rather than for each 4 KiB, and a miss of the TLB less a lookup. For memory of which most
 * will be used: what is never written to is never backed, but huge pages come whole. */
static inline void kml_prefer_huge(void *data, size_t nbytes) {
#ifdef MADV_HUGEPAGE
    uintptr_t begin = ((uintptr_t)data + KML_HUGE_PAGE - 1) & ~(KML_HUGE_PAGE - 1);
    uintptr_t end = ((uintptr_t)data + nbytes) & ~(KML_HUGE_PAGE - 1);
    if (begin < end) madvise((void *)begin, end - begin, MADV_HUGEPAGE);
#else
    (void)data, (void)nbytes;
#endif
}

/* Zeroed memory that is backed page by page as it is first written; NULL if there is none. */
static inline void *kml_map(size_t nbytes) {
    void *data = mmap(NULL, nbytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return data == MAP_FAILED ? NULL : data;
}

static inline void kml_unmap(void *data, size_t nbytes) {
    if (data) munmap(data, nbytes);
}

#endif
