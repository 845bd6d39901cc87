/* Pages that a device may write to. A page is pinned for real by registering it as a buffer of an io_uring;
 * then the kernel writes to the page it knows, wherever the guest's page is by then. If the library had
 * replaced it, the guest would not see those bytes.
 */
#include "tests/support/guest.h"
#include "tests/support/proc.h"
#include "tests/support/suite.h"

#include <liburing.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { VMS = 3, PAGES = 64, DEVICE = 20 /* the page the device writes to */ };

#define SEED 300u
#define DEVICE_SEED 70000u

struct host {
	struct gmm *gmm;
	struct gmm_vm *vm[VMS];
	char *ram[VMS];
};

/* VM 0 has adopted RAM: the device works there. All hold the same. */
static struct host host_open(void)
{
	struct host host = { .gmm = instance_open() };

	for (int i = 0; i < VMS; i++) {
		host.vm[i] = vm_create(host.gmm, NULL);
		host.ram[i] = i ? vm_create_ram(host.vm[i], 0, PAGES) : vm_adopt_ram(host.vm[i], 0, PAGES);
		ram_fill(host.ram[i], PAGES, SEED);
	}
	return host;
}

static void host_close(struct host *host)
{
	assert_ok(gmm_instance_validate(host->gmm));
	for (int i = 0; i < VMS; i++)
		assert_ok(gmm_vm_destroy(host->vm[i], GMM_RAM_DISCARD));
	assert_ok(gmm_instance_close(host->gmm));
	ram_unmap(host->ram[0], PAGES);
}

/* A device that knows some pages by their frames, not by their addresses. */
struct device {
	struct io_uring ring;
	struct iovec buffer;
	int source;
};

/* False where io_uring is not to be had. */
static bool device_attach(struct device *device, char *page, size_t pages)
{
	char bytes[PAGE];

	if (io_uring_queue_init(4, &device->ring, 0))
		return false;
	device->buffer = (struct iovec){ page, pages * PAGE };
	if (io_uring_register_buffers(&device->ring, &device->buffer, 1)) {
		io_uring_queue_exit(&device->ring);
		return false;
	}
	device->source = memfd_create("device", MFD_CLOEXEC);
	page_fill(bytes, DEVICE_SEED);
	ck_assert_int_eq(write(device->source, bytes, PAGE), PAGE);
	return true;
}

/* The device writes a page. */
static void device_write(struct device *device, size_t page)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&device->ring);
	struct io_uring_cqe *cqe;
	char *to = (char *)device->buffer.iov_base + page * PAGE;

	io_uring_prep_read_fixed(sqe, device->source, to, PAGE, 0, 0);
	ck_assert_int_eq(io_uring_submit_and_wait(&device->ring, 1), 1);
	ck_assert_int_eq(io_uring_wait_cqe(&device->ring, &cqe), 0);
	ck_assert_int_eq(cqe->res, PAGE);
	io_uring_cqe_seen(&device->ring, cqe);
}

/* Returns when the pins are gone: an exiting ring releases its buffers later. */
static void device_detach(struct device *device)
{
	ck_assert_int_eq(io_uring_unregister_buffers(&device->ring), 0);
	io_uring_queue_exit(&device->ring);
	close(device->source);
}

#define NEED_DEVICE(device, page, pages)                                  \
	do {                                                              \
		if (!device_attach(device, page, pages)) {                \
			host_close(&host);                                \
			skip_test("io_uring is not allowed here");        \
		}                                                         \
	} while (0)

START_TEST(a_pinned_page_is_never_replaced)
{
	struct host host = host_open();
	char *page = host.ram[0] + DEVICE * PAGE;
	struct device device;

	NEED_DEVICE(&device, page, 2);
	engine_settle(host.gmm);
	engine_passes(host.gmm, 10);
	assert_eventually(vm_state(host.vm[0], GMM_PAGE_PINNED) == 2); /* now and then it is tried again */
	ck_assert_uint_eq(vm_state(host.vm[0], GMM_PAGE_SHARED), PAGES - 2);
	ck_assert_uint_gt(vm_stats_of(host.vm[0]).refused_pinned, 0);
	ck_assert_uint_eq(vm_stats_of(host.vm[1]).refused_pinned, 0);
	for (int i = 1; i < VMS; i++) /* the twins share with each other */
		ck_assert_uint_eq(vm_state(host.vm[i], GMM_PAGE_SHARED), PAGES);

	device_write(&device, 1);
	ck_assert_msg(page_is(page + PAGE, DEVICE_SEED), "the guest does not see what the device wrote");
	ck_assert_uint_eq(ram_wrong(host.ram[0], DEVICE + 1, SEED), 0);
	for (int i = 1; i < VMS; i++)
		ck_assert_uint_eq(ram_wrong(host.ram[i], PAGES, SEED), 0);
	engine_passes(host.gmm, 5);
	device_write(&device, 0);
	ck_assert_msg(page_is(page, DEVICE_SEED), "the guest does not see what the device wrote");

	device_detach(&device);
	host_close(&host);
}
END_TEST

/* The pin of a shared page breaks it: the device has the guest's own copy, which must stay the guest's. */
START_TEST(a_page_pinned_after_sharing_is_never_replaced)
{
	struct host host = host_open();
	char *page = host.ram[0] + DEVICE * PAGE;
	struct device device;

	engine_settle(host.gmm);
	ck_assert_uint_eq(vm_state(host.vm[0], GMM_PAGE_SHARED), PAGES);
	NEED_DEVICE(&device, page, 1);
	assert_eventually(vm_state(host.vm[0], GMM_PAGE_BROKEN) == 1);
	engine_passes(host.gmm, 10);
	ck_assert_uint_eq(vm_state(host.vm[0], GMM_PAGE_SHARED), PAGES - 1);
	ck_assert(page_is(page, SEED + DEVICE)); /* equal to the pool page, and yet not to be replaced */

	assert_status(gmm_vm_unshare(host.vm[0], 0, PAGES * PAGE), GMM_ERR_PINNED);
	assert_status(gmm_vm_destroy(host.vm[0], GMM_RAM_KEEP), GMM_ERR_PINNED);
	assert_status(gmm_vm_remove_ram(host.vm[0], 0, GMM_RAM_KEEP), GMM_ERR_PINNED);
	ck_assert_uint_eq(ram_wrong(host.ram[0], PAGES, SEED), 0);
	device_write(&device, 0);
	ck_assert_msg(page_is(page, DEVICE_SEED), "the guest does not see what the device wrote");
	ck_assert(page_is(host.ram[1] + DEVICE * PAGE, SEED + DEVICE));
	assert_ok(gmm_vm_unshare(host.vm[1], 0, PAGES * PAGE)); /* nothing of VM 1 was written */

	device_detach(&device);
	/* The kernel lets go of a ring's buffers some time after the ring was closed. */
	assert_eventually(gmm_vm_unshare(host.vm[0], 0, PAGES * PAGE) == GMM_OK);
	ck_assert(page_is(page, DEVICE_SEED));
	ck_assert_uint_eq(ram_wrong(host.ram[0], DEVICE, SEED), 0);
	host_close(&host);
}
END_TEST

START_TEST(a_promised_pin_makes_private_and_stays)
{
	struct host host = host_open();
	char *page = host.ram[0] + DEVICE * PAGE;
	struct device device;

	engine_settle(host.gmm);
	assert_ok(gmm_vm_pin(host.vm[0], DEVICE * PAGE, 4 * PAGE));
	ck_assert_uint_eq(proc_file_mappings(page, 4 * PAGE), 0);
	ck_assert_uint_eq(ram_wrong(host.ram[0], PAGES, SEED), 0);
	NEED_DEVICE(&device, page, 4);
	engine_passes(host.gmm, 10);
	ck_assert_uint_eq(vm_state(host.vm[0], GMM_PAGE_PINNED), 4);
	ck_assert_uint_eq(vm_state(host.vm[0], GMM_PAGE_SHARED), PAGES - 4);
	device_write(&device, 3);
	ck_assert(page_is(page + 3 * PAGE, DEVICE_SEED));
	ck_assert_uint_eq(ram_wrong(page, 3, SEED + DEVICE), 0);
	device_detach(&device);

	page_fill(page + 3 * PAGE, SEED + DEVICE + 3);
	engine_passes(host.gmm, 5);
	ck_assert_uint_eq(vm_state(host.vm[0], GMM_PAGE_PINNED), 4); /* the promise holds without a device */
	assert_ok(gmm_vm_unpin(host.vm[0], DEVICE * PAGE, 4 * PAGE));
	assert_eventually(vm_state(host.vm[0], GMM_PAGE_SHARED) == PAGES);
	ck_assert_uint_eq(ram_wrong(host.ram[0], PAGES, SEED), 0);
	host_close(&host);
}
END_TEST

START_TEST(pins_nest_and_unpin_takes_exact_ranges)
{
	struct host host = host_open();
	struct gmm_vm *vm = host.vm[0];

	engine_settle(host.gmm);
	assert_ok(gmm_vm_pin(vm, 0, 4 * PAGE));
	assert_ok(gmm_vm_pin(vm, 0, 4 * PAGE));
	assert_ok(gmm_vm_pin(vm, 2 * PAGE, 4 * PAGE));
	assert_status(gmm_vm_unpin(vm, 0, 2 * PAGE), GMM_ERR_NOT_FOUND);
	assert_status(gmm_vm_unpin(vm, 0, 6 * PAGE), GMM_ERR_NOT_FOUND);
	assert_status(gmm_vm_unpin(vm, 8 * PAGE, PAGE), GMM_ERR_NOT_FOUND);
	engine_passes(host.gmm, 5);
	ck_assert_uint_eq(vm_state(vm, GMM_PAGE_PINNED), 6);

	assert_ok(gmm_vm_unpin(vm, 0, 4 * PAGE));
	engine_passes(host.gmm, 5);
	ck_assert_uint_eq(vm_state(vm, GMM_PAGE_PINNED), 6); /* the second pin holds */
	assert_ok(gmm_vm_unpin(vm, 0, 4 * PAGE));
	assert_status(gmm_vm_unpin(vm, 0, 4 * PAGE), GMM_ERR_NOT_FOUND);
	assert_eventually(vm_state(vm, GMM_PAGE_PINNED) == 4);
	assert_eventually(vm_state(vm, GMM_PAGE_SHARED) == PAGES - 4);
	assert_ok(gmm_vm_unpin(vm, 2 * PAGE, 4 * PAGE));
	assert_eventually(vm_state(vm, GMM_PAGE_SHARED) == PAGES);
	ck_assert_uint_eq(ram_wrong(host.ram[0], PAGES, SEED), 0);
	host_close(&host);
}
END_TEST

START_TEST(pinned_ranges_are_not_discarded)
{
	struct host host = host_open();
	struct gmm_vm *vm = host.vm[1];

	engine_settle(host.gmm);
	assert_ok(gmm_vm_pin(vm, 10 * PAGE, 2 * PAGE));
	assert_status(gmm_vm_discard(vm, 0, 20 * PAGE), GMM_ERR_PINNED);
	assert_status(gmm_vm_discard(vm, 11 * PAGE, PAGE), GMM_ERR_PINNED);
	ck_assert_uint_eq(ram_wrong(host.ram[1], PAGES, SEED), 0);
	assert_ok(gmm_vm_discard(vm, 12 * PAGE, PAGE));
	ck_assert(page_repeats(host.ram[1] + 12 * PAGE, 0));
	assert_ok(gmm_vm_unpin(vm, 10 * PAGE, 2 * PAGE));
	assert_ok(gmm_vm_discard(vm, 0, 20 * PAGE));
	ck_assert_uint_eq(ram_not_zero(host.ram[1], 20), 0);
	host_close(&host);
}
END_TEST

int main(void)
{
	const TTest *tests[] = {
		a_pinned_page_is_never_replaced,
		a_page_pinned_after_sharing_is_never_replaced,
		a_promised_pin_makes_private_and_stays,
		pins_nest_and_unpin_takes_exact_ranges,
		pinned_ranges_are_not_discarded,
	};

	return suite_main("pinned", tests, sizeof(tests) / sizeof(tests[0]));
}
