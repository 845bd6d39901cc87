/* kvm: how much passes over memory that nobody writes slow a guest under /dev/kvm.
 *
 * A guest reads all its RAM, one word of each page, again and again, and exits to the host after each round. Half of its
 * pages it has in common with another VM, in rows of 16; all is settled before the first round that counts. The engine is
 * paused, then makes one pass after the other, in turn, and round times are kept for both. */
#include "bench/verbs.h"

#include "bench/clock.h"
#include "bench/util.h"
#include "cmd/host.h"

#include <gmm/gmm.h>

#include <fcntl.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { STRIDE = 4096, ROW_PAGES = 16, DATA_PAGE = 512, CODE_ADDR = 0x1000, TABLES_ADDR = 0x10000, DONE_PORT = 0x10, ROUNDS_MAX = 1 << 20 };

/* In long mode, addresses as they are. In: the first address in esi, the number of words in ecx. Out, at the OUT: their sum
 * in ebx. */
static const unsigned char program[] = {
	0x31, 0xdb,                               /* 1: xor %ebx, %ebx */
	0x89, 0xf7,                               /*    mov %esi, %edi */
	0x89, 0xc8,                               /*    mov %ecx, %eax */
	0x03, 0x1f,                               /* 2: add (%rdi), %ebx */
	0x81, 0xc7, 0x00, 0x10, 0x00, 0x00,       /*    add $4096, %edi */
	0xff, 0xc8,                               /*    dec %eax */
	0x75, 0xf4,                               /*    jnz 2b */
	0xe6, DONE_PORT,                          /*    out %al, $DONE_PORT */
	0xeb, 0xea,                               /*    jmp 1b */
};

enum mode { MODE_NONE = -1, MODE_PAUSED, MODE_PASSES, MODES };

struct rounds {
	double ms[ROUNDS_MAX];
	size_t count;
};

struct kvm_bench {
	uint64_t mib;
	uint64_t phase_ms;
	unsigned phases;
	bool json;
	uint64_t data_pages;
	struct gmm *gmm;
	struct gmm_vm *vms[2];
	unsigned char *ram[2];
	int vm_fd, vcpu_fd;
	struct kvm_run *run;
	uint32_t sum;
	_Atomic enum mode mode;
	atomic_bool stop;
	struct rounds *rounds[MODES];
	uint64_t passes;
};

static void check(int status, const char *what)
{
	if (status != GMM_OK)
		gmm__bench_fail("%s: %s", what, gmm_status_text(status));
}

/* ---- two VMs ------------------------------------------------------------------------------------------------- */

static void fill(struct kvm_bench *bench, unsigned vm)
{
	for (uint64_t page = 0; page < bench->data_pages; page++) {
		bool common = page / ROW_PAGES % 2 == 0;
		uint64_t seed = page * 2 + 1 + (common ? 0 : (vm + UINT64_C(1)) << 40);
		uint64_t *words = (uint64_t *)(bench->ram[vm] + (DATA_PAGE + page) * GMM_PAGE_SIZE);

		for (size_t i = 0; i < GMM_PAGE_SIZE / sizeof(*words); i++)
			words[i] = gmm__bench_random(&seed);
		for (size_t i = 0; vm == 0 && i < GMM_PAGE_SIZE / STRIDE; i++)
			bench->sum += (uint32_t)words[i * STRIDE / sizeof(*words)];
	}
}

static void create_vms(struct kvm_bench *bench)
{
	struct gmm_options options;

	gmm_options_init(&options);
	options.window_ms = 0;
	options.pass_interval_ms = 1;
	options.cpu_percent = 0;
	check(gmm_instance_open(&options, &bench->gmm), "opening an instance");
	bench->data_pages = bench->mib * 256;
	for (unsigned vm = 0; vm < 2; vm++) {
		void *ram;
		check(gmm_vm_create(bench->gmm, NULL, &bench->vms[vm]), "creating a VM");
		check(gmm_vm_create_ram(bench->vms[vm], 0, (DATA_PAGE + bench->data_pages) * GMM_PAGE_SIZE, &ram),
			"creating RAM");
		bench->ram[vm] = ram;
		fill(bench, vm);
	}
	memcpy(bench->ram[0] + CODE_ADDR, program, sizeof(program));
	uint64_t *tables = (uint64_t *)(bench->ram[0] + TABLES_ADDR);
	tables[0] = (TABLES_ADDR + 0x1000) | 3;   /* level 4: present, writable */
	tables[512] = (TABLES_ADDR + 0x2000) | 3; /* level 3 */
	for (uint64_t i = 0; i < 512; i++)
		tables[1024 + i] = i << 21 | 0x83; /* level 2: pages of 2 MiB */
}

static void set_up_cpu(const struct kvm_bench *bench)
{
	struct kvm_segment data = { .limit = 0xffffffff, .selector = 16, .type = 3, .present = 1, .s = 1, .g = 1, .db = 1 };
	struct kvm_segment code = { .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .g = 1, .l = 1 };
	struct kvm_regs regs = { .rip = CODE_ADDR, .rflags = 2, .rsi = DATA_PAGE * GMM_PAGE_SIZE,
		.rcx = bench->data_pages * (GMM_PAGE_SIZE / STRIDE) };
	struct kvm_sregs sregs;

	if (ioctl(bench->vcpu_fd, KVM_GET_SREGS, &sregs) != 0)
		gmm__bench_fail("KVM_GET_SREGS fails");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr3 = TABLES_ADDR;
	sregs.cr4 |= 1 << 5;            /* PAE */
	sregs.cr0 |= 1u << 31 | 1;      /* paging, protection */
	sregs.efer |= 1 << 8 | 1 << 10; /* long mode enabled and active */
	if (ioctl(bench->vcpu_fd, KVM_SET_SREGS, &sregs) != 0 || ioctl(bench->vcpu_fd, KVM_SET_REGS, &regs) != 0)
		gmm__bench_fail("the virtual CPU cannot be set up");
}

static void create_machine(struct kvm_bench *bench)
{
	int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	struct kvm_userspace_memory_region region = { .userspace_addr = (uintptr_t)bench->ram[0],
		.memory_size = (DATA_PAGE + bench->data_pages) * GMM_PAGE_SIZE };

	if (kvm_fd < 0)
		gmm__bench_fail("cannot open /dev/kvm");
	bench->vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	if (bench->vm_fd < 0 || ioctl(bench->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) != 0)
		gmm__bench_fail("KVM cannot make a machine");
	bench->vcpu_fd = ioctl(bench->vm_fd, KVM_CREATE_VCPU, 0);
	bench->run = mmap(NULL, (size_t)ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED,
		bench->vcpu_fd, 0);
	if (bench->vcpu_fd < 0 || bench->run == MAP_FAILED)
		gmm__bench_fail("KVM cannot make a virtual CPU");
	close(kvm_fd);
	set_up_cpu(bench);
}

/* ---- rounds -------------------------------------------------------------------------------------------------- */

static void run_round(const struct kvm_bench *bench)
{
	struct kvm_regs regs;

	if (ioctl(bench->vcpu_fd, KVM_RUN, 0) != 0 || bench->run->exit_reason != KVM_EXIT_IO ||
		bench->run->io.port != DONE_PORT)
		gmm__bench_fail("the guest stopped for another reason than the end of a round");
	if (ioctl(bench->vcpu_fd, KVM_GET_REGS, &regs) != 0 || (uint32_t)regs.rbx != bench->sum)
		gmm__bench_fail("the guest has a wrong sum");
}

/* A round counts if all of it lay in one phase. */
static void *run_guest(void *arg)
{
	struct kvm_bench *bench = arg;

	while (!bench->stop) {
		enum mode mode = bench->mode;
		uint64_t start_ns = gmm__host_now_ns();

		run_round(bench);
		double ms = (double)(gmm__host_now_ns() - start_ns) / BENCH_NS_PER_MS;
		if (mode == MODE_NONE || mode != bench->mode || bench->rounds[mode]->count == ROUNDS_MAX)
			continue;
		bench->rounds[mode]->ms[bench->rounds[mode]->count++] = ms;
	}
	return NULL;
}

static uint64_t passes_of(const struct kvm_bench *bench)
{
	struct gmm_stats stats;

	check(gmm_instance_stats(bench->gmm, &stats), "statistics");
	return stats.passes;
}

/* Whoever waits for the engine to settle gets a pass over everything. */
static void make_passes(struct kvm_bench *bench)
{
	uint64_t end_ns = gmm__host_now_ns() + bench->phase_ms * BENCH_NS_PER_MS, before = passes_of(bench);

	check(gmm_engine_start(bench->gmm), "starting the engine");
	bench->mode = MODE_PASSES;
	while (gmm__host_now_ns() < end_ns)
		check(gmm_engine_wait_settled(bench->gmm, -1), "waiting for the engine");
	bench->mode = MODE_NONE;
	check(gmm_engine_pause(bench->gmm), "pausing the engine");
	bench->passes += passes_of(bench) - before;
}

static void run_phases(struct kvm_bench *bench)
{
	pthread_t thread;

	check(gmm_engine_start(bench->gmm), "starting the engine");
	check(gmm_engine_wait_settled(bench->gmm, -1), "waiting for the engine");
	check(gmm_engine_pause(bench->gmm), "pausing the engine");
	for (int i = 0; i < 3; i++) /* KVM maps the pages in the first round */
		run_round(bench);
	bench->mode = MODE_NONE;
	if (pthread_create(&thread, NULL, run_guest, bench) != 0)
		gmm__bench_fail("no thread");
	for (unsigned i = 0; i < bench->phases; i++) {
		bench->mode = MODE_PAUSED;
		gmm__bench_sleep_ns(bench->phase_ms * BENCH_NS_PER_MS);
		bench->mode = MODE_NONE;
		make_passes(bench);
	}
	bench->stop = true;
	pthread_join(thread, NULL);
}

/* ---- the verb ------------------------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double percentile(struct rounds *rounds, double part)
{
	if (rounds->count == 0)
		gmm__bench_fail("no round fits into a phase: give it more time");
	qsort(rounds->ms, rounds->count, sizeof(*rounds->ms), compare);
	return rounds->ms[(size_t)((double)(rounds->count - 1) * part)];
}

static json_t *report(const struct kvm_bench *bench)
{
	static const char *const names[MODES] = { "paused", "passes" };
	struct gmm_stats stats;
	json_t *result = json_object();

	check(gmm_instance_stats(bench->gmm, &stats), "statistics");
	gmm__bench_set_count(result, "guest_pages", bench->data_pages);
	gmm__bench_set_count(result, "saved_pages", stats.saved_pages);
	gmm__bench_set_count(result, "passes_made", bench->passes);
	for (int mode = 0; mode < MODES; mode++) {
		json_t *part = json_object();
		gmm__bench_set_count(part, "rounds", bench->rounds[mode]->count);
		gmm__bench_set_real(part, "p50_ms", percentile(bench->rounds[mode], 0.5));
		gmm__bench_set_real(part, "p99_ms", percentile(bench->rounds[mode], 0.99));
		json_object_set_new(result, names[mode], part);
	}
	gmm__bench_set_real(result, "round_time_ratio",
		percentile(bench->rounds[MODE_PASSES], 0.5) / percentile(bench->rounds[MODE_PAUSED], 0.5));
	return result;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct kvm_bench *bench = state->input;

	switch (key) {
	case 'm':
		bench->mib = (uint64_t)gmm__bench_option_number(state, arg, 1, 1022);
		return 0;
	case 'p':
		bench->phases = (unsigned)gmm__bench_option_number(state, arg, 1, 1000);
		return 0;
	case 's':
		bench->phase_ms = (uint64_t)gmm__bench_option_number(state, arg, 10, 1e6);
		return 0;
	case 'j':
		bench->json = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int bench_kvm(int argc, char **argv)
{
	static const struct argp_option option_list[] = {
		{ "mib", 'm', "MIB", 0, "RAM that the guest reads. Default 64", 0 },
		{ "phases", 'p', "N", 0, "How often it is measured without and with passes. Default 10", 0 },
		{ "phase-ms", 's', "MS", 0, "How long each time. Default 500", 0 },
		{ "json", 'j', NULL, 0, "Print one JSON object", 0 },
		{ 0 },
	};
	static const struct argp argp = { .options = option_list, .parser = parse,
		.doc = "Measures how much passes over memory at rest slow a guest under /dev/kvm." };
	static struct kvm_bench bench = { .mib = 64, .phase_ms = 500, .phases = 10 };

	argp_parse(&argp, argc, argv, 0, NULL, &bench);
	for (int mode = 0; mode < MODES; mode++)
		bench.rounds[mode] = gmm__bench_alloc(1, sizeof(*bench.rounds[mode]));
	create_vms(&bench);
	create_machine(&bench);
	run_phases(&bench);
	gmm__bench_print(report(&bench), &(struct bench_options){ .json = bench.json });
	close(bench.vcpu_fd);
	close(bench.vm_fd);
	for (unsigned vm = 0; vm < 2; vm++)
		check(gmm_vm_destroy(bench.vms[vm], GMM_RAM_DISCARD), "destroying a VM");
	check(gmm_instance_close(bench.gmm), "closing the instance");
	return EXIT_SUCCESS;
}
