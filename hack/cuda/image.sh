#!/usr/bin/env bash
# Unpacks what t2-cuda's image is made of, besides t2-cuda, into a folder:
#
#   hack/cuda/image.sh FOLDER     (the image's root is FOLDER/root)
#
# That is glibc and its loader from Debian's packages, and of NVIDIA's nothing but what
# the builder has and names: the driver's libraries come from the node, by its container
# runtime. Nothing is
# installed, and apt's own lists, cache and sources stay as they are. The suite is
# pinned, and newer than the machines that build: what was linked against an older
# glibc runs on a newer one. apt verifies what it downloads by Debian's keys;
# versions and digests are printed, and lie in the image as
# usr/share/doc/t2-cuda/packages. Does nothing when FOLDER was made by this script
# as it is now; delete FOLDER to have the suite's latest packages.
#
#   CUDA_DEBIAN_MIRROR=URI    a Debian mirror, if not the one that apt uses
#   CUDA_LIBRARIES=FOLDER     a folder of the CUDA toolkit's, such as /usr/local/cuda/lib64:
#                             its cuBLAS goes into the image, and its cuSOLVER if it has one
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
alive=$here/../alive.sh
folder=$(realpath -m "${1:?usage: hack/cuda/image.sh FOLDER}")
suite=trixie
release=13
# libgcc is what glibc looks for when a thread is cancelled, and what cuBLAS needs.
packages=(libc6 libgcc-s1 gcc-14-base)

fail() { echo "cuda-image: $*" >&2; exit 1; }

# cuBLAS with what it is made of; then cuSOLVER likewise, of which CUDA 12 and later have
# nvJitLink too. Of several versions the newest.
chosen=()
newest() { find -L "$libraries" -maxdepth 1 -type f -name "$1.so.[0-9]*" -printf '%f\n' | grep -E "^$1\.so\.[0-9]+\$" | sort -V | tail -n 1 || true; }
libraries=${CUDA_LIBRARIES:-}
if [ -n "$libraries" ]; then
  [ -d "$libraries" ] || fail "CUDA_LIBRARIES=$libraries is no folder"
  for name in libcublas libcublasLt; do
    file=$(newest $name)
    [ -n "$file" ] || fail "CUDA_LIBRARIES=$libraries has no $name.so.N: name the folder of the CUDA toolkit that has, or none"
    chosen+=("$file")
  done
  [ "${chosen[0]##*.}" = "${chosen[1]##*.}" ] || fail "CUDA_LIBRARIES=$libraries has ${chosen[0]} and ${chosen[1]}, which do not go together"
  if [ -n "$(newest libcusolver)" ]; then
    for name in libcusolver libcusparse libnvJitLink; do
      file=$(newest $name)
      [ -z "$file" ] || chosen+=("$file")
    done
  fi
fi

stamp=$({
  sha256sum <"$0"
  for file in "${chosen[@]}"; do stat -L -c '%n %s %Y' "$libraries/$file"; done
} | sha256sum | cut -d ' ' -f 1)
if [ "$(cat "$folder/stamp" 2>/dev/null)" = "$stamp" ]; then
  echo "==> t2-cuda's glibc: unpacked already"
  exit 0
fi
for tool in apt-get apt-cache dpkg-deb sha256sum; do
  command -v "$tool" >/dev/null || fail "this needs $tool (Debian or Ubuntu)"
done
keys=
for file in /usr/share/keyrings/debian-archive-$suite-automatic.{gpg,pgp} /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
  if [ -z "$keys" ] && [ -r "$file" ]; then keys=$file; fi
done
[ -n "$keys" ] || fail "Debian's keys are not here: apt-get install debian-archive-keyring"

# The mirror that this machine's apt has Debian from.
mirror=${CUDA_DEBIAN_MIRROR:-}
if [ -z "$mirror" ]; then
  # shellcheck disable=SC2016 # apt expands it.
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(COMPONENT)' 2>/dev/null |
    awk '$2 == "main" && $1 !~ /security/ && !seen[$1]++ {print $1}' | grep -m 1 '/debian/*$' || true)
fi
mirror=${mirror:-http://deb.debian.org/debian}

work=$folder.part
root=$work/root
rm -rf "$work"
mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/packages" "$root"
trap 'rm -rf "$work"' EXIT
: >"$work/apt/status"
echo "deb [signed-by=$keys] $mirror $suite main" >"$work/apt/sources.list"
options=(
  -o "Dir::Etc::sourcelist=$work/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o "Dir::State=$work/apt" -o "Dir::State::lists=$work/apt/lists" -o "Dir::State::status=$work/apt/status"
  -o "Dir::Cache=$work/apt/cache" -o APT::Sandbox::User=root
  -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
  -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false)
"$alive" "t2-cuda's glibc: reading the list of Debian $release's packages" "10 s" apt-get -qq "${options[@]}" update ||
  fail "Debian $release is not to be had from $mirror: name another mirror in CUDA_DEBIAN_MIRROR"
wanted=$(apt-cache "${options[@]}" show --no-all-versions "${packages[@]}" |
  awk '/^Package:/{p=$2} /^Version:/{v=$2} /^SHA256:/&&!seen[p]++{print p, v, "sha256:" $2}')
(cd "$work/packages" && "$alive" "t2-cuda's glibc: downloading ${#packages[@]} packages" "seconds" \
  apt-get -qq "${options[@]}" download "${packages[@]}")
while read -r name _ digest; do
  file=$(ls "$work/packages/${name}"_*.deb)
  echo "${digest#sha256:}  $file" | sha256sum --check --quiet --strict
  dpkg-deb -x "$file" "$root"
done <<<"$wanted"

# What no program needs: converters of old character sets, tools of debuggers, manuals.
rm -rf "$root"/usr/lib/*/{gconv,audit} "$root"/usr/share/{man,lintian,locale,gcc} \
  "$root"/usr/lib/*/lib{memusage,pcprofile,thread_db,c_malloc_debug}.so*
find "$root/usr/share/doc" -type f ! -name copyright -delete
find "$root" -type d -empty -delete
# Where programs say their loader is. In Debian 13 all of it lies in usr.
for dir in lib lib64; do
  if [ -d "$root/usr/$dir" ] && [ ! -e "$root/$dir" ]; then ln -s "usr/$dir" "$root/$dir"; fi
done
# NVIDIA's container runtime puts the driver where the distribution has its
# libraries, which it tells by the first, and enters them in the loader's cache,
# which goes by the second.
mkdir -p "$root/etc/ld.so.conf.d" "$root/usr/share/doc/t2-cuda"
echo "$release" >"$root/etc/debian_version"
echo "include /etc/ld.so.conf.d/*.conf" >"$root/etc/ld.so.conf"
echo "$wanted" | tee "$root/usr/share/doc/t2-cuda/packages" | sed 's/^/    /'
loader=$(find "$root/usr/lib" "$root/usr/lib64" -name 'ld-linux*.so.*' 2>/dev/null | head -n 1)
[ -n "$loader" ] || fail "the packages hold no loader: $suite is laid out in a way that this script does not know"

# NVIDIA's libraries lie where glibc's are, under the names that they are looked for by.
place=$(dirname "$(find "$root/usr/lib" -name libc.so.6 | head -n 1)")
for file in "${chosen[@]}"; do
  cp -L --preserve=timestamps "$libraries/$file" "$place/$file"
  chmod 644 "$place/$file"
  echo "$file $(sha256sum <"$place/$file" | cut -d ' ' -f 1)" | tee -a "$root/usr/share/doc/t2-cuda/libraries" | sed 's/^/    /'
done
for file in "${chosen[@]}"; do
  missing=$(LD_TRACE_LOADED_OBJECTS=1 "$loader" --library-path "$place" "$place/$file" | awk '/not found/ && $1 != "libcuda.so.1" {print $1}' | tr '\n' ' ')
  [ -z "$missing" ] || fail "$file of CUDA_LIBRARIES=$libraries needs ${missing% }, which neither has: put it beside"
done

echo "$stamp" >"$work/stamp"
rm -rf "$work/apt" "$work/packages" "$folder"
mv "$work" "$folder"
