/* Processes, their mappings, and where those are in memory; see collect.h. */
#include "guest/collect.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include "guest/build_id.h"

/* /proc/PID/pagemap, Documentation/admin-guide/mm/pagemap.rst */
#define ENTRY_PRESENT (1ull << 63)
#define ENTRY_FILE (1ull << 61) /* or shared anonymous; a private copy of a file's page does not have it */
#define ENTRY_GFN ((1ull << 55) - 1)

enum { ENTRIES = 4096, NOTES_MAX = 4, NOTE_BYTES_MAX = 4096, TRIES_MAX = 3 };

struct mapping {
	uint64_t start, end, offset, dev, inode;
	const char *path;
};

/* A line is "7f00-7f01 r-xp 00001000 08:01 1234    /lib/x". Only files that this mapping cannot write. */
static bool read_mapping(char *line, struct mapping *ret_mapping)
{
	unsigned major, minor;
	char rights[5];
	int path_at = 0;

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 " %n", &ret_mapping->start,
		   &ret_mapping->end, rights, &ret_mapping->offset, &major, &minor, &ret_mapping->inode,
		   &path_at) < 7 || path_at == 0)
		return false;
	if (rights[1] == 'w' || (rights[0] != 'r' && rights[2] != 'x') || ret_mapping->inode == 0)
		return false;
	line[strcspn(line, "\n")] = 0;
	ret_mapping->path = line + path_at;
	ret_mapping->dev = makedev(major, minor);
	/* A file that was deleted or never had a name tells other guests nothing. */
	size_t length = strlen(ret_mapping->path), suffix = strlen(" (deleted)");
	if (ret_mapping->path[0] != '/' ||
	    (length > suffix && strcmp(ret_mapping->path + length - suffix, " (deleted)") == 0))
		return false;
	return ret_mapping->end > ret_mapping->start;
}

/* A way to the mapped file that leads to no other one, also from other mount namespaces. */
static void mapped_path(const struct mapping *mapping, char *ret_path, size_t size)
{
	snprintf(ret_path, size, "map_files/%" PRIx64 "-%" PRIx64, mapping->start, mapping->end);
}

/* First sight of a file in this round. */
static struct file *meet_file(int process, const struct mapping *mapping, struct files *files)
{
	struct file *file = files_add(files, mapping->dev, mapping->inode, mapping->path);
	char path[64];
	struct stat st;

	if (!file)
		return NULL;
	mapped_path(mapping, path, sizeof path);
	if (fstatat(process, path, &st, 0) != 0 || !S_ISREG(st.st_mode) || st.st_size <= 0)
		return file;
	if (files_set_size(files, file, (uint64_t)st.st_size)) {
		file->mtime_s = st.st_mtim.tv_sec;
		file->mtime_ns = st.st_mtim.tv_nsec;
	}
	return file;
}

static void note_entries(struct file *file, uint64_t first_page, const uint64_t *entries, size_t count)
{
	for (size_t i = 0; i < count && first_page + i < file->pages; i++) {
		uint64_t gfn = entries[i] & ENTRY_GFN;
		if ((entries[i] & (ENTRY_PRESENT | ENTRY_FILE)) != (ENTRY_PRESENT | ENTRY_FILE) || gfn > UINT32_MAX)
			continue;
		if (file->gfns[first_page + i] == 0 && gfn != 0)
			file->present++;
		file->gfns[first_page + i] = (uint32_t)gfn;
	}
}

static bool read_pagemap(int pagemap, const struct mapping *mapping, struct file *file,
			 const volatile sig_atomic_t *stop)
{
	static uint64_t entries[ENTRIES];
	uint64_t page = mapping->start / PAGE_BYTES, end = mapping->end / PAGE_BYTES;
	uint64_t file_page = mapping->offset / PAGE_BYTES;

	while (page < end && file_page < file->pages && !*stop) {
		size_t count = end - page < ENTRIES ? end - page : ENTRIES;
		ssize_t got = pread(pagemap, entries, count * sizeof *entries, (off_t)(page * sizeof *entries));
		if (got < (ssize_t)sizeof *entries)
			return false;
		count = (size_t)got / sizeof *entries;
		note_entries(file, file_page, entries, count);
		page += count;
		file_page += count;
	}
	return true;
}

/* Reads without waiting for a disk: only where all pages of the range were seen in memory, or if the kernel says so. */
static ssize_t read_resident(int fd, const struct file *file, void *buffer, size_t bytes, uint64_t offset)
{
	struct iovec iov = { buffer, bytes };
	bool resident = true;

	if (offset >= file->size_bytes || bytes == 0)
		return -1;
	if (bytes > file->size_bytes - offset)
		iov.iov_len = bytes = (size_t)(file->size_bytes - offset);
	for (uint64_t page = offset / PAGE_BYTES; page <= (offset + bytes - 1) / PAGE_BYTES; page++)
		resident = resident && page < file->pages && file->gfns[page] != 0;
	return resident ? pread(fd, buffer, bytes, (off_t)offset) : preadv2(fd, &iov, 1, (off_t)offset, RWF_NOWAIT);
}

/* Leaves the version empty if what is needed is not in memory: it may be in the next round. */
static void read_version(int fd, struct file *file)
{
	uint8_t head[PAGE_BYTES], notes[NOTE_BYTES_MAX];
	struct notes_range ranges[NOTES_MAX];
	ssize_t got = read_resident(fd, file, head, sizeof head, 0);

	if (got <= 0)
		return;
	size_t count = build_id_find_notes(head, (size_t)got, ranges, NOTES_MAX);
	for (size_t i = 0; i < count; i++) {
		size_t bytes = ranges[i].bytes < sizeof notes ? (size_t)ranges[i].bytes : sizeof notes;
		got = read_resident(fd, file, notes, bytes, ranges[i].offset);
		if (got < 0)
			return;
		if (build_id_of_notes(notes, (size_t)got, file->version, sizeof file->version))
			return;
	}
	/* No build id. The size is told anyway; files of one package have one time everywhere. */
	snprintf(file->version, sizeof file->version, "m%" PRIx64, (uint64_t)file->mtime_s & 0xffffffffffff);
}

static void find_version(int process, const struct mapping *mapping, struct file *file)
{
	char path[64];
	struct stat st;
	int fd;

	mapped_path(mapping, path, sizeof path);
	/* What meet_file has seen is a regular file, and this link leads to the same one unless the address was mapped again
	 * meanwhile; then it must not be a device, whose driver would notice an open. */
	fd = openat(process, path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | O_NOATIME);
	if (fd < 0)
		return;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == file->size_bytes &&
	    st.st_mtim.tv_sec == file->mtime_s && st.st_mtim.tv_nsec == file->mtime_ns)
		read_version(fd, file);
	close(fd);
}

static void collect_mapping(int process, int pagemap, const struct mapping *mapping, struct files *files,
			    const volatile sig_atomic_t *stop)
{
	struct file *file = files_find(files, mapping->dev, mapping->inode);

	if (!file)
		file = meet_file(process, mapping, files);
	if (!file || !file->gfns)
		return;
	if (!read_pagemap(pagemap, mapping, file, stop))
		return;
	/* Once, and again when the header has been seen in memory, but not for each of thousands of mappings. */
	if (file->version[0] == 0 && file->present > 0 && file->tries < (file->gfns[0] ? TRIES_MAX : 1)) {
		file->tries++;
		find_version(process, mapping, file);
	}
}

static void collect_process(int process, struct files *files, const volatile sig_atomic_t *stop)
{
	int maps = openat(process, "maps", O_RDONLY | O_CLOEXEC);
	int pagemap = openat(process, "pagemap", O_RDONLY | O_CLOEXEC);
	FILE *lines = maps >= 0 ? fdopen(maps, "r") : NULL;
	struct mapping mapping;
	char *line = NULL;
	size_t size = 0;

	while (lines && pagemap >= 0 && !*stop && getline(&line, &size, lines) > 0)
		if (read_mapping(line, &mapping))
			collect_mapping(process, pagemap, &mapping, files, stop);
	free(line);
	if (lines)
		fclose(lines);
	else if (maps >= 0)
		close(maps);
	if (pagemap >= 0)
		close(pagemap);
}

bool collect_files(const char *proc, struct files *files, const volatile sig_atomic_t *stop)
{
	DIR *processes = opendir(proc);
	struct dirent *entry;

	files_clear(files);
	while (processes && !*stop && (entry = readdir(processes))) {
		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		int process = openat(dirfd(processes), entry->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (process < 0)
			continue;
		collect_process(process, files, stop);
		close(process);
	}
	if (processes)
		closedir(processes);
	return !*stop;
}

bool collect_is_allowed(const char *proc)
{
	static volatile char touched;
	char path[4096];
	uint64_t entry = 0;

	touched = 1;
	snprintf(path, sizeof path, "%s/self/pagemap", proc);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t got = pread(fd, &entry, sizeof entry, (off_t)((uintptr_t)&touched / PAGE_BYTES * sizeof entry));
	close(fd);
	return got == sizeof entry && touched && (entry & ENTRY_PRESENT) && (entry & ENTRY_GFN) != 0;
}
