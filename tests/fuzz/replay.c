/* Runs a fuzz target over the files of a folder, each of them also cut short and with bytes changed, always in the same way:
 * what fuzzing found stays found, without libFuzzer. replay FOLDER */
#include <dirent.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

enum { INPUT_MAX = 1 << 20, VARIANTS = 200 };

static uint64_t state = 1;

static uint64_t next_random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

/* A copy of its own for each run, so that a sanitizer sees reads beyond its end. */
static void run(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);

	fuzz_check(copy);
	memcpy(copy, data, size);
	fuzz_check(LLVMFuzzerTestOneInput(copy, size) == 0);
	free(copy);
}

static void run_variants(uint8_t *data, size_t size)
{
	run(data, size);
	for (int i = 0; i < VARIANTS && size > 0; i++) {
		size_t at = next_random() % size;
		uint8_t old = data[at];

		run(data, at);
		data[at] = i % 2 ? (uint8_t)next_random() : old ^ (uint8_t)(1u << i / 2 % 8);
		run(data, size);
		data[at] = old;
	}
}

static size_t read_file(const char *folder, const char *name, uint8_t *buffer)
{
	char path[4096];
	FILE *file;
	size_t size;

	snprintf(path, sizeof path, "%s/%s", folder, name);
	file = fopen(path, "rb");
	fuzz_check(file);
	size = fread(buffer, 1, INPUT_MAX, file);
	fclose(file);
	return size;
}

int main(int argc, char **argv)
{
	static uint8_t buffer[INPUT_MAX];
	struct dirent **entries;
	int count, files = 0;

	fuzz_check(argc == 2);
	count = scandir(argv[1], &entries, NULL, alphasort);
	fuzz_check(count >= 0);
	run(buffer, 0);
	for (int i = 0; i < count; i++) {
		if (entries[i]->d_name[0] != '.') {
			run_variants(buffer, read_file(argv[1], entries[i]->d_name, buffer));
			files++;
		}
		free(entries[i]);
	}
	free(entries);
	printf("%d inputs\n", files);
	return files > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
