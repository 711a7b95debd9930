// Executable graphs: made from a graph, changed in place, run.
#include <algorithm>
#include <map>

#include "capture.h"
#include "graph.h"

using namespace softcuda;

namespace softcuda {

bool plan(const Graph& graph, std::vector<Step>* steps, CUgraphNode* first_bad) {
  std::map<const Node*, size_t> done;
  while (done.size() < graph.nodes.size()) {
    size_t before = done.size();
    for (const auto& node : graph.nodes) {
      if (done.count(node.get())) continue;
      Step step;
      bool ready = true;
      for (const auto& weak : node->dependencies) {
        std::shared_ptr<Node> other = weak.lock();
        if (!other) continue;
        auto found = done.find(other.get());
        if (found == done.end()) {
          ready = false;
          *first_bad = static_cast<CUgraphNode>(node->handle);
          break;
        }
        step.dependencies.push_back(found->second);
      }
      if (!ready) continue;
      std::sort(step.dependencies.begin(), step.dependencies.end());
      step.work = node->work;
      step.sources = {node->handle};
      if (auto* sub = std::get_if<Subgraph>(&step.work)) {
        if (!plan(*sub->graph, &step.child, first_bad)) return false;
      }
      done[node.get()] = steps->size();
      steps->push_back(std::move(step));
    }
    if (done.size() == before) return false;
  }
  *first_bad = nullptr;
  return true;
}

CUresult check_work(Call& call, const Work& work) {
  if (const auto* launch = std::get_if<Launch>(&work); launch && launch->function->unloaded) {
    return call.fail(CUDA_ERROR_INVALID_HANDLE,
                     "kernel " + launch->function->info->name + " is of a module that was unloaded");
  }
  return CUDA_SUCCESS;
}

}  // namespace softcuda

namespace {

CUresult check_steps(Call& call, const std::vector<Step>& steps, bool frees_on_launch) {
  for (const Step& step : steps) {
    SOFTCUDA_TRY(check_work(call, step.work));
    SOFTCUDA_TRY(check_steps(call, step.child, frees_on_launch));
    const auto* allocate = std::get_if<Allocate>(&step.work);
    if (allocate && allocate->memory->live && !frees_on_launch) {
      return call.fail(CUDA_ERROR_INVALID_VALUE,
                       "memory " + hex(allocate->memory->address) +
                           " that the graph's last launch allocated was not freed (and the graph was not made with "
                           "CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)");
    }
  }
  return CUDA_SUCCESS;
}

CUresult run_steps(Call& call, Context& context, const std::vector<Step>& steps,
                   std::unique_lock<std::mutex>& execution) {
  for (const Step& step : steps) {
    if (context.error) break;  // nothing runs after a kernel's fault
    SOFTCUDA_TRY(step.child.empty() ? perform(call, context, step.work, execution)
                                    : run_steps(call, context, step.child, execution));
  }
  return CUDA_SUCCESS;
}

CUresult instantiate(Call& call, CUgraphExec* out, CUgraph handle, unsigned long long flags, CUgraphNode* bad,
                     CUgraphInstantiateResult* outcome) {
  SOFTCUDA_TRY(need(call, out, "phGraphExec"));
  std::shared_ptr<Graph> graph = find<Graph>(call, handle);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  constexpr unsigned long long known = CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH |
                                       CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD |
                                       CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;
  if (flags & ~known) {
    return call.fail(CUDA_ERROR_INVALID_VALUE, "instantiation flags " + hex(flags) + " are not supported");
  }
  auto exec = std::make_shared<Exec>();
  if (!plan(*graph, &exec->steps, bad)) {
    *outcome = CUDA_GRAPH_INSTANTIATE_INVALID_STRUCTURE;
    return call.fail(CUDA_ERROR_INVALID_VALUE, "the graph has a cycle");
  }
  SOFTCUDA_TRY(check_steps(call, exec->steps, true));
  exec->context = call.context;
  exec->flags = flags;
  driver().handles.add(exec);
  *out = static_cast<CUgraphExec>(exec->handle);
  *outcome = CUDA_GRAPH_INSTANTIATE_SUCCESS;
  return CUDA_SUCCESS;
}

Step* find_step(std::vector<Step>& steps, const void* node) {
  for (Step& step : steps) {
    if (std::find(step.sources.begin(), step.sources.end(), node) != step.sources.end()) return &step;
    if (Step* found = find_step(step.child, node)) return found;
  }
  return nullptr;
}

// An entry that changes the work of one node of an executable graph, of one kind.
template <class Kind_>
CUresult change_step(Entry& entry, CUgraphExec handle, CUgraphNode node, const void* params,
                     const std::function<CUresult(Call&, Kind_&)>& body) {
  return entry.call(Needs::driver, [&](Call& call) {
    std::shared_ptr<Exec> exec = find<Exec>(call, handle);
    if (!exec) return CUDA_ERROR_INVALID_VALUE;
    SOFTCUDA_TRY(need(call, params, "nodeParams"));
    Step* step = find_step(exec->steps, node);
    if (!step) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, "node " + hex(uintptr_t(node)) + " is none that the graph was made from");
    }
    Kind_* work = std::get_if<Kind_>(&step->work);
    if (!work) return call.fail(CUDA_ERROR_INVALID_VALUE, "the node is of another kind");
    return body(call, *work);
  });
}

bool same_kinds_of_memory(const Copy& a, const Copy& b) {
  return a.srcMemoryType == b.srcMemoryType && a.dstMemoryType == b.dstMemoryType;
}

// Whether a step can become what `to` is, and if not, why.
CUgraphExecUpdateResult can_become(const Step& from, const Step& to) {
  if (from.work.index() != to.work.index()) return CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
  if (from.dependencies != to.dependencies) return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
  if (const auto* launch = std::get_if<Launch>(&from.work)) {
    const auto& other = std::get<Launch>(to.work);
    if (launch->function->context.lock() != other.function->context.lock()) {
      return CU_GRAPH_EXEC_UPDATE_ERROR_UNSUPPORTED_FUNCTION_CHANGE;
    }
    if (launch->cooperative != other.cooperative) return CU_GRAPH_EXEC_UPDATE_ERROR_ATTRIBUTES_CHANGED;
  }
  if (const auto* copy = std::get_if<Copy>(&from.work)) {
    if (!same_kinds_of_memory(*copy, std::get<Copy>(to.work))) return CU_GRAPH_EXEC_UPDATE_ERROR_PARAMETERS_CHANGED;
  }
  if (const auto* allocate = std::get_if<Allocate>(&from.work)) {
    if (allocate->memory != std::get<Allocate>(to.work).memory) return CU_GRAPH_EXEC_UPDATE_ERROR_NOT_SUPPORTED;
  }
  if (const auto* free = std::get_if<Free>(&from.work)) {
    if (free->memory != std::get<Free>(to.work).memory) return CU_GRAPH_EXEC_UPDATE_ERROR_NOT_SUPPORTED;
  }
  return CU_GRAPH_EXEC_UPDATE_SUCCESS;
}

CUgraphExecUpdateResult can_become(const std::vector<Step>& from, const std::vector<Step>& to,
                                   CUgraphExecUpdateResultInfo* info) {
  if (from.size() != to.size()) return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
  for (size_t i = 0; i < from.size(); i++) {
    CUgraphExecUpdateResult result = can_become(from[i], to[i]);
    if (result != CU_GRAPH_EXEC_UPDATE_SUCCESS) {
      info->errorNode = static_cast<CUgraphNode>(const_cast<void*>(to[i].sources.front()));
      return result;
    }
    result = can_become(from[i].child, to[i].child, info);
    if (result != CU_GRAPH_EXEC_UPDATE_SUCCESS) return result;
  }
  return CU_GRAPH_EXEC_UPDATE_SUCCESS;
}

void become(std::vector<Step>& from, std::vector<Step>&& to) {
  for (size_t i = 0; i < from.size(); i++) {
    from[i].work = std::move(to[i].work);
    from[i].sources.push_back(to[i].sources.front());
    // The nodes of the graph it was made from, and of the newest: those in between are history.
    if (from[i].sources.size() > 2) from[i].sources.erase(from[i].sources.begin() + 1);
    become(from[i].child, std::move(to[i].child));
  }
}

CUresult update(Call& call, CUgraphExec handle, CUgraph graph_handle, CUgraphExecUpdateResultInfo* info) {
  SOFTCUDA_TRY(need(call, info, "resultInfo"));
  *info = {CU_GRAPH_EXEC_UPDATE_ERROR, nullptr, nullptr};
  std::shared_ptr<Exec> exec = find<Exec>(call, handle);
  if (!exec) return CUDA_ERROR_INVALID_VALUE;
  std::shared_ptr<Graph> graph = find<Graph>(call, graph_handle);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  std::vector<Step> steps;
  if (!plan(*graph, &steps, &info->errorNode)) return call.fail(CUDA_ERROR_INVALID_VALUE, "the graph has a cycle");
  SOFTCUDA_TRY(check_steps(call, steps, true));
  info->result = can_become(exec->steps, steps, info);
  if (info->result != CU_GRAPH_EXEC_UPDATE_SUCCESS) {
    return call.fail(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE,
                     "the graph differs from the executable one: CUgraphExecUpdateResult " +
                         std::to_string(int(info->result)));
  }
  become(exec->steps, std::move(steps));
  return CUDA_SUCCESS;
}

CUresult launch(Call& call, CUgraphExec handle, CUstream stream_handle) {
  std::shared_ptr<Exec> exec = find<Exec>(call, handle);
  if (!exec) return CUDA_ERROR_INVALID_VALUE;
  std::shared_ptr<Stream> stream = find_stream(call, stream_handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (exec->context.lock() != call.context) {
    return call.fail(CUDA_ERROR_INVALID_CONTEXT, "the graph was made in another context than the current one");
  }
  if (stream->capture) {
    return call.fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                     "launching an executable graph into a stream that is being captured is not supported; add a "
                     "child graph node instead");
  }
  if (stream->role == Stream::Role::legacy) SOFTCUDA_TRY(refuse_legacy(call));
  SOFTCUDA_TRY(check_steps(call, exec->steps, exec->flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH));
  std::vector<Step> steps = exec->steps;  // another thread may update them while they run
  std::shared_ptr<Context> context = call.context;
  call.lock.unlock();
  std::unique_lock<std::mutex> execution(context->device->execution);
  return run_steps(call, *context, steps, execution);
}

}  // namespace

SOFTCUDA_API CUresult cuGraphInstantiateWithFlags(CUgraphExec* exec, CUgraph graph, unsigned long long flags) {
  return THIS_ENTRY(cuGraphInstantiateWithFlags).call(Needs::context, [&](Call& call) {
    CUgraphNode bad = nullptr;
    CUgraphInstantiateResult outcome = CUDA_GRAPH_INSTANTIATE_ERROR;
    return instantiate(call, exec, graph, flags, &bad, &outcome);
  });
}

SOFTCUDA_API CUresult cuGraphInstantiateWithParams(CUgraphExec* exec, CUgraph graph,
                                                   CUDA_GRAPH_INSTANTIATE_PARAMS* params) {
  return THIS_ENTRY(cuGraphInstantiateWithParams).call(Needs::context, [&](Call& call) {
    SOFTCUDA_TRY(need(call, params, "instantiateParams"));
    params->hErrNode_out = nullptr;
    params->result_out = CUDA_GRAPH_INSTANTIATE_ERROR;
    return instantiate(call, exec, graph, params->flags, &params->hErrNode_out, &params->result_out);
  });
}

SOFTCUDA_API CUresult cuGraphExecGetFlags(CUgraphExec handle, cuuint64_t* flags) {
  return THIS_ENTRY(cuGraphExecGetFlags).call(Needs::driver, [&](Call& call) {
    SOFTCUDA_TRY(need(call, flags, "flags"));
    std::shared_ptr<Exec> exec = find<Exec>(call, handle);
    if (!exec) return CUDA_ERROR_INVALID_VALUE;
    *flags = exec->flags;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuGraphExecKernelNodeSetParams_v2(CUgraphExec exec, CUgraphNode node,
                                                        const CUDA_KERNEL_NODE_PARAMS* params) {
  return change_step<Launch>(THIS_ENTRY(cuGraphExecKernelNodeSetParams_v2), exec, node, params,
                             [&](Call& call, Launch& work) {
                               Launch changed;
                               SOFTCUDA_TRY(make_launch(call, *params, work.cooperative, &changed));
                               if (changed.function->context.lock() != work.function->context.lock()) {
                                 return call.fail(CUDA_ERROR_INVALID_VALUE, "the function is of another context");
                               }
                               work = std::move(changed);
                               return CUDA_SUCCESS;
                             });
}

SOFTCUDA_API CUresult cuGraphExecMemcpyNodeSetParams(CUgraphExec exec, CUgraphNode node, const CUDA_MEMCPY3D* params,
                                                     CUcontext) {
  return change_step<Copy>(THIS_ENTRY(cuGraphExecMemcpyNodeSetParams), exec, node, params,
                           [&](Call& call, Copy& work) {
                             SOFTCUDA_TRY(check_copy(call, *params));
                             if (!same_kinds_of_memory(work, *params)) {
                               return call.fail(CUDA_ERROR_INVALID_VALUE, "the kinds of memory may not change");
                             }
                             work = *params;
                             return CUDA_SUCCESS;
                           });
}

SOFTCUDA_API CUresult cuGraphExecMemsetNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                                     const CUDA_MEMSET_NODE_PARAMS* params, CUcontext) {
  return change_step<Set>(THIS_ENTRY(cuGraphExecMemsetNodeSetParams), exec, node, params,
                          [&](Call& call, Set& work) {
                            SOFTCUDA_TRY(check_set(call, *params));
                            work = *params;
                            return CUDA_SUCCESS;
                          });
}

SOFTCUDA_API CUresult cuGraphExecHostNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                                   const CUDA_HOST_NODE_PARAMS* params) {
  return change_step<HostCall>(THIS_ENTRY(cuGraphExecHostNodeSetParams), exec, node, params,
                               [&](Call& call, HostCall& work) {
                                 SOFTCUDA_TRY(need(call, reinterpret_cast<const void*>(params->fn), "nodeParams->fn"));
                                 work = *params;
                                 return CUDA_SUCCESS;
                               });
}

SOFTCUDA_API CUresult cuGraphExecUpdate_v2(CUgraphExec exec, CUgraph graph, CUgraphExecUpdateResultInfo* info) {
  return THIS_ENTRY(cuGraphExecUpdate_v2).call(Needs::driver, [&](Call& call) { return update(call, exec, graph, info); });
}

SOFTCUDA_API CUresult cuGraphUpload(CUgraphExec handle, CUstream stream_handle) {
  return THIS_ENTRY(cuGraphUpload).call(Needs::context, [&](Call& call) {
    std::shared_ptr<Exec> exec = find<Exec>(call, handle);
    if (!exec) return CUDA_ERROR_INVALID_VALUE;
    return find_stream(call, stream_handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
  });
}

SOFTCUDA_API CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
  return THIS_ENTRY(cuGraphLaunch).call(Needs::context, [&](Call& call) { return launch(call, exec, stream); });
}

SOFTCUDA_API CUresult cuGraphExecDestroy(CUgraphExec handle) {
  return THIS_ENTRY(cuGraphExecDestroy).releasing(Needs::driver, [&](Call& call) {
    if (!find<Exec>(call, handle)) return CUDA_ERROR_INVALID_VALUE;
    driver().handles.remove(handle);
    return CUDA_SUCCESS;
  });
}
