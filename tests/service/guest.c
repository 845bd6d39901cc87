/* A VM without a guest for the scripts of this folder: guest SOCKET PAGES [DOMAIN]
 *
 * It opens an instance that shares through a service, and obeys lines on standard input. Each is answered by one line that
 * starts with "ok" or "bad".
 *
 *   fill SEED     every page gets bytes of its own, the same for the same seed
 *   fill-word W   every page repeats one word
 *   settle        waits until the engine has settled
 *   until N       waits until at least N pages are shared
 *   shared        says how many pages are shared
 *   write N       changes the first N pages
 *   unshare       makes all pages private
 *   stripes       every other page is of zeros
 *   check         all bytes are right
 *   fork          makes a child that keeps the memory, says its number
 *   child         the child checks all bytes as they were at the fork; without its parent it does so for ever, and says
 *                 so on standard error when they are not right
 *   end-child
 *   module N      says that the first N pages are a library, in two runs
 *   no-module     takes that back
 *   unmap         ends the VM
 *   quit          ends without a word to the library
 */
#include <gmm/modules.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORDS = GMM_PAGE_SIZE / 8, PATIENCE_MS = 90000 };

struct guest {
	struct gmm *gmm;
	struct gmm_vm *vm;
	uint64_t *ram;
	uint64_t pages;
	uint64_t seed;
	bool is_word;
	uint64_t written;
	pid_t child;
	int to_child, from_child;
};

static uint64_t expected(const struct guest *g, uint64_t page, uint64_t word)
{
	if (page < g->written && word == 0)
		return ~page;
	return g->is_word ? g->seed : ((g->seed << 32) + page * WORDS + word) * 0x9e3779b97f4a7c15ull;
}

static void fill(struct guest *g)
{
	g->written = 0;
	for (uint64_t i = 0; i < g->pages * WORDS; i++)
		g->ram[i] = expected(g, i / WORDS, i % WORDS);
}

static bool check(const struct guest *g)
{
	for (uint64_t i = 0; i < g->pages * WORDS; i++)
		if (g->ram[i] != expected(g, i / WORDS, i % WORDS))
			return false;
	return true;
}

static uint64_t shared(const struct guest *g)
{
	struct gmm_vm_stats stats = { 0 };

	return gmm_vm_stats(g->vm, &stats) == GMM_OK ? stats.references : 0;
}

static bool wait_until(const struct guest *g, uint64_t wanted)
{
	struct timespec nap = { .tv_nsec = 10 * 1000000 };

	for (uint64_t waited = 0; shared(g) < wanted; waited += 10) {
		if (waited >= PATIENCE_MS)
			return false;
		nanosleep(&nap, NULL);
	}
	return true;
}

static void child_main(const struct guest *g, int from, int to)
{
	char c;

	while (read(from, &c, 1) == 1) {
		c = check(g) ? 'y' : 'n';
		if (write(to, &c, 1) != 1)
			break;
	}
	/* Its parent is gone. */
	while (check(g))
		usleep(50000);
	fprintf(stderr, "bad bytes in a child\n");
	_exit(1);
}

static bool make_child(struct guest *g)
{
	int down[2], up[2];

	if (pipe(down) != 0 || pipe(up) != 0)
		return false;
	g->child = fork();
	if (g->child == 0) {
		close(down[1]);
		close(up[0]);
		close(STDIN_FILENO);
		close(STDOUT_FILENO);
		child_main(g, down[0], up[1]);
	}
	close(down[0]);
	close(up[1]);
	g->to_child = down[1];
	g->from_child = up[0];
	return g->child > 0;
}

static bool ask_child(const struct guest *g)
{
	char c = '?';

	return write(g->to_child, &c, 1) == 1 && read(g->from_child, &c, 1) == 1 && c == 'y';
}

/* The second half lies in front of the first. */
static bool name_module(struct guest *g, uint64_t pages)
{
	const struct gmm_page_run runs[2] = { { pages / 2 * GMM_PAGE_SIZE, pages - pages / 2 }, { 0, pages / 2 } };
	const struct gmm_module_region region = { 0, pages * GMM_PAGE_SIZE };
	struct gmm_module module;

	gmm_module_init(&module);
	module.os = GMM_OS_LINUX;
	module.name = "/usr/lib/libtest.so\033[31m";
	module.version = "2.36";
	module.size = pages * GMM_PAGE_SIZE;
	module.regions = &region;
	module.n_regions = 1;
	module.runs = runs;
	module.n_runs = 2;
	return gmm_module_register(g->vm, &module) == GMM_OK;
}

static bool obey(struct guest *g, const char *verb, uint64_t a)
{
	if (strncmp(verb, "fill", 4) == 0) {
		g->seed = a;
		g->is_word = verb[4] == '-';
		fill(g);
		return true;
	}
	if (strcmp(verb, "settle") == 0)
		return gmm_engine_wait_settled(g->gmm, PATIENCE_MS) == GMM_OK;
	if (strcmp(verb, "until") == 0)
		return wait_until(g, a);
	if (strcmp(verb, "shared") == 0)
		return true;
	if (strcmp(verb, "write") == 0) {
		g->written = a;
		for (uint64_t i = 0; i < a; i++)
			g->ram[i * WORDS] = ~i;
		return true;
	}
	if (strcmp(verb, "unshare") == 0)
		return gmm_vm_unshare(g->vm, 0, g->pages * GMM_PAGE_SIZE) == GMM_OK;
	if (strcmp(verb, "stripes") == 0) {
		for (uint64_t i = 0; i < g->pages; i += 2)
			memset(g->ram + i * WORDS, 0, GMM_PAGE_SIZE);
		for (uint64_t i = 1; i < g->pages; i += 2)
			g->ram[i * WORDS] = i;
		return true;
	}
	if (strcmp(verb, "check") == 0)
		return check(g);
	if (strcmp(verb, "fork") == 0)
		return make_child(g);
	if (strcmp(verb, "child") == 0)
		return ask_child(g);
	if (strcmp(verb, "end-child") == 0)
		return kill(g->child, SIGKILL) == 0 && waitpid(g->child, NULL, 0) == g->child;
	if (strcmp(verb, "module") == 0)
		return name_module(g, a);
	if (strcmp(verb, "no-module") == 0)
		return gmm_module_unregister(g->vm, 0) == GMM_OK;
	if (strcmp(verb, "unmap") == 0)
		return gmm_vm_destroy(g->vm, GMM_RAM_DISCARD) == GMM_OK;
	return false;
}

static void log_message(void *arg, enum gmm_log_level level, const char *message)
{
	(void)arg;
	if (level <= GMM_LOG_WARNING)
		fprintf(stderr, "guest %d: %s\n", (int)getpid(), message);
}

static int begin(struct guest *g, const char *socket, const char *domain)
{
	struct gmm_options options;
	struct gmm_vm_options vm_options;

	gmm_options_init(&options);
	options.socket = socket;
	options.window_ms = 0;
	options.pass_interval_ms = 20;
	options.cpu_percent = 0;
	options.repair = GMM_REPAIR_PROMISED; /* no device writes to this RAM */
	options.log = log_message;
	int status = gmm_instance_open(&options, &g->gmm);
	if (status != GMM_OK)
		return status;
	gmm_vm_options_init(&vm_options);
	vm_options.domain = domain;
	void *ram = NULL;
	status = gmm_vm_create(g->gmm, &vm_options, &g->vm);
	if (status == GMM_OK)
		status = gmm_vm_create_ram(g->vm, 0, g->pages * GMM_PAGE_SIZE, &ram);
	g->ram = ram;
	if (status == GMM_OK)
		status = gmm_engine_start(g->gmm);
	return status;
}

int main(int argc, char **argv)
{
	struct guest g = { .pages = argc > 2 ? strtoull(argv[2], NULL, 10) : 0 };
	char line[128], verb[32];

	setvbuf(stdout, NULL, _IOLBF, 0);
	int status = g.pages ? begin(&g, argv[1], argc > 3 ? argv[3] : NULL) : GMM_ERR_INVALID_PARAMETER;
	if (status != GMM_OK) {
		printf("bad %s\n", gmm_status_name(status));
		return 1;
	}
	printf("ok %d\n", (int)getpid());
	while (fgets(line, sizeof line, stdin)) {
		unsigned long long a = 0;
		if (sscanf(line, "%31s %llu", verb, &a) < 1 || strcmp(verb, "quit") == 0)
			break;
		bool ok = obey(&g, verb, a);
		printf("%s %llu\n", ok ? "ok" : "bad",
		       (unsigned long long)(strcmp(verb, "fork") == 0 ? (uint64_t)g.child : strcmp(verb, "unmap") ? shared(&g) : 0));
		if (strcmp(verb, "unmap") == 0)
			break;
	}
	_exit(0);
}
