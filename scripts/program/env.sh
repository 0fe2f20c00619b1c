# Source this: where the program's compiler lies, and how it is called.
#
# The official way is `cargo build-sbf`. Without it, the same sources are built with Debian's
# rustc-web (its LLVM has the BPF back end) and sbpf-linker linked to that very LLVM.

PROGRAM_CACHE=${ROBOCOMPUTE_SBF:-${XDG_CACHE_HOME:-$HOME/.cache}/robocompute-sbf}
# Both packages must have this version; the committed digest is of a build with it.
RUSTC_WEB_VERSION=1.96.0+dfsg1-1~deb12u2
SBPF_LINKER_VERSION=0.2.6
PROGRAM_TARGET=bpfel-unknown-none
