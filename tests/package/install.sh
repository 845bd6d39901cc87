#!/bin/sh
# install.sh BUILD_DIR EXAMPLE.c CC [CFLAGS]
# Installs into an empty folder, then builds and runs the example the three ways a user may: through
# pkg-config, through CMake's find_package and, with the shared library taken away, statically.

set -eu
build=$1
example=$2
cc=$3
cflags=${4-}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix

cmake --install "$build" --prefix "$prefix" >"$work/log" || { cat "$work/log"; exit 1; }
pc=$(find "$prefix" -name gmm-dedup.pc)
libdir=$(dirname "$(dirname "$pc")")
PKG_CONFIG_PATH=$(dirname "$pc")
export PKG_CONFIG_PATH

echo "== pkg-config"
# shellcheck disable=SC2046,SC2086
"$cc" $cflags $(pkg-config --cflags gmm-dedup) "$example" -o "$work/by-pkg-config" \
	$(pkg-config --libs gmm-dedup)
LD_LIBRARY_PATH=$libdir "$work/by-pkg-config"

echo "== find_package"
mkdir "$work/project"
cp "$example" "$work/project/embed.c"
cat >"$work/project/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.25)
project(consumer LANGUAGES C)
find_package(gmm-dedup 0.1 REQUIRED)
add_executable(embed embed.c)
target_link_libraries(embed PRIVATE gmm::dedup)
END
{
	cmake -G Ninja -S "$work/project" -B "$work/by-cmake" -DCMAKE_C_COMPILER="$cc" -DCMAKE_C_FLAGS="$cflags" \
		-DCMAKE_PREFIX_PATH="$prefix" && cmake --build "$work/by-cmake"
} >"$work/log" || { cat "$work/log"; exit 1; }
"$work/by-cmake/embed"

if [ -x "$prefix/bin/gmm-dedup" ]; then
	echo "== installed command"
	"$prefix/bin/gmm-dedup" --help >"$work/log" || { cat "$work/log"; exit 1; }
fi

echo "== installed agent for guests"
"$prefix/bin/gmm-guest" --version >"$work/log" || { cat "$work/log"; exit 1; }

echo "== pkg-config --static"
rm "$libdir"/libgmm-dedup.so*
# shellcheck disable=SC2046,SC2086
"$cc" $cflags $(pkg-config --cflags gmm-dedup) "$example" -o "$work/static" \
	$(pkg-config --static --libs gmm-dedup)
"$work/static"
