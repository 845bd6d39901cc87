/* What the library refuses, and with which status: nonsense arguments, ranges that do not fit, memory that
 * cannot be shared this way. A refusal changes nothing: every test goes on with good input afterwards.
 */
#include "tests/support/guest.h"
#include "tests/support/proc.h"
#include "tests/support/suite.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

enum { PAGES = 16, SIZE = PAGES * PAGE, HUGE = 2 << 20 };

#define GPA ((uint64_t)1 << 20)

struct place {
	struct gmm *gmm;
	struct gmm_vm *vm;
};

static struct place place_open(void)
{
	struct place place = { .gmm = instance_open() };

	place.vm = vm_create(place.gmm, NULL);
	return place;
}

static void place_close(struct place *place)
{
	assert_ok(gmm_instance_validate(place->gmm));
	assert_ok(gmm_vm_destroy(place->vm, GMM_RAM_KEEP));
	assert_ok(gmm_instance_close(place->gmm));
}

/* ---- names -------------------------------------------------------------------------------------------- */

START_TEST(every_status_has_its_name_and_text)
{
#define NAMED(status) { status, #status }
	static const struct {
		int status;
		const char *name;
	} all[] = {
		NAMED(GMM_OK), NAMED(GMM_ERR_INVALID_PARAMETER), NAMED(GMM_ERR_NO_MEMORY),
		NAMED(GMM_ERR_WRONG_ORDER), NAMED(GMM_ERR_WRONG_PROCESS), NAMED(GMM_ERR_NOT_FOUND),
		NAMED(GMM_ERR_TIMEOUT), NAMED(GMM_ERR_UNSUPPORTED_KERNEL), NAMED(GMM_ERR_NO_PERMISSION),
		NAMED(GMM_ERR_SYSTEM), NAMED(GMM_ERR_MISALIGNED), NAMED(GMM_ERR_OVERLAP),
		NAMED(GMM_ERR_RAM_NOT_MAPPED), NAMED(GMM_ERR_RAM_SHARED), NAMED(GMM_ERR_RAM_FILE),
		NAMED(GMM_ERR_RAM_NOT_WRITABLE), NAMED(GMM_ERR_RAM_HUGETLB), NAMED(GMM_ERR_RAM_LOCKED),
		NAMED(GMM_ERR_RAM_MERGEABLE), NAMED(GMM_ERR_RAM_WATCHED), NAMED(GMM_ERR_RAM_SPECIAL),
		NAMED(GMM_ERR_PINNED), NAMED(GMM_ERR_LIMIT), NAMED(GMM_ERR_SWAP_UNSAFE),
	};
	const size_t count = sizeof(all) / sizeof(all[0]);

	for (size_t i = 0; i < count; i++) {
		ck_assert_int_eq(all[i].status, -(int)i); /* the numbers are part of the interface */
		ck_assert_str_eq(gmm_status_name(all[i].status), all[i].name);
		ck_assert_uint_gt(strlen(gmm_status_text(all[i].status)), 3);
		for (size_t k = 0; k < i; k++)
			ck_assert_str_ne(gmm_status_text(all[i].status), gmm_status_text(all[k].status));
	}
	for (int unknown = -1000; unknown <= 1000; unknown += 40) {
		ck_assert_ptr_nonnull(gmm_status_name(unknown));
		ck_assert_ptr_nonnull(gmm_status_text(unknown));
	}
	ck_assert_ptr_nonnull(gmm_status_name(-(int)count));
	ck_assert_ptr_nonnull(gmm_status_text(-(int)count));
#undef NAMED
}
END_TEST

START_TEST(every_page_state_has_its_name)
{
	ck_assert_str_eq(gmm_page_state_name(GMM_PAGE_ABSENT), "absent");
	ck_assert_str_eq(gmm_page_state_name(GMM_PAGE_ZERO), "zero");
	for (int i = 0; i < GMM_PAGE_STATES; i++) {
		ck_assert_uint_gt(strlen(gmm_page_state_name((enum gmm_page_state)i)), 2);
		for (int k = 0; k < i; k++)
			ck_assert_str_ne(gmm_page_state_name((enum gmm_page_state)i),
					 gmm_page_state_name((enum gmm_page_state)k));
	}
	ck_assert_ptr_nonnull(gmm_page_state_name(GMM_PAGE_STATES));
	ck_assert_ptr_nonnull(gmm_page_state_name((enum gmm_page_state)1000));
}
END_TEST

/* ---- arguments ---------------------------------------------------------------------------------------- */

START_TEST(options_are_checked)
{
	struct gmm_options options;
	struct gmm *untouched = (struct gmm *)8, *gmm = untouched;

	gmm_options_init(&options);
	ck_assert_uint_eq(options.struct_size, sizeof(options));
	ck_assert_uint_eq(options.window_ms, 2000);
	ck_assert_uint_eq(options.pass_interval_ms, 2000);
	ck_assert_uint_eq(options.max_mappings, 0);
	ck_assert(!options.log);
	assert_status(gmm_instance_open(&options, NULL), GMM_ERR_INVALID_PARAMETER);
	options.struct_size = 0;
	assert_status(gmm_instance_open(&options, &gmm), GMM_ERR_INVALID_PARAMETER);
	ck_assert_ptr_eq(gmm, untouched);
	assert_ok(gmm_instance_open(NULL, &gmm));
	assert_ok(gmm_instance_close(gmm));
}
END_TEST

START_TEST(vm_options_are_checked)
{
	char name[GMM_NAME_MAX + 2];
	struct gmm *gmm = instance_open();
	struct gmm_vm *untouched = (struct gmm_vm *)8, *vm = untouched;
	struct gmm_vm_options options;

	memset(name, 'x', sizeof(name));
	name[GMM_NAME_MAX + 1] = 0; /* one too long */
	gmm_vm_options_init(&options);
	ck_assert_int_eq(options.priority, GMM_PRIORITY_NORMAL);
	assert_status(gmm_vm_create(NULL, &options, &vm), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_create(gmm, &options, NULL), GMM_ERR_INVALID_PARAMETER);
	options.name = name;
	assert_status(gmm_vm_create(gmm, &options, &vm), GMM_ERR_INVALID_PARAMETER);
	options.name = NULL;
	options.domain = name;
	assert_status(gmm_vm_create(gmm, &options, &vm), GMM_ERR_INVALID_PARAMETER);
	options.domain = NULL;
	options.priority = (enum gmm_priority)77;
	assert_status(gmm_vm_create(gmm, &options, &vm), GMM_ERR_INVALID_PARAMETER);
	options.priority = GMM_PRIORITY_HIGH;
	options.struct_size = 0;
	assert_status(gmm_vm_create(gmm, &options, &vm), GMM_ERR_INVALID_PARAMETER);
	ck_assert_ptr_eq(vm, untouched);
	ck_assert_uint_eq(stats_of(gmm).vms, 0);

	options.struct_size = sizeof(options);
	name[GMM_NAME_MAX] = 0;
	options.name = options.domain = name;
	assert_ok(gmm_vm_create(gmm, &options, &vm));
	memset(name, 'y', 5); /* it was copied */
	ck_assert_uint_eq(stats_of(gmm).vms, 1);
	assert_status(gmm_vm_destroy(vm, (enum gmm_ram_end)77), GMM_ERR_INVALID_PARAMETER);
	assert_ok(gmm_vm_destroy(vm, GMM_RAM_KEEP));
	assert_ok(gmm_instance_close(gmm));
}
END_TEST

START_TEST(null_objects_are_refused)
{
	void *ram;
	char page[1];
	struct gmm_stats stats;
	struct gmm_vm_stats vm_stats;
	struct place place = place_open();

	assert_status(gmm_instance_close(NULL), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_destroy(NULL, GMM_RAM_KEEP), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_create_ram(NULL, GPA, SIZE, &ram), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_create_ram(place.vm, GPA, SIZE, NULL), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_adopt_ram(NULL, GPA, page, SIZE), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_adopt_ram(place.vm, GPA, NULL, SIZE), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_remove_ram(NULL, GPA, GMM_RAM_KEEP), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_set_unshareable(NULL, GPA, SIZE, true), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_pin(NULL, GPA, SIZE), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_unpin(NULL, GPA, SIZE), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_discard(NULL, GPA, SIZE), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_unshare(NULL, GPA, SIZE), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_engine_start(NULL), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_engine_pause(NULL), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_engine_stop(NULL), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_engine_wait_settled(NULL, 1), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_instance_stats(NULL, &stats), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_instance_stats(place.gmm, NULL), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_stats(NULL, &vm_stats), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_stats(place.vm, NULL), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_instance_validate(NULL), GMM_ERR_INVALID_PARAMETER);
	place_close(&place);
}
END_TEST

/* ---- ranges ------------------------------------------------------------------------------------------- */

START_TEST(ranges_must_be_aligned_and_not_empty)
{
	struct place place = place_open();
	char *ram = ram_map(PAGES);
	void *untouched = &place, *created = untouched;

	assert_status(gmm_vm_create_ram(place.vm, GPA + 8, SIZE, &created), GMM_ERR_MISALIGNED);
	assert_status(gmm_vm_create_ram(place.vm, GPA, SIZE + 1, &created), GMM_ERR_MISALIGNED);
	assert_status(gmm_vm_create_ram(place.vm, GPA, 0, &created), GMM_ERR_INVALID_PARAMETER);
	ck_assert_ptr_eq(created, untouched);
	assert_status(gmm_vm_adopt_ram(place.vm, GPA + 8, ram, SIZE), GMM_ERR_MISALIGNED);
	assert_status(gmm_vm_adopt_ram(place.vm, GPA, ram + 8, SIZE - PAGE), GMM_ERR_MISALIGNED);
	assert_status(gmm_vm_adopt_ram(place.vm, GPA, ram, SIZE - 1), GMM_ERR_MISALIGNED);
	assert_status(gmm_vm_adopt_ram(place.vm, GPA, ram, 0), GMM_ERR_INVALID_PARAMETER);
	assert_ok(gmm_vm_adopt_ram(place.vm, GPA, ram, SIZE));
	assert_status(gmm_vm_discard(place.vm, GPA + 1, PAGE), GMM_ERR_MISALIGNED);
	assert_status(gmm_vm_discard(place.vm, GPA, 0), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_unshare(place.vm, GPA, PAGE + 1), GMM_ERR_MISALIGNED);
	assert_status(gmm_vm_unshare(place.vm, GPA, 0), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_pin(place.vm, GPA + 1, PAGE), GMM_ERR_MISALIGNED);
	assert_status(gmm_vm_pin(place.vm, GPA, 0), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_set_unshareable(place.vm, GPA + 1, PAGE, true), GMM_ERR_MISALIGNED);
	assert_status(gmm_vm_set_unshareable(place.vm, GPA, 0, true), GMM_ERR_INVALID_PARAMETER);
	place_close(&place);
	ram_unmap(ram, PAGES);
}
END_TEST

START_TEST(ranges_must_lie_in_slots)
{
	struct place place = place_open();
	uint64_t bad[][2] = {
		{ 0, SIZE }, { GPA - PAGE, SIZE }, { GPA + PAGE, SIZE }, { GPA, SIZE + PAGE },
		{ GPA, 4 * SIZE }, { (uint64_t)1 << 50, PAGE }, { GPA, (uint64_t)1 << 50 },
	};

	vm_create_ram(place.vm, GPA, PAGES);
	vm_create_ram(place.vm, GPA + 2 * SIZE, PAGES); /* a hole in between */
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		uint64_t addr = bad[i][0], size = bad[i][1];

		assert_status(gmm_vm_discard(place.vm, addr, size), GMM_ERR_NOT_FOUND);
		assert_status(gmm_vm_unshare(place.vm, addr, size), GMM_ERR_NOT_FOUND);
		assert_status(gmm_vm_pin(place.vm, addr, size), GMM_ERR_NOT_FOUND);
		assert_status(gmm_vm_unpin(place.vm, addr, size), GMM_ERR_NOT_FOUND);
		assert_status(gmm_vm_set_unshareable(place.vm, addr, size, true), GMM_ERR_NOT_FOUND);
	}
	assert_status(gmm_vm_remove_ram(place.vm, 0, GMM_RAM_KEEP), GMM_ERR_NOT_FOUND);
	assert_status(gmm_vm_remove_ram(place.vm, GPA + PAGE, GMM_RAM_KEEP), GMM_ERR_NOT_FOUND);
	vm_create_ram(place.vm, GPA + SIZE, PAGES); /* now all three touch */
	assert_ok(gmm_vm_discard(place.vm, GPA, 3 * SIZE));
	assert_ok(gmm_vm_unshare(place.vm, GPA + PAGE, 2 * SIZE));
	place_close(&place);
}
END_TEST

START_TEST(slots_must_not_overlap)
{
	struct place place = place_open();
	struct gmm_vm *other = vm_create(place.gmm, "other");
	char *ram = ram_map(2 * PAGES);
	void *created = NULL;

	assert_ok(gmm_vm_adopt_ram(place.vm, GPA, ram, SIZE));
	/* in guest addresses */
	assert_status(gmm_vm_adopt_ram(place.vm, GPA, ram + SIZE, SIZE), GMM_ERR_OVERLAP);
	assert_status(gmm_vm_adopt_ram(place.vm, GPA + SIZE - PAGE, ram + SIZE, SIZE), GMM_ERR_OVERLAP);
	assert_status(gmm_vm_adopt_ram(place.vm, GPA - SIZE + PAGE, ram + SIZE, SIZE), GMM_ERR_OVERLAP);
	assert_status(gmm_vm_create_ram(place.vm, 0, 64 * GPA, &created), GMM_ERR_OVERLAP);
	/* in host addresses, of this VM and of another */
	assert_status(gmm_vm_adopt_ram(place.vm, 2 * GPA, ram, SIZE), GMM_ERR_OVERLAP);
	assert_status(gmm_vm_adopt_ram(place.vm, 2 * GPA, ram + SIZE - PAGE, 2 * PAGE), GMM_ERR_OVERLAP);
	assert_status(gmm_vm_adopt_ram(other, 2 * GPA, ram + PAGE, PAGE), GMM_ERR_OVERLAP);
	assert_ok(gmm_vm_create_ram(other, GPA, SIZE, &created)); /* guest addresses are each VM's own */
	assert_status(gmm_vm_adopt_ram(place.vm, 2 * GPA, created, SIZE), GMM_ERR_OVERLAP);

	assert_ok(gmm_vm_adopt_ram(place.vm, GPA + SIZE, ram + SIZE, SIZE)); /* touching is fine */
	assert_ok(gmm_vm_destroy(other, GMM_RAM_DISCARD));
	place_close(&place);
	ram_unmap(ram, 2 * PAGES);
}
END_TEST

START_TEST(absurd_sizes_are_refused)
{
	struct place place = place_open();
	char *ram = ram_map(PAGES);
	void *untouched = &place, *created = untouched;
	uint64_t top = UINT64_MAX - PAGE + 1; /* the last page of 64 bits */
	int rc;

	rc = gmm_vm_create_ram(place.vm, 0, (uint64_t)1 << 60, &created);
	ck_assert_msg(rc == GMM_ERR_LIMIT || rc == GMM_ERR_NO_MEMORY, "%s", gmm_status_name(rc));
	rc = gmm_vm_create_ram(place.vm, top, 2 * PAGE, &created);
	ck_assert_msg(rc == GMM_ERR_LIMIT || rc == GMM_ERR_INVALID_PARAMETER, "%s", gmm_status_name(rc));
	ck_assert_ptr_eq(created, untouched);
	rc = gmm_vm_discard(place.vm, top, 2 * PAGE); /* the end wraps around */
	ck_assert_msg(rc == GMM_ERR_NOT_FOUND || rc == GMM_ERR_INVALID_PARAMETER, "%s", gmm_status_name(rc));
	rc = gmm_vm_adopt_ram(place.vm, top, ram, SIZE);
	ck_assert_msg(rc == GMM_ERR_LIMIT || rc == GMM_ERR_INVALID_PARAMETER, "%s", gmm_status_name(rc));
	ck_assert_int_ne(gmm_vm_adopt_ram(place.vm, 0, ram, top), GMM_OK);
	ck_assert_uint_eq(vm_stats_of(place.vm).pages, 0);
	assert_ok(gmm_vm_adopt_ram(place.vm, GPA, ram, SIZE));
	place_close(&place);
	ram_unmap(ram, PAGES);
}
END_TEST

/* ---- memory that cannot be adopted -------------------------------------------------------------------- */

/* Three pieces of RAM: ordinary, whatever the test makes of the middle one, ordinary. */
struct sandwich {
	struct place place;
	char *ram, *middle;
};

static struct sandwich sandwich_open(void)
{
	struct sandwich s = { .place = place_open(), .ram = ram_map(3 * PAGES) };

	s.middle = s.ram + SIZE;
	ram_fill(s.ram, 3 * PAGES, 1);
	return s;
}

/* The middle is refused alone and with its neighbours, and the neighbours are good without it. */
static void assert_refused(struct sandwich *s, int status)
{
	struct gmm_vm *vm = s->place.vm;

	assert_status(gmm_vm_adopt_ram(vm, GPA, s->middle, SIZE), status);
	assert_status(gmm_vm_adopt_ram(vm, GPA, s->ram, 3 * SIZE), status);
	assert_status(gmm_vm_adopt_ram(vm, GPA, s->ram + SIZE - PAGE, 2 * PAGE), status);
	assert_status(gmm_vm_adopt_ram(vm, GPA, s->middle + SIZE - PAGE, 2 * PAGE), status);
	ck_assert_uint_eq(vm_stats_of(vm).pages, 0);
	assert_ok(gmm_vm_adopt_ram(vm, GPA, s->ram, SIZE));
	assert_ok(gmm_vm_adopt_ram(vm, 2 * GPA, s->middle + SIZE, SIZE));
	ck_assert_uint_eq(ram_wrong(s->ram, PAGES, 1), 0);
	assert_ok(gmm_vm_remove_ram(vm, GPA, GMM_RAM_KEEP));
	assert_ok(gmm_vm_remove_ram(vm, 2 * GPA, GMM_RAM_KEEP));
}

static void sandwich_close(struct sandwich *s)
{
	assert_ok(gmm_vm_adopt_ram(s->place.vm, GPA, s->ram, 3 * SIZE)); /* nothing is wrong with it now */
	assert_ok(gmm_vm_remove_ram(s->place.vm, GPA, GMM_RAM_KEEP));
	ck_assert_uint_eq(ram_wrong(s->ram, PAGES, 1), 0);
	ck_assert_uint_eq(ram_wrong(s->middle + SIZE, PAGES, 1 + 2 * PAGES), 0);
	place_close(&s->place);
	ram_unmap(s->ram, 3 * PAGES);
}

static void middle_map(struct sandwich *s, int prot, int flags, int fd)
{
	void *addr = mmap(s->middle, SIZE, prot, flags | MAP_FIXED, fd, 0);

	ck_assert_ptr_eq(addr, s->middle);
}

static void middle_cure(struct sandwich *s)
{
	middle_map(s, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	madvise(s->middle, SIZE, MADV_NOHUGEPAGE);
}

static int file_open(void)
{
	int fd = memfd_create("ram", MFD_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, SIZE), 0);
	return fd;
}

START_TEST(shared_mappings_are_refused)
{
	struct sandwich s = sandwich_open();
	int fd = file_open();

	middle_map(&s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	assert_refused(&s, GMM_ERR_RAM_SHARED);
	middle_map(&s, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	assert_refused(&s, GMM_ERR_RAM_SHARED);
	middle_cure(&s);
	close(fd);
	sandwich_close(&s);
}
END_TEST

START_TEST(private_file_mappings_are_refused)
{
	struct sandwich s = sandwich_open();
	int memfd = file_open(), exe = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	middle_map(&s, PROT_READ | PROT_WRITE, MAP_PRIVATE, memfd);
	assert_refused(&s, GMM_ERR_RAM_FILE);
	ck_assert_int_ge(exe, 0);
	middle_map(&s, PROT_READ | PROT_WRITE, MAP_PRIVATE, exe);
	assert_refused(&s, GMM_ERR_RAM_FILE);
	middle_cure(&s);
	close(memfd);
	close(exe);
	sandwich_close(&s);
}
END_TEST

START_TEST(unwritable_memory_is_refused)
{
	struct sandwich s = sandwich_open();

	ck_assert_int_eq(mprotect(s.middle, SIZE, PROT_READ), 0);
	assert_refused(&s, GMM_ERR_RAM_NOT_WRITABLE);
	ck_assert_int_eq(mprotect(s.middle, SIZE, PROT_NONE), 0);
	assert_refused(&s, GMM_ERR_RAM_NOT_WRITABLE);
	ck_assert_int_eq(mprotect(s.middle, SIZE, PROT_READ | PROT_WRITE), 0);
	sandwich_close(&s);
}
END_TEST

START_TEST(unmapped_memory_is_refused)
{
	struct sandwich s = sandwich_open();
	int rc;

	ck_assert_int_eq(munmap(s.middle, SIZE), 0);
	assert_refused(&s, GMM_ERR_RAM_NOT_MAPPED);
	middle_cure(&s);
	rc = gmm_vm_adopt_ram(s.place.vm, GPA, (void *)0xffffffff81000000, PAGE); /* the kernel's */
	ck_assert_msg(rc == GMM_ERR_RAM_NOT_MAPPED || rc == GMM_ERR_INVALID_PARAMETER, "%s",
		      gmm_status_name(rc));
	sandwich_close(&s);
}
END_TEST

START_TEST(locked_memory_is_refused)
{
	struct sandwich s = sandwich_open();

	if (syscall(SYS_mlock, s.middle, (size_t)SIZE)) { /* sanitizers make mlock do nothing */
		sandwich_close(&s);
		skip_test("mlock is not allowed");
	}
	assert_refused(&s, GMM_ERR_RAM_LOCKED);
	ck_assert_int_eq(syscall(SYS_munlock, s.middle, (size_t)SIZE), 0);
	sandwich_close(&s);
}
END_TEST

START_TEST(mergeable_memory_is_refused)
{
	struct sandwich s = sandwich_open();

	if (madvise(s.middle, SIZE, MADV_MERGEABLE)) {
		sandwich_close(&s);
		skip_test("the kernel has no KSM");
	}
	assert_refused(&s, GMM_ERR_RAM_MERGEABLE);
	ck_assert_int_eq(madvise(s.middle, SIZE, MADV_UNMERGEABLE), 0);
	sandwich_close(&s);
}
END_TEST

static int userfaultfd_open(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int fd = device >= 0 ? ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK) :
			       (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (device >= 0)
		close(device);
	ck_assert_int_ge(fd, 0); /* the library could open one */
	ck_assert_int_eq(ioctl(fd, UFFDIO_API, &api), 0);
	return fd;
}

START_TEST(watched_memory_is_refused)
{
	static const uint64_t modes[] = { UFFDIO_REGISTER_MODE_MISSING, UFFDIO_REGISTER_MODE_WP };

	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		struct sandwich s = sandwich_open();
		int fd = userfaultfd_open();
		struct uffdio_register arg = {
			.range = { (uintptr_t)s.middle, SIZE },
			.mode = modes[i],
		};

		ck_assert_int_eq(ioctl(fd, UFFDIO_REGISTER, &arg), 0);
		assert_refused(&s, GMM_ERR_RAM_WATCHED);
		ck_assert_uint_gt(proc_mappings_with_flag(s.middle, SIZE, i ? "uw" : "um"), 0);
		close(fd);
		sandwich_close(&s);
	}
}
END_TEST

START_TEST(the_stack_is_refused)
{
	struct place place = place_open();
	char buffer[4 * PAGE];
	char *page = (char *)(((uintptr_t)buffer + PAGE - 1) / PAGE * PAGE);

	page_fill(page, 1); /* so that it is mapped */
	assert_status(gmm_vm_adopt_ram(place.vm, GPA, page, 2 * PAGE), GMM_ERR_RAM_SPECIAL);
	ck_assert(page_is(page, 1));
	place_close(&place);
}
END_TEST

static const char nr_hugepages[] = "/proc/sys/vm/nr_hugepages";

START_TEST(hugetlb_memory_is_refused)
{
	struct place place = place_open();
	long before = 0;
	void *ram;

	if (!proc_read_number(nr_hugepages, &before)) {
		place_close(&place);
		skip_test("no hugetlbfs");
	}
	proc_write_number(nr_hugepages, before + 2); /* may be refused: mmap tells */
	ram = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (ram == MAP_FAILED) {
		proc_write_number(nr_hugepages, before);
		place_close(&place);
		skip_test("no huge page can be reserved");
	}
	assert_status(gmm_vm_adopt_ram(place.vm, GPA, ram, HUGE), GMM_ERR_RAM_HUGETLB);
	munmap(ram, HUGE);
	proc_write_number(nr_hugepages, before);
	place_close(&place);
}
END_TEST

int main(void)
{
	const TTest *tests[] = {
		every_status_has_its_name_and_text,
		every_page_state_has_its_name,
		options_are_checked,
		vm_options_are_checked,
		null_objects_are_refused,
		ranges_must_be_aligned_and_not_empty,
		ranges_must_lie_in_slots,
		slots_must_not_overlap,
		absurd_sizes_are_refused,
		shared_mappings_are_refused,
		private_file_mappings_are_refused,
		unwritable_memory_is_refused,
		unmapped_memory_is_refused,
		locked_memory_is_refused,
		mergeable_memory_is_refused,
		watched_memory_is_refused,
		the_stack_is_refused,
		hugetlb_memory_is_refused,
	};

	return suite_main("bad_input", tests, sizeof(tests) / sizeof(tests[0]));
}
