/* vhost-scsi writes to memory that it has not pinned: from the moment it is set up nothing is shared any more. */
#include <linux/vhost.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/preload/support/ram.h"

int main(void)
{
	struct vhost_scsi_target target = { 0 };
	uint8_t *ram = ram_shared();

	ram[3 * PAGE] ^= 1;
	CHECK(ioctl(STDIN_FILENO, VHOST_SCSI_SET_ENDPOINT, &target) == -1);
	CHECK(ram_pool_pages(ram, RAM_BYTES) == 0);
	ram[3 * PAGE] ^= 1;
	CHECK(ram_is_right(ram, 0, RAM_PAGES));

	uint8_t *later = ram_map(RAM_BYTES);
	ram_fill(later, 0, RAM_PAGES);
	CHECK(madvise(later, RAM_BYTES, MADV_MERGEABLE) == 0);
	usleep(500000);
	CHECK(ram_pool_pages(ram, RAM_BYTES) == 0 && ram_pool_pages(later, RAM_BYTES) == 0);
	CHECK(munmap(ram, RAM_BYTES) == 0 && munmap(later, RAM_BYTES) == 0);
	return 0;
}
