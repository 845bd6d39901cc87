/* The host's side of the test with a real guest (smoke.sh).
 *
 *   guest-check receive SOCKET FILE      asks the agent for everything and keeps what it sends
 *   guest-check compare FILE RAM ROOT    every page that is said to be a page of a file holds its bytes: RAM is a dump of the
 *                                        guest's memory, ROOT a folder with the guest's files
 *   guest-check pages FILE               prints what is named of the first region of each module: name, page, gfn
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "sharedmod/report_write.h"
#include "tests/guest/told.h"

enum { PAGE = 4096, LIMIT_MS = 200000, RAM_PAGES_MAX = 1 << 18 };

static int receive(const char *socket_path, const char *file_path)
{
	static struct gmm__report_writer request;
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct told *told = told_new(RAM_PAGES_MAX);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	FILE *file = fopen(file_path, "wb");
	char buffer[65536];

	strncpy(address.sun_path, socket_path, sizeof address.sun_path - 1);
	if (!file || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
		perror(socket_path);
		return 1;
	}
	gmm__report_write_request(&request, GMM__REPORT_WANT_ALL);
	if (write(fd, request.frame, request.bytes) != (ssize_t)request.bytes)
		return 1;
	while (told->dones == 0) {
		struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
		ssize_t got = poll(&poll_fd, 1, LIMIT_MS) == 1 ? read(fd, buffer, sizeof buffer) : -1;
		if (got <= 0) {
			printf("no report came\n");
			return 1;
		}
		told_feed(told, buffer, (size_t)got);
		fwrite(buffer, 1, (size_t)got, file);
	}
	close(fd);
	told_free(told);
	return fclose(file) != 0;
}

/* Pages of a module that are not as they should be. */
static uint32_t compare_module(const struct told_module *module, int ram, int file)
{
	char theirs[PAGE], ours[PAGE];
	uint32_t wrong = 0;

	for (uint32_t page = 0; page < TOLD_PAGES_MAX; page++) {
		if (module->gfns[page] == 0)
			continue;
		memset(ours, 0, sizeof ours);
		if (pread(file, ours, PAGE, (off_t)page * PAGE) <= 0 ||
		    pread(ram, theirs, PAGE, (off_t)(module->gfns[page] * PAGE)) != PAGE ||
		    memcmp(ours, theirs, PAGE) != 0) {
			printf("%s: page %u is not at gfn %#llx\n", module->name, page,
			       (unsigned long long)module->gfns[page]);
			wrong++;
		}
	}
	return wrong;
}

static int compare(const char *file_path, const char *ram_path, const char *root)
{
	struct told *told = told_new(RAM_PAGES_MAX);
	uint32_t kernels = 0, files = 0, pages = 0, wrong = 0;
	int ram = open(ram_path, O_RDONLY);

	told_feed_file(told, file_path);
	for (int i = 0; i < GMM__REPORT_MODULES_MAX; i++) {
		const struct told_module *module = &told->modules[i];
		char path[4096];
		struct stat st;

		kernels += module->used && module->kind == GMM__REPORT_KERNEL;
		if (!module->used || module->kind != GMM__REPORT_FILE)
			continue;
		snprintf(path, sizeof path, "%s%s", root, module->name);
		int file = open(path, O_RDONLY);
		if (file < 0 || fstat(file, &st) != 0 || (uint64_t)st.st_size != module->size_bytes) {
			printf("%s: not a file of the guest\n", module->name);
			wrong++;
			continue;
		}
		wrong += compare_module(module, ram, file);
		printf("%s %s: %u pages\n", module->name, module->version, module->pages);
		close(file);
		files++;
		pages += module->pages;
	}
	printf("%u kernel, %u files, %u pages, %u wrong\n", kernels, files, pages, wrong);
	told_free(told);
	return kernels != 1 || files < 3 || pages < 300 || wrong > 0;
}

static int print_pages(const char *file_path)
{
	struct told *told = told_new(RAM_PAGES_MAX);

	told_feed_file(told, file_path);
	for (int i = 0; i < GMM__REPORT_MODULES_MAX; i++)
		for (uint32_t page = 0; told->modules[i].used && page < TOLD_PAGES_MAX; page++)
			if (told->modules[i].gfns[page] != 0)
				printf("%s\t%u\t%llu\n", told->modules[i].name, page,
				       (unsigned long long)told->modules[i].gfns[page]);
	int result = told->dones == 0;
	told_free(told);
	return result;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "pages") == 0)
		return print_pages(argv[2]);
	if (argc == 4 && strcmp(argv[1], "receive") == 0)
		return receive(argv[2], argv[3]);
	if (argc == 5 && strcmp(argv[1], "compare") == 0)
		return compare(argv[2], argv[3], argv[4]);
	return 2;
}
