/* A VM's process under fire, for tests/service/stress.sh: storm SOCKET SEED
 *
 * Two VMs, one of them in a domain of its own name, share through a service that is killed and comes back. Writers own one
 * word of each page and check it before they change it; a checker compares all other bytes all the time; the main thread
 * discards, unshares, pins, adds and removes RAM, stops the engine, and forks children that check what they inherited, some
 * of them longer than their parent lives. What is equal in this process is equal in all of them.
 *
 * Says on standard error that it runs, and from then on ends with SIGTERM: 0 if every byte was right, also after the VMs
 * have given their RAM back. Says LOST there where one was not.
 */
#include "tests/support/guest.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	VMS = 2,
	WRITERS = 2,
	PAGES = 1024,
	WRITTEN = 768, /* the writers' pages; the main thread owns the others */
	EXTRA = 200,
	WINDOW = 32,   /* pages that a writer works on at a time */
	WORD = 100,    /* of writer 0 */
	CHILDREN = 3,
	BUSY_US = 20000,
	PATIENCE_US = 90000000,
};

#define SEED 7000u
#define RUN_WORD 0xccccccccccccccccull
#define EXTRA_AT ((uint64_t)1 << 30)

struct writer {
	pthread_t thread;
	unsigned number;
	uint64_t random, sequence;
};

static struct gmm *gmm;
static struct gmm_vm *vms[VMS];
static char *ram[VMS];
static struct writer writers[WRITERS];
static atomic_bool stop, pause_writers;
static atomic_uint resting;
static atomic_ulong lost;
static volatile sig_atomic_t terminated;
static uint64_t random_state;
static pid_t children[CHILDREN];

/* ---- content --------------------------------------------------------------------------------------------------- */

static void page_set(char *page, size_t index)
{
	if (index % 16 == 13)
		page_repeat(page, 0);
	else if (index % 16 >= 14)
		page_repeat(page, RUN_WORD);
	else if (index % 16 == 12) /* of this process alone */
		page_fill(page, ((uint64_t)getpid() << 32) + index);
	else
		page_fill(page, SEED + index % 600);
}

/* The page as it was set by the process `of`, apart from the writers' words. */
static bool page_kept(const char *page, size_t index, bool written, uint64_t of)
{
	char want[PAGE] __attribute__((aligned(8)));

	if (index % 16 == 12)
		page_fill(want, (of << 32) + index);
	else
		page_set(want, index);
	for (size_t i = 0; i < PAGE_WORDS; i++)
		if (!(written && i >= WORD && i < WORD + WRITERS) && guest_load(page, i) != guest_load(want, i))
			return false;
	return true;
}

static void lose(const char *what, size_t vm, size_t page)
{
	lost++;
	fprintf(stderr, "LOST: process %d: %s, VM %zu, page %zu\n", (int)getpid(), what, vm, page);
}

static void check_pages(const char *what, size_t vm, size_t first, size_t end, uint64_t of)
{
	for (size_t i = first; i < end; i++)
		if (!page_kept(ram[vm] + i * PAGE, i, i < WRITTEN, of))
			lose(what, vm, i);
}

/* ---- writers and the checker --------------------------------------------------------------------------------------- */

static void write_window(struct writer *w, size_t vm, size_t first)
{
	uint64_t before[WINDOW], last[WINDOW];
	size_t word = WORD + w->number;

	for (size_t i = 0; i < WINDOW; i++)
		before[i] = last[i] = guest_load(ram[vm] + (first + i) * PAGE, word);
	for (int round = 0; round < 8; round++) {
		for (size_t i = 0; i < WINDOW; i++) {
			char *page = ram[vm] + (first + i) * PAGE;
			if (guest_load(page, word) != last[i])
				lose("a write", vm, first + i);
			last[i] = ++w->sequence << 8 | w->number;
			guest_store(page, word, last[i]);
		}
		usleep((useconds_t)(random_next(&w->random) % 2000));
	}
	for (size_t i = 0; i < WINDOW; i++) {
		char *page = ram[vm] + (first + i) * PAGE;
		if (guest_load(page, word) != last[i])
			lose("a last write", vm, first + i);
		guest_store(page, word, before[i]); /* equal to those of others again */
	}
}

static void *writer_main(void *arg)
{
	struct writer *w = arg;

	while (!stop) {
		write_window(w, random_next(&w->random) % VMS, random_next(&w->random) % (WRITTEN - WINDOW + 1));
		resting++;
		do
			usleep(BUSY_US);
		while (pause_writers && !stop);
		resting--;
	}
	return NULL;
}

static void *checker_main(void *arg)
{
	while (!stop)
		for (size_t vm = 0; vm < VMS; vm++) {
			check_pages("a byte", vm, 0, WRITTEN, (uint64_t)getpid());
			usleep(BUSY_US);
		}
	return arg;
}

/* ---- what the main thread does to its pages -------------------------------------------------------------------------- */

static void child_main(uint64_t parent)
{
	uint64_t rounds = 1 + random_next(&random_state) % 30;

	for (uint64_t i = 0; i < rounds && lost == 0; i++) {
		for (size_t vm = 0; vm < VMS; vm++)
			check_pages("a byte of a child", vm, 0, PAGES, parent);
		usleep(50000);
	}
	_exit(lost != 0);
}

static void reap_children(bool all)
{
	for (size_t i = 0; i < CHILDREN; i++) {
		int status = 0;
		if (!children[i] || waitpid(children[i], &status, all ? 0 : WNOHANG) == 0)
			continue;
		if (status != 0)
			lose("a child", 0, (size_t)status);
		children[i] = 0;
	}
}

static void make_child(void)
{
	size_t i = 0;

	while (i < CHILDREN && children[i])
		i++;
	if (i == CHILDREN)
		return;
	uint64_t parent = (uint64_t)getpid();
	children[i] = fork();
	if (children[i] == 0)
		child_main(parent);
}

/* RAM that comes, is shared for a moment and goes; its owner keeps it, or wants it empty. */
static void lend_ram(struct gmm_vm *vm)
{
	char *extra = mmap(NULL, (size_t)EXTRA * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool keep = random_next(&random_state) % 4 != 0;

	for (size_t i = 0; i < EXTRA; i++)
		page_set(extra + i * PAGE, i);
	if (gmm_vm_adopt_ram(vm, EXTRA_AT, extra, (uint64_t)EXTRA * PAGE) == GMM_OK) {
		usleep((useconds_t)(random_next(&random_state) % 300000));
		for (size_t i = 0; i < EXTRA; i++)
			if (!page_kept(extra + i * PAGE, i, false, (uint64_t)getpid()))
				lose("a byte of lent RAM", 0, i);
		while (gmm_vm_remove_ram(vm, EXTRA_AT, keep ? GMM_RAM_KEEP : GMM_RAM_DISCARD) != GMM_OK)
			usleep(BUSY_US);
		for (size_t i = 0; keep && i < EXTRA; i++)
			if (!page_kept(extra + i * PAGE, i, false, (uint64_t)getpid()))
				lose("a byte of RAM given back", 0, i);
	}
	munmap(extra, (size_t)EXTRA * PAGE);
}

static void discard(size_t vm, size_t first, size_t pages)
{
	char *at = ram[vm] + first * PAGE;

	if (gmm_vm_discard(vms[vm], first * PAGE, pages * PAGE) == GMM_OK && ram_not_zero(at, pages))
		lose("a discarded page", vm, first);
	for (size_t i = 0; i < pages; i++)
		page_set(at + i * PAGE, first + i);
}

static void pin(size_t vm, size_t first, size_t pages)
{
	if (gmm_vm_pin(vms[vm], first * PAGE, pages * PAGE) != GMM_OK)
		return;
	check_pages("a pinned byte", vm, first, first + pages, (uint64_t)getpid());
	usleep(BUSY_US);
	gmm_vm_unpin(vms[vm], first * PAGE, pages * PAGE);
}

static void rewrite(size_t vm, size_t first, size_t pages)
{
	for (size_t i = first; i < first + pages; i++)
		guest_store(ram[vm] + i * PAGE, 7, i);
	usleep(BUSY_US);
	for (size_t i = first; i < first + pages; i++)
		page_set(ram[vm] + i * PAGE, i);
}

static void act(void)
{
	size_t vm = random_next(&random_state) % VMS;
	size_t first = WRITTEN + random_next(&random_state) % (PAGES - WRITTEN);
	size_t pages = 1 + random_next(&random_state) % (PAGES - first);

	switch (random_next(&random_state) % 10) {
	case 0: discard(vm, first, pages); break;
	case 1: gmm_vm_unshare(vms[vm], first * PAGE, pages * PAGE); break;
	case 2: pin(vm, first, pages); break;
	case 3: rewrite(vm, first, pages); break;
	case 4: lend_ram(vms[vm]); break;
	case 5: make_child(); break;
	case 6: gmm_vm_unshare(vms[vm], 0, (uint64_t)PAGES * PAGE); break;
	case 7: /* time to share all */
		pause_writers = true;
		usleep(300000);
		pause_writers = false;
		break;
	case 8:
		if (random_next(&random_state) % 8 == 0 && gmm_engine_stop(gmm) == GMM_OK)
			gmm_engine_start(gmm);
		break;
	default: usleep(BUSY_US); break;
	}
	check_pages("a byte of the main thread's", vm, WRITTEN, PAGES, (uint64_t)getpid());
	reap_children(false);
}

/* ---- main ------------------------------------------------------------------------------------------------------------ */

static void on_term(int signal)
{
	terminated = signal;
}

static int begin(const char *socket)
{
	struct gmm_options options;
	struct gmm_vm_options vm_options;

	gmm_options_init(&options);
	options.socket = socket;
	options.window_ms = 0;
	options.pass_interval_ms = 5;
	options.cpu_percent = 0;
	options.repair = GMM_REPAIR_PROMISED;
	int status = gmm_instance_open(&options, &gmm);
	/* It was killed a moment ago. */
	for (int i = 0; i < PATIENCE_US / BUSY_US && status == GMM_ERR_NO_SERVICE; i++) {
		usleep(BUSY_US);
		status = gmm_instance_open(&options, &gmm);
	}
	for (size_t i = 0; status == GMM_OK && i < VMS; i++) {
		gmm_vm_options_init(&vm_options);
		if (i > 0)
			vm_options.domain = "other";
		ram[i] = mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (size_t k = 0; k < PAGES; k++)
			page_set(ram[i] + k * PAGE, k);
		status = gmm_vm_create(gmm, &vm_options, &vms[i]);
		if (status == GMM_OK)
			status = gmm_vm_adopt_ram(vms[i], 0, ram[i], (uint64_t)PAGES * PAGE);
	}
	return status == GMM_OK ? gmm_engine_start(gmm) : status;
}

int main(int argc, char **argv)
{
	pthread_t checker;
	int status = argc == 3 ? begin(argv[1]) : GMM_ERR_INVALID_PARAMETER;

	if (status != GMM_OK) {
		fprintf(stderr, "storm: %s\n", gmm_status_text(status));
		return 2;
	}
	random_state = strtoull(argv[2], NULL, 10) * 2 + 1;
	signal(SIGTERM, on_term);
	fprintf(stderr, "storm %d runs\n", (int)getpid());
	for (unsigned i = 0; i < WRITERS; i++) {
		writers[i] = (struct writer){ .number = i, .random = random_next(&random_state) | 1 };
		pthread_create(&writers[i].thread, NULL, writer_main, &writers[i]);
	}
	pthread_create(&checker, NULL, checker_main, NULL);
	while (!terminated && lost < 20)
		act();
	stop = true;
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_join(writers[i].thread, NULL);
	pthread_join(checker, NULL);
	for (size_t i = 0; i < VMS; i++) {
		while (gmm_vm_destroy(vms[i], GMM_RAM_KEEP) != GMM_OK)
			usleep(BUSY_US);
		check_pages("a byte after the VM's end", i, 0, PAGES, (uint64_t)getpid());
		for (size_t k = 0; k < WRITTEN; k++)
			if (!page_kept(ram[i] + k * PAGE, k, false, (uint64_t)getpid()))
				lose("a writer's word after the VM's end", i, k);
	}
	reap_children(true);
	gmm_instance_close(gmm);
	return lost != 0;
}
