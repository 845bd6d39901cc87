/* Guests under fire: threads write and check their own words in the RAM of several VMs, one of them through
 * pread so that its page faults come from inside the kernel, while the engine shares as fast as it can and
 * two more threads unshare, discard, pin, add and remove slots and whole VMs, and pause the engine.
 *
 * Every writer owns one word of every page. It works on a window of pages for a moment, sets its words there
 * back to 0 and goes on elsewhere: so pages become equal to those of the other VMs, are shared, broken, made
 * private by the control thread and shared again. At the end every word of every page is compared with what
 * was written, before and after the VMs have ended.
 *
 *   stress [seconds]      GMM_STRESS_SECONDS overrides; GMM_STRESS_SEED repeats a run's choices
 */
#include "tests/support/guest.h"
#include "tests/support/suite.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	VMS = 4,
	WRITERS = 3,
	PAGES = 1024,      /* of a VM, in two slots that touch */
	WRITTEN = 768,     /* the writers' pages; the control thread owns the rest */
	OWNED = PAGES - WRITTEN,
	WINDOW = 24,       /* pages a writer works on at a time */
	WORD = 100,        /* of writer 0 */
	EXTRA = 128,       /* pages of slots that come and go */
	SHOWN = 20,        /* failures that are printed; the rest is counted */
};

#define SEED 3000u
#define SLOT_AT ((uint64_t)PAGES / 2 * PAGE)
#define EXTRA_AT ((uint64_t)1 << 30)

struct writer {
	pthread_t thread;
	unsigned number;
	bool by_kernel;                       /* writes with pread */
	uint64_t random, sequence;
	uint64_t expected[VMS][WRITTEN];
	_Atomic uint64_t writes;
	uint64_t lost;
	int file;                             /* what pread reads: one word ... */
	uint64_t *file_word;                  /* ... which is this one */
};

static struct gmm *gmm;
static struct gmm_vm *vms[VMS];
static char *ram[VMS];
static struct writer writers[WRITERS];
static atomic_bool stop;
static atomic_ulong failures; /* calls that did not return what they must */
static _Atomic uint64_t unshares, discards, slots, short_vms, pauses, pins, validations;

/* ---- content ------------------------------------------------------------------------------------------ */

/* Some pages are zero or repeat a word, so that all kinds of sharing take part. */
static void page_set(char *page, size_t index)
{
	if (index % 16 == 14)
		page_repeat(page, 0);
	else if (index % 16 == 15)
		page_repeat(page, 0xccccccccccccccccu);
	else
		page_fill(page, SEED + index % 300); /* also equal inside one VM */
}

/* The page as it was set, apart from the writers' words. */
static bool page_kept(const char *page, size_t index)
{
	char want[PAGE] __attribute__((aligned(8)));

	page_set(want, index);
	for (size_t i = 0; i < PAGE_WORDS; i++)
		if ((i < WORD || i >= WORD + WRITERS) && guest_load(page, i) != guest_load(want, i))
			return false;
	return true;
}

static char *page_of(size_t vm, size_t page)
{
	return ram[vm] + page * PAGE;
}

/* Writers' words start at 0, whatever the page is. */
static void ram_prepare(size_t vm)
{
	for (size_t i = 0; i < PAGES; i++) {
		page_set(page_of(vm, i), i);
		for (size_t k = 0; i < WRITTEN && k < WRITERS; k++)
			guest_store(page_of(vm, i), WORD + k, 0);
	}
}

static void must_be(int rc, int expected, const char *what)
{
	if (rc == expected || atomic_fetch_add(&failures, 1) >= SHOWN)
		return;
	fprintf(stderr, "%s: %s, not %s; log: %s\n", what, gmm_status_name(rc), gmm_status_name(expected),
		suite_last_log());
}

static void must(bool condition, const char *what)
{
	if (condition || atomic_fetch_add(&failures, 1) >= SHOWN)
		return;
	fprintf(stderr, "failed: %s; log: %s\n", what, suite_last_log());
}

/* ---- writers ------------------------------------------------------------------------------------------ */

static void write_word(struct writer *self, size_t vm, size_t page, uint64_t value)
{
	size_t word = WORD + self->number;
	char *at = page_of(vm, page);
	uint64_t seen = guest_load(at, word);

	if (seen != self->expected[vm][page] && self->lost++ < 10)
		fprintf(stderr, "writer %u, VM %zu, page %zu: wrote %lx, sees %lx\n", self->number, vm, page,
			(unsigned long)self->expected[vm][page], (unsigned long)seen);
	if (self->by_kernel) {
		*self->file_word = value;
		must(pread(self->file, at + word * 8, 8, 0) == 8, "pread into guest RAM");
	} else {
		guest_store(at, word, value);
	}
	self->expected[vm][page] = value;
	self->writes++;
}

/* A moment's work in one window, which is left with words of 0, apart from a few. */
static void work_on_window(struct writer *self)
{
	uint64_t choice = random_next(&self->random);
	size_t vm = choice % VMS, first = (choice >> 8) % (WRITTEN - WINDOW);
	unsigned rounds = (unsigned)(choice >> 40) % 200;

	for (unsigned i = 0; i < rounds; i++) {
		size_t page = first + random_next(&self->random) % WINDOW;

		write_word(self, vm, page, ++self->sequence << 8 | self->number);
	}
	for (size_t page = first; page < first + WINDOW; page++)
		if (self->expected[vm][page] && random_next(&self->random) % 16)
			write_word(self, vm, page, 0);
	usleep((unsigned)(choice >> 50) % 2000);
}

static void *writer_main(void *arg)
{
	struct writer *self = arg;

	while (!atomic_load_explicit(&stop, memory_order_relaxed))
		work_on_window(self);
	return NULL;
}

static bool writer_start(unsigned number, uint64_t seed)
{
	struct writer *self = &writers[number];

	self->number = number;
	self->by_kernel = number == 1;
	self->random = seed + number * 77 + 1;
	if (self->by_kernel) {
		self->file = memfd_create("word", MFD_CLOEXEC);
		if (self->file < 0 || ftruncate(self->file, PAGE))
			return false;
		self->file_word = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, self->file, 0);
		if (self->file_word == MAP_FAILED)
			return false;
	}
	return pthread_create(&self->thread, NULL, writer_main, self) == 0;
}

/* ---- control ------------------------------------------------------------------------------------------ */

static void random_range(uint64_t *random, size_t first, size_t count, size_t *ret_page, size_t *ret_pages)
{
	uint64_t choice = random_next(random);

	*ret_page = first + choice % count;
	*ret_pages = 1 + (choice >> 20) % (first + count - *ret_page);
}

/* The control thread's own pages: what must be there, a hole, and back again. */
static void discard_and_refill(uint64_t *random, size_t vm)
{
	size_t page, pages;

	random_range(random, WRITTEN, OWNED, &page, &pages);
	for (size_t i = page; i < page + pages; i++)
		must(page_kept(page_of(vm, i), i), "owned pages keep their bytes");
	must_be(gmm_vm_discard(vms[vm], page * PAGE, pages * PAGE), GMM_OK, "discard");
	for (size_t i = page; i < page + pages; i++) {
		must(page_repeats(page_of(vm, i), 0), "discarded pages read zero");
		page_set(page_of(vm, i), i);
	}
	discards++;
}

static void unshare_some(uint64_t *random, size_t vm)
{
	size_t page, pages;

	random_range(random, 0, PAGES, &page, &pages);
	must_be(gmm_vm_unshare(vms[vm], page * PAGE, pages * PAGE), GMM_OK, "unshare");
	unshares++;
}

static void pin_some(uint64_t *random, size_t vm)
{
	size_t page, pages;
	bool by_declaration = *random >> 17 & 1;

	random_range(random, 0, PAGES, &page, &pages);
	if (by_declaration) {
		must_be(gmm_vm_set_unshareable(vms[vm], page * PAGE, pages * PAGE, true), GMM_OK, "forbid");
		usleep(1000);
		must_be(gmm_vm_set_unshareable(vms[vm], page * PAGE, pages * PAGE, false), GMM_OK, "allow");
	} else {
		must_be(gmm_vm_pin(vms[vm], page * PAGE, pages * PAGE), GMM_OK, "pin");
		usleep(1000);
		must_be(gmm_vm_unpin(vms[vm], page * PAGE, pages * PAGE), GMM_OK, "unpin");
	}
	pins++;
}

/* A slot that comes and goes, in a VM that stays or in one of its own; adopted RAM keeps its bytes. */
static void add_and_remove(uint64_t *random, size_t vm)
{
	struct gmm_vm *owner = vms[vm];
	bool own_vm = random_next(random) & 1, keep = *random & 2;
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;
	char *extra = mmap(NULL, EXTRA * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
	enum gmm_ram_end end = keep ? GMM_RAM_KEEP : GMM_RAM_DISCARD;

	must(extra != MAP_FAILED, "memory for a slot");
	if (extra == MAP_FAILED)
		return;
	if (own_vm)
		must_be(gmm_vm_create(gmm, NULL, &owner), GMM_OK, "create a VM");
	must_be(gmm_vm_adopt_ram(owner, EXTRA_AT, extra, EXTRA * PAGE), GMM_OK, "adopt");
	for (size_t i = 0; i < EXTRA; i++)
		page_set(extra + i * PAGE, i);
	usleep((unsigned)(*random >> 32) % 15000);
	must_be(own_vm ? gmm_vm_destroy(owner, end) : gmm_vm_remove_ram(owner, EXTRA_AT, end), GMM_OK,
		own_vm ? "destroy a VM" : "remove a slot");
	for (size_t i = 0; i < EXTRA; i++)
		must(keep ? page_kept(extra + i * PAGE, i) : page_repeats(extra + i * PAGE, 0),
		     "the slot's bytes after its end");
	munmap(extra, EXTRA * PAGE);
	slots += !own_vm;
	short_vms += own_vm;
}

static void look(uint64_t *random, size_t vm)
{
	struct gmm_stats stats;
	struct gmm_vm_stats vm_stats;

	must_be(gmm_instance_stats(gmm, &stats), GMM_OK, "statistics");
	if (stats_fault(&stats))
		must(false, stats_fault(&stats));
	must_be(gmm_vm_stats(vms[vm], &vm_stats), GMM_OK, "statistics of a VM");
	if (vm_stats_fault(&vm_stats))
		must(false, vm_stats_fault(&vm_stats));
	if (random_next(random) % 8)
		return;
	must_be(gmm_instance_validate(gmm), GMM_OK, "validate");
	validations++;
}

static void *control_main(void *arg)
{
	uint64_t random = (uintptr_t)arg;

	while (!atomic_load(&stop)) {
		uint64_t choice = random_next(&random);
		size_t vm = (choice >> 16) % VMS;

		switch (choice % 8) {
		case 0:
		case 1:
			unshare_some(&random, vm);
			break;
		case 2:
		case 3:
			discard_and_refill(&random, vm);
			break;
		case 4:
			pin_some(&random, vm);
			break;
		case 5:
			must_be(gmm_instance_compact(gmm, NULL), GMM_OK, "compact");
			break;
		default:
			look(&random, vm);
			break;
		}
		usleep((unsigned)(choice >> 32) % 4000);
	}
	return NULL;
}

/* The other control thread: slots, VMs and the engine itself come and go beside the first one's calls. */
static void *slots_main(void *arg)
{
	uint64_t random = (uintptr_t)arg;

	while (!atomic_load(&stop)) {
		uint64_t choice = random_next(&random);

		add_and_remove(&random, (choice >> 16) % VMS);
		if (choice % 16)
			continue;
		must_be(choice & 16 ? gmm_engine_pause(gmm) : gmm_engine_stop(gmm), GMM_OK, "pause");
		usleep(1000);
		must_be(gmm_engine_start(gmm), GMM_OK, "start");
		pauses++;
	}
	return NULL;
}

/* ---- the run ------------------------------------------------------------------------------------------ */

/* Even VMs get RAM of the library, odd ones bring their own; a VM's two slots touch in both ways. */
static int vm_open(size_t i)
{
	size_t size = PAGES * PAGE;
	void *addr;
	int rc = gmm_vm_create(gmm, NULL, &vms[i]);

	if (rc == GMM_OK && i % 2 == 0) {
		rc = gmm_vm_create_ram(vms[i], 0, size, &addr);
		ram[i] = addr;
		if (rc == GMM_OK)
			ram_prepare(i);
		return rc;
	}
	ram[i] = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (rc != GMM_OK || ram[i] == MAP_FAILED)
		return rc ? rc : GMM_ERR_NO_MEMORY;
	madvise(ram[i], size, MADV_NOHUGEPAGE);
	ram_prepare(i);
	rc = gmm_vm_adopt_ram(vms[i], 0, ram[i], SLOT_AT);
	return rc ? rc : gmm_vm_adopt_ram(vms[i], SLOT_AT, ram[i] + SLOT_AT, size - SLOT_AT);
}

/* Pages of the VM that do not hold what was written last. */
static size_t wrong_pages(size_t vm)
{
	size_t wrong = 0;

	for (size_t i = 0; i < PAGES; i++) {
		bool ok = page_kept(page_of(vm, i), i);

		for (size_t k = 0; i < WRITTEN && k < WRITERS; k++)
			ok = ok && guest_load(page_of(vm, i), WORD + k) == writers[k].expected[vm][i];
		wrong += !ok;
	}
	return wrong;
}

static int open_all(uint32_t agent_threads)
{
	struct gmm_options options;
	int rc;

	gmm_options_init(&options);
	options.log = suite_log;
	options.window_ms = 0;
	options.cpu_percent = 0;
	options.pass_interval_ms = 1;
	options.agent_threads = agent_threads;
	rc = gmm_instance_open(&options, &gmm);
	for (size_t i = 0; rc == GMM_OK && i < VMS; i++)
		rc = vm_open(i);
	return rc ? rc : gmm_engine_start(gmm);
}

/* A run in which nothing happened shows nothing. */
static bool is_enough(const struct gmm_stats *stats)
{
	uint64_t writes = 0;

	for (unsigned i = 0; i < WRITERS; i++)
		writes += writers[i].writes;
	return writes > 1000 && stats->total.merges > PAGES && stats->total.cow_breaks > 100 && stats->total.rehomes > 0 &&
	       unshares && discards && slots && short_vms && pins && validations && pauses;
}

/* For so long, and on a slow machine for up to a minute more, until enough has happened. */
static void let_them_run(unsigned seconds)
{
	struct gmm_stats stats;

	sleep(seconds);
	for (int i = 0; i < 600; i++) {
		must_be(gmm_instance_stats(gmm, &stats), GMM_OK, "statistics");
		if (is_enough(&stats))
			break;
		usleep(100000);
	}
}

static uint64_t run(unsigned seconds, uint64_t seed)
{
	pthread_t control, slot_control;
	uint64_t lost = 0;

	for (unsigned i = 0; i < WRITERS; i++)
		must(writer_start(i, seed), "start a writer");
	must(!pthread_create(&control, NULL, control_main, (void *)(uintptr_t)(seed + 4242)) &&
	     !pthread_create(&slot_control, NULL, slots_main, (void *)(uintptr_t)(seed + 8484)),
	     "start the control threads");
	let_them_run(seconds);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < WRITERS; i++) {
		pthread_join(writers[i].thread, NULL);
		lost += writers[i].lost;
	}
	pthread_join(control, NULL);
	pthread_join(slot_control, NULL);
	return lost;
}

/* Ends everything; how many pages were wrong before or after. */
static size_t close_all(void)
{
	size_t wrong = 0;

	for (size_t i = 0; i < VMS; i++)
		wrong += wrong_pages(i);
	must_be(gmm_instance_validate(gmm), GMM_OK, "validate at the end");
	for (size_t i = 0; i < VMS; i++) {
		must_be(gmm_vm_destroy(vms[i], GMM_RAM_KEEP), GMM_OK, "destroy");
		wrong += i % 2 ? wrong_pages(i) : 0; /* the other VMs' RAM was the library's */
	}
	must_be(gmm_instance_close(gmm), GMM_OK, "close");
	return wrong;
}

static void report(const struct gmm_stats *stats, uint64_t lost, size_t wrong)
{
	uint64_t writes = 0;

	for (unsigned i = 0; i < WRITERS; i++)
		writes += writers[i].writes;
	printf("writes %lu, merges %lu, broken %lu, zero pages broken %lu, raced %lu, refused %lu\n", writes,
	       stats->total.merges, stats->total.cow_breaks, stats->total.zero_breaks, stats->total.raced,
	       stats->total.refused_pinned);
	printf("unshares %lu, discards %lu, pins %lu, slots %lu, short VMs %lu\n", unshares, discards, pins,
	       slots, short_vms);
	printf("passes %lu, pauses %lu, validations %lu, moved %lu\n", stats->passes, pauses, validations,
	       stats->total.rehomes);
	printf("lost %lu, wrong pages %zu, failed calls %lu\n", lost, wrong, failures);
	must(is_enough(stats), "pages were written, shared, written again and moved, and all controls were used");
}

int main(int argc, char **argv)
{
	const char *seconds_text = getenv("GMM_STRESS_SECONDS"), *seed_text = getenv("GMM_STRESS_SEED");
	const char *threads_text = getenv("GMM_STRESS_AGENT_THREADS");
	unsigned seconds = 5;
	uint64_t seed = seed_text ? strtoull(seed_text, NULL, 0) : now_ms(), lost;
	struct gmm_stats stats = { 0 };
	size_t wrong;
	int rc;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!seconds_text && argc > 1)
		seconds_text = argv[1];
	if (seconds_text)
		seconds = (unsigned)atoi(seconds_text);
	if (suite_missing_feature())
		return SUITE_SKIPPED;
	printf("GMM_STRESS_SEED=%lu, %u s\n", (unsigned long)seed, seconds);
	alarm(seconds + 180); /* a guest that waits for ever is a failure too */
	rc = open_all(threads_text ? (uint32_t)atoi(threads_text) : 1);
	must_be(rc, GMM_OK, "open");
	if (rc)
		return EXIT_FAILURE;
	lost = run(seconds, seed);
	must_be(gmm_instance_stats(gmm, &stats), GMM_OK, "statistics");
	wrong = close_all();
	report(&stats, lost, wrong);
	return lost || wrong || failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
