/* Locked, protected and otherwise advised memory: not shared while it must not be, shared again afterwards, and the
 * kernel's flags are what the program asked for. */
#include <numaif.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/preload/support/ram.h"

/* The VmFlags of every mapping of the range have the flag, or none has. */
static bool all_flagged(const uint8_t *ram, const char *flag, bool want)
{
	uintptr_t start = (uintptr_t)ram, from = 0, to = 0, a, b;
	char line[512];
	bool right = true;
	FILE *smaps = fopen("/proc/self/smaps", "re");

	CHECK(smaps);
	while (fgets(line, sizeof line, smaps)) {
		if (sscanf(line, "%lx-%lx ", &a, &b) == 2) {
			from = a;
			to = b;
		}
		if (strncmp(line, "VmFlags:", 8) == 0 && to > start && from < start + RAM_BYTES)
			right = right && (strstr(line, flag) != NULL) == want;
	}
	fclose(smaps);
	return right;
}

static void check_locked(uint8_t *ram)
{
	CHECK(ram_pool_pages(ram, RAM_BYTES) == 0);
	CHECK(ram_is_right(ram, 0, RAM_PAGES));
	CHECK(all_flagged(ram, " lo", true));
	usleep(500000);
	CHECK(ram_pool_pages(ram, RAM_BYTES) == 0);
}

static void test_locks(uint8_t *ram)
{
	CHECK(mlock(ram, RAM_BYTES) == 0);
	check_locked(ram);
	CHECK(munlock(ram, RAM_BYTES) == 0);
	ram_wait_shared(ram, RAM_BYTES);
	CHECK(mlock2(ram, RAM_BYTES, MLOCK_ONFAULT) == 0);
	check_locked(ram);
	CHECK(munlock(ram, RAM_BYTES) == 0);
	ram_wait_shared(ram, RAM_BYTES);
	CHECK(syscall(SYS_mlock, ram, RAM_BYTES) == 0);
	check_locked(ram);
	CHECK(syscall(SYS_munlock, ram, RAM_BYTES) == 0);
	ram_wait_shared(ram, RAM_BYTES);

	CHECK(mlockall(MCL_CURRENT | MCL_FUTURE) == 0);
	check_locked(ram);
	uint8_t *later = ram_map(RAM_BYTES);
	ram_fill(later, 0, RAM_PAGES);
	CHECK(madvise(later, RAM_BYTES, MADV_MERGEABLE) == 0);
	check_locked(later);
	CHECK(munlockall() == 0);
	ram_wait_shared(ram, RAM_BYTES);
	ram_wait_shared(later, RAM_BYTES);
	CHECK(munmap(later, RAM_BYTES) == 0);
}

static sigjmp_buf back;

static void on_fault(int number)
{
	(void)number;
	siglongjmp(back, 1);
}

static bool write_faults(uint8_t *at)
{
	signal(SIGSEGV, on_fault);
	bool faulted = sigsetjmp(back, 1) != 0;
	if (!faulted)
		*(volatile uint8_t *)at = 1;
	signal(SIGSEGV, SIG_DFL);
	return faulted;
}

static void test_protection(uint8_t *ram)
{
	CHECK(mprotect(ram, RAM_BYTES / 2, PROT_READ) == 0);
	CHECK(write_faults(ram) && write_faults(ram + RAM_BYTES / 2 - 1));
	ram_wait_shared(ram + RAM_BYTES / 2, RAM_BYTES / 2 >> 1);
	CHECK(write_faults(ram));
	CHECK(ram_is_right(ram, 0, RAM_PAGES));
	CHECK(mprotect(ram, RAM_BYTES / 2, PROT_READ | PROT_WRITE) == 0);
	ram_wait_shared(ram, RAM_BYTES);
}

static void test_advice(uint8_t *ram)
{
	CHECK(madvise(ram, RAM_BYTES, MADV_DONTFORK) == 0);
	CHECK(madvise(ram, RAM_BYTES, MADV_DONTDUMP) == 0);
	ram_wait_all_shared(ram, RAM_BYTES); /* a mapping that was made just now has no flags for a moment */
	CHECK(all_flagged(ram, " dc", true) && all_flagged(ram, " dd", true));
	CHECK(madvise(ram, RAM_BYTES, MADV_DOFORK) == 0);
	CHECK(madvise(ram, RAM_BYTES, MADV_DODUMP) == 0);
	ram_wait_all_shared(ram, RAM_BYTES);
	CHECK(all_flagged(ram, " dc", false) && all_flagged(ram, " dd", false));
	CHECK(mbind(ram, RAM_BYTES, MPOL_DEFAULT, NULL, 0, 0) == 0);
	ram_wait_shared(ram, RAM_BYTES);
	CHECK(ram_is_right(ram, 0, RAM_PAGES));
}

int main(void)
{
	uint8_t *ram = ram_shared();

	test_advice(ram);
	test_protection(ram);
	test_locks(ram);
	return 0;
}
