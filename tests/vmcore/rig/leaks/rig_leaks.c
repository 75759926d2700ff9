// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that a kernel loses and memory that it keeps, one function a kind, so that a report's
 * backtraces tell them apart. What it says about itself: "RIG LOST kind address size", "RIG KEPT …".
 */
#include <linux/delay.h>
#include <linux/kmemleak.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#define HOW_MANY 6

struct rig_node {
	struct list_head list;
	void *held;
	char room[40];
};

/* Not static: what is only written to would be left out by the compiler. */
struct kmem_cache *rig_cache;
void *rig_kept[HOW_MANY];
void *rig_middle;
void *rig_area;
void __percpu *rig_percpu_kept;
void * __percpu *rig_slots;
struct task_struct *rig_thread;
LIST_HEAD(rig_list);

static void say(const char *fate, const char *kind, const void *address, size_t size)
{
	pr_info("RIG %s %s 0x%px %zu\n", fate, kind, address, size);
}

static noinline void lose_kmalloc(void)
{
	static const int sizes[] = { 8, 48, 200, 1000, 4096, 12000, 70000 };
	int i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++)
		say("LOST", "kmalloc", kzalloc(sizes[i], GFP_KERNEL), sizes[i]);
}

static noinline void lose_from_cache(void)
{
	int i;

	for (i = 0; i < 2 * HOW_MANY; i++) {
		void *p = kmem_cache_zalloc(rig_cache, GFP_KERNEL);

		if (i % 2)
			rig_kept[i / 2] = p;
		say(i % 2 ? "KEPT" : "LOST", "cache", p, 136);
	}
}

static noinline void lose_vmalloc(void)
{
	say("LOST", "vmalloc", vzalloc(3 * PAGE_SIZE), 3 * PAGE_SIZE);
	rig_area = vzalloc(2 * PAGE_SIZE);
	say("KEPT", "vmalloc", rig_area, 2 * PAGE_SIZE);
}

/* What hangs on a lost per-CPU object is not scanned from it: lost too. */
static noinline void lose_percpu(void)
{
	void * __percpu *lost = alloc_percpu(void *);
	void *child = kzalloc(96, GFP_KERNEL);

	*per_cpu_ptr(lost, 0) = child;
	say("LOST", "percpu", (void __force *)lost, sizeof(void *));
	say("LOST", "child-of-percpu", child, 96);
	lost = __alloc_percpu(400, 16);
	say("LOST", "percpu", (void __force *)lost, 400);
	rig_percpu_kept = __alloc_percpu(72, 8);
	say("KEPT", "percpu", (void __force *)rig_percpu_kept, 72);
	rig_slots = alloc_percpu(void *);
	child = kzalloc(96, GFP_KERNEL);
	*per_cpu_ptr(rig_slots, num_possible_cpus() - 1) = child;
	say("KEPT", "child-of-percpu", child, 96);
}

static noinline void lose_list(void)
{
	struct rig_node *node;
	int i;

	for (i = 0; i < HOW_MANY; i++) {
		node = kzalloc(sizeof(*node), GFP_KERNEL);
		node->held = kzalloc(24, GFP_KERNEL);
		list_add(&node->list, &rig_list);
		say("LOST", "list", node, sizeof(*node));
		say("LOST", "list-child", node->held, 24);
	}
	/* The head forgets them; they go on pointing at each other, and at it. */
	INIT_LIST_HEAD(&rig_list);
}

static noinline void annotate(void)
{
	void *p = kzalloc(168, GFP_KERNEL);

	kmemleak_not_leak(p);
	say("KEPT", "not-leak", p, 168);
	p = kzalloc(168, GFP_KERNEL);
	kmemleak_ignore(p);
	say("KEPT", "ignored", p, 168);
	p = kzalloc(256, GFP_KERNEL);
	rig_middle = p + 128;
	say("KEPT", "interior", p, 256);
}

/* Stacks are roots: addresses that calls left below the thread's own frame go away. */
static noinline void wipe_stack(int depth)
{
	char room[1024];

	memzero_explicit(room, sizeof(room));
	if (depth)
		wipe_stack(depth - 1);
	barrier();
}

static int build(void *unused)
{
	lose_kmalloc();
	lose_from_cache();
	lose_vmalloc();
	lose_percpu();
	lose_list();
	annotate();
	wipe_stack(6);
	while (!kthread_should_stop())
		msleep_interruptible(100);
	return 0;
}

static int __init rig_init(void)
{
	rig_cache = kmem_cache_create("rig_leaks", 136, 0, 0, NULL);
	if (!rig_cache)
		return -ENOMEM;
	rig_thread = kthread_run(build, NULL, "rig_leaks");
	msleep(500);
	wipe_stack(6);
	return PTR_ERR_OR_ZERO(rig_thread);
}

static void __exit rig_exit(void)
{
	kthread_stop(rig_thread);
}

module_init(rig_init);
module_exit(rig_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Loses memory on purpose");
