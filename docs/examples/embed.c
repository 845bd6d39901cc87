/* The smallest program that shares memory between two virtual machines.
 *
 * Build:  cc embed.c $(pkg-config --cflags --libs gmm-dedup)
 * Run as root, or with the right to use userfaultfd.
 */
#include <gmm/gmm.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
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
static void load_guest(uint64_t *ram)
{
	for (size_t i = 0; i < RAM_BYTES / sizeof(*ram); i++)
		ram[i] = i;
}

int main(void)
{
	struct gmm_options options;
	struct gmm_stats stats;
	struct gmm_vm_stats vm_stats;
	struct gmm_vm *vm[2];
	struct gmm *gmm;
	uint64_t *created, *own;
	void *addr;

	/* One instance serves all VMs of the process. The defaults suit a host; an example need not wait
	 * two seconds to be sure that a page is not written all the time. */
	gmm_options_init(&options);
	options.window_ms = 0;
	options.cpu_percent = 0;
	options.pass_interval_ms = 10;
	check(gmm_instance_open(&options, &gmm), "open");

	/* RAM of the first VM: made by the library. RAM of the second: what the program has already. */
	check(gmm_vm_create(gmm, NULL, &vm[0]), "create VM 0");
	check(gmm_vm_create_ram(vm[0], 0, RAM_BYTES, &addr), "create RAM");
	created = addr;
	own = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (own == MAP_FAILED)
		return 1;
	madvise(own, RAM_BYTES, MADV_NOHUGEPAGE); /* the library leaves transparent huge pages alone */
	check(gmm_vm_create(gmm, NULL, &vm[1]), "create VM 1");
	check(gmm_vm_adopt_ram(vm[1], 0, own, RAM_BYTES), "adopt RAM");
	load_guest(created);
	load_guest(own);

	/* From here on the engine looks for equal pages, as long as it runs. The guests may run too. */
	check(gmm_engine_start(gmm), "start");
	check(gmm_engine_wait_settled(gmm, 90000), "wait");
	check(gmm_instance_stats(gmm, &stats), "statistics");
	printf("%" PRIu64 " pages of RAM use %" PRIu64 " pages of memory: %" PRIu64 " saved\n",
	       stats.total.pages, stats.allocated_pages, stats.saved_pages);

	/* A guest writes to a shared page: the kernel gives it a copy; the other guest notices nothing. */
	created[0] = 4711;
	printf("after a write VM 0 reads %" PRIu64 ", VM 1 reads %" PRIu64 "\n", created[0], own[0]);
	check(gmm_vm_stats(vm[0], &vm_stats), "statistics of VM 0");
	printf("%" PRIu64 " pages of VM 0 are shared\n", vm_stats.references);

	/* VM 1 ends, and its RAM stays with the program, bytes and all. VM 0's RAM goes with it. */
	check(gmm_vm_destroy(vm[1], GMM_RAM_KEEP), "destroy VM 1");
	check(gmm_vm_destroy(vm[0], GMM_RAM_DISCARD), "destroy VM 0");
	check(gmm_instance_close(gmm), "close");
	printf("the kept RAM still holds %" PRIu64 " at its end\n", own[RAM_BYTES / sizeof(*own) - 1]);
	munmap(own, RAM_BYTES);
	return stats.saved_pages == 0; /* an example that saves nothing would be a poor one */
}
