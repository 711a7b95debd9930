#!/usr/bin/env bash
# On Hopper, wgmma products run side by side with what surrounds them, unless an
# instruction other than wgmma touches an accumulator between wgmma.fence and
# wgmma.wait_group. Then ptxas serialises all of them in that function, which can
# cost most of their speed. It says so, but as "info" (C7514, C7515), without the word
# "warning": --warning-as-error lets it pass, and --disable-warnings does not silence
# it. So a build that treats warnings as errors ships the slow code; it has to look
# for the text itself.
set -euo pipefail

version=12.4.131~12.4.1-2 # Of Debian 13, component non-free; 60 MB.
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
# The mirror that this machine's apt has Debian from, with lists and cache of its own.
# shellcheck disable=SC2016 # apt expands it.
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI) $(COMPONENT)' |
  awk '$2 == "main" && $1 !~ /security/ {print $1}' | grep -m 1 '/debian/*$')}
mkdir -p apt/lists/partial apt/cache/archives/partial
: >apt/status
echo "deb [arch=amd64 trusted=yes] $mirror trixie main contrib non-free" >apt/sources.list
apt=(apt-get -qq -o "Dir::Etc::sourcelist=$dir/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o "Dir::State=$dir/apt" -o "Dir::State::lists=$dir/apt/lists" -o "Dir::State::status=$dir/apt/status"
  -o "Dir::Cache=$dir/apt/cache" -o APT::Sandbox::User=root -o APT::Architecture=amd64 -o Acquire::Languages=none)
"${apt[@]}" update
"${apt[@]}" download "nvidia-cuda-toolkit=$version"
dpkg-deb --fsys-tarfile nvidia-cuda-toolkit_*.deb | tar -x --wildcards './usr/*/ptxas'
ptxas=$(find usr -name ptxas -type f | head -1)
"$ptxas" --version | grep release

# A product, added up in a loop; $1 is done to an accumulator behind it.
product() {
  cat <<PTX
.version 8.4
.target sm_90a
.address_size 64
.visible .entry product(.param .u64 out, .param .u64 left, .param .u64 right, .param .u32 steps)
{
  .reg .f32 %sum<4>;
  .reg .b64 %to, %a, %b;
  .reg .b32 %n, %i;
  .reg .pred %more;
  ld.param.u64 %to, [out];
  ld.param.u64 %a, [left];
  ld.param.u64 %b, [right];
  ld.param.u32 %n, [steps];
  mov.f32 %sum0, 0f00000000;
  mov.f32 %sum1, 0f00000000;
  mov.f32 %sum2, 0f00000000;
  mov.f32 %sum3, 0f00000000;
  mov.u32 %i, 0;
AGAIN:
  wgmma.fence.sync.aligned;
  wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%sum0, %sum1, %sum2, %sum3}, %a, %b, 1, 1, 1, 0, 0;
  $1
  wgmma.commit_group.sync.aligned;
  wgmma.wait_group.sync.aligned 0;
  add.u32 %i, %i, 1;
  setp.lt.u32 %more, %i, %n;
  @%more bra AGAIN;
  st.global.f32 [%to], %sum0;
  st.global.f32 [%to+4], %sum1;
  st.global.f32 [%to+8], %sum2;
  st.global.f32 [%to+12], %sum3;
  ret;
}
PTX
}

product '' >plain.ptx
product 'add.f32 %sum0, %sum0, 0f3F800000;' >touched.ptx
for flags in "" "--warning-as-error" "--disable-warnings"; do
  for kind in plain touched; do
    # shellcheck disable=SC2086 # No flag is no argument.
    "$ptxas" -arch=sm_90a $flags "$kind.ptx" -o "$kind.cubin" >"$kind.out" 2>&1
    echo "$kind ${flags:-without flags}: exit 0, says: $(cut -c 1-110 "$kind.out")"
  done
  [ ! -s plain.out ]
  grep -q '^ptxas info .*wgmma.mma_async instructions are serialized' touched.out
  if grep -qi warning touched.out; then exit 1; fi
done
