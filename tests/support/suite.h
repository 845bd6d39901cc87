/* The frame of a test program of the public interface: run it, skip it, instances, waiting, statistics.
 *
 * Programs use Check without its fork mode, since the library must not be used in a child of the process that
 * opened an instance. So a failed test leaves its instance behind; the tests after it open their own.
 */
#ifndef TESTS_SUPPORT_SUITE_H
#define TESTS_SUPPORT_SUITE_H

#include <gmm/gmm.h>
#include <gmm/pages.h>

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { SUITE_SKIPPED = 77 };

/* 0, or SUITE_SKIPPED after printing what the kernel lacks. */
int suite_missing_feature(void);

/* Runs the tests and returns the program's exit status. The process dies if they take longer. */
int suite_main(const char *name, const TTest **tests, size_t count);

/* The last warning or error the library logged. */
const char *suite_last_log(void);
gmm_log_fn suite_log;

/* Skips the rest of one test, visibly. */
#define skip_test(...)                             \
	do {                                       \
		printf("SKIP %s: ", __func__);     \
		printf(__VA_ARGS__);               \
		printf("\n");                      \
		return;                            \
	} while (0)

#define assert_status(call, expected)                                                        \
	do {                                                                                 \
		int status_ = (call);                                                        \
		ck_assert_msg(status_ == (expected), "%s: %s, not %s; log: %s", #call,       \
			      gmm_status_name(status_), gmm_status_name(expected),           \
			      suite_last_log());                                             \
	} while (0)

#define assert_ok(call) assert_status(call, GMM_OK)

/* Polls for a minute: a busy machine may be slow, and may stop for seconds. */
#define assert_eventually(condition)                                                         \
	do {                                                                                 \
		uint64_t deadline_ = now_ms() + 60000;                                       \
		bool came_ = false; /* and may have gone again */                            \
		while (!(came_ = (condition)) && now_ms() < deadline_)                       \
			sleep_ms(2);                                                         \
		ck_assert_msg(came_, "never became true: %s; log: %s", #condition,           \
			      suite_last_log());                                             \
	} while (0)

uint64_t now_ms(void);
void sleep_ms(unsigned ms);

/* Private anonymous memory without transparent huge pages, and back. */
char *ram_map(size_t pages);
void ram_unmap(char *ram, size_t pages);

/* An instance that scans at once and all the time; a VM of a domain (NULL: the default one). */
struct gmm *instance_open(void);
struct gmm *instance_open_repairing(void); /* with GMM_REPAIR_PROMISED */
struct gmm_vm *vm_create(struct gmm *gmm, const char *domain);
char *vm_create_ram(struct gmm_vm *vm, uint64_t guest_addr, size_t pages);
char *vm_adopt_ram(struct gmm_vm *vm, uint64_t guest_addr, size_t pages);

/* The bytes of a page that a paged VM can map. */
uint8_t *vm_page(struct gmm_vm *vm, gmm_page_id page);

/* Starts the engine unless it runs, and waits until it has settled. */
void engine_settle(struct gmm *gmm);

/* Waits until the engine has made that many full passes from now. */
void engine_passes(struct gmm *gmm, unsigned passes);

/* Snapshots that have been checked: stats_fault said NULL. */
struct gmm_stats stats_of(struct gmm *gmm);
struct gmm_vm_stats vm_stats_of(struct gmm_vm *vm);
uint64_t vm_state(struct gmm_vm *vm, enum gmm_page_state state);

/* The first identity that does not hold, in words; NULL if all do. */
const char *stats_fault(const struct gmm_stats *stats);
const char *vm_stats_fault(const struct gmm_vm_stats *stats);

#endif
