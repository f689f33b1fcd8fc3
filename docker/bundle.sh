#!/bin/sh
# bundle.sh BUILD_DIR OUT_DIR [BINARY...]
#
# Collects the server and the client (or the named binaries of BUILD_DIR) with the shared libraries
# that they load into OUT_DIR: bin/ and lib/, relocatable, for any Linux of the same processor whose
# C library is at least this machine's. Left to the target machine: the C library itself, the GPU's
# driver and cuBLASLt, which is loaded where there is a GPU (part of the CUDA toolkit and of PyTorch;
# too large to carry).
set -eu

build=${1:?usage: bundle.sh BUILD_DIR OUT_DIR [BINARY...]}
out=${2:?usage: bundle.sh BUILD_DIR OUT_DIR [BINARY...]}
shift 2
[ $# -gt 0 ] || set -- server/fla-server client/fla-cli

fail() {
  echo "bundle.sh: $*" >&2
  exit 1
}
command -v patchelf >/dev/null || fail "needs patchelf (apt-get install patchelf)"

rm -rf "$out"
mkdir -p "$out/bin" "$out/lib"
for binary in "$@"; do
  [ -x "$build/$binary" ] || fail "$build/$binary: no such program; build it first"
  cp "$build/$binary" "$out/bin/"
done

for binary in "$out"/bin/*; do
  ldd "$binary" | while read -r name _ path _; do
    case $name in
      linux-vdso.so.* | */ld-linux* | libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | \
        librt.so.* | libresolv.so.*) continue ;;
      libcuda.so.*) continue ;;
    esac
    [ "$path" != not ] || fail "$binary needs $name, which is not on this machine"
    [ -e "$out/lib/$name" ] || cp -L "$path" "$out/lib/$name"
  done
done

strip --strip-unneeded "$out"/bin/* "$out"/lib/*
# RPATH, not RUNPATH: it also serves the libraries that the libraries load.
for binary in "$out"/bin/*; do patchelf --force-rpath --set-rpath '$ORIGIN/../lib' "$binary"; done
for library in "$out"/lib/*; do patchelf --force-rpath --set-rpath '$ORIGIN' "$library"; done

du -sh "$out" | sed 's/^/bundled: /'
