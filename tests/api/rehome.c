/* Shared pages change their place in the pool while guests read and write them: neighbours that were shared at different
 * times become one run, sparse chunks are given back, and no write is lost, be it the guest's or the kernel's. */
#include "tests/support/guest.h"
#include "tests/support/suite.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { VMS = 3, PAGES = 1536, WORD = 40, WRITERS = 2, SEED = 9000, KEPT = 16, STRIDE = 128 };

static struct gmm *gmm;
static struct gmm_vm *vms[VMS];
static char *ram[VMS];

static void open_vms(void)
{
	gmm = instance_open();
	for (int i = 0; i < VMS; i++) {
		vms[i] = vm_create(gmm, NULL);
		ram[i] = i % 2 ? vm_adopt_ram(vms[i], 0, PAGES) : vm_create_ram(vms[i], 0, PAGES);
	}
}

static void close_vms(void)
{
	assert_ok(gmm_instance_validate(gmm));
	for (int i = 0; i < VMS; i++)
		assert_ok(gmm_vm_destroy(vms[i], GMM_RAM_DISCARD));
	ck_assert_uint_eq(stats_of(gmm).pool_pages, 0);
	assert_ok(gmm_instance_close(gmm));
}

/* Every VM's page `page`, equal in all. */
static void fill_page(size_t page)
{
	for (int i = 0; i < VMS; i++)
		page_fill(ram[i] + page * PAGE, SEED + page);
}

START_TEST(neighbours_become_one_run)
{
	open_vms();
	for (size_t odd = 0; odd < 2; odd++) {
		for (size_t page = odd; page < 256; page += 2)
			fill_page(page);
		engine_settle(gmm);
		assert_eventually(stats_of(gmm).total.references == (odd + 1) * 128 * VMS);
	}
	assert_ok(gmm_instance_compact(gmm, NULL));
	struct gmm_stats stats = stats_of(gmm);
	ck_assert_uint_eq(stats.total.references, 256 * VMS);
	ck_assert_uint_eq(stats.pool_pages, 256);
	ck_assert_uint_le(stats.total.runs, 2 * VMS); /* a chunk's end may lie between */
	for (int i = 0; i < VMS; i++)
		ck_assert_uint_eq(ram_wrong(ram[i], 256, SEED), 0);
	close_vms();
}
END_TEST

START_TEST(emptied_chunks_come_back)
{
	uint64_t chunks = 0;

	open_vms();
	for (size_t page = 0; page < PAGES; page++)
		fill_page(page);
	engine_settle(gmm);
	assert_ok(gmm_engine_pause(gmm));
	uint64_t before = stats_of(gmm).pool_chunks;
	ck_assert_uint_ge(before, 3);
	for (int i = 0; i < VMS; i++)
		for (size_t page = 0; page < PAGES; page += STRIDE)
			assert_ok(gmm_vm_discard(vms[i], (page + KEPT) * PAGE, (STRIDE - KEPT) * PAGE));
	assert_ok(gmm_instance_compact(gmm, &chunks));
	ck_assert_uint_ge(chunks, 2);
	ck_assert_uint_eq(stats_of(gmm).pool_chunks, before - chunks);
	ck_assert_uint_eq(stats_of(gmm).pool_pages, PAGES / STRIDE * KEPT);
	for (int i = 0; i < VMS; i++)
		for (size_t page = 0; page < PAGES; page += STRIDE) {
			ck_assert_uint_eq(ram_wrong(ram[i] + page * PAGE, KEPT, SEED + page), 0);
			ck_assert_uint_eq(ram_not_zero(ram[i] + (page + KEPT) * PAGE, STRIDE - KEPT), 0);
		}
	close_vms();
}
END_TEST

/* ---- under writers ------------------------------------------------------------------------------------------------------ */

struct writer {
	pthread_t thread;
	unsigned number;
	uint64_t writes, lost;
	uint64_t expected[VMS][PAGES];
};

static struct writer writers[WRITERS];
static atomic_bool stop;

/* Writer 1 writes by pread, so that the fault comes from inside the kernel. */
static void write_word(struct writer *self, int vm, size_t page, int file, uint64_t *file_word)
{
	char *at = ram[vm] + page * PAGE;
	uint64_t value = ++self->writes;

	self->lost += guest_load(at, WORD + self->number) != self->expected[vm][page];
	if (self->number == 1) {
		*file_word = value;
		self->lost += pread(file, at + (WORD + 1) * 8, 8, 0) != 8;
	} else {
		guest_store(at, WORD + self->number, value);
	}
	self->expected[vm][page] = value;
}

static void *writer_main(void *arg)
{
	struct writer *self = arg;
	uint64_t random = 77 + self->number;
	int file = memfd_create("word", MFD_CLOEXEC);

	if (ftruncate(file, PAGE) != 0)
		return NULL;
	uint64_t *word = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	while (!atomic_load(&stop)) {
		uint64_t choice = random_next(&random);
		/* Half the pages are only read: they stay shared. */
		size_t page = (choice >> 8) % (PAGES / 2) * 2;
		write_word(self, (int)(choice % VMS), page, file, word);
		self->lost += !page_is(ram[choice % VMS] + (page + 1) * PAGE, SEED + page + 1);
		if (choice % 64 == 0)
			usleep(200);
	}
	munmap(word, PAGE);
	close(file);
	return NULL;
}

/* Only pages that nobody writes are known to be equal: the others lost their writers' words. */
static size_t wrong_pages(void)
{
	size_t wrong = 0;

	for (int vm = 0; vm < VMS; vm++)
		for (size_t page = 0; page < PAGES; page++) {
			char *at = ram[vm] + page * PAGE;
			for (size_t k = 0; page % 2 == 0 && k < WRITERS; k++)
				wrong += guest_load(at, WORD + k) != writers[k].expected[vm][page];
			wrong += page % 2 && !page_is(at, SEED + page);
		}
	return wrong;
}

START_TEST(nothing_is_lost_under_writers)
{
	open_vms();
	for (size_t page = 0; page < PAGES; page++) {
		fill_page(page);
		for (size_t k = 0; page % 2 == 0 && k < WRITERS; k++)
			for (int vm = 0; vm < VMS; vm++)
				writers[k].expected[vm][page] = guest_load(ram[vm] + page * PAGE, WORD + k);
	}
	engine_settle(gmm);
	for (unsigned i = 0; i < WRITERS; i++) {
		writers[i].number = i;
		ck_assert_int_eq(pthread_create(&writers[i].thread, NULL, writer_main, &writers[i]), 0);
	}
	uint64_t random = 5, start = now_ms();
	unsigned rounds = 0;
	/* Pages are shared anew and moved, again and again. On a busy host it takes longer until enough were. */
	while (now_ms() < start + 1500 || (stats_of(gmm).total.rehomes <= 100 && now_ms() < start + 60000)) {
		size_t page = random_next(&random) % (PAGES - 200);
		assert_ok(gmm_vm_unshare(vms[rounds % VMS], page * PAGE, 200 * PAGE));
		sleep_ms(10);
		assert_ok(gmm_instance_compact(gmm, NULL));
		rounds++;
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_join(writers[i].thread, NULL);
	struct gmm_stats stats = stats_of(gmm);
	printf("%lu + %lu writes, %u rounds, %lu pages moved, %lu broken\n", writers[0].writes, writers[1].writes, rounds,
	       stats.total.rehomes, stats.total.cow_breaks);
	ck_assert_uint_eq(writers[0].lost + writers[1].lost, 0);
	ck_assert_uint_eq(wrong_pages(), 0);
	ck_assert_uint_gt(stats.total.rehomes, 100);
	close_vms();
}
END_TEST

START_TEST(bad_arguments)
{
	uint64_t chunks = 4711;

	assert_status(gmm_instance_compact(NULL, &chunks), GMM_ERR_INVALID_PARAMETER);
	ck_assert_uint_eq(chunks, 4711);
	gmm = instance_open();
	assert_ok(gmm_instance_compact(gmm, &chunks));
	ck_assert_uint_eq(chunks, 0);
	assert_ok(gmm_instance_close(gmm));
}
END_TEST

int main(void)
{
	const TTest *tests[] = { neighbours_become_one_run, emptied_chunks_come_back, nothing_is_lost_under_writers,
				 bad_arguments };

	return suite_main("rehome", tests, sizeof tests / sizeof *tests);
}
