/* The smallest program that shares memory between two virtual machines.
 *
 * Build:  cc embed.c $(pkg-config --cflags --libs gmm-dedup)
 * Run as root, or with the right to use userfaultfd.
 */
#include <gmm/gmm.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define RAM_PAGES 1024u
#define RAM_BYTES ((size_t)RAM_PAGES * GMM_PAGE_SIZE)

/* Every function of the library returns GMM_OK or a status with a name and a sentence. */
static void check(int status, const char *what)
{
	if (status == GMM_OK)
		return;
	fprintf(stderr, "%s: %s\n", what, gmm_status_text(status));
	exit(status == GMM_ERR_UNSUPPORTED_KERNEL || status == GMM_ERR_NO_PERMISSION ? 77 : 1);
}

/* Stands for a guest that loads its kernel and programs: the same in both VMs, each page different. */
static void load_guest(unsigned char *ram)
{
	for (size_t page = 0; page < RAM_PAGES; page++)
		for (size_t i = 0; i < GMM_PAGE_SIZE; i++)
			ram[page * GMM_PAGE_SIZE + i] = (unsigned char)(page * 31 + i * (page % 7 + 1) + page / 256);
}

int main(void)
{
	struct gmm_options options;
	struct gmm_stats stats;
	struct gmm_vm_stats vm_stats;
	struct gmm_vm *vm[2];
	struct gmm *gmm;
	void *created, *own;

	/* One instance serves all VMs of the process. The defaults suit a host; an example need not wait
	 * two seconds to be sure that a page is not written all the time. */
	gmm_options_init(&options);
	options.window_ms = 0;
	options.pass_interval_ms = 10;
	check(gmm_instance_open(&options, &gmm), "open");

	/* RAM of the first VM: made by the library. RAM of the second: what the program has already. */
	check(gmm_vm_create(gmm, NULL, &vm[0]), "create VM 0");
	check(gmm_vm_create_ram(vm[0], 0, RAM_BYTES, &created), "create RAM");
	own = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (own == MAP_FAILED)
		return 1;
	check(gmm_vm_create(gmm, NULL, &vm[1]), "create VM 1");
	check(gmm_vm_adopt_ram(vm[1], 0, own, RAM_BYTES), "adopt RAM");
	load_guest(created);
	load_guest(own);

	/* From here on the engine looks for equal pages, as long as it runs. The guests may run too. */
	check(gmm_engine_start(gmm), "start");
	check(gmm_engine_wait_settled(gmm, 30000), "wait");
	check(gmm_instance_stats(gmm, &stats), "statistics");
	printf("%llu pages of RAM use %llu pages of memory: %llu saved\n", (unsigned long long)stats.total.pages,
	       (unsigned long long)stats.allocated_pages, (unsigned long long)stats.saved_pages);

	/* A guest writes to a shared page: the kernel gives it a copy, and the other guest notices nothing. */
	((unsigned char *)created)[0] ^= 0xff;
	printf("after a write the guests' first bytes are %02x and %02x\n", ((unsigned char *)created)[0],
	       ((unsigned char *)own)[0]);
	check(gmm_vm_stats(vm[0], &vm_stats), "statistics");
	printf("VM 0 still shares about %llu pages\n", (unsigned long long)vm_stats.references);

	/* VM 1 ends, and its RAM stays with the program, bytes and all. VM 0's RAM goes with it. */
	check(gmm_vm_destroy(vm[1], GMM_RAM_KEEP), "destroy VM 1");
	check(gmm_vm_destroy(vm[0], GMM_RAM_DISCARD), "destroy VM 0");
	check(gmm_instance_close(gmm), "close");
	printf("the kept RAM still begins with %02x\n", ((unsigned char *)own)[0]);
	munmap(own, RAM_BYTES);
	return stats.saved_pages == 0; /* an example that saves nothing would be a poor one */
}
