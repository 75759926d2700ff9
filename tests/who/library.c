// Keeps what it is given in a static variable of its own.
static void *volatile kept_by_library[4];
void library_keep(void *p) { kept_by_library[2] = p; }
