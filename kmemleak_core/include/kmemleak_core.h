/* Tells a kmemleak_core detector about the memory of a program written in C.
 *
 * An allocator gets two pointers: the table of functions below, and the detector that they act on.
 *
 *   - A Python extension module calls kmemleak_import() and then attach(); define nothing, but
 *     include <Python.h> before this file.
 *   - A shared library that knows nothing of Python is given both as numbers:
 *     `kmemleak_core.attach(detector)` has them as `.api` and `.handle`.
 *
 * Functions marked "no GIL" may be called by any thread at any time, with or without the GIL, under
 * the allocator's own lock, and never call back. Misuse (an overlapping block, an unknown address)
 * is the exception: to count it in the detector's `anomalies` they take the GIL. So do the
 * functions marked "GIL": do not call these under a lock that a thread may want while it holds the
 * GIL. None may be called once the interpreter has ended.
 *
 * On a free-threaded Python no function takes or needs a global lock: "GIL" means there that the
 * thread gets attached to the interpreter, which waits while that stops all threads.
 */
#ifndef KMEMLEAK_CORE_H
#define KMEMLEAK_CORE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KMEMLEAK_API_VERSION 1
#define KMEMLEAK_CAPSULE "kmemleak_core._capi.API"

/* What the functions return. Null and error pointers (the last 4095 addresses) are ignored: OK. */
enum {
    KMEMLEAK_OK = 0,
    KMEMLEAK_OVERLAP = -1,   /* another object holds part of the block, which is not tracked */
    KMEMLEAK_UNKNOWN = -2,   /* no object holds the address */
    KMEMLEAK_ALIAS = -3,     /* the address lies inside an object and does not start it */
    KMEMLEAK_NO_MEMORY = -4, /* the table cannot grow */
    KMEMLEAK_DISABLED = -5,  /* the detector was disabled: nothing was done */
    KMEMLEAK_FAILED = -6     /* a Python error, which was printed */
};

/* min_count: references without which an object is a leak. */
#define KMEMLEAK_GREY 0     /* never reported, always scanned */
#define KMEMLEAK_BLACK (-1) /* never reported, never scanned */

/* A length: up to the object's end. */
#define KMEMLEAK_TO_END SIZE_MAX

typedef struct kmemleak_detector kmemleak_detector;

typedef struct kmemleak_api {
    uint32_t version; /* KMEMLEAK_API_VERSION of the library; later ones only append */
    uint32_t size;    /* sizeof(kmemleak_api) of the library */

    /* GIL, which the caller holds. `detector` is a kmemleak_core.Kmemleak (a PyObject*). The result
     * holds a reference, until detach(); NULL with a Python error set. */
    kmemleak_detector *(*attach)(void *detector);
    /* GIL. */
    void (*detach)(kmemleak_detector *detector);

    /* No GIL. Track a block. `trace` is what trace() returned, or 0. */
    int (*alloc)(kmemleak_detector *detector, const void *ptr, size_t size, int min_count,
                 uint32_t trace);
    /* No GIL. Forget the block that starts there. It does not wait for a scan: memory that is
     * unmapped afterwards must be scanned through ProcessMemory, to which that is a fault. */
    int (*free)(kmemleak_detector *detector, const void *ptr);
    /* No GIL. Many at once; how many were taken. */
    int64_t (*alloc_many)(kmemleak_detector *detector, const uint64_t *address,
                          const uint64_t *size, size_t count, int min_count, uint32_t trace);
    /* No GIL. Many at once; how many were tracked. */
    int64_t (*free_many)(kmemleak_detector *detector, const uint64_t *address, size_t count);

    /* No GIL. Never report the object that starts there; scan it. */
    int (*not_leak)(kmemleak_detector *detector, const void *ptr);
    /* No GIL. Neither report nor scan it. */
    int (*ignore)(kmemleak_detector *detector, const void *ptr);
    /* No GIL. Undo both. */
    int (*unignore)(kmemleak_detector *detector, const void *ptr, int min_count);
    /* No GIL. Do not scan its content; it needs references all the same. */
    int (*no_scan)(kmemleak_detector *detector, const void *ptr);
    /* GIL. Scan only this part, and other such parts, of the object around it. */
    int (*scan_area)(kmemleak_detector *detector, const void *ptr, size_t size);
    /* GIL. Forget part of a block; what is left on either side is tracked on. */
    int (*free_part)(kmemleak_detector *detector, const void *ptr, size_t size);

    /* GIL. The number of a backtrace, innermost address first, for alloc(); 0 if that fails. The
     * same addresses give the same number: ask once for each place. */
    uint32_t (*trace)(kmemleak_detector *detector, const uint64_t *frames, size_t count);
    /* GIL. Scan now; how many leaks are new. */
    int64_t (*scan)(kmemleak_detector *detector);
} kmemleak_api;

#ifdef Py_PYTHON_H
/* The functions, or NULL with a Python error set. */
static inline const kmemleak_api *kmemleak_import(void) {
    const kmemleak_api *api = (const kmemleak_api *)PyCapsule_Import(KMEMLEAK_CAPSULE, 0);
    if (api != NULL &&
        (api->version < KMEMLEAK_API_VERSION || api->size < sizeof(kmemleak_api))) {
        PyErr_SetString(PyExc_ImportError, "kmemleak_core is older than this extension's header");
        return NULL;
    }
    return api;
}
#endif

#ifdef __cplusplus
}
#endif
#endif
