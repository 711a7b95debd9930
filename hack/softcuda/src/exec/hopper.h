// What Hopper (sm_90a) adds and this interpreter knows: mbarrier, cp.async.bulk between
// global and shared memory of one block, fence.proxy.async, wgmma, setmaxnreg, elect.
//
// Time. A bulk copy happens when somebody first asks its barrier, as late as it may; a
// product (wgmma) gives its sums at once, and the bytes that it read are looked at once
// more when it is waited for. So a kernel that waits too little reads what was there
// before, or is told of a race. An mbarrier carries clocks from those who arrive, and
// from copies, to those who wait; see shared.h.
//
// Proxies. Bulk copies and wgmma access shared memory by the asynchronous proxy. What
// threads wrote is visible to it after a fence.proxy.async by the writer, or by the
// reader once it is ordered behind the writer.
#pragma once

#include "decode.h"

namespace softcuda {

void bulk_copy(Decoder&);      // cp.async.bulk…
void copies_arrive(Decoder&);  // cp.async.mbarrier.arrive…
void proxy_fence(Decoder&);    // fence.proxy…

// copies_of performs the copies (cp.async) of the lanes of m that belong to groups
// before `until`.
int copies_of(Warp&, uint32_t m, const uint32_t* until);
// async_end checks that a block that has ended left nothing under way.
int async_end(Block&);

}  // namespace softcuda
