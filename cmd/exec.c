/* gmm-dedup exec: runs a program with the preload library, which shares the memory that the program declares mergeable.
 * Refuses programs that the dynamic linker would not load it into. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "cmd/cmd.h"

enum {
	OPTION_CPU_PERCENT = 256,
	OPTION_WINDOW,
	OPTION_HUGE_PAGES,
	OPTION_GUEST_PORT,
	OPTION_LOG,
};

static const struct argp_option options[] = {
	{ "domain", 'd', "NAME", 0, "trust domain: share with programs of the same domain only", 0 },
	{ "socket", 's', "PATH", 0, "share through the service that listens there; without it, inside the program", 0 },
	{ "cpu-percent", OPTION_CPU_PERCENT, "N", 0, "use N % of one core; 0: no limit (default 20)", 0 },
	{ "window-ms", OPTION_WINDOW, "N", 0, "share pages not written for N ms, and look as often (default 2000)", 0 },
	{ "huge-pages", OPTION_HUGE_PAGES, "preserve|always|never|none", 0,
	  "break huge pages where at least half of one is saved (the default), always, or never; none: the program gets "
	  "small pages where it asks for huge ones", 0 },
	{ "guest-port", OPTION_GUEST_PORT, "PATH", 0,
	  "listen on a Unix socket at PATH for the virtio-serial port of gmm-guest, the agent in the guest, and share the "
	  "pages that it names at once", 0 },
	{ "log", OPTION_LOG, NULL, 0, "print the library's messages to stderr", 0 },
	{ 0 },
};

static void set(const char *name, const char *value)
{
	if (setenv(name, value, true) == 0)
		return;
	perror("gmm-dedup exec: setenv");
	exit(CMD_FAILED);
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	char ***program = state->input;

	switch (key) {
	case 'd':
		if (!*arg || strlen(arg) > 63)
			argp_error(state, "--domain: '%s' is not a name of 1 to 63 bytes", arg);
		set("GMM_DEDUP_DOMAIN", arg);
		return 0;
	case 's':
		set("GMM_DEDUP_SOCKET", arg);
		return 0;
	case OPTION_CPU_PERCENT:
		gmm__cmd_number(state, "--cpu-percent", arg, 0, 10000);
		set("GMM_DEDUP_CPU_PERCENT", arg);
		return 0;
	case OPTION_WINDOW:
		gmm__cmd_number(state, "--window-ms", arg, 0, 3600000);
		set("GMM_DEDUP_WINDOW_MS", arg);
		return 0;
	case OPTION_HUGE_PAGES:
		if (strcmp(arg, "preserve") && strcmp(arg, "always") && strcmp(arg, "never") && strcmp(arg, "none"))
			argp_error(state, "--huge-pages: '%s' is none of preserve, always, never, none", arg);
		set("GMM_DEDUP_HUGE_PAGES", arg);
		return 0;
	case OPTION_GUEST_PORT:
		if (arg[0] != '/' || strlen(arg) > 107)
			argp_error(state, "--guest-port: '%s' is not an absolute path of at most 107 bytes", arg);
		set("GMM_DEDUP_GUEST_PORT", arg);
		return 0;
	case OPTION_LOG:
		set("GMM_DEDUP_LOG", "1");
		return 0;
	case ARGP_KEY_ARG:
		*program = state->argv + state->next - 1;
		state->next = state->argc; /* the rest is the program's */
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "no program given");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse_option,
	.args_doc = "PROGRAM [ARGUMENT...]",
	.doc = "Runs PROGRAM and shares equal pages of the memory that it declares mergeable (MADV_MERGEABLE), as QEMU does "
	       "with a guest's RAM unless it is told -machine mem-merge=off. The program needs no change and does not notice. "
	       "Statically linked programs and those that run with other rights than the caller's cannot be run so.",
};

/* ---- the program -------------------------------------------------------------------------------------------------- */

/* As execvp finds it. False: not found. */
static bool find_program(const char *name, char path[PATH_MAX])
{
	if (strchr(name, '/')) {
		snprintf(path, PATH_MAX, "%s", name);
		return access(path, F_OK) == 0;
	}
	const char *folder = getenv("PATH");
	for (folder = folder ? folder : "/usr/bin:/bin"; folder; folder = strchr(folder, ':')) {
		folder += *folder == ':';
		int length = (int)strcspn(folder, ":");
		if (snprintf(path, PATH_MAX, "%.*s/%s", length, length ? folder : ".", name) < PATH_MAX &&
		    access(path, X_OK) == 0)
			return true;
		folder += length;
		if (!*folder)
			break;
	}
	return false;
}

/* The kernel sets AT_SECURE for such programs, and the dynamic linker then ignores LD_PRELOAD. */
static const char *check_rights(int fd)
{
	struct stat st;

	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
		return "it is not a regular file";
	if ((st.st_mode & S_ISUID) && st.st_uid != getuid())
		return "it is setuid: the dynamic linker does not preload into it";
	if ((st.st_mode & S_ISGID) && st.st_gid != getgid())
		return "it is setgid: the dynamic linker does not preload into it";
	if (getuid() != 0 && fgetxattr(fd, "security.capability", NULL, 0) > 0)
		return "it has file capabilities: the dynamic linker does not preload into it";
	return NULL;
}

static bool has_interpreter(int fd, const Elf64_Ehdr *header)
{
	for (unsigned i = 0; i < header->e_phnum; i++) {
		Elf64_Phdr segment;
		off_t at = (off_t)(header->e_phoff + (uint64_t)i * sizeof segment);
		if (pread(fd, &segment, sizeof segment, at) == sizeof segment && segment.p_type == PT_INTERP)
			return true;
	}
	return false;
}

/* Why the program cannot be run so, or NULL. A script is judged by its interpreter, which comes out in next[]. */
static const char *check_program(const char *path, char next[PATH_MAX])
{
	union {
		Elf64_Ehdr elf;
		char text[PATH_MAX];
	} head = { 0 };
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	*next = 0;
	if (fd < 0)
		return strerror(errno);
	const char *why = check_rights(fd);
	ssize_t n = pread(fd, head.text, sizeof head.text - 1, 0);
	if (why) {
		;
	} else if (n > 2 && memcmp(head.text, "#!", 2) == 0) {
		sscanf(head.text + 2, " %4000s", next);
	} else if (n < (ssize_t)sizeof head.elf || memcmp(head.text, ELFMAG, SELFMAG) != 0) {
		why = "it is neither an ELF program nor a script";
	} else if (head.elf.e_ident[EI_CLASS] != ELFCLASS64 || head.elf.e_machine != EM_X86_64) {
		why = "it is not a program for x86-64";
	} else if (!has_interpreter(fd, &head.elf)) {
		why = "it is statically linked: nothing can be preloaded into it";
	}
	close(fd);
	return why;
}

static int refuse(const char *program, const char *why)
{
	fprintf(stderr, "gmm-dedup exec: cannot share the memory of '%s': %s\n", program, why);
	return CMD_USAGE;
}

/* ---- the preload library -------------------------------------------------------------------------------------------- */

/* Beside the folder of this command, as it is installed. */
static bool find_library(char path[PATH_MAX])
{
	static const char *const folders[] = { GMM_BIN_TO_LIB, "../lib" }; /* installed; in the build tree */
	char self[PATH_MAX], relative[PATH_MAX + 128];
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

	if (n <= 0)
		return false;
	self[n] = 0;
	*strrchr(self, '/') = 0;
	for (int i = 0; i < 2; i++) {
		const char *folder = folders[i];
		snprintf(relative, sizeof relative, "%s/%s/gmm-dedup/libgmm-preload.so", self, folder);
		if (realpath(relative, path) && !strpbrk(path, ": "))
			return true;
	}
	return false;
}

static void preload(const char *library)
{
	const char *before = getenv("LD_PRELOAD");
	char *all;

	if (asprintf(&all, "%s%s%s", library, before && *before ? ":" : "", before ? before : "") < 0) {
		perror("gmm-dedup exec");
		exit(CMD_FAILED);
	}
	set("LD_PRELOAD", all);
	free(all);
}

int cmd_exec(int argc, char **argv)
{
	char **program = NULL, path[PATH_MAX], judged[PATH_MAX], next[PATH_MAX], library[PATH_MAX];

	argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &program);
	if (!find_program(program[0], path)) {
		fprintf(stderr, "gmm-dedup exec: '%s': not found\n", program[0]);
		return CMD_USAGE;
	}
	strcpy(judged, path);
	for (int i = 0; i < 4 && *judged; i++, strcpy(judged, next)) {
		const char *why = check_program(judged, next);
		if (why)
			return refuse(program[0], why);
	}
	if (!find_library(library)) {
		fprintf(stderr, "gmm-dedup exec: libgmm-preload.so is not beside this command, in %s/gmm-dedup, or its path "
				"has a colon or a space\n", GMM_BIN_TO_LIB);
		return CMD_FAILED;
	}
	preload(library);
	execv(path, program);
	fprintf(stderr, "gmm-dedup exec: '%s': %s\n", path, strerror(errno));
	return CMD_FAILED;
}
