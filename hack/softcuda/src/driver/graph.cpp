// Building graphs by hand, and asking what is in them.
#include "graph.h"

#include <algorithm>
#include <map>

using namespace softcuda;

namespace softcuda {

bool Node::depends_on(const Node& other) const {
  return std::any_of(dependencies.begin(), dependencies.end(),
                     [&](const std::weak_ptr<Node>& weak) { return weak.lock().get() == &other; });
}

std::shared_ptr<Node> Graph::add(Work work, const std::vector<std::shared_ptr<Node>>& dependencies) {
  auto node = std::make_shared<Node>();
  node->graph = weak_from_this();
  node->work = std::move(work);
  for (const auto& one : dependencies) {
    if (!node->depends_on(*one)) node->dependencies.push_back(one);
  }
  driver().handles.add(node);
  nodes.push_back(node);
  return node;
}

std::shared_ptr<Graph> make_graph() {
  auto graph = std::make_shared<Graph>();
  driver().handles.add(graph);
  return graph;
}

std::shared_ptr<Graph> clone(const Graph& from) {
  std::shared_ptr<Graph> graph = make_graph();
  std::map<const Node*, std::shared_ptr<Node>> copies;
  for (const auto& node : from.nodes) {
    std::shared_ptr<Node> copy = graph->add(node->work, {});
    copy->original = node->handle;
    if (auto* sub = std::get_if<Subgraph>(&copy->work)) {
      sub->graph = clone(*sub->graph);
      sub->graph->child = true;
    }
    copies[node.get()] = copy;
  }
  for (const auto& node : from.nodes) {
    for (const auto& weak : node->dependencies) {
      if (std::shared_ptr<Node> before = weak.lock()) copies[node.get()]->dependencies.push_back(copies[before.get()]);
    }
  }
  return graph;
}

void drop_handles(Graph& graph) {
  for (const auto& node : graph.nodes) {
    if (auto* sub = std::get_if<Subgraph>(&node->work)) drop_handles(*sub->graph);
    driver().handles.remove(node->handle);
  }
  driver().handles.remove(graph.handle);
}

CUgraphNodeType node_type(const Work& work) {
  constexpr CUgraphNodeType types[] = {
      CU_GRAPH_NODE_TYPE_EMPTY,      CU_GRAPH_NODE_TYPE_KERNEL,     CU_GRAPH_NODE_TYPE_MEMCPY,
      CU_GRAPH_NODE_TYPE_MEMSET,     CU_GRAPH_NODE_TYPE_HOST,       CU_GRAPH_NODE_TYPE_EVENT_RECORD,
      CU_GRAPH_NODE_TYPE_WAIT_EVENT, CU_GRAPH_NODE_TYPE_MEM_ALLOC,  CU_GRAPH_NODE_TYPE_MEM_FREE,
      CU_GRAPH_NODE_TYPE_GRAPH,
  };
  static_assert(std::size(types) == std::variant_size_v<Work>);
  return types[work.index()];
}

}  // namespace softcuda

namespace {

// The nodes of an array of handles, all of one graph.
CUresult find_nodes(Call& call, const Graph& graph, const CUgraphNode* handles, size_t count,
                    std::vector<std::shared_ptr<Node>>* out) {
  if (count && !handles) return call.fail(CUDA_ERROR_INVALID_VALUE, "the array of nodes is null");
  for (size_t i = 0; i < count; i++) {
    std::shared_ptr<Node> node = find<Node>(call, handles[i]);
    if (!node) return CUDA_ERROR_INVALID_VALUE;
    if (node->graph.lock().get() != &graph) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, "node " + hex(uintptr_t(handles[i])) + " is of another graph");
    }
    out->push_back(node);
  }
  return CUDA_SUCCESS;
}

using MakeWork = std::function<CUresult(Call&, Work*)>;

// An entry that adds a node with the work that make gives.
CUresult add_node(Entry& entry, CUgraphNode* out, CUgraph handle, const CUgraphNode* dependencies, size_t count,
                  const MakeWork& make) {
  return entry.call(Needs::driver, [&](Call& call) {
    SOFTCUDA_TRY(need(call, out, "phGraphNode"));
    std::shared_ptr<Graph> graph = find<Graph>(call, handle);
    if (!graph) return CUDA_ERROR_INVALID_VALUE;
    std::vector<std::shared_ptr<Node>> before;
    SOFTCUDA_TRY(find_nodes(call, *graph, dependencies, count, &before));
    Work work;
    SOFTCUDA_TRY(make(call, &work));
    *out = static_cast<CUgraphNode>(graph->add(std::move(work), before)->handle);
    return CUDA_SUCCESS;
  });
}

// An entry about the work of a node of one kind.
template <class Kind_>
CUresult node_call(Entry& entry, CUgraphNode handle, const char* kind, const void* argument,
                   const std::function<CUresult(Call&, Node&, Kind_&)>& body) {
  return entry.call(Needs::driver, [&](Call& call) {
    std::shared_ptr<Node> node = find<Node>(call, handle);
    if (!node) return CUDA_ERROR_INVALID_VALUE;
    SOFTCUDA_TRY(need(call, argument, "nodeParams"));
    Kind_* work = std::get_if<Kind_>(&node->work);
    if (!work) return call.fail(CUDA_ERROR_INVALID_VALUE, std::string("the node is not a ") + kind + " node");
    return body(call, *node, *work);
  });
}

// Gives handles into a caller's array: all when it is null is their number.
CUresult give_nodes(Call& call, const std::vector<void*>& nodes, CUgraphNode* out, size_t* count) {
  SOFTCUDA_TRY(need(call, count, "the number"));
  if (!out) {
    *count = nodes.size();
    return CUDA_SUCCESS;
  }
  for (size_t i = 0; i < *count; i++) out[i] = i < nodes.size() ? static_cast<CUgraphNode>(nodes[i]) : nullptr;
  *count = std::min(*count, nodes.size());
  return CUDA_SUCCESS;
}

CUresult graph_call(Entry& entry, CUgraph handle, const std::function<CUresult(Call&, Graph&)>& body) {
  return entry.call(Needs::driver, [&](Call& call) {
    std::shared_ptr<Graph> graph = find<Graph>(call, handle);
    return graph ? body(call, *graph) : CUDA_ERROR_INVALID_VALUE;
  });
}

CUresult change_edges(Call& call, Graph& graph, const CUgraphNode* from, const CUgraphNode* to, size_t count,
                      bool add) {
  std::vector<std::shared_ptr<Node>> first, then;
  SOFTCUDA_TRY(find_nodes(call, graph, from, count, &first));
  SOFTCUDA_TRY(find_nodes(call, graph, to, count, &then));
  for (size_t i = 0; i < count; i++) {
    if (first[i] == then[i]) return call.fail(CUDA_ERROR_INVALID_VALUE, "a node cannot depend on itself");
    if (then[i]->depends_on(*first[i]) == add) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, "dependency " + std::to_string(i) +
                                                     (add ? " is there already" : " is not there"));
    }
  }
  for (size_t i = 0; i < count; i++) {
    auto& list = then[i]->dependencies;
    if (add) {
      list.push_back(first[i]);
    } else {
      std::erase_if(list, [&](const std::weak_ptr<Node>& weak) { return weak.lock() == first[i]; });
    }
  }
  return CUDA_SUCCESS;
}

}  // namespace

// --- Graphs as a whole.

SOFTCUDA_API CUresult cuGraphCreate(CUgraph* out, unsigned int flags) {
  return THIS_ENTRY(cuGraphCreate).call(Needs::driver, [&](Call& call) {
    SOFTCUDA_TRY(need(call, out, "phGraph"));
    if (flags) return call.fail(CUDA_ERROR_INVALID_VALUE, "flags must be 0");
    *out = static_cast<CUgraph>(make_graph()->handle);
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuGraphDestroy(CUgraph handle) {
  return THIS_ENTRY(cuGraphDestroy).releasing(Needs::driver, [&](Call& call) {
    std::shared_ptr<Graph> graph = find<Graph>(call, handle);
    if (!graph) return CUDA_ERROR_INVALID_VALUE;
    if (graph->child) return call.fail(CUDA_ERROR_INVALID_VALUE, "a node owns this graph");
    drop_handles(*graph);
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuGraphClone(CUgraph* out, CUgraph original) {
  return graph_call(THIS_ENTRY(cuGraphClone), original, [&](Call& call, Graph& graph) {
    SOFTCUDA_TRY(need(call, out, "phGraphClone"));
    *out = static_cast<CUgraph>(clone(graph)->handle);
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuGraphNodeFindInClone(CUgraphNode* out, CUgraphNode original, CUgraph cloned) {
  return graph_call(THIS_ENTRY(cuGraphNodeFindInClone), cloned, [&](Call& call, Graph& graph) {
    SOFTCUDA_TRY(need(call, out, "phNode"));
    for (const auto& node : graph.nodes) {
      if (!node->original || node->original != original) continue;
      *out = static_cast<CUgraphNode>(node->handle);
      return CUDA_SUCCESS;
    }
    return call.fail(CUDA_ERROR_INVALID_VALUE, "the graph has no clone of this node");
  });
}

SOFTCUDA_API CUresult cuGraphGetNodes(CUgraph handle, CUgraphNode* out, size_t* count) {
  return graph_call(THIS_ENTRY(cuGraphGetNodes), handle, [&](Call& call, Graph& graph) {
    std::vector<void*> nodes;
    for (const auto& node : graph.nodes) nodes.push_back(node->handle);
    return give_nodes(call, nodes, out, count);
  });
}

SOFTCUDA_API CUresult cuGraphGetRootNodes(CUgraph handle, CUgraphNode* out, size_t* count) {
  return graph_call(THIS_ENTRY(cuGraphGetRootNodes), handle, [&](Call& call, Graph& graph) {
    std::vector<void*> nodes;
    for (const auto& node : graph.nodes) {
      if (node->dependencies.empty()) nodes.push_back(node->handle);
    }
    return give_nodes(call, nodes, out, count);
  });
}

SOFTCUDA_API CUresult cuGraphGetEdges(CUgraph handle, CUgraphNode* from, CUgraphNode* to, size_t* count) {
  return graph_call(THIS_ENTRY(cuGraphGetEdges), handle, [&](Call& call, Graph& graph) {
    SOFTCUDA_TRY(need(call, count, "numEdges"));
    if (!from != !to) return call.fail(CUDA_ERROR_INVALID_VALUE, "one of from and to is null");
    std::vector<void*> first, then;
    for (const auto& node : graph.nodes) {
      for (const auto& weak : node->dependencies) {
        if (std::shared_ptr<Node> before = weak.lock()) {
          first.push_back(before->handle);
          then.push_back(node->handle);
        }
      }
    }
    size_t room = *count;
    SOFTCUDA_TRY(give_nodes(call, first, from, count));
    return from ? give_nodes(call, then, to, &room) : CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuGraphAddDependencies(CUgraph handle, const CUgraphNode* from, const CUgraphNode* to,
                                             size_t count) {
  return graph_call(THIS_ENTRY(cuGraphAddDependencies), handle, [&](Call& call, Graph& graph) {
    return change_edges(call, graph, from, to, count, true);
  });
}

SOFTCUDA_API CUresult cuGraphRemoveDependencies(CUgraph handle, const CUgraphNode* from, const CUgraphNode* to,
                                                size_t count) {
  return graph_call(THIS_ENTRY(cuGraphRemoveDependencies), handle, [&](Call& call, Graph& graph) {
    return change_edges(call, graph, from, to, count, false);
  });
}

// --- Nodes of any kind.

SOFTCUDA_API CUresult cuGraphNodeGetDependencies(CUgraphNode handle, CUgraphNode* out, size_t* count) {
  return THIS_ENTRY(cuGraphNodeGetDependencies).call(Needs::driver, [&](Call& call) {
    std::shared_ptr<Node> node = find<Node>(call, handle);
    if (!node) return CUDA_ERROR_INVALID_VALUE;
    std::vector<void*> nodes;
    for (const auto& weak : node->dependencies) {
      if (std::shared_ptr<Node> before = weak.lock()) nodes.push_back(before->handle);
    }
    return give_nodes(call, nodes, out, count);
  });
}

SOFTCUDA_API CUresult cuGraphNodeGetDependentNodes(CUgraphNode handle, CUgraphNode* out, size_t* count) {
  return THIS_ENTRY(cuGraphNodeGetDependentNodes).call(Needs::driver, [&](Call& call) {
    std::shared_ptr<Node> node = find<Node>(call, handle);
    if (!node) return CUDA_ERROR_INVALID_VALUE;
    std::vector<void*> nodes;
    if (std::shared_ptr<Graph> graph = node->graph.lock()) {
      for (const auto& other : graph->nodes) {
        if (other->depends_on(*node)) nodes.push_back(other->handle);
      }
    }
    return give_nodes(call, nodes, out, count);
  });
}

SOFTCUDA_API CUresult cuGraphNodeGetType(CUgraphNode handle, CUgraphNodeType* type) {
  return THIS_ENTRY(cuGraphNodeGetType).call(Needs::driver, [&](Call& call) {
    SOFTCUDA_TRY(need(call, type, "type"));
    std::shared_ptr<Node> node = find<Node>(call, handle);
    if (!node) return CUDA_ERROR_INVALID_VALUE;
    *type = node_type(node->work);
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuGraphDestroyNode(CUgraphNode handle) {
  return THIS_ENTRY(cuGraphDestroyNode).releasing(Needs::driver, [&](Call& call) {
    std::shared_ptr<Node> node = find<Node>(call, handle);
    if (!node) return CUDA_ERROR_INVALID_VALUE;
    if (auto* sub = std::get_if<Subgraph>(&node->work)) drop_handles(*sub->graph);
    if (std::shared_ptr<Graph> graph = node->graph.lock()) {
      std::erase(graph->nodes, node);
      for (const auto& other : graph->nodes) {
        std::erase_if(other->dependencies, [&](const std::weak_ptr<Node>& weak) { return weak.lock() == node; });
      }
    }
    driver().handles.remove(handle);
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuGraphAddEmptyNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies,
                                          size_t count) {
  return add_node(THIS_ENTRY(cuGraphAddEmptyNode), out, graph, dependencies, count,
                  [](Call&, Work*) { return CUDA_SUCCESS; });
}

// --- Kernel nodes.

SOFTCUDA_API CUresult cuGraphAddKernelNode_v2(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies,
                                              size_t count, const CUDA_KERNEL_NODE_PARAMS* params) {
  return add_node(THIS_ENTRY(cuGraphAddKernelNode_v2), out, graph, dependencies, count, [&](Call& call, Work* work) {
    SOFTCUDA_TRY(need(call, params, "nodeParams"));
    Launch launch;
    SOFTCUDA_TRY(make_launch(call, *params, false, &launch));
    *work = std::move(launch);
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuGraphKernelNodeGetParams_v2(CUgraphNode handle, CUDA_KERNEL_NODE_PARAMS* params) {
  return node_call<Launch>(
      THIS_ENTRY(cuGraphKernelNodeGetParams_v2), handle, "kernel", params, [&](Call&, Node& node, Launch& launch) {
        node.parameter_pointers.clear();
        for (uint32_t offset : launch.function->info->param_offsets) {
          node.parameter_pointers.push_back(launch.parameters.data() + offset);
        }
        *params = {};
        params->func = static_cast<CUfunction>(launch.function->handle);
        params->gridDimX = launch.grid.x;
        params->gridDimY = launch.grid.y;
        params->gridDimZ = launch.grid.z;
        params->blockDimX = launch.block.x;
        params->blockDimY = launch.block.y;
        params->blockDimZ = launch.block.z;
        params->sharedMemBytes = launch.dynamic_shared;
        params->kernelParams = node.parameter_pointers.data();
        return CUDA_SUCCESS;
      });
}

SOFTCUDA_API CUresult cuGraphKernelNodeSetParams_v2(CUgraphNode handle, const CUDA_KERNEL_NODE_PARAMS* params) {
  return node_call<Launch>(THIS_ENTRY(cuGraphKernelNodeSetParams_v2), handle, "kernel", params,
                           [&](Call& call, Node&, Launch& launch) {
                             Launch changed;
                             SOFTCUDA_TRY(make_launch(call, *params, launch.cooperative, &changed));
                             launch = std::move(changed);
                             return CUDA_SUCCESS;
                           });
}

// --- Copies, sets, host functions, child graphs.

SOFTCUDA_API CUresult cuGraphAddMemcpyNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies,
                                           size_t count, const CUDA_MEMCPY3D* copy, CUcontext) {
  return add_node(THIS_ENTRY(cuGraphAddMemcpyNode), out, graph, dependencies, count, [&](Call& call, Work* work) {
    SOFTCUDA_TRY(need(call, copy, "copyParams"));
    SOFTCUDA_TRY(check_copy(call, *copy));
    *work = *copy;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuGraphMemcpyNodeGetParams(CUgraphNode handle, CUDA_MEMCPY3D* params) {
  return node_call<Copy>(THIS_ENTRY(cuGraphMemcpyNodeGetParams), handle, "memcpy", params,
                         [&](Call&, Node&, Copy& copy) {
                           *params = copy;
                           return CUDA_SUCCESS;
                         });
}

SOFTCUDA_API CUresult cuGraphMemcpyNodeSetParams(CUgraphNode handle, const CUDA_MEMCPY3D* params) {
  return node_call<Copy>(THIS_ENTRY(cuGraphMemcpyNodeSetParams), handle, "memcpy", params,
                         [&](Call& call, Node&, Copy& copy) {
                           SOFTCUDA_TRY(check_copy(call, *params));
                           copy = *params;
                           return CUDA_SUCCESS;
                         });
}

SOFTCUDA_API CUresult cuGraphAddMemsetNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies,
                                           size_t count, const CUDA_MEMSET_NODE_PARAMS* set, CUcontext) {
  return add_node(THIS_ENTRY(cuGraphAddMemsetNode), out, graph, dependencies, count, [&](Call& call, Work* work) {
    SOFTCUDA_TRY(need(call, set, "memsetParams"));
    SOFTCUDA_TRY(check_set(call, *set));
    *work = *set;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuGraphMemsetNodeGetParams(CUgraphNode handle, CUDA_MEMSET_NODE_PARAMS* params) {
  return node_call<Set>(THIS_ENTRY(cuGraphMemsetNodeGetParams), handle, "memset", params,
                        [&](Call&, Node&, Set& set) {
                          *params = set;
                          return CUDA_SUCCESS;
                        });
}

SOFTCUDA_API CUresult cuGraphMemsetNodeSetParams(CUgraphNode handle, const CUDA_MEMSET_NODE_PARAMS* params) {
  return node_call<Set>(THIS_ENTRY(cuGraphMemsetNodeSetParams), handle, "memset", params,
                        [&](Call& call, Node&, Set& set) {
                          SOFTCUDA_TRY(check_set(call, *params));
                          set = *params;
                          return CUDA_SUCCESS;
                        });
}

SOFTCUDA_API CUresult cuGraphAddHostNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies,
                                         size_t count, const CUDA_HOST_NODE_PARAMS* params) {
  return add_node(THIS_ENTRY(cuGraphAddHostNode), out, graph, dependencies, count, [&](Call& call, Work* work) {
    SOFTCUDA_TRY(need(call, params, "nodeParams"));
    SOFTCUDA_TRY(need(call, reinterpret_cast<const void*>(params->fn), "nodeParams->fn"));
    *work = *params;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuGraphHostNodeGetParams(CUgraphNode handle, CUDA_HOST_NODE_PARAMS* params) {
  return node_call<HostCall>(THIS_ENTRY(cuGraphHostNodeGetParams), handle, "host", params,
                             [&](Call&, Node&, HostCall& host) {
                               *params = host;
                               return CUDA_SUCCESS;
                             });
}

SOFTCUDA_API CUresult cuGraphHostNodeSetParams(CUgraphNode handle, const CUDA_HOST_NODE_PARAMS* params) {
  return node_call<HostCall>(THIS_ENTRY(cuGraphHostNodeSetParams), handle, "host", params,
                             [&](Call& call, Node&, HostCall& host) {
                               SOFTCUDA_TRY(need(call, reinterpret_cast<const void*>(params->fn), "nodeParams->fn"));
                               host = *params;
                               return CUDA_SUCCESS;
                             });
}

SOFTCUDA_API CUresult cuGraphAddChildGraphNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies,
                                               size_t count, CUgraph child) {
  return add_node(THIS_ENTRY(cuGraphAddChildGraphNode), out, graph, dependencies, count, [&](Call& call, Work* work) {
    std::shared_ptr<Graph> original = find<Graph>(call, child);
    if (!original) return CUDA_ERROR_INVALID_VALUE;
    std::shared_ptr<Graph> copy = clone(*original);
    copy->child = true;
    *work = Subgraph{copy};
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuGraphChildGraphNodeGetGraph(CUgraphNode handle, CUgraph* graph) {
  return node_call<Subgraph>(THIS_ENTRY(cuGraphChildGraphNodeGetGraph), handle, "child graph", graph,
                             [&](Call&, Node&, Subgraph& sub) {
                               *graph = static_cast<CUgraph>(sub.graph->handle);
                               return CUDA_SUCCESS;
                             });
}
