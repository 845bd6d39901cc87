/* Readers of /proc for the tests; see proc.h. A file that cannot be read counts as empty. */
#include "tests/support/proc.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

static size_t count_entries(const char *path)
{
	DIR *dir = opendir(path);
	size_t count = 0;

	if (!dir)
		return 0;
	for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir))
		count += entry->d_name[0] != '.';
	closedir(dir);
	return count;
}

size_t proc_fds(void)
{
	return count_entries("/proc/self/fd") - 1; /* the one just used to read it */
}

size_t proc_threads(void)
{
	return count_entries("/proc/self/task");
}

size_t proc_maps(void)
{
	FILE *file = fopen("/proc/self/maps", "re");
	size_t lines = 0;

	if (!file)
		return 0;
	for (int c = fgetc(file); c != EOF; c = fgetc(file))
		lines += c == '\n';
	fclose(file);
	return lines;
}

uint64_t proc_memory_files_kb(void)
{
	DIR *dir = opendir("/proc/self/fd");
	uint64_t kb = 0;

	if (!dir)
		return 0;
	for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
		int fd = atoi(entry->d_name);
		struct statfs fs;
		struct stat file;

		if (entry->d_name[0] == '.' || fstatfs(fd, &fs) || fstat(fd, &file))
			continue;
		if (fs.f_type == TMPFS_MAGIC)
			kb += (uint64_t)file.st_blocks / 2;
	}
	closedir(dir);
	return kb;
}

/* One walk over smaps answers all questions about a range. */
struct range_facts {
	uint64_t field_kb;
	size_t mappings, with_flag, of_files;
};

static void take_flags(const char *line, const char *flag, struct range_facts *facts)
{
	char padded[8];

	snprintf(padded, sizeof(padded), " %.4s ", flag);
	facts->with_flag += strstr(line, padded) != NULL;
}

static struct range_facts ask_smaps(const void *addr, size_t size, const char *field, const char *flag)
{
	FILE *file = fopen("/proc/self/smaps", "re");
	uintptr_t first = (uintptr_t)addr, last = first + size;
	struct range_facts facts = { 0 };
	bool inside = false;
	char line[512], name[64];

	if (!file)
		return facts;
	while (fgets(line, sizeof(line), file)) {
		uintptr_t start, end;
		unsigned long inode;
		uint64_t value;

		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*s %*s %*s %lu", &start, &end, &inode) == 3) {
			inside = start < last && end > first;
			facts.mappings += inside;
			facts.of_files += inside && inode;
		} else if (inside && !strncmp(line, "VmFlags:", 8)) {
			take_flags(line, flag, &facts);
		} else if (inside && sscanf(line, "%63[^:]: %" SCNu64, name, &value) == 2) {
			facts.field_kb += strcmp(name, field) ? 0 : value;
		}
	}
	fclose(file);
	return facts;
}

uint64_t proc_smaps_kb(const void *addr, size_t size, const char *field)
{
	return ask_smaps(addr, size, field, "").field_kb;
}

size_t proc_mappings_with_flag(const void *addr, size_t size, const char *flag)
{
	return ask_smaps(addr, size, "", flag).with_flag;
}

size_t proc_mappings(const void *addr, size_t size)
{
	return ask_smaps(addr, size, "", "").mappings;
}

size_t proc_file_mappings(const void *addr, size_t size)
{
	return ask_smaps(addr, size, "", "").of_files;
}

size_t proc_swapped_pages(const void *addr, size_t size)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	size_t swapped = 0;

	for (size_t i = 0; fd >= 0 && i < size / 4096; i++) {
		uint64_t entry;
		off_t offset = (off_t)(((uintptr_t)addr / 4096 + i) * sizeof(entry));

		if (pread(fd, &entry, sizeof(entry), offset) == sizeof(entry))
			swapped += entry >> 62 & 1;
	}
	if (fd >= 0)
		close(fd);
	return swapped;
}

bool proc_read_number(const char *path, long *ret_value)
{
	FILE *file = fopen(path, "re");
	bool ok;

	if (!file)
		return false;
	ok = fscanf(file, "%ld", ret_value) == 1;
	fclose(file);
	return ok;
}

bool proc_write_number(const char *path, long value)
{
	FILE *file = fopen(path, "we");
	bool ok;

	if (!file)
		return false;
	ok = fprintf(file, "%ld\n", value) > 0;
	return fclose(file) == 0 && ok;
}
