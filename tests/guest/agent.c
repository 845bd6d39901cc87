/* gmm-guest on this very machine: what it says, read by the host's parser, against what the kernel says of our own pages; and
 * how it behaves when ports are dead, hosts do not listen, and there is much or nothing to see. Needs root. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sharedmod/report_write.h"
#include "tests/guest/told.h"
#include "tests/unit/support/unit.h"

enum { PAGE = 4096, LIMIT_MS = 60000 };

static char dir[64], agent_path[4096];

/* ---- support ---------------------------------------------------------------------------------------------- */

static const char *in_dir(const char *name)
{
	static char paths[8][512];
	static unsigned next;
	char *path = paths[next++ % 8];

	snprintf(path, sizeof paths[0], "%s/%s", dir, name);
	return path;
}

/* A file of so many pages, each with bytes of its own, and its pages in the page cache. */
static int make_file(const char *path, size_t pages)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0644);
	uint64_t page[PAGE / 8];

	ck_assert_int_ge(fd, 0);
	for (size_t i = 0; i < pages; i++) {
		memset(page, 0, sizeof page);
		page[7] = i + 1;
		ck_assert_int_eq(write(fd, page, sizeof page), PAGE);
	}
	return fd;
}

static volatile char *map_file(int fd, size_t pages, int prot)
{
	char *at = mmap(NULL, pages * PAGE, prot, MAP_PRIVATE, fd, 0);

	ck_assert(at != MAP_FAILED);
	return at;
}

static uint64_t pagemap_entry(const volatile void *at)
{
	static int fd = -1;
	uint64_t entry;

	if (fd < 0)
		fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(pread(fd, &entry, 8, (off_t)((uintptr_t)at / PAGE * 8)), 8);
	return entry;
}

/* The page's gfn if it is in our page table and the file's; else 0. */
static uint64_t gfn_of(const volatile void *at)
{
	uint64_t entry = pagemap_entry(at);

	return entry >> 63 && entry >> 61 & 1 ? entry & ((1ull << 55) - 1) : 0;
}

static pid_t start_agent(const char *const *more)
{
	const char *argv[16] = { "gmm-guest" };
	int n = 1;

	for (; *more; more++)
		argv[n++] = *more;
	pid_t pid = fork();
	if (pid == 0) {
		execv(agent_path, (char **)argv);
		_exit(127);
	}
	ck_assert_int_gt(pid, 0);
	return pid;
}

#define start(...) start_agent((const char *const[]){ __VA_ARGS__, NULL })

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int status_of(pid_t pid, uint64_t limit_ms)
{
	uint64_t end = now_ms() + limit_ms;
	int status;

	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (now_ms() > end) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			ck_abort_msg("the agent did not end");
		}
		usleep(2000);
	}
	ck_assert_msg(WIFEXITED(status), "killed by signal %d", WTERMSIG(status));
	return WEXITSTATUS(status);
}

/* Until the agent handles the signals that end it, SIGHUP last: one that comes before ends it like any program. Of the others
 * Check has handlers, which its child has until it has become the agent. */
static void await_handlers(pid_t pid)
{
	uint64_t end = now_ms() + LIMIT_MS;
	unsigned long long caught = 0;
	char path[64], line[256];

	snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
	while (!(caught >> (SIGHUP - 1) & 1)) {
		ck_assert_msg(now_ms() < end, "the agent handles no signals");
		usleep(2000);
		FILE *status = fopen(path, "re");
		while (status && fgets(line, sizeof line, status))
			sscanf(line, "SigCgt: %llx", &caught);
		if (status)
			fclose(status);
	}
}

/* One report of everything. */
static struct told *ask_once(void)
{
	const char *port = in_dir("once");
	struct told *told = told_new(1ull << 40);

	close(open(port, O_CREAT | O_TRUNC | O_WRONLY, 0600));
	ck_assert_int_eq(status_of(start("--once", "--port", port), LIMIT_MS), 0);
	told_feed_file(told, port);
	ck_assert_uint_eq(told->starts, 1);
	ck_assert_uint_eq(told->dones, 1);
	return told;
}

/* Where pages are: the kernel may move them at any time, to make room for huge pages, and what was told before is old then. */
struct places {
	const volatile char *at;
	size_t pages;
	uint64_t gfn[64];
};

static struct places places_of(const volatile char *at, size_t pages)
{
	struct places places = { .at = at, .pages = pages };

	for (size_t i = 0; i < pages; i++)
		places.gfn[i] = gfn_of(at + i * PAGE);
	return places;
}

static bool have_moved(const struct places *before)
{
	struct places now = places_of(before->at, before->pages);

	return memcmp(now.gfn, before->gfn, sizeof now.gfn) != 0;
}

/* One report of everything, during which these pages stayed where they are. */
static struct told *ask_about(const volatile char *at, size_t pages)
{
	struct places before = places_of(at, pages);
	struct told *told = ask_once();

	for (uint64_t end = now_ms() + LIMIT_MS; have_moved(&before) && now_ms() < end; told = ask_once()) {
		told_free(told);
		before = places_of(at, pages);
	}
	return told;
}

static void check_pages(const struct told_module *module, const volatile char *at, size_t pages)
{
	ck_assert_ptr_nonnull(module);
	for (size_t i = 0; i < pages; i++)
		ck_assert_msg(module->gfns[i] == gfn_of(at + i * PAGE), "page %zu: %#llx, not %#llx", i,
			      (unsigned long long)module->gfns[i], (unsigned long long)gfn_of(at + i * PAGE));
}

/* ---- what is said ----------------------------------------------------------------------------------------- */

START_TEST(mapped_file)
{
	const char *path = in_dir("file");
	int fd = make_file(path, 64);
	volatile char *at = map_file(fd, 64, PROT_READ);
	uint64_t before[64];
	uint32_t present = 0;

	(void)at[3 * PAGE];
	(void)at[40 * PAGE];
	for (int i = 0; i < 64; i++) {
		before[i] = pagemap_entry(at + i * PAGE) >> 63;
		present += gfn_of(at + i * PAGE) != 0;
	}
	ck_assert_uint_ge(present, 2);
	struct told *told = ask_about(at, 64);
	const struct told_module *module = told_find(told, path);
	check_pages(module, at, 64);
	ck_assert_uint_eq(module->pages, present);
	ck_assert_uint_eq(module->size_bytes, 64 * PAGE);
	ck_assert_int_eq(module->kind, GMM__REPORT_FILE);
	ck_assert_int_eq(module->version[0], 'm'); /* no ELF file: by its time */
	/* Nothing was faulted in. */
	for (int i = 0; i < 64; i++)
		ck_assert_uint_eq(pagemap_entry(at + i * PAGE) >> 63, before[i]);
	told_free(told);
}
END_TEST

START_TEST(own_program)
{
	extern const char __executable_start[];
	char path[4096] = "", line[256], id[64] = "";
	FILE *notes = popen("readelf -n /proc/$PPID/exe 2>/dev/null", "r");

	while (fgets(line, sizeof line, notes))
		sscanf(line, " Build ID: %63s", id);
	pclose(notes);
	ck_assert_int_gt(readlink("/proc/self/exe", path, sizeof path - 1), 0);
	ck_assert_uint_lt(strlen(path), GMM__REPORT_NAME_MAX);
	struct told *told = ask_once();
	const struct told_module *module = told_find(told, path);
	ck_assert_ptr_nonnull(module);
	ck_assert_uint_eq(module->gfns[0], gfn_of(__executable_start));
	ck_assert_uint_gt(strlen(id), GMM__REPORT_VERSION_MAX);
	ck_assert_int_eq(strncmp(module->version, id, GMM__REPORT_VERSION_MAX), 0);
	ck_assert_uint_eq(strlen(module->version), GMM__REPORT_VERSION_MAX);
	told_free(told);
}
END_TEST

START_TEST(kernel)
{
	struct told *told = told_new(1ull << 40);
	unsigned long long first = 0, last = 0;
	char line[256];
	FILE *iomem = fopen("/proc/iomem", "r");

	told_free(told);
	while (fgets(line, sizeof line, iomem))
		if (strstr(line, ": Kernel code"))
			sscanf(line, " %llx-%llx", &first, &last);
	fclose(iomem);
	told = ask_once();
	for (int i = 0; i < GMM__REPORT_MODULES_MAX; i++) {
		const struct told_module *module = &told->modules[i];
		if (module->used && module->kind == GMM__REPORT_KERNEL) {
			ck_assert_int_eq(strncmp(module->name, "linux ", 6), 0);
			ck_assert_uint_eq(strlen(module->version), GMM__REPORT_VERSION_MAX);
			ck_assert_uint_eq(module->gfns[0], first / PAGE);
			ck_assert_uint_eq(module->gfns[(last - first) / PAGE], last / PAGE);
			told_free(told);
			return;
		}
	}
	ck_abort_msg("no kernel");
}
END_TEST

/* Pages that are not the file's any more, files that may be written here, and files without a name. */
START_TEST(left_out)
{
	int fd = make_file(in_dir("copied"), 4);
	volatile char *copied = map_file(fd, 4, PROT_READ | PROT_WRITE);
	volatile char *writable = map_file(make_file(in_dir("writable"), 4), 4, PROT_READ | PROT_WRITE);
	volatile char *deleted = map_file(make_file(in_dir("deleted"), 4), 4, PROT_READ);
	volatile char *hidden = map_file(make_file(in_dir("hidden"), 4), 4, PROT_NONE);

	copied[0] = 1;
	(void)copied[PAGE];
	ck_assert_int_eq(mprotect((void *)copied, 4 * PAGE, PROT_READ), 0);
	(void)writable[0];
	(void)deleted[0];
	ck_assert_ptr_nonnull((void *)hidden);
	unlink(in_dir("deleted"));
	struct told *told = ask_about(copied, 4);
	check_pages(told_find(told, in_dir("copied")), copied, 4);
	ck_assert_uint_eq(told_find(told, in_dir("copied"))->gfns[0], 0);
	ck_assert_uint_ne(told_find(told, in_dir("copied"))->gfns[1], 0);
	ck_assert_ptr_null(told_find(told, in_dir("writable")));
	ck_assert_ptr_null(told_find(told, in_dir("deleted")));
	ck_assert_ptr_null(told_find(told, in_dir("hidden")));
	for (int i = 0; i < GMM__REPORT_MODULES_MAX; i++)
		ck_assert_ptr_null(strstr(told->modules[i].name, "deleted"));
	told_free(told);
}
END_TEST

/* A child that does something and then sleeps until we end. */
static pid_t child_that(void (*what)(void))
{
	int ready[2];
	char byte;

	ck_assert_int_eq(pipe(ready), 0);
	pid_t pid = fork();
	if (pid == 0) {
		what();
		(void)!write(ready[1], "", 1);
		for (;;)
			pause();
	}
	close(ready[1]);
	ck_assert_int_eq(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return pid;
}

static void end_child(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void map_last_pages(void)
{
	volatile char *at = map_file(open(in_dir("common"), O_RDONLY), 256, PROT_READ);

	(void)at[255 * PAGE];
}

START_TEST(several_processes)
{
	int fd = make_file(in_dir("common"), 256);
	volatile char *at = map_file(fd, 256, PROT_READ | PROT_EXEC);
	int found = 0;

	(void)at[0];
	pid_t child = child_that(map_last_pages);
	struct told *told = ask_once();
	end_child(child);
	const struct told_module *module = told_find(told, in_dir("common"));
	ck_assert_uint_eq(gfn_of(at + 255 * PAGE), 0); /* the child's only */
	for (int i = 0; i < 256; i++)
		(void)at[i * PAGE]; /* now we can tell where it is */
	ck_assert_uint_eq(module->gfns[0], gfn_of(at));
	ck_assert_uint_eq(module->gfns[255], gfn_of(at + 255 * PAGE));
	for (int i = 0; i < GMM__REPORT_MODULES_MAX; i++)
		found += told->modules[i].used && strcmp(told->modules[i].name, in_dir("common")) == 0;
	ck_assert_int_eq(found, 1);
	told_free(told);
}
END_TEST

enum { MANY = 30000 };

static void map_many_times(void)
{
	int fd = open(in_dir("many"), O_RDONLY);

	/* Backwards in the file, so that no two of them become one. */
	for (int i = MANY - 1; i >= 0; i--)
		if (*(volatile char *)mmap(NULL, PAGE, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, (off_t)i % 512 * PAGE))
			_exit(1);
}

START_TEST(very_many_mappings)
{
	close(make_file(in_dir("many"), 512));
	pid_t child = child_that(map_many_times);
	struct rusage before, after; /* of agents: the child has not ended */

	getrusage(RUSAGE_CHILDREN, &before);
	struct told *told = ask_once();
	getrusage(RUSAGE_CHILDREN, &after);
	ck_assert_int_lt(after.ru_utime.tv_sec + after.ru_stime.tv_sec - before.ru_utime.tv_sec - before.ru_stime.tv_sec, 10);
	end_child(child);
	ck_assert_ptr_nonnull(told_find(told, in_dir("many")));
	ck_assert_uint_eq(told_find(told, in_dir("many"))->pages, 512);
	told_free(told);
}
END_TEST

enum { FILES = 2500 };

static void map_many_files(void)
{
	char name[32];

	for (int i = 0; i < FILES; i++) {
		snprintf(name, sizeof name, "f%d", i);
		volatile char *at = map_file(open(in_dir(name), O_RDONLY | O_CLOEXEC), i < FILES / 2 ? 1 : 2, PROT_READ);
		(void)at[0];
		(void)at[i < FILES / 2 ? 0 : PAGE];
	}
}

/* More files than there are ids: the larger ones are told. */
START_TEST(very_many_files)
{
	char name[32];
	int larger = 0;

	for (int i = 0; i < FILES; i++) {
		snprintf(name, sizeof name, "f%d", i);
		close(make_file(in_dir(name), i < FILES / 2 ? 1 : 2));
	}
	pid_t child = child_that(map_many_files);
	struct told *told = ask_once();
	end_child(child);
	ck_assert_uint_eq(told->count, GMM__REPORT_MODULES_MAX);
	for (int i = FILES / 2; i < FILES; i++) {
		snprintf(name, sizeof name, "f%d", i);
		larger += told_find(told, in_dir(name)) != NULL;
	}
	ck_assert_int_eq(larger, FILES - FILES / 2);
	told_free(told);
}
END_TEST

/* ---- a host at the other end ------------------------------------------------------------------------------ */

static int listen_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, path);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
	ck_assert_int_eq(listen(fd, 4), 0);
	return fd;
}

static void wait_readable(int fd)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };

	ck_assert_msg(poll(&poll_fd, 1, LIMIT_MS) == 1, "nothing came");
}

static int accept_agent(int listener)
{
	wait_readable(listener);
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	return fd;
}

/* Reads until so many DONEs have come. */
static void read_until(struct told *told, int fd, uint32_t dones)
{
	char buffer[65536];

	while (told->dones < dones) {
		wait_readable(fd);
		ssize_t got = read(fd, buffer, sizeof buffer);
		ck_assert_int_gt(got, 0);
		told_feed(told, buffer, (size_t)got);
	}
}

static void request(int fd, enum gmm__report_want want)
{
	static struct gmm__report_writer writer;

	gmm__report_write_request(&writer, want);
	ck_assert_int_eq(write(fd, writer.frame, writer.bytes), (ssize_t)writer.bytes);
}

/* Asks for the changes until they are told while the pages stay where they are. */
static void ask_changes(struct told *told, int host, const volatile char *at)
{
	uint64_t end = now_ms() + LIMIT_MS;
	struct places before;

	do {
		before = places_of(at, 64);
		request(host, GMM__REPORT_WANT_CHANGES);
		read_until(told, host, told->dones + 1);
	} while (have_moved(&before) && now_ms() < end);
}

START_TEST(changes_on_request)
{
	const char *path = in_dir("changing");
	int listener = listen_at(in_dir("port")), fd = make_file(path, 64);
	volatile char *at = map_file(fd, 64, PROT_READ);
	struct told *told = told_new(1ull << 40);
	pid_t agent = start("--port", in_dir("port"), "--interval", "3600"); /* none but those asked for */
	int host = accept_agent(listener);

	read_until(told, host, 1);
	ck_assert_ptr_null(told_find(told, path)); /* nothing of it is in memory for us */
	(void)at[9 * PAGE];
	ck_assert_int_eq(write(host, "\x89GMM noise", 10), 10); /* is skipped */
	ask_changes(told, host, at);
	check_pages(told_find(told, path), at, 64);
	ck_assert_uint_eq(told->starts, 1);
	madvise((void *)at, 64 * PAGE, MADV_POPULATE_READ);
	ask_changes(told, host, at);
	check_pages(told_find(told, path), at, 64);
	ck_assert_uint_eq(told_find(told, path)->pages, 64);
	/* Another build of it: same pages, another time. */
	const struct timespec times[2] = { { 1000, 0 }, { 1000, 0 } };
	ck_assert_int_eq(futimens(fd, times), 0);
	ask_changes(told, host, at);
	ck_assert_str_eq(told_find(told, path)->version, "m3e8");
	munmap((void *)at, 64 * PAGE);
	request(host, GMM__REPORT_WANT_CHANGES);
	read_until(told, host, told->dones + 1);
	ck_assert_ptr_null(told_find(told, path));
	request(host, GMM__REPORT_WANT_ALL);
	read_until(told, host, told->dones + 1);
	ck_assert_uint_eq(told->starts, 2);
	ck_assert_uint_gt(told->count, 0);
	kill(agent, SIGTERM);
	ck_assert_int_eq(status_of(agent, LIMIT_MS), 0);
	told_free(told);
}
END_TEST

START_TEST(reports_at_intervals)
{
	int listener = listen_at(in_dir("port"));
	struct told *told = told_new(1ull << 40);
	pid_t agent = start("--port", in_dir("port"), "--interval", "1");
	int host = accept_agent(listener);

	read_until(told, host, 3);
	ck_assert_uint_eq(told->starts, 1);
	kill(agent, SIGINT);
	ck_assert_int_eq(status_of(agent, LIMIT_MS), 0);
	told_free(told);
}
END_TEST

/* The host goes and comes back: a new session, from the start. */
START_TEST(host_comes_back)
{
	int listener = listen_at(in_dir("port"));
	pid_t agent = start("--port", in_dir("port"));

	for (int i = 0; i < 2; i++) {
		struct told *told = told_new(1ull << 40);
		int host = accept_agent(listener);
		read_until(told, host, 1);
		ck_assert_uint_eq(told->starts, 1);
		close(host);
		told_free(told);
	}
	/* Once more, and in the middle of what is sent. */
	close(accept_agent(listener));
	struct told *told = told_new(1ull << 40);
	int host = accept_agent(listener);
	read_until(told, host, 1);
	kill(agent, SIGTERM);
	ck_assert_int_eq(status_of(agent, LIMIT_MS), 0);
	told_free(told);
}
END_TEST

/* Every second page of three files: more to tell than a socket takes. */
static void map_scattered_pages(void)
{
	for (char file = '0'; file < '3'; file++) {
		int fd = open(in_dir((char[]){ file, 0 }), O_RDONLY | O_CLOEXEC);
		for (off_t page = 0; page < 14000; page += 2)
			if (mmap(NULL, PAGE, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, page * PAGE) == MAP_FAILED)
				_exit(1);
	}
}

START_TEST(host_does_not_listen)
{
	int listener = listen_at(in_dir("port"));
	struct told *told = told_new(1ull << 40);
	char buffer[65536];
	ssize_t got;

	for (char file = '0'; file < '3'; file++)
		close(make_file(in_dir((char[]){ file, 0 }), 14000));
	pid_t child = child_that(map_scattered_pages);
	pid_t agent = start("--port", in_dir("port"));
	int host = accept_agent(listener);
	wait_readable(host);
	usleep(500000);
	ck_assert_int_eq(waitpid(agent, NULL, WNOHANG), 0);
	kill(agent, SIGTERM);
	ck_assert_int_eq(status_of(agent, LIMIT_MS), 0);
	while ((got = read(host, buffer, sizeof buffer)) > 0)
		told_feed(told, buffer, (size_t)got);
	ck_assert_uint_eq(told->starts, 1);
	ck_assert_uint_eq(told->dones, 0); /* it was waiting for us */
	end_child(child);
	told_free(told);
}
END_TEST

/* No port: it waits without work, and finds the port when it is there. */
START_TEST(dead_port)
{
	pid_t agent = start("--port", in_dir("port"));

	await_handlers(agent);
	usleep(300000);
	ck_assert_int_eq(waitpid(agent, NULL, WNOHANG), 0);
	int listener = listen_at(in_dir("port"));
	int host = accept_agent(listener);
	struct told *told = told_new(1ull << 40);
	read_until(told, host, 1);
	kill(agent, SIGHUP);
	ck_assert_int_eq(status_of(agent, LIMIT_MS), 0);
	told_free(told);
	agent = start("--port", in_dir("nothing"));
	await_handlers(agent);
	kill(agent, SIGTERM);
	ck_assert_int_eq(status_of(agent, LIMIT_MS), 0);
	ck_assert_int_eq(status_of(start("--once", "--port", in_dir("nothing")), LIMIT_MS), 1);
	/* A pipe that nobody reads, and a vsock address where nobody is. */
	ck_assert_int_eq(mkfifo(in_dir("pipe"), 0600), 0);
	ck_assert_int_eq(status_of(start("--once", "--port", in_dir("pipe")), LIMIT_MS), 1);
	ck_assert_int_eq(status_of(start("--once", "--vsock", "1:7"), LIMIT_MS), 1);
}
END_TEST

/* ---- odd surroundings ------------------------------------------------------------------------------------- */

static void write_text(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	ck_assert_ptr_nonnull(file);
	fputs(text, file);
	fclose(file);
}

static void make_process(const char *id, const char *maps)
{
	char path[256];

	snprintf(path, sizeof path, "proc/%s", id);
	ck_assert_int_eq(mkdir(in_dir(path), 0755), 0);
	snprintf(path, sizeof path, "proc/%s/map_files", id);
	ck_assert_int_eq(mkdir(in_dir(path), 0755), 0);
	snprintf(path, sizeof path, "proc/%s/maps", id);
	write_text(in_dir(path), maps);
}

static struct told *ask_fake(void)
{
	struct told *told = told_new(1ull << 40);

	close(open(in_dir("port"), O_CREAT | O_TRUNC | O_WRONLY, 0600));
	ck_assert_int_eq(status_of(start("--once", "--port", in_dir("port"), "--proc", in_dir("proc"), "--sys",
					 in_dir("proc")), LIMIT_MS), 0);
	told_feed_file(told, in_dir("port"));
	ck_assert_uint_eq(told->dones, 1);
	return told;
}

/* A /proc of our making: lines that make no sense, processes that are gone, devices that must not be opened, and a file two
 * of whose pages seem to be in one place. */
START_TEST(odd_proc)
{
	const uint64_t here = 1ull << 63 | 1ull << 61;
	const uint64_t entries[] = { here | 77, here | 78, here | 79, here | 1ull << 40, 0, here | 500, here | 600, here | 500 };
	char link[256];

	ck_assert_int_eq(mkdir(in_dir("proc"), 0755), 0);
	ck_assert_int_eq(mkdir(in_dir("proc/self"), 0755), 0);
	ck_assert_int_eq(symlink("/proc/self/pagemap", in_dir("proc/self/pagemap")), 0);
	ck_assert_int_eq(mkdir(in_dir("proc/1"), 0755), 0); /* without anything in it */
	write_text(in_dir("proc/2"), "not a folder");
	make_process("3", "garbage\n\n-\n0-1\n1000-2000 r--p\n2000-1000 r--p 00000000 00:01 5 /backwards\n"
			  "0-ffffffffffffffff r--p ffffffffffffffff 00:01 6 /x\n");
	make_process("4", "0-5000 r-xp 00000000 00:01 7   /good name\x01\n5000-8000 r--p 00000000 00:01 8  /twice\n"
			  "8000-9000 r--p 00000000 00:01 9  /pipe");
	int pagemap = open(in_dir("proc/4/pagemap"), O_CREAT | O_WRONLY, 0600);
	ck_assert_int_eq(write(pagemap, entries, sizeof entries), sizeof entries);
	close(pagemap);
	close(make_file(in_dir("good"), 5));
	ck_assert_int_eq(mkfifo(in_dir("pipe"), 0600), 0);
	const char *const links[][2] = { { "0-5000", "good" }, { "5000-8000", "good" }, { "8000-9000", "pipe" } };
	for (int i = 0; i < 3; i++) {
		snprintf(link, sizeof link, "proc/4/map_files/%s", links[i][0]);
		ck_assert_int_eq(symlink(in_dir(links[i][1]), in_dir(link)), 0);
	}
	struct told *told = ask_fake();
	ck_assert_uint_eq(told->count, 1);
	const struct told_module *module = told_find(told, "/good name?");
	ck_assert_ptr_nonnull(module);
	ck_assert_uint_eq(module->pages, 3);
	ck_assert_uint_eq(module->gfns[0], 77);
	ck_assert_uint_eq(module->gfns[2], 79);
	told_free(told);
}
END_TEST

START_TEST(not_root)
{
	pid_t pid = fork();

	if (pid == 0) {
		if (setgid(65534) != 0 || setuid(65534) != 0 || chdir("/") != 0)
			_exit(99);
		/* The program may lie where nobody else can go; the descriptor was opened before. */
		const char *argv[] = { "gmm-guest", "--once", NULL };
		execv(agent_path, (char **)argv);
		_exit(98);
	}
	int status = status_of(pid, LIMIT_MS);
	if (status == 98)
		printf("SKIP not_root: %s cannot be run by others\n", agent_path);
	else
		ck_assert_int_eq(status, 1);
}
END_TEST

START_TEST(usage)
{
	ck_assert_int_eq(status_of(start("--help"), LIMIT_MS), 0);
	ck_assert_int_eq(status_of(start("--version"), LIMIT_MS), 0);
	ck_assert_int_eq(status_of(start("--what"), LIMIT_MS), 2);
	ck_assert_int_eq(status_of(start("more"), LIMIT_MS), 2);
	ck_assert_int_eq(status_of(start("--interval", "0"), LIMIT_MS), 2);
	ck_assert_int_eq(status_of(start("--interval", "1x"), LIMIT_MS), 2);
	ck_assert_int_eq(status_of(start("--interval", "86401"), LIMIT_MS), 2);
	ck_assert_int_eq(status_of(start("--vsock", "2"), LIMIT_MS), 2);
	ck_assert_int_eq(status_of(start("--vsock", "2:-1"), LIMIT_MS), 2);
	ck_assert_int_eq(status_of(start("--vsock", "4294967296:1"), LIMIT_MS), 2);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		mapped_file, own_program, kernel, left_out, several_processes, very_many_mappings, very_many_files,
		changes_on_request, reports_at_intervals, host_comes_back, host_does_not_listen, dead_port, odd_proc,
		not_root, usage,
	};
	char command[128];
	int status = 0;

	if (geteuid() != 0) {
		printf("SKIP: where pages are is shown to root only\n");
		return 77;
	}
	snprintf(agent_path, sizeof agent_path, "%s/gmm-guest", getenv("BIN") ? getenv("BIN") : "bin");
	for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
		/* A folder for each test, so that none finds what another has left. */
		strcpy(dir, "/tmp/gmm-agent.XXXXXX");
		if (!mkdtemp(dir))
			return EXIT_FAILURE;
		status |= unit_main("agent", &tests[i], 1);
		snprintf(command, sizeof command, "rm -rf %s", dir);
		status |= system(command) != 0;
	}
	return status ? EXIT_FAILURE : EXIT_SUCCESS;
}
