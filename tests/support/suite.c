/* The frame of the test programs; see suite.h. */
#include "tests/support/suite.h"

#include "tests/support/guest.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static char last_log[256] = "(nothing)";

enum { LIMIT_SECONDS = 280 }; /* for all tests of a program */

void suite_log(void *arg, enum gmm_log_level level, const char *message)
{
	(void)arg;
	if (getenv("GMM_TEST_LOG"))
		fprintf(stderr, "log %d: %s\n", (int)level, message);
	if (level > GMM_LOG_WARNING)
		return;
	pthread_mutex_lock(&log_lock);
	snprintf(last_log, sizeof(last_log), "%s", message);
	pthread_mutex_unlock(&log_lock);
}

const char *suite_last_log(void)
{
	static _Thread_local char copy[sizeof(last_log)];

	pthread_mutex_lock(&log_lock);
	memcpy(copy, last_log, sizeof(copy));
	pthread_mutex_unlock(&log_lock);
	return copy;
}

int suite_missing_feature(void)
{
	struct gmm_options options;
	struct gmm *gmm;
	int rc;

	gmm_options_init(&options);
	options.log = suite_log;
	rc = gmm_instance_open(&options, &gmm);
	if (rc == GMM_ERR_UNSUPPORTED_KERNEL || rc == GMM_ERR_NO_PERMISSION || rc == GMM_ERR_SWAP_UNSAFE) {
		printf("SKIP: %s: %s\n", gmm_status_text(rc), suite_last_log());
		return SUITE_SKIPPED;
	}
	if (rc == GMM_OK)
		gmm_instance_close(gmm);
	return 0; /* any other failure is for the tests to find */
}

int suite_main(const char *name, const TTest **tests, size_t count)
{
	Suite *suite = suite_create(name);
	TCase *tcase = tcase_create(name);
	SRunner *runner = srunner_create(suite);
	int failed;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (suite_missing_feature()) {
		srunner_free(runner);
		return SUITE_SKIPPED;
	}
	suite_add_tcase(suite, tcase);
	for (size_t i = 0; i < count; i++)
		tcase_add_test(tcase, tests[i]);
	srunner_set_fork_status(runner, CK_NOFORK);
	alarm(LIMIT_SECONDS); /* Check's own time limits need its fork mode */
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void sleep_ms(unsigned ms)
{
	usleep(ms * 1000);
}

char *ram_map(size_t pages)
{
	char *ram = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert_msg(ram != MAP_FAILED, "no memory for %zu pages", pages);
	madvise(ram, pages * PAGE, MADV_NOHUGEPAGE); /* EINVAL: the kernel has no huge pages at all */
	return ram;
}

void ram_unmap(char *ram, size_t pages)
{
	ck_assert_int_eq(munmap(ram, pages * PAGE), 0);
}

static struct gmm *open_with(enum gmm_repair repair)
{
	struct gmm_options options;
	struct gmm *gmm = NULL;

	gmm_options_init(&options);
	options.log = suite_log;
	options.window_ms = 0;
	options.cpu_percent = 0;
	options.pass_interval_ms = 1;
	options.repair = repair;
	assert_ok(gmm_instance_open(&options, &gmm));
	ck_assert_ptr_nonnull(gmm);
	return gmm;
}

struct gmm *instance_open(void)
{
	return open_with(GMM_REPAIR_NEVER);
}

struct gmm *instance_open_repairing(void)
{
	return open_with(GMM_REPAIR_PROMISED);
}

struct gmm_vm *vm_create(struct gmm *gmm, const char *domain)
{
	struct gmm_vm_options options;
	struct gmm_vm *vm = NULL;

	gmm_vm_options_init(&options);
	options.domain = domain;
	assert_ok(gmm_vm_create(gmm, &options, &vm));
	ck_assert_ptr_nonnull(vm);
	return vm;
}

char *vm_create_ram(struct gmm_vm *vm, uint64_t guest_addr, size_t pages)
{
	void *ram = NULL;

	assert_ok(gmm_vm_create_ram(vm, guest_addr, pages * PAGE, &ram));
	ck_assert_ptr_nonnull(ram);
	return ram;
}

char *vm_adopt_ram(struct gmm_vm *vm, uint64_t guest_addr, size_t pages)
{
	char *ram = ram_map(pages);

	assert_ok(gmm_vm_adopt_ram(vm, guest_addr, ram, pages * PAGE));
	return ram;
}

uint8_t *vm_page(struct gmm_vm *vm, gmm_page_id page)
{
	void *addr;

	assert_ok(gmm_vm_map_chunk(vm, gmm_page_chunk(page), 0, &addr));
	return (uint8_t *)addr + gmm_page_index(page) * (size_t)GMM_PAGE_SIZE;
}

void engine_settle(struct gmm *gmm)
{
	if (!stats_of(gmm).running)
		assert_ok(gmm_engine_start(gmm));
	assert_ok(gmm_engine_wait_settled(gmm, 60000));
}

void engine_passes(struct gmm *gmm, unsigned passes)
{
	uint64_t target = stats_of(gmm).passes + passes;

	assert_eventually(stats_of(gmm).passes >= target);
}

const char *vm_stats_fault(const struct gmm_vm_stats *stats)
{
	uint64_t sum = 0;

	for (int i = 0; i < GMM_PAGE_STATES; i++)
		sum += stats->state_pages[i];
	if (sum != stats->pages)
		return "the states do not add up to the pages";
	if (stats->references != stats->state_pages[GMM_PAGE_FILL] + stats->state_pages[GMM_PAGE_SHARED])
		return "references are not the fill and shared pages";
	if (stats->references + stats->private_pages > stats->pages)
		return "more references and private pages than pages";
	if (stats->runs > stats->references + stats->state_pages[GMM_PAGE_BROKEN])
		return "more runs than pages that are or were shared";
	return NULL;
}

const char *stats_fault(const struct gmm_stats *stats)
{
	if (stats->allocated_pages != stats->total.private_pages + stats->pool_pages)
		return "allocated is not private + pool";
	if (stats->total.references != stats->pool_pages + stats->saved_pages)
		return "references are not pool + saved";
	if (stats->metadata_bytes > stats->metadata_peak_bytes)
		return "metadata is larger than its peak";
	return vm_stats_fault(&stats->total);
}

struct gmm_stats stats_of(struct gmm *gmm)
{
	struct gmm_stats stats;
	const char *fault;

	assert_ok(gmm_instance_stats(gmm, &stats));
	fault = stats_fault(&stats);
	ck_assert_msg(!fault, "%s", fault);
	return stats;
}

struct gmm_vm_stats vm_stats_of(struct gmm_vm *vm)
{
	struct gmm_vm_stats stats;
	const char *fault;

	assert_ok(gmm_vm_stats(vm, &stats));
	fault = vm_stats_fault(&stats);
	ck_assert_msg(!fault, "%s", fault);
	ck_assert_msg(stats.references == 0 || stats.runs > 0, "references without a run"); /* a paged VM has none */
	return stats;
}

uint64_t vm_state(struct gmm_vm *vm, enum gmm_page_state state)
{
	return vm_stats_of(vm).state_pages[state];
}
