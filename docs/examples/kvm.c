/* Two small guests under /dev/kvm whose RAM is shared while they run.
 *
 * Build:  cc kvm.c $(pkg-config --cflags --libs gmm-dedup)
 * Run as root, or with the right to use /dev/kvm and userfaultfd.
 *
 * The RAM comes from gmm_vm_create_ram and is given to KVM as it is; KVM follows what the library does with it. Each guest
 * goes over all its pages again and again: it adds up the first word of each, which never changes, and increments the second
 * word of every 16th, other ones in each round, which breaks shared pages. After a round it tells its sums by an OUT
 * instruction, and the host checks them: one lost write or one wrong page would show.
 *
 * The guests run in long mode, with page tables of their own, or in 32-bit protected mode without paging where the host's
 * KVM cannot do that.
 */
#include <gmm/gmm.h>

#include <fcntl.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define RAM_PAGES 1536u /* 6 MiB */
#define DATA_PAGE 512u  /* the guest's data begin at 2 MiB */
#define DATA_PAGES (RAM_PAGES - DATA_PAGE)
#define CODE_ADDR 0x1000u
#define TABLES_ADDR 0x10000u
#define ROUNDS 50u
#define STEP 16u
#define GUESTS 2

/* The guest's program. In: the address and number of its data pages in esi and ecx, the round in ebp. Out, at the OUT: sums
 * of first words in ebx, of second words in edi. The same bytes mean the same in both modes, but for address registers, so
 * there is one program for each. */
__asm__(".pushsection .rodata\n"
	".globl guest64\n.globl guest64_end\n.globl guest32\n.globl guest32_end\n"
	".code64\n"
	"guest64:\n"
	"1:	xor %ebx, %ebx\n"
	"	xor %edi, %edi\n"
	"	xor %eax, %eax\n" /* page number */
	"	mov %rsi, %r8\n"
	"2:	add (%r8), %ebx\n"
	"	lea (%eax, %ebp), %edx\n"
	"	and $15, %edx\n"
	"	jnz 3f\n"
	"	incl 8(%r8)\n"
	"3:	add 8(%r8), %edi\n"
	"	add $4096, %r8\n"
	"	inc %eax\n"
	"	cmp %ecx, %eax\n"
	"	jb 2b\n"
	"	mov $0x10, %dx\n"
	"	out %al, %dx\n"
	"	inc %ebp\n"
	"	jmp 1b\n"
	"guest64_end:\n"
	".code32\n"
	"guest32:\n"
	"1:	xor %ebx, %ebx\n"
	"	xor %edi, %edi\n"
	"	xor %eax, %eax\n"
	"	mov %esi, %esp\n" /* no stack is used */
	"2:	add (%esp), %ebx\n"
	"	lea (%eax, %ebp), %edx\n"
	"	and $15, %edx\n"
	"	jnz 3f\n"
	"	incl 8(%esp)\n"
	"3:	add 8(%esp), %edi\n"
	"	add $4096, %esp\n"
	"	inc %eax\n"
	"	cmp %ecx, %eax\n"
	"	jb 2b\n"
	"	mov $0x10, %dx\n"
	"	out %al, %dx\n"
	"	inc %ebp\n"
	"	jmp 1b\n"
	"guest32_end:\n"
	".code64\n"
	".popsection\n");
extern const char guest64[], guest64_end[], guest32[], guest32_end[];

struct guest {
	struct gmm_vm *vm;
	uint8_t *ram;
	int vm_fd, vcpu_fd;
	struct kvm_run *run;
	size_t run_bytes;
	pthread_t thread;
	_Atomic uint32_t rounds;
	const char *failure;
};

static _Atomic bool stopping;

static void check(int status, const char *what)
{
	if (status == GMM_OK)
		return;
	fprintf(stderr, "%s: %s\n", what, gmm_status_text(status));
	exit(status == GMM_ERR_UNSUPPORTED_KERNEL || status == GMM_ERR_NO_PERMISSION ? 77 : 1);
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint32_t word_of(uint32_t page)
{
	return page * 2654435761u + 12345;
}

static void load_guest(struct guest *guest, bool long_mode)
{
	const char *code = long_mode ? guest64 : guest32, *end = long_mode ? guest64_end : guest32_end;
	uint64_t *tables = (uint64_t *)(guest->ram + TABLES_ADDR);

	memcpy(guest->ram + CODE_ADDR, code, (size_t)(end - code));
	tables[0] = (TABLES_ADDR + 0x1000) | 3;      /* level 4: present, writable */
	tables[512] = (TABLES_ADDR + 0x2000) | 3;    /* level 3 */
	for (uint64_t i = 0; i < RAM_PAGES / 512; i++)
		tables[1024 + i] = i << 21 | 0x83;   /* level 2: pages of 2 MiB */
	for (uint32_t i = 0; i < DATA_PAGES; i++) {
		uint32_t *page = (uint32_t *)(guest->ram + (uint64_t)(DATA_PAGE + i) * GMM_PAGE_SIZE);
		for (uint32_t k = 0; k < GMM_PAGE_SIZE / 4; k++)
			page[k] = k == 2 ? 0 : word_of(i) + k;
	}
}

/* ---- the virtual CPU ---------------------------------------------------------------------------------------------- */

static struct kvm_segment flat(bool code, bool long_mode)
{
	return (struct kvm_segment){ .limit = 0xffffffff, .selector = code ? 8 : 16, .type = code ? 11 : 3, .present = 1,
				     .s = 1, .g = 1, .db = !(code && long_mode), .l = code && long_mode };
}

static int set_up_cpu(int vcpu_fd, bool long_mode)
{
	struct kvm_regs regs = { .rip = CODE_ADDR, .rflags = 2, .rsi = DATA_PAGE * GMM_PAGE_SIZE, .rcx = DATA_PAGES };
	struct kvm_sregs sregs;

	if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) != 0)
		return -1;
	sregs.cs = flat(true, long_mode);
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat(false, long_mode);
	sregs.cr0 |= 1; /* protection */
	if (long_mode) {
		sregs.cr3 = TABLES_ADDR;
		sregs.cr4 |= 1 << 5;            /* PAE */
		sregs.cr0 |= 1u << 31;          /* paging */
		sregs.efer |= 1 << 8 | 1 << 10; /* long mode enabled and active */
	}
	return ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) == 0 && ioctl(vcpu_fd, KVM_SET_REGS, &regs) == 0 ? 0 : -1;
}

static void create_machine(struct guest *guest, int kvm_fd)
{
	guest->vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	if (guest->vm_fd < 0)
		die("KVM_CREATE_VM");
	struct kvm_userspace_memory_region region = { .memory_size = (uint64_t)RAM_PAGES * GMM_PAGE_SIZE,
						      .userspace_addr = (uintptr_t)guest->ram };
	if (ioctl(guest->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) != 0)
		die("KVM_SET_USER_MEMORY_REGION");
	guest->vcpu_fd = ioctl(guest->vm_fd, KVM_CREATE_VCPU, 0);
	if (guest->vcpu_fd < 0)
		die("KVM_CREATE_VCPU");
	guest->run_bytes = (size_t)ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	guest->run = mmap(NULL, guest->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, guest->vcpu_fd, 0);
	if (guest->run == MAP_FAILED)
		die("mmap of the virtual CPU");
}

/* Runs the guest until it tells its sums. */
static const char *run_round(struct guest *guest, struct kvm_regs *ret_regs)
{
	if (ioctl(guest->vcpu_fd, KVM_RUN, 0) != 0)
		return "KVM_RUN failed";
	if (guest->run->exit_reason != KVM_EXIT_IO || guest->run->io.port != 0x10)
		return "the guest stopped for another reason than its sums";
	return ioctl(guest->vcpu_fd, KVM_GET_REGS, ret_regs) == 0 ? NULL : "KVM_GET_REGS failed";
}

/* Sums that a guest must have after `round` rounds before this one. */
static bool sums_are_right(const struct kvm_regs *regs, uint32_t round)
{
	static uint32_t first_words;
	uint32_t second_words = 0;

	if (first_words == 0)
		for (uint32_t i = 0; i < DATA_PAGES; i++)
			first_words += word_of(i);
	/* A page is incremented in the rounds r with (page + r) % STEP == 0. */
	for (uint32_t i = 0; i < DATA_PAGES; i++) {
		uint32_t due = (STEP - i % STEP) % STEP;
		if (round >= due)
			second_words += (round - due) / STEP + 1;
	}
	return (uint32_t)regs->rbx == first_words && (uint32_t)regs->rdi == second_words;
}

static void *run_guest(void *arg)
{
	struct guest *guest = arg;
	struct kvm_regs regs;

	while (!stopping && !guest->failure) {
		guest->failure = run_round(guest, &regs);
		if (!guest->failure && !sums_are_right(&regs, guest->rounds))
			guest->failure = "the guest's sums are wrong";
		guest->rounds++;
		usleep(5000); /* an idle moment: the scanner runs at idle priority */
	}
	return NULL;
}

/* Whether this KVM runs the long-mode program: a round of it, in a machine of its own. */
static bool can_do_long_mode(struct gmm *gmm, int kvm_fd)
{
	struct guest guest = { 0 };
	struct kvm_regs regs;
	void *ram;

	check(gmm_vm_create(gmm, NULL, &guest.vm), "create VM");
	check(gmm_vm_create_ram(guest.vm, 0, (uint64_t)RAM_PAGES * GMM_PAGE_SIZE, &ram), "create RAM");
	guest.ram = ram;
	load_guest(&guest, true);
	create_machine(&guest, kvm_fd);
	bool can = set_up_cpu(guest.vcpu_fd, true) == 0 && !run_round(&guest, &regs) && sums_are_right(&regs, 0);
	munmap(guest.run, guest.run_bytes);
	close(guest.vcpu_fd);
	close(guest.vm_fd);
	check(gmm_vm_destroy(guest.vm, GMM_RAM_DISCARD), "destroy VM");
	return can;
}

static void start_guest(struct gmm *gmm, struct guest *guest, int kvm_fd, bool long_mode)
{
	void *ram;

	check(gmm_vm_create(gmm, NULL, &guest->vm), "create VM");
	check(gmm_vm_create_ram(guest->vm, 0, (uint64_t)RAM_PAGES * GMM_PAGE_SIZE, &ram), "create RAM");
	guest->ram = ram;
	load_guest(guest, long_mode);
	create_machine(guest, kvm_fd);
	if (set_up_cpu(guest->vcpu_fd, long_mode) != 0)
		die("KVM_SET_SREGS");
	if (pthread_create(&guest->thread, NULL, run_guest, guest) != 0)
		die("pthread_create");
}

/* Until both guests made their rounds and pages were shared and broken under them. */
static void watch(struct gmm *gmm, const struct guest *guests)
{
	struct gmm_stats stats = { 0 };
	uint64_t most_shared = 0;
	enum { LIMIT = 15000 };

	for (int i = 0; i < LIMIT; i++) {
		usleep(10000);
		check(gmm_instance_stats(gmm, &stats), "stats");
		if (stats.total.references > most_shared)
			most_shared = stats.total.references;
		bool done = most_shared > DATA_PAGES / 2 && stats.total.cow_breaks > DATA_PAGES;
		for (int g = 0; g < GUESTS; g++) {
			done &= guests[g].rounds >= ROUNDS;
			if (guests[g].failure)
				i = LIMIT;
		}
		if (done)
			break;
	}
	printf("merged %" PRIu64 " times, most pages shared at once %" PRIu64 ", broken by a write %" PRIu64 " times\n",
	       stats.total.merges, most_shared, stats.total.cow_breaks);
	if (most_shared == 0 || stats.total.cow_breaks == 0) {
		fprintf(stderr, "nothing was shared and broken\n");
		exit(1);
	}
}

int main(void)
{
	struct guest guests[GUESTS] = { 0 };
	struct gmm_options options;
	struct gmm *gmm;
	int failures = 0, kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm_fd < 0) {
		perror("skipped: /dev/kvm");
		return 0;
	}
	gmm_options_init(&options);
	options.window_ms = 0;
	options.pass_interval_ms = 20;
	options.cpu_percent = 0;
	options.repair = GMM_REPAIR_PROMISED; /* no device writes into these guests */
	check(gmm_instance_open(&options, &gmm), "open");
	bool long_mode = can_do_long_mode(gmm, kvm_fd);
	printf("guests run in %s\n", long_mode ? "long mode" : "protected mode");
	for (int i = 0; i < GUESTS; i++)
		start_guest(gmm, &guests[i], kvm_fd, long_mode);
	check(gmm_engine_start(gmm), "start");
	watch(gmm, guests);
	stopping = true;
	for (int i = 0; i < GUESTS; i++) {
		pthread_join(guests[i].thread, NULL);
		printf("guest %d: %" PRIu32 " rounds over %u pages, %s\n", i, guests[i].rounds, DATA_PAGES,
		       guests[i].failure ? guests[i].failure : "every sum right");
		failures += guests[i].failure != NULL;
		munmap(guests[i].run, guests[i].run_bytes);
		close(guests[i].vcpu_fd);
		close(guests[i].vm_fd);
		check(gmm_vm_destroy(guests[i].vm, GMM_RAM_DISCARD), "destroy VM");
	}
	check(gmm_instance_close(gmm), "close");
	close(kvm_fd);
	return failures ? 1 : 0;
}
