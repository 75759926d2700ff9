/* Instances of GObject types, with and without private data. */
#include "known.h"

#include <glib-object.h>

typedef struct { GObject parent; long number; } TestPlain;
typedef struct { GObjectClass parent; } TestPlainClass;
G_DEFINE_TYPE(TestPlain, test_plain, G_TYPE_OBJECT)
static void test_plain_class_init(TestPlainClass *class) { (void)class; }
static void test_plain_init(TestPlain *self) { self->number = 7; }

typedef struct { TestPlain parent; char more[100]; } TestDerived;
typedef struct { TestPlainClass parent; } TestDerivedClass;
typedef struct { void *secret[5]; } TestDerivedPrivate;
G_DEFINE_TYPE_WITH_PRIVATE(TestDerived, test_derived, test_plain_get_type())
static void test_derived_class_init(TestDerivedClass *class) { (void)class; }
static void test_derived_init(TestDerived *self) { (void)self; }

static void *held[100];

static NOINLINE void make(const char *verdict, int keep)
{
    for (int i = 0; i < 30; i++) {
        GObject *plain = g_object_new(test_plain_get_type(), NULL);
        GObject *derived = g_object_new(test_derived_get_type(), NULL);
        void *private = test_derived_get_instance_private((TestDerived *)derived);
        say(verdict, "TestPlain", plain, sizeof(TestPlain));
        say(verdict, "TestDerived", (void *)((uintptr_t)private & ~15ul), sizeof(TestDerived));
        if (keep) {
            held[2 * i] = plain;
            held[2 * i + 1] = derived;
        }
    }
}

int main(void)
{
    make("held", 1);
    make("lost", 0);
    ready();
}
