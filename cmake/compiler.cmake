# Language, warnings, optimization and sanitizers, the same for every target.

set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON)
set(CMAKE_C_FLAGS_RELEASE "-O2 -g")
set(CMAKE_C_FLAGS_DEBUG "-Og -g")

# "_GNU_SOURCE=" is what "#define _GNU_SOURCE" in a source file gives, so that both may stand together.
# GMM_DEBUG turns the library's own checks on. NDEBUG stays unset: tests and examples may use assert.
add_compile_definitions(_GNU_SOURCE= GMM_DEBUG=$<IF:$<CONFIG:Debug>,1,0>)

# Quoted includes are relative to the root of the repository; angle brackets never find internal headers.
add_compile_options("SHELL:-iquote \"${PROJECT_SOURCE_DIR}\"")

add_compile_options(
	-Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition
	-Wpointer-arith -Wvla -Wundef -Wformat=2 -Wwrite-strings -Wimplicit-fallthrough
	-fno-common -fno-omit-frame-pointer)
if(GMM_WERROR)
	add_compile_options(-Werror)
endif()

add_link_options(LINKER:--as-needed)

if(GMM_FUZZ)
	# All code reports where it has been; only the fuzz targets get libFuzzer's main.
	add_compile_options(-fsanitize=fuzzer-no-link)
endif()

if(GMM_SANITIZE)
	set(gmm_sanitize_flags -fsanitize=${GMM_SANITIZE} -fno-omit-frame-pointer)
	if(GMM_SANITIZE MATCHES undefined)
		list(APPEND gmm_sanitize_flags -fno-sanitize-recover=undefined)
	endif()
	if(GMM_SANITIZE MATCHES thread)
		list(APPEND gmm_sanitize_flags -include ${CMAKE_CURRENT_LIST_DIR}/thread-sanitizer.h)
	endif()
	add_compile_options(-O1 ${gmm_sanitize_flags})
	add_link_options(${gmm_sanitize_flags})
endif()
