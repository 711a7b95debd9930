#!/usr/bin/env bash
# Lays the pinned CUDA toolkit into a folder, from Debian's packages:
#
#   hack/cuda/toolkit.sh [FOLDER]     (bin/cudatk by default)
#
# Only who changes a kernel needs it: PTX is committed. packages.txt beside this
# file names the packages with version and SHA-256; they are those of Debian 13
# (component non-free) and run on Debian 12 as well. Nothing is installed, and
# apt's own lists, cache and sources stay as they are. About 1 GB is downloaded and
# removed again. Does nothing when the folder holds what packages.txt asks for.
#
#   CUDA_DEBIAN_MIRROR=URI    a Debian mirror, if not the one that apt uses
#
# The folder is complete: FOLDER/bin/nvcc and its neighbours run from anywhere.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
alive=$here/../alive.sh
folder=$(realpath -m "${1:-$here/../../bin/cudatk}")
suite=trixie
wanted=$(grep -v '^#' "$here/packages.txt")
# What makes a folder current: the packages, and how they are laid out.
stamp=$(cat "$here/packages.txt" "$0" | sha256sum | cut -d ' ' -f 1)

fail() { echo "toolkit: $*" >&2; exit 1; }

if [ "$(cat "$folder/stamp" 2>/dev/null)" = "$stamp" ]; then
  echo "==> CUDA toolkit: is in $folder"
  exit 0
fi
for tool in apt-get dpkg-deb tar sha256sum; do
  command -v "$tool" >/dev/null || fail "this needs $tool (Debian or Ubuntu)"
done
[ "$(dpkg --print-architecture)" = amd64 ] || fail "the pinned packages are for amd64, this machine is $(dpkg --print-architecture)"
compiler=$(command -v g++-13 || command -v g++-12 || command -v g++ || true)
[ -n "$compiler" ] || fail "nvcc needs g++ (at most version 13): apt-get install g++"

# The mirror that this machine's apt has Debian from.
mirror=${CUDA_DEBIAN_MIRROR:-}
if [ -z "$mirror" ]; then
  # shellcheck disable=SC2016 # apt expands it.
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 2>/dev/null |
    awk '$3 == "main" && $1 !~ /security/ && !seen[$1]++ {print $1}' | grep -m 1 '/debian/*$' || true)
fi
[ -n "$mirror" ] || fail "apt knows no Debian mirror here: name one in CUDA_DEBIAN_MIRROR"

work=$folder.part
rm -rf "$work"
mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/packages" "$work/root"
trap 'rm -rf "$work"' EXIT
: >"$work/apt/status"
# Trusted, because packages.txt pins what is unpacked more strictly than a
# signature would, and Debian 12 need not have the keys of Debian 13.
echo "deb [arch=amd64 trusted=yes] $mirror $suite main contrib non-free" >"$work/apt/sources.list"
apt=(apt-get -qq
  -o "Dir::Etc::sourcelist=$work/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o "Dir::State=$work/apt" -o "Dir::State::lists=$work/apt/lists" -o "Dir::State::status=$work/apt/status"
  -o "Dir::Cache=$work/apt/cache" -o APT::Sandbox::User=root -o APT::Architecture=amd64
  -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
  -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false)

"$alive" "CUDA toolkit: reading the list of Debian's packages" "10 s" "${apt[@]}" update
names=$(awk '{print $1 "=" $2}' <<<"$wanted")
# shellcheck disable=SC2086 # One argument a package.
(cd "$work/packages" && "$alive" "CUDA toolkit: downloading $(wc -l <<<"$wanted") packages, 1 GB" "under a minute" "${apt[@]}" download $names) ||
  fail "the packages that packages.txt pins are not to be had from $mirror"
while read -r name version digest; do
  file=$work/packages/${name}_${version//:/%3a}_amd64.deb
  [ -f "$file" ] || file=$work/packages/${name}_${version//:/%3a}_all.deb
  echo "$digest  $file" | sha256sum --check --quiet --strict || fail "$name $version is not the package that was pinned"
done <<<"$wanted"

unpack() {
  local package
  for package in "$work"/packages/*.deb; do
    # Static libraries are nearly all of it, and nothing here links against them.
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$work/root" --exclude='*.a' --exclude='./usr/share/man' --exclude='./usr/share/lintian'
    rm "$package"
  done
}
export -f unpack
export work
"$alive" "CUDA toolkit: unpacking" "1 minute" bash -euo pipefail -c unpack

# nvcc looks for its parts where its profile says: relative to itself, so that the
# folder may be moved.
root=$work/root
inner=$root/usr/lib/nvidia-cuda-toolkit/bin
rm "$inner/nvcc.profile" "$inner/gcc" "$inner/g++"
cat >"$inner/nvcc.profile" <<'PROFILE'
TOP                = $(_HERE_)/../../..
NVVMIR_LIBRARY_DIR = $(_HERE_)/../libdevice
PATH              += $(_HERE_):$(TOP)/bin:
INCLUDES          += -I$(TOP)/include
LIBRARIES         =+ $(_SPACE_) -L$(TOP)/lib/x86_64-linux-gnu/stubs -L$(TOP)/lib/x86_64-linux-gnu
PROFILE
mkdir "$root/bin"
for program in nvcc ptxas cuobjdump nvdisasm cu++filt fatbinary compute-sanitizer; do
  path=usr/bin/$program options=
  # nvcc 12.4 takes g++ up to version 13.
  # shellcheck disable=SC2016 # The wrapper expands it.
  [ "$program" != nvcc ] || path=${inner#"$root/"}/nvcc options='-ccbin "$(command -v g++-13 || command -v g++-12 || command -v g++)" '
  [ "$program" != compute-sanitizer ] || path=usr/lib/nvidia-cuda-toolkit/compute-sanitizer/compute-sanitizer
  cat >"$root/bin/$program" <<WRAPPER
#!/bin/sh
top=\$(dirname "\$(dirname "\$(readlink -f "\$0")")")
export LD_LIBRARY_PATH="\$top/usr/lib/x86_64-linux-gnu\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
exec "\$top/$path" $options"\$@"
WRAPPER
  chmod +x "$root/bin/$program"
done
echo "$stamp" >"$work/root/stamp"
rm -rf "$folder"
mv "$work/root" "$folder"
echo "==> CUDA toolkit: in $folder: $("$folder/bin/nvcc" --version | sed -n 's/^Cuda compilation tools, release //p')"
