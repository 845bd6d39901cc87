/* gmm-bench: measures this project against the kernel's KSM on the memory of real guests. Finds the verb in a
 * table and hands the rest of the arguments to it. */
#include "bench/tunables.h"
#include "bench/verbs.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_USAGE = 2 };

static const struct verb {
	const char *name;
	const char *help;
	int (*run)(int argc, char **argv);
} verbs[] = {
	{ "converge", "cost of sharing everything that can be shared", bench_converge },
	{ "steady", "cost of a pass when nothing, or a part of the memory, is written", bench_steady },
	{ "replay", "savings over time while the guests' real writes go on", bench_replay },
	{ "alloc", "pages allocated and freed in a second, beside mimalloc and mmap", bench_alloc },
	{ "footprint", "tables of paged VMs, one large and many small", bench_footprint },
	{ "cow", "time of the first write to a shared page", bench_cow },
	{ "guest", "what the guests feel while an engine works at full speed", bench_guest },
	{ "kvm", "what passes over memory at rest cost a guest under /dev/kvm", bench_kvm },
	{ "vmcount", "converge for a growing number of VMs", bench_vmcount },
	{ "stages", "cost of each stage of gmm, for each page", bench_stages },
	{ "huge", "guests of transparent huge pages: savings and what they lose", bench_huge },
	{ "modules", "what hints of guest modules save, and the registry's speed", bench_modules },
	{ "service", "processes that share through the service, and die at random", bench_service },
	{ "qemu", "unmodified QEMU guests with a load, through a service and under KSM", bench_qemu },
};

static void print_help(FILE *to)
{
	fprintf(to, "Usage: gmm-bench VERB [OPTION...]\n"
		    "Measures sharing of equal pages, by this project (gmm) and by the kernel (ksm).\n\n");
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		fprintf(to, "  %-10s %s\n", verbs[i].name, verbs[i].help);
	fprintf(to, "\n  --help     show this text\n"
		    "  --version  show the version\n\n"
		    "'gmm-bench VERB --help' tells more about a verb. Must run as root, on a host\n"
		    "that does nothing else.\n");
}

static int run_verb(const struct verb *verb, int argc, char **argv)
{
	char full_name[64];

	snprintf(full_name, sizeof(full_name), "gmm-bench %s", verb->name);
	argv[0] = full_name;
	gmm__bench_tunables_init();
	return verb->run(argc, argv);
}

int main(int argc, char **argv)
{
	argp_program_version = "gmm-bench " GMM_VERSION;
	argp_err_exit_status = EXIT_USAGE;
	if (argc < 2) {
		print_help(stderr);
		return EXIT_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0) {
		print_help(stdout);
		return EXIT_SUCCESS;
	}
	if (strcmp(argv[1], "--version") == 0) {
		puts(argp_program_version);
		return EXIT_SUCCESS;
	}
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (strcmp(argv[1], verbs[i].name) == 0)
			return run_verb(&verbs[i], argc - 1, argv + 1);
	fprintf(stderr, "gmm-bench: unknown verb '%s'; 'gmm-bench --help' lists them\n", argv[1]);
	return EXIT_USAGE;
}
