// Graphs: captured and built by hand, run, changed in place.
#include "driver.h"

namespace {

struct Fixture {
  CUcontext context = start();
  Kernels k = load();
  CUstream stream = nullptr;
  CUfunction add = k["add_to"], twice = k["twice"];
  Fixture() { OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING)); }

  CUgraphExec instantiate(CUgraph graph) const {
    CUgraphExec exec = nullptr;
    OK(cuGraphInstantiate(&exec, graph, 0));
    return exec;
  }
  void begin() const { OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL)); }
  CUgraph end() const {
    CUgraph graph = nullptr;
    OK(cuStreamEndCapture(stream, &graph));
    return graph;
  }
  void run(CUgraphExec exec) const {
    OK(cuGraphLaunch(exec, stream));
    OK(cuStreamSynchronize(stream));
  }
};

std::vector<CUgraphNode> nodes_of(CUgraph graph) {
  size_t n = 0;
  OK(cuGraphGetNodes(graph, nullptr, &n));
  std::vector<CUgraphNode> nodes(n);
  OK(cuGraphGetNodes(graph, nodes.data(), &n));
  return nodes;
}

CUDA_KERNEL_NODE_PARAMS kernel(CUfunction f, void** params) {
  return {f, 1, 1, 1, 1, 1, 1, 0, params, nullptr, nullptr, nullptr};
}

}  // namespace

TEST(captured_launches_keep_their_parameters) {
  Fixture f;
  Word word(1);
  f.begin();
  unsigned five = 5;
  void* params[] = {&word.address, &five};
  OK(cuLaunchKernel(f.add, 1, 1, 1, 1, 1, 1, 0, f.stream, params, nullptr));
  five = 100;  // too late
  OK(launch(f.twice, 1, 1, 0, f.stream, word.address));
  CUgraphExec exec = f.instantiate(f.end());
  SAME(word.get(), 1u);
  f.run(exec);
  SAME(word.get(), 12u);
  f.run(exec);
  SAME(word.get(), 34u);
}

TEST(kernel_nodes_change_in_place) {
  Fixture f;
  Word word(1), other(7);
  f.begin();
  OK(launch(f.add, 1, 1, 0, f.stream, word.address, 5u));
  OK(launch(f.twice, 1, 1, 0, f.stream, word.address));
  CUgraph graph = f.end();
  CUgraphExec exec = f.instantiate(graph);
  std::vector<CUgraphNode> nodes = nodes_of(graph);
  CUDA_KERNEL_NODE_PARAMS params;
  OK(cuGraphKernelNodeGetParams(nodes[0], &params));
  CHECK(params.func == f.add && params.blockDimX == 1);
  SAME(*static_cast<unsigned*>(params.kernelParams[1]), 5u);
  unsigned one = 1;
  void* changed[] = {&word.address, &one};
  params = kernel(f.add, changed);
  OK(cuGraphExecKernelNodeSetParams(exec, nodes[0], &params));
  one = 50;
  f.run(exec);
  SAME(word.get(), 4u);
  // The graph it came from is as it was.
  f.run(f.instantiate(graph));
  SAME(word.get(), 18u);
  // A launch can become one of another kernel, in the graph or in the executable one.
  void* alone[] = {&other.address};
  params = kernel(f.twice, alone);
  OK(cuGraphKernelNodeSetParams(nodes[0], &params));
  f.run(f.instantiate(graph));
  SAME(other.get(), 14u);
  params.blockDimX = 2000;
  GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphExecKernelNodeSetParams(exec, nodes[0], &params), "beyond");
  CUgraph empty;
  CUgraphNode stranger;
  OK(cuGraphCreate(&empty, 0));
  OK(cuGraphAddEmptyNode(&stranger, empty, nullptr, 0));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphExecKernelNodeSetParams(exec, stranger, &params), "none that the graph was made from");
  GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphKernelNodeGetParams(stranger, &params), "not a kernel node");
}

TEST(executable_graphs_are_updated) {
  Fixture f;
  Word word(1), other(10);
  auto capture = [&](CUdeviceptr p, unsigned by, bool more) {
    f.begin();
    OK(launch(f.add, 1, 1, 0, f.stream, p, by));
    if (more) OK(launch(f.twice, 1, 1, 0, f.stream, p));
    return f.end();
  };
  CUgraph first = capture(word.address, 1, true);
  CUgraphExec exec = f.instantiate(first);
  f.run(exec);
  SAME(word.get(), 4u);
  CUgraphExecUpdateResultInfo info;
  CUgraph second = capture(other.address, 5, true);
  OK(cuGraphExecUpdate(exec, second, &info));
  SAME(info.result, CU_GRAPH_EXEC_UPDATE_SUCCESS);
  f.run(exec);
  SAME(word.get(), 4u);
  SAME(other.get(), 30u);
  // Nodes of both graphs name its nodes now.
  unsigned two = 2;
  void* params[] = {&word.address, &two};
  CUDA_KERNEL_NODE_PARAMS p = kernel(f.add, params);
  OK(cuGraphExecKernelNodeSetParams(exec, nodes_of(first)[0], &p));
  OK(cuGraphExecKernelNodeSetParams(exec, nodes_of(second)[0], &p));
  CUgraph shorter = capture(word.address, 1, false);
  GIVES(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, cuGraphExecUpdate(exec, shorter, &info), "differs");
  SAME(info.result, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
  f.begin();
  OK(cuMemsetD32Async(word.address, 1, 1, f.stream));
  OK(cuMemsetD32Async(word.address, 1, 1, f.stream));
  CUgraph sets = f.end();
  GIVES(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, cuGraphExecUpdate(exec, sets, &info), "differs");
  SAME(info.result, CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED);
  CHECK(info.errorNode == nodes_of(sets)[0]);
  f.run(exec);  // a failed update changed nothing
  SAME(word.get(), 6u);
  SAME(other.get(), 60u);
}

TEST(graphs_are_built_by_hand) {
  Fixture f;
  Word word(0);
  CUgraph graph;
  OK(cuGraphCreate(&graph, 0));
  unsigned host = 0, three = 3, four = 4;
  static unsigned seen;
  seen = 0;
  CUDA_MEMSET_NODE_PARAMS set = {word.address, 0, 1, 4, 1, 1};
  void* by_three[] = {&word.address, &three};
  CUDA_KERNEL_NODE_PARAMS add = kernel(f.add, by_three);
  CUDA_MEMCPY3D copy = {};
  copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.srcDevice = word.address;
  copy.dstMemoryType = CU_MEMORYTYPE_HOST;
  copy.dstHost = &host;
  copy.WidthInBytes = 4;
  copy.Height = copy.Depth = 1;
  CUDA_HOST_NODE_PARAMS call = {[](void* p) { seen = *static_cast<unsigned*>(p); }, &host};
  CUgraphNode s, a, c, h, e;
  // Added in the wrong order; the edges say what comes first.
  OK(cuGraphAddHostNode(&h, graph, nullptr, 0, &call));
  OK(cuGraphAddMemcpyNode(&c, graph, nullptr, 0, &copy, f.context));
  OK(cuGraphAddKernelNode(&a, graph, nullptr, 0, &add));
  OK(cuGraphAddMemsetNode(&s, graph, nullptr, 0, &set, f.context));
  CUgraphNode from[] = {s, a, c}, to[] = {a, c, h};
  OK(cuGraphAddDependencies(graph, from, to, 3));
  OK(cuGraphAddEmptyNode(&e, graph, &h, 1));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphAddDependencies(graph, from, to, 1), "there already");
  GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphAddDependencies(graph, &s, &s, 1), "itself");
  CUgraphExec exec = f.instantiate(graph);
  f.run(exec);
  SAME(seen, 4u);
  // The structure can be asked for.
  size_t n = 1;
  CUgraphNode root, next;
  OK(cuGraphGetRootNodes(graph, &root, &n));
  CHECK(n == 1 && root == s);
  n = 1;
  OK(cuGraphNodeGetDependentNodes(a, &next, &n));
  CHECK(n == 1 && next == c);
  n = 1;
  OK(cuGraphNodeGetDependencies(a, &next, &n));
  CHECK(n == 1 && next == s);
  CUgraphNodeType type;
  OK(cuGraphNodeGetType(h, &type));
  SAME(type, CU_GRAPH_NODE_TYPE_HOST);
  // Each kind changes in the executable graph.
  set.value = 10;
  OK(cuGraphExecMemsetNodeSetParams(exec, s, &set, f.context));
  void* by_four[] = {&word.address, &four};
  add = kernel(f.add, by_four);
  OK(cuGraphExecKernelNodeSetParams(exec, a, &add));
  unsigned elsewhere = 0;
  copy.dstHost = &elsewhere;
  OK(cuGraphExecMemcpyNodeSetParams(exec, c, &copy, f.context));
  call.userData = &elsewhere;
  OK(cuGraphExecHostNodeSetParams(exec, h, &call));
  f.run(exec);
  SAME(seen, 14u);
  SAME(host, 4u);
  copy.srcMemoryType = CU_MEMORYTYPE_HOST;
  copy.srcHost = &host;
  GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphExecMemcpyNodeSetParams(exec, c, &copy, f.context), "may not change");
  // And in the graph, where what is there can be asked for.
  CUDA_MEMSET_NODE_PARAMS set_now;
  OK(cuGraphMemsetNodeGetParams(s, &set_now));
  SAME(set_now.value, 1u);
  set_now.value = 100;
  OK(cuGraphMemsetNodeSetParams(s, &set_now));
  set_now.elementSize = 3;
  GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphMemsetNodeSetParams(s, &set_now), "1, 2 or 4 bytes");
  CUDA_MEMCPY3D copy_now;
  OK(cuGraphMemcpyNodeGetParams(c, &copy_now));
  CHECK(copy_now.dstHost == &host);
  copy_now.dstHost = &elsewhere;
  OK(cuGraphMemcpyNodeSetParams(c, &copy_now));
  CUDA_HOST_NODE_PARAMS call_now;
  OK(cuGraphHostNodeGetParams(h, &call_now));
  CHECK(call_now.fn == call.fn && call_now.userData == &host);
  call_now.userData = &elsewhere;
  OK(cuGraphHostNodeSetParams(h, &call_now));
  call_now.fn = nullptr;
  GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphHostNodeSetParams(h, &call_now), "fn is null");
  f.run(f.instantiate(graph));
  SAME(seen, 103u);
  // A cycle is told.
  OK(cuGraphAddDependencies(graph, &h, &s, 1));
  CUDA_GRAPH_INSTANTIATE_PARAMS params = {};
  CUgraphExec none = nullptr;
  GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphInstantiateWithParams(&none, graph, &params), "cycle");
  CHECK(params.result_out == CUDA_GRAPH_INSTANTIATE_INVALID_STRUCTURE && params.hErrNode_out != nullptr);
  OK(cuGraphRemoveDependencies(graph, &h, &s, 1));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphRemoveDependencies(graph, &h, &s, 1), "not there");
  OK(cuGraphDestroyNode(h));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphNodeGetType(h, &type), "destroyed");
  n = 1;
  OK(cuGraphNodeGetDependencies(e, &next, &n));
  SAME(n, size_t{0});
  f.instantiate(graph);
}

TEST(graphs_clone_and_nest) {
  Fixture f;
  Word word(1);
  f.begin();
  OK(launch(f.add, 1, 1, 0, f.stream, word.address, 1u));
  OK(launch(f.twice, 1, 1, 0, f.stream, word.address));
  CUgraph inner = f.end(), copy, outer;
  OK(cuGraphClone(&copy, inner));
  CUgraphNode found;
  OK(cuGraphNodeFindInClone(&found, nodes_of(inner)[1], copy));
  CHECK(found == nodes_of(copy)[1]);
  OK(cuGraphCreate(&outer, 0));
  CUgraphNode one, two;
  OK(cuGraphAddChildGraphNode(&one, outer, nullptr, 0, inner));
  OK(cuGraphAddChildGraphNode(&two, outer, &one, 1, copy));
  OK(cuGraphDestroy(inner));
  OK(cuGraphDestroy(copy));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphDestroy(copy), "destroyed");
  CUgraph child;
  OK(cuGraphChildGraphNodeGetGraph(one, &child));
  SAME(nodes_of(child).size(), size_t{2});
  GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphDestroy(child), "a node owns");
  f.run(f.instantiate(outer));
  SAME(word.get(), 10u);  // ((1+1)*2+1)*2
}

TEST(graphs_own_memory) {
  Fixture f;
  unsigned out = 0;
  CUdeviceptr p = 0;
  f.begin();
  OK(cuMemAllocAsync(&p, 4, f.stream));
  OK(cuMemsetD32Async(p, 20, 1, f.stream));
  OK(launch(f.twice, 1, 1, 0, f.stream, p));
  OK(cuMemcpyDtoHAsync(&out, p, 4, f.stream));
  OK(cuMemFreeAsync(p, f.stream));
  CUgraph graph = f.end();
  CUgraphExec exec = f.instantiate(graph);
  f.run(exec);
  f.run(exec);
  SAME(out, 40u);
  OK(cuGraphExecDestroy(exec));
  OK(cuGraphDestroy(graph));
  // Without a free in the graph, one outside must come before the next launch.
  f.begin();
  OK(cuMemAllocAsync(&p, 4, f.stream));
  OK(cuMemsetD32Async(p, 1, 1, f.stream));
  graph = f.end();
  exec = f.instantiate(graph);
  f.run(exec);
  GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphLaunch(exec, f.stream), "was not freed");
  OK(cuMemFreeAsync(p, f.stream));
  f.run(exec);
  CUgraphExec freeing;
  OK(cuMemFree(p));
  OK(cuGraphInstantiate(&freeing, graph, CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH));
  f.run(freeing);
  f.run(freeing);
  cuuint64_t flags = 0;
  OK(cuGraphExecGetFlags(freeing, &flags));
  SAME(flags, cuuint64_t{CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH});
  Word outside(1);
  f.begin();
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemFreeAsync(outside.address, f.stream), "not allocated by a graph");
  SAME(cuStreamEndCapture(f.stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

TEST(graphs_fail_clearly) {
  Fixture f;
  Word word(1);
  f.begin();
  OK(launch(f.twice, 1, 1, 0, f.stream, word.address));
  OK(launch(f.twice, 1, 1, 0, f.stream, CUdeviceptr{8}));
  OK(launch(f.twice, 1, 1, 0, f.stream, word.address));
  CUgraph graph = f.end();
  CUgraphExec exec = f.instantiate(graph), other = f.instantiate(graph);
  GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphInstantiate(&exec, graph, CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH), "not supported");
  f.begin();
  GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuGraphLaunch(exec, f.stream), "child graph");
  f.end();
  // A kernel's fault ends the launch and sticks.
  OK(cuGraphLaunch(exec, f.stream));
  SAME(cuStreamSynchronize(f.stream), CUDA_ERROR_ILLEGAL_ADDRESS);
  SAME(cuGraphLaunch(other, f.stream), CUDA_ERROR_ILLEGAL_ADDRESS);
  OK(cuCtxDestroy(f.context));
  Fixture again;
  GIVES(CUDA_ERROR_INVALID_CONTEXT, cuGraphLaunch(other, again.stream), "another context");
  Word fresh(2);
  again.begin();
  OK(launch(again.twice, 1, 1, 0, again.stream, fresh.address));
  exec = again.instantiate(again.end());
  again.run(exec);
  SAME(fresh.get(), 4u);
  OK(cuModuleUnload(again.k.module));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuGraphLaunch(exec, again.stream), "unloaded");
}
