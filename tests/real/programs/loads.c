/* Loads a library (argument 1), into a namespace of its own if there is an argument 2. */
#include "known.h"
#include <dlfcn.h>

int main(int count, char **arguments)
{
    void *library = count > 2 ? dlmopen(LM_ID_NEWLM, arguments[1], RTLD_NOW)
                              : dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    void (*plug)(void) = (void (*)(void))dlsym(library, "plug");
    plug();
    lose("program", 200);
    ready();
}
