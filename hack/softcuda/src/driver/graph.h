// Graphs: nodes with work and what they depend on; and executable graphs, which are the
// same in an order that can be run.
#pragma once

#include "work.h"

namespace softcuda {

struct Node : Object {
  static constexpr Kind kKind = Kind::node;
  std::weak_ptr<Graph> graph;
  Work work;
  std::vector<std::weak_ptr<Node>> dependencies;
  const void* original = nullptr;     // the handle of the node that this one was cloned from
  std::vector<void*> parameter_pointers;  // what cuGraphKernelNodeGetParams gave out

  bool depends_on(const Node&) const;
};

struct Graph : Object, std::enable_shared_from_this<Graph> {
  static constexpr Kind kKind = Kind::graph;
  std::vector<std::shared_ptr<Node>> nodes;  // in the order in which they were added
  bool child = false;                        // part of a node of another graph

  // add makes a node behind `dependencies`, with a handle.
  std::shared_ptr<Node> add(Work, const std::vector<std::shared_ptr<Node>>& dependencies);
};

// make_graph gives an empty graph with a handle.
std::shared_ptr<Graph> make_graph();
// clone copies a graph with its child graphs.
std::shared_ptr<Graph> clone(const Graph&);
// drop_handles ends a graph's and its nodes' handles.
void drop_handles(Graph&);

// Step is a node of an executable graph.
struct Step {
  Work work;
  std::vector<size_t> dependencies;  // earlier steps
  std::vector<const void*> sources;  // handles of nodes that this step was made or updated from
  std::vector<Step> child;           // of a Subgraph
};

struct Exec : Object {
  static constexpr Kind kKind = Kind::exec;
  std::weak_ptr<Context> context;
  std::vector<Step> steps;
  unsigned long long flags = 0;
};

// plan orders a graph so that each step comes after those it depends on; false when
// there is a cycle. `first_bad` gets a node on it.
bool plan(const Graph&, std::vector<Step>* steps, CUgraphNode* first_bad);

// check_work refuses work that can no longer be done, because its function's module was
// unloaded or its event destroyed.
CUresult check_work(Call&, const Work&);

}  // namespace softcuda
